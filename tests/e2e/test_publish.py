"""publish() in SQL: what an application publishes in its own transaction arrives when that commits and
never when it does not, in its order, once, whoever else does what. The application's account has the
role SCHEMA_publish and tables of its own, nothing else."""

import contextlib
import json
import os
import threading
import time
import urllib.parse

import pymysql
import pytest

from leat import stack
from leat.stack import wait_for

SOON_S = 5  # delivered by then; the benchmark says how soon it is (tests/bench/publish)
KEPT = {"clean": False, "props": [("session_expiry", 300)]}


def rows(connection, text, *args):
    with connection.cursor() as q:
        q.execute(text, args)
        got = q.fetchall()
        while q.nextset():
            pass
        return got


class World:
    """Two nodes on one schema, tenants, and an application with a schema and an account of its own."""

    def __init__(self, database, directory):
        self.database, self.dir = database, directory
        self.dsn = database.new_schema()
        self.schema = stack.parse_dsn(self.dsn)["database"]
        stack.leat("migrate", "--db", self.dsn)
        self.root = database.connect(self.schema)
        self.admin_dsn, self.app_dsn, node_dsn = (database.account(self.dsn, r)
                                                  for r in ("admin", "publish", "node"))
        self.admin = stack.connect(self.admin_dsn)
        self.user = stack.parse_dsn(self.app_dsn)["user"]
        tenants = stack.Tenants(os.path.join(directory, "keys"), self.dsn)
        self.signers = {name: tenants.create(name) for name in ("shop", "bank", "other")}
        rows(self.admin, "CALL publisher_allow(%s, 'shop')", self.user)
        rows(self.admin, "CALL publisher_allow(%s, 'bank')", self.user)
        rows(self.root, f"CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(100))")
        rows(self.root, f"GRANT SELECT, INSERT ON {self.schema}.orders TO {self.user}@'%%'")
        self.nodes = []
        for i in range(2):
            n = stack.Node(os.path.join(directory, f"node{i}"), node_dsn)
            n.signers = self.signers
            self.nodes.append(n.start())

    @property
    def node(self):
        return next(n for n in self.nodes if n.alive())

    def leader(self):
        """The node that moves the inbox."""
        def find():
            held = [n for n in self.nodes if n.alive() and
                    "held" in n.text().rpartition("role=inbox")[2].partition("\n")[0]]
            return held[0] if len(held) == 1 else None
        return wait_for(find, 20, "one leader")

    def app(self, isolation=None):
        c = stack.connect(self.app_dsn)
        c.autocommit(False)
        if isolation:
            rows(c, f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
        return contextlib.closing(c)

    def publish(self, app, topic, payload, attributes=None, tenant="shop", content_type=None):
        rows(app, "CALL publish(%s, %s, %s, %s, %s)", tenant, topic, content_type, payload, attributes)

    def refused(self, app, *args, procedure="publish"):
        with pytest.raises(pymysql.Error) as e:
            rows(app, f"CALL {procedure}({','.join(['%s'] * len(args))})", *args)
        app.rollback()
        assert e.value.args[0] == 1644, e.value.args
        return e.value.args[1]

    def waiting(self):
        return rows(self.root, "SELECT COUNT(*) FROM inbox WHERE state=1")[0][0]


@pytest.fixture(scope="module")
def world(tmp_path_factory, database):
    w = World(database, str(tmp_path_factory.mktemp("publish")))
    yield w
    for n in w.nodes:
        n.end()


@pytest.fixture
def watch(world):
    """watch(topic): a client that gets what is published there; tenant shop unless said."""
    with contextlib.ExitStack() as s:
        def make(topic, tenant="shop", node=None, client_id="", **kw):
            c = (node or world.node).connect(client_id, tenant=tenant, **kw)
            s.callback(c.close)
            c.subscribe(topic)
            return c
        yield make


# ---- the promise ----------------------------------------------------------------------------------

@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_on_commit_and_not_on_rollback(world, watch, topic, isolation):
    c = watch(topic)
    with world.app(isolation) as app:
        rows(app, "INSERT INTO orders(what) VALUES ('a')")
        world.publish(app, topic, "rolled back")
        app.rollback()
        world.publish(app, topic, "committed")
        assert c.silent(0.2)
        app.commit()
        assert c.receive(timeout=SOON_S).payload == b"committed"
        world.publish(app, topic, "never")
    assert c.silent(0.3)  # it hung up with its transaction open


def test_autocommit_and_both_nodes(world, watch, topic):
    clients = [watch(topic, node=n) for n in world.nodes]
    with world.app() as app:
        app.autocommit(True)
        world.publish(app, topic, b"\x00\xff bytes")
        for c in clients:
            got = c.receive(timeout=SOON_S)
            assert (got.topic, got.payload, got.qos) == (topic, b"\x00\xff bytes", 1)


def test_a_thousand_in_order(world, watch, topic):
    c = watch(topic)
    with world.app() as app:
        for i in range(1000):
            world.publish(app, topic, str(i))
            if i in (300, 600):
                app.commit()
        app.commit()
    assert [int(m.payload) for m in c.receive_many(1000, timeout=20)] == list(range(1000))


def test_order_by_key_across_partitions(world, watch, topic):
    """A tenant with several partitions: each key is in order, as for any other publisher."""
    rows(world.admin, "CALL tenant_create('wide', NULL, 4)")
    rows(world.admin, "CALL publisher_allow(%s, 'wide')", world.user)
    with world.app() as app:
        for i in range(200):
            world.publish(app, f"{topic}/{i % 7}", str(i), json.dumps({"key": f"k{i % 5}"}), "wide")
        app.commit()
    wait_for(lambda: world.waiting() == 0, 5, "an empty inbox")
    by_key = {}
    for partition, key, data in rows(world.root, "SELECT partition_id, event_key, data FROM event WHERE"
                                     " tenant='wide' ORDER BY partition_id, seq"):
        by_key.setdefault(key, []).append((partition, int(data)))
    assert len(by_key) == 5 and len({p for events in by_key.values() for p, _ in events}) > 1
    for events in by_key.values():
        assert events == sorted(events) and len(events) == 40 and len({p for p, _ in events}) == 1


def test_in_triggers_and_procedures(world, watch, topic):
    c = watch(topic)
    rows(world.root, f"CREATE TRIGGER orders_publish AFTER INSERT ON orders FOR EACH ROW CALL {world.schema}."
         f"publish('shop', '{topic}', 'application/json', JSON_OBJECT('id', NEW.id, 'what', NEW.what), NULL)")
    rows(world.root, "CREATE PROCEDURE order_twice(w VARCHAR(100)) BEGIN INSERT INTO orders(what) VALUES (w);"
         f" CALL publish('shop', '{topic}', NULL, w, NULL); END")
    rows(world.root, f"GRANT EXECUTE ON PROCEDURE {world.schema}.order_twice TO {world.user}@'%%'")
    try:
        with world.app() as app:
            rows(app, "INSERT INTO orders(what) VALUES ('one'), ('two')")
            first = rows(app, "SELECT LAST_INSERT_ID()")[0][0]
            app.rollback()
            rows(app, "INSERT INTO orders(what) VALUES ('three'), ('four')")
            app.commit()
            assert [json.loads(m.payload)["what"] for m in c.receive_many(2, timeout=SOON_S)] == ["three", "four"]
            rows(app, "CALL order_twice('five')")
            app.commit()
            assert json.loads(c.receive(timeout=SOON_S).payload)["id"] > first
            assert c.receive(timeout=SOON_S).payload == b"five"
    finally:
        rows(world.root, "DROP TRIGGER orders_publish")
        rows(world.root, "DROP PROCEDURE order_twice")
    assert c.silent(0.1)


def test_the_callers_last_insert_id_stays(world, topic):
    with world.app() as app:
        rows(app, "INSERT INTO orders(what) VALUES ('x')")
        before = rows(app, "SELECT LAST_INSERT_ID()")
        world.publish(app, topic, "x")
        assert rows(app, "SELECT LAST_INSERT_ID()") == before
        app.rollback()


# ---- an open transaction slows nobody -------------------------------------------------------------

def test_an_open_transaction_holds_up_nobody(world, watch, topic):
    """It took the lowest id of all, and commits last."""
    c = watch(topic + "/#")
    with world.app("REPEATABLE READ") as open_one, world.app() as app:
        rows(open_one, "SELECT * FROM orders")
        world.publish(open_one, f"{topic}/late", "late")
        for i in range(50):
            world.publish(app, f"{topic}/{i}", str(i))
            app.commit()
            assert c.receive(timeout=SOON_S).payload == str(i).encode()
        began = time.monotonic()
        rows(world.admin, "CALL tenant_set_limit('shop', 'max_connections', 1000)")
        rows(world.admin, "CALL tenant_suspend('bank')")
        rows(world.admin, "CALL tenant_resume('bank')")
        rows(world.admin, "CALL publisher_deny(%s, 'bank')", world.user)
        rows(world.admin, "CALL publisher_allow(%s, 'bank')", world.user)
        assert time.monotonic() - began < 1 * stack.SLOW, "an admin waited for an application"
        assert c.silent(0.1)
        open_one.commit()
        assert c.receive(timeout=SOON_S).payload == b"late"


def test_ids_that_commit_late_behind_a_long_trail(world, watch, topic):
    """The same when the server cannot purge: whoever looks from the beginning of the index meets every
    row that was ever deleted. What their applications commit next comes behind them."""
    c = watch(topic + "/#")
    shop, = rows(world.root, "SELECT tenant_id FROM tenant WHERE name='shop'")[0]
    with world.app("REPEATABLE READ") as open_one, world.app() as app, \
            contextlib.closing(world.database.connect(world.schema)) as root, contextlib.ExitStack() as stays:
        several = [stays.enter_context(world.app()) for _ in range(20)]
        for i, one in enumerate(several):
            world.publish(one, f"{topic}/several", f"{i} first")
        rows(open_one, "SELECT * FROM orders")
        world.publish(open_one, f"{topic}/late", "late")
        rows(root, "INSERT INTO inbox(tenant_id, account, topic, payload) WITH RECURSIVE n(i) AS (SELECT 1 UNION"
             " ALL SELECT i + 1 FROM n WHERE i < 990) SELECT %s, 'x', 'trail', '' FROM n a"
             " JOIN (SELECT i FROM n LIMIT 40) b", shop)
        wait_for(lambda: world.waiting() == 0, 30, "an empty inbox")
        took = []
        for i in range(120):
            began = time.monotonic()
            world.publish(app, f"{topic}/{i}", str(i))
            app.commit()
            assert c.receive(timeout=5).payload == str(i).encode()
            took.append(time.monotonic() - began)
        assert sorted(took)[len(took) // 2] < 0.1 * stack.SLOW
        for i, one in enumerate(several):
            one.commit()
            world.publish(one, f"{topic}/several", f"{i} second")
            one.commit()
            assert [c.receive(timeout=5).payload.decode() for _ in range(2)] == [f"{i} first", f"{i} second"]
        open_one.commit()
        assert c.receive(timeout=10).payload == b"late"


def test_tenants_take_turns(world, watch, topic):
    """One tenant commits many thousands at once; another's do not wait for all of them."""
    c = watch(topic, tenant="bank")
    shop, = rows(world.root, "SELECT tenant_id FROM tenant WHERE name='shop'")[0]
    with world.app() as app:
        rows(world.root, "INSERT INTO inbox(tenant_id, account, topic, payload) WITH RECURSIVE n(i) AS (SELECT 1"
             " UNION ALL SELECT i + 1 FROM n WHERE i < 990) SELECT %s, 'x', %s, REPEAT('x', 200) FROM n a"
             " JOIN (SELECT i FROM n LIMIT 40) b", shop, topic)
        waits = []
        while world.waiting() > 1000:
            began = time.monotonic()
            world.publish(app, topic, "x", tenant="bank")
            app.commit()
            c.receive(timeout=5)
            waits.append(time.monotonic() - began)
    assert len(waits) >= 3 and sorted(waits)[len(waits) // 2] < 0.5 * stack.SLOW and max(waits) < 2 * stack.SLOW, waits
    wait_for(lambda: world.waiting() == 0, 30, "an empty inbox")


# ---- once -----------------------------------------------------------------------------------------

def test_the_leader_dies_under_way(world, watch, topic, cid):
    """kill -9 of the node that moves: the other goes on, and each event is there once, in order."""
    dead = world.leader()
    other = next(n for n in world.nodes if n is not dead)
    c = watch(topic, node=other, client_id=cid(), **KEPT)
    count = 3000

    def produce():
        with world.app() as app:
            for i in range(count):
                world.publish(app, topic, str(i))
                if i % 20 == 0:
                    app.commit()
            app.commit()
    producer = threading.Thread(target=produce)
    producer.start()
    wait_for(lambda: rows(world.root, "SELECT MAX(next_seq) FROM head WHERE tenant_id=1")[0][0], 5)
    c.receive_many(200, timeout=10)
    dead.kill()
    producer.join()
    got = [int(m.payload) for m in c.receive_many(count - 200, timeout=30)]
    assert got == list(range(200, count))
    assert c.silent(0.3)
    stored = rows(world.root, "SELECT COUNT(*), COUNT(DISTINCT data) FROM event WHERE topic=%s", topic)
    assert stored == ((count, count),)
    dead.start()


# ---- what arrives ---------------------------------------------------------------------------------

def test_attributes(world, watch, topic):
    c = watch(topic)
    given = {"id": "4711", "source": "/orders", "type": "order.created", "time": "2026-03-01T12:00:00Z",
             "subject": "ä \"quoted\" \\", "key": "k1", "correlationid": "c", "causationid": "d", "mine": "yes"}
    with world.app() as app:
        world.publish(app, topic, "{}", json.dumps(given), content_type="application/json")
        world.publish(app, topic, "", json.dumps({"mine": "only"}))
        world.publish(app, topic, None)
        app.commit()
    got, plain, empty = c.receive_many(3, timeout=SOON_S)
    expected = {**given, "leat-key": "k1", "specversion": "1.0"}
    del expected["key"]
    assert dict(got.all("user")) == expected
    assert got.prop("content_type") == "application/json"
    assert plain.all("user") == [("mine", "only")] and plain.prop("content_type") is None
    assert (empty.payload, empty.all("user")) == (b"", [])
    stored, = rows(world.root, "SELECT id, source, type, time, subject, event_key, correlation_id, causation_id"
                   " FROM event WHERE topic=%s AND data='{}'", topic)
    assert stored == tuple(given[n] for n in list(given)[:8])


def test_publish_at(world, watch, topic):
    c = watch(topic)
    with world.app() as app:
        for after, text in ((1, "later"), (-60, "now")):
            rows(app, "CALL publish_at('shop', %s, NULL, %s, NULL, UTC_TIMESTAMP(3) + INTERVAL %s SECOND)", topic,
                 text, after)
        rows(app, "CALL publish_at('shop', %s, 'text/plain', 'never', NULL, '2099-01-01')"
             .replace("2099-01-01", time.strftime("%Y-%m-%d", time.gmtime(time.time() + 100 * 86400))), topic)
        app.rollback()
        began = time.monotonic()
        rows(app, "CALL publish_at('shop', %s, 'text/plain', 'later', '{\"type\": \"t\"}',"
             " UTC_TIMESTAMP(3) + INTERVAL 1 SECOND)", topic)
        rows(app, "CALL publish_at('shop', %s, NULL, 'now', NULL, UTC_TIMESTAMP(3) - INTERVAL 1 DAY)", topic)
        app.commit()
    assert c.receive(timeout=SOON_S).payload == b"now"
    got = c.receive(timeout=3)
    assert got.payload == b"later" and 0.9 < time.monotonic() - began < 2 * stack.SLOW
    assert ("type", "t") in got.all("user") and got.prop("content_type") == "text/plain"
    assert c.silent(0.1)


# ---- what is refused ------------------------------------------------------------------------------

REFUSALS = [
    (("shop", "", None, "x", None), "topic is empty"),
    (("shop", None, None, "x", None), "topic is empty"),
    (("shop", "a/+/b", None, "x", None), "wildcard"),
    (("shop", "a/#", None, "x", None), "wildcard"),
    (("shop", "$SYS/x", None, "x", None), "starts with $"),
    (("shop", "$delayed/5/a", None, "x", None), "publish_at() says when"),
    (("shop", "$queue/a", None, "x", None), "starts with $"),
    (("shop", "a" * 1025, None, "x", None), "1025 bytes; at most 1024"),
    (("shop", "ä" * 513, None, "x", None), "1026 bytes; at most 1024"),
    (("shop", "/" * 32, None, "x", None), "33 levels; at most 32"),
    (("shop", "a\0b", None, "x", None), "U+0000"),
    (("shop", "a", "x" * 256, "x", None), "content type"),
    (("shop", "a", "x\0y", "x", None), "content type"),
    (("shop", "a", None, "x", "no JSON"), "a JSON object of texts"),
    (("shop", "a", None, "x", ""), "a JSON object of texts"),
    (("shop", "a", None, "x", "[]"), "a JSON object of texts"),
    (("shop", "a", None, "x", '"x"'), "a JSON object of texts"),
    (("shop", "a", None, "x", '{"n": 1}'), "every attribute is a text"),
    (("shop", "a", None, "x", '{"n": null}'), "every attribute is a text"),
    (("shop", "a", None, "x", '{"n": {"m": "x"}}'), "every attribute is a text"),
    (("shop", "a", None, "x", '{"n": "a\\u0000"}'), "U+0000"),
    (("shop", "a", None, "x", '{"leat-key": "k"}'), 'the ordering key is "key"'),
    (("shop", "a", None, "x", '{"leat-deliver-at": "0"}'), "publish_at() says when"),
    (("shop", "a", None, "x", json.dumps({"n": "x" * 65536})), "65535 bytes"),
    (("shop", "a", None, "x", json.dumps({str(i): "" for i in range(101)})), "up to 100 attributes"),
    (("other", "a", None, "x", None), "may not publish for tenant 'other'"),
    (("nobody", "a", None, "x", None), "may not publish for tenant 'nobody'"),
    ((None, "a", None, "x", None), "may not publish for tenant NULL"),
    (("shop' OR '1'='1", "a", None, "x", None), "may not publish for tenant"),
    (("shop", "a", None, "x", None, None), "deliver_at is NULL"),
    (("shop", "a", None, "x", None, "2099-01-01"), "366 days"),
    (("shop", "a/+", None, "x", None, "2020-01-01"), "wildcard"),
    (("other", "a", None, "x", None, "2020-01-01"), "may not publish"),
]


def test_refusals(world):
    with world.app() as app:
        for args, words in REFUSALS:
            said = world.refused(app, *args, procedure="publish" if len(args) == 5 else "publish_at")
            assert words in said, (args[:2], said)
    assert world.waiting() == 0


def test_a_refusal_leaves_the_transaction(world, watch, topic):
    c = watch(topic)
    with world.app() as app:
        world.publish(app, topic, "before")
        with pytest.raises(pymysql.Error):
            world.publish(app, topic + "/#", "refused")
        world.publish(app, topic, "after")
        app.commit()
    assert [m.payload for m in c.receive_many(2, timeout=SOON_S)] == [b"before", b"after"]
    assert c.silent(0.1)


def test_what_is_no_text_is_refused(world):
    with world.app() as app:
        for args in ((b"shop", b"\xff\xfe"), (b"\xc3\x28", b"a")):
            with pytest.raises(pymysql.Error):
                rows(app, "CALL publish(_binary %s, _binary %s, NULL, 'x', NULL)", *args)
        with pytest.raises(pymysql.Error):
            rows(app, "CALL publish_at('shop', 'a', NULL, 'x', NULL, 'tomorrow')")


def test_limits_of_the_tenant(world, topic):
    with world.app() as app:
        rows(world.admin, "CALL tenant_set_limit('bank', 'max_event_bytes', 10)")
        assert "this tenant's events may have 10" in world.refused(app, "bank", topic, None, "x" * 11, None)
        world.publish(app, topic, "x" * 10, tenant="bank")
        app.commit()
        rows(world.admin, "CALL tenant_set_limit('bank', 'max_event_bytes', 0)")
        with pytest.raises(pymysql.Error) as e:
            rows(app, "CALL publish('bank', %s, NULL, REPEAT('x', @@GLOBAL.max_allowed_packet - 1000000), NULL)", topic)
        assert "max_allowed_packet leaves room for" in e.value.args[1]
        rows(world.root, "UPDATE tenant SET full_since=UTC_TIMESTAMP(3) WHERE name='bank'")
        assert world.refused(app, "bank", topic, None, "x", None) == (
            "the tenant's stored events are at their limit, and a queue that they are kept for has not"
            " processed them")
        rows(world.root, "UPDATE tenant SET full_since=NULL")
        rows(world.admin, "CALL tenant_suspend('bank')")
        assert world.refused(app, "bank", topic, None, "x", None) == "tenant bank is suspended"
        rows(world.admin, "CALL tenant_resume('bank')")
        world.publish(app, topic, "x", tenant="bank")
        app.commit()
        rows(world.admin, "CALL tenant_create('gone', NULL, NULL)")
        rows(world.admin, "CALL publisher_allow(%s, 'gone')", world.user)
        rows(world.admin, "CALL tenant_delete('gone')")
        assert world.refused(app, "gone", topic, None, "x", None) == "tenant gone is deleted"


def test_a_suspended_tenants_application_that_does_not_see_it(world, watch, topic):
    """Its snapshot is older than the suspension: what it publishes stays in the inbox until the tenant is resumed,
    other tenants' events pass it, and nothing of it is lost."""
    rows(world.admin, "CALL tenant_create('paused', NULL, NULL)")
    rows(world.admin, "CALL publisher_allow(%s, 'paused')", world.user)
    c, stored = watch(topic), "SELECT data FROM event WHERE topic=%s ORDER BY seq"
    with world.app("REPEATABLE READ") as app, world.app() as other:
        world.publish(app, topic, "1", tenant="paused")
        rows(world.admin, "CALL tenant_suspend('paused')")
        world.publish(app, topic, "2", tenant="paused")
        app.commit()
        assert world.refused(app, "paused", topic, None, "x", None) == "tenant paused is suspended"
        for i in range(20):
            world.publish(other, topic, str(i))
            other.commit()
            assert c.receive(timeout=SOON_S).payload == str(i).encode()
    assert world.waiting() == 2
    assert rows(world.root, stored + " LIMIT 1", topic) == ((b"0",),)
    assert rows(world.admin, "SELECT COUNT(*) FROM inbox_lag WHERE tenant='paused'") == ((1,),)
    rows(world.admin, "CALL tenant_resume('paused')")
    wait_for(lambda: world.waiting() == 0, 5, "an empty inbox")
    assert rows(world.root, "SELECT data FROM event WHERE tenant='paused' ORDER BY seq") == ((b"1",), (b"2",))


# ---- locks of a transaction that is SERIALIZABLE ---------------------------------------------------

def test_a_serializable_session_is_told(world, topic):
    with world.app("SERIALIZABLE") as app:
        assert "SET SESSION TRANSACTION ISOLATION LEVEL" in world.refused(app, "shop", topic, None, "x", None)
        assert "SERIALIZABLE" in world.refused(app, "shop", topic, None, "x", None, "2020-01-01", procedure="publish_at")


def test_a_transaction_that_is_serializable_holds_up_nobody_else(world, topic):
    """One that the session does not show. It was refused, or allowed for its own tenant, and stays open: what it
    has read is locked, and must not be another tenant's, nor where a new one or one that is full would be."""
    for name in ("full", "zzzy"):
        rows(world.admin, "CALL tenant_create(%s, NULL, NULL)", name)
    for isolation in ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"):
        with world.app() as app, contextlib.closing(stack.connect(world.admin_dsn)) as admin, \
                contextlib.closing(world.database.connect(world.schema)) as root:
            rows(admin, "SET innodb_lock_wait_timeout=1")
            rows(root, "SET innodb_lock_wait_timeout=1")
            rows(app, isolation)
            rows(app, "START TRANSACTION")
            for tenant in ("shop", "other", "full", "zzz", "nobody", ""):
                with contextlib.suppress(pymysql.Error):
                    rows(app, "CALL publish(%s,%s,NULL,'x',NULL)", tenant, topic)
            for text in ("CALL tenant_suspend('other')", "CALL tenant_resume('other')", "CALL tenant_set_weight('full', 2)",
                         "CALL tenant_set_limit('other', 'max_connections', 9)", "CALL token_revoke_before('other',NULL,NULL,NULL)",
                         "CALL key_add('other','i',CONNECTION_ID(),'HS256',REPEAT('s',40))",
                         "CALL tenant_create(CONCAT('zzz-',CONNECTION_ID()),NULL,NULL)"):
                rows(admin, text)
            rows(root, "UPDATE tenant SET full_since=UTC_TIMESTAMP(3) WHERE name='full'")
            rows(root, "UPDATE tenant SET full_since=NULL WHERE name='full'")
            if "SESSION" not in isolation:  # its own tenant's row it has read: an admin is told what is in the way
                with pytest.raises(pymysql.Error) as e:
                    rows(admin, "CALL tenant_set_weight('shop', 3)")
                assert e.value.args[0] == 1205 and "holds the tenant's row" in e.value.args[1]
            app.rollback()


# ---- who may --------------------------------------------------------------------------------------

def test_an_account_is_allowed_tenant_by_tenant(world, topic):
    with world.app() as app:
        there = world.refused(app, "other", topic, None, "x", None)
        absent = world.refused(app, "otherx", topic, None, "x", None)
        assert there.replace("'other'", "") == absent.replace("'otherx'", "")
        for account in (f"{world.user}@10.9.8.%", f"{world.user}x", f"x{world.user}@%"):
            rows(world.admin, "CALL publisher_allow(%s, 'other')", account)
            assert world.refused(app, "other", topic, None, "x", None) == there
            rows(world.admin, "CALL publisher_deny(%s, 'other')", account)
        for account, tenant in ((f"{world.user}@%", "other"), (f"{world.user}@%.0.0._", "other"), (world.user, None)):
            rows(world.admin, "CALL publisher_allow(%s, %s)", account, tenant)
            world.publish(app, topic, "x", tenant="other")
            app.commit()
            if tenant is None:
                assert world.refused(app, "otherx", topic, None, "x", None) == "there is no tenant 'otherx'"
            rows(world.admin, "CALL publisher_deny(%s, %s)", account, tenant)
            assert world.refused(app, "other", topic, None, "x", None) == there
    actions = [r[0] for r in rows(world.admin, "SELECT action FROM audit_log WHERE action LIKE 'publisher%%'"
                                  " ORDER BY audit_id DESC LIMIT 2")]
    assert actions == ["publisher_deny", "publisher_allow"]


@pytest.mark.parametrize("account", ["", "@", "@localhost", "user@", None, "u" * 129])
def test_accounts_that_are_none(world, account):
    for procedure in ("publisher_allow", "publisher_deny"):
        assert "USER or USER@HOST" in world.refused(world.admin, account, "shop", procedure=procedure)


def test_what_a_publisher_cannot_do(world):
    with world.app() as app:
        for text in ("SELECT * FROM inbox", "INSERT INTO inbox(tenant_id, account, topic, payload) VALUES (1,'','a','')",
                     "SELECT * FROM publisher", "INSERT INTO publisher(account, tenant_id, host) VALUES ('x',0,'%%')",
                     "SELECT * FROM tenant", "SELECT * FROM tenants", "SELECT * FROM event", "SELECT * FROM inbox_events",
                     "CALL publisher_allow('x', 'other')", "CALL tenant_suspend('shop')",
                     "CALL _publish('other','a',NULL,'x',NULL,NULL)", "CALL inbox_discard(1)"):
            with pytest.raises(pymysql.Error) as e:
                rows(app, text)
            assert e.value.args[0] in (1044, 1142, 1143, 1305, 1370), (text, e.value.args)


# ---- what cannot become an event ------------------------------------------------------------------

def test_a_row_that_is_no_event_is_set_aside(world, watch, topic):
    c = watch(topic)
    with world.app() as app:
        rows(world.root, "INSERT INTO inbox(tenant_id, account, topic, attributes, payload) SELECT tenant_id, 'hand',"
             " %s, '[1]', 'bad' FROM tenant WHERE name='shop'", topic)
        world.publish(app, topic, "good")
        app.commit()
    assert c.receive(timeout=SOON_S).payload == b"good"
    (number, reason, payload), = rows(world.admin, "SELECT inbox_id, reason, payload FROM inbox_events"
                                      " WHERE state='set aside'")
    assert "not a JSON object" in reason and payload == "bad"
    detail, = rows(world.admin, "SELECT detail FROM audit_log WHERE action='inbox.set_aside' AND target=%s"
                   " AND who LIKE 'node:%%'", str(number))[0]
    assert json.loads(detail)["reason"] == reason
    rows(world.root, "UPDATE inbox SET attributes=NULL WHERE inbox_id=%s", number)
    rows(world.admin, "CALL inbox_retry(%s)", number)
    assert c.receive(timeout=SOON_S).payload == b"bad"
    assert "is set aside" in world.refused(world.admin, number, procedure="inbox_discard")


def test_what_the_journal_refuses_is_found_and_set_aside(world, watch, topic):
    """A hundred published at once, three of which the database does not take."""
    c = watch(topic)
    rows(world.root, "CREATE TRIGGER no_poison BEFORE INSERT ON journal FOR EACH ROW BEGIN IF LOCATE('poison',"
         " NEW.body) THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no poison'; END IF; END")
    try:
        with world.app() as app:
            for i in range(100):
                world.publish(app, topic, f"poison {i}" if i in (7, 8, 90) else str(i))
            app.commit()
        got = [int(m.payload) for m in c.receive_many(97, timeout=20)]
        assert got == [i for i in range(100) if i not in (7, 8, 90)]
        aside = wait_for(lambda: (found := rows(world.admin, "SELECT inbox_id, reason, payload FROM inbox_events"
                                                " WHERE state='set aside' ORDER BY inbox_id")) and
                         len(found) == 3 and found)
        assert [r[2] for r in aside] == ["poison 7", "poison 8", "poison 90"] and "no poison" in aside[0][1]
    finally:
        rows(world.root, "DROP TRIGGER no_poison")
    rows(world.admin, "CALL inbox_discard(%s)", aside[0][0])
    rows(world.admin, "CALL inbox_discard(%s)", aside[1][0])
    rows(world.admin, "CALL inbox_retry(%s)", aside[2][0])
    assert c.receive(timeout=SOON_S).payload == b"poison 90"


def test_a_deleted_tenants_rows_go(world, topic):
    rows(world.admin, "CALL tenant_create('leaving', NULL, NULL)")
    rows(world.admin, "CALL publisher_allow(%s, 'leaving')", world.user)
    with world.app() as app:
        world.publish(app, topic, "x", tenant="leaving")
        rows(world.admin, "CALL tenant_delete('leaving')")
        app.commit()
    wait_for(lambda: world.waiting() == 0, 5, "an empty inbox")
    assert rows(world.root, "SELECT COUNT(*) FROM event WHERE tenant='leaving'") == ((0,),)
