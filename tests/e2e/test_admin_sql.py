"""A SQL prompt is the admin console: every procedure, as a running node sees it. The console's account
has the role SCHEMA_admin and nothing else, the node's has SCHEMA_node."""

import contextlib
import json
import os

import pymysql
import pytest

from leat import mqtt, pki, stack
from leat.stack import wait_for
from leat.token import Signer

SOON_S = 1 + stack.TTL / 6  # every change is in force on every node by then, which is its next renewal
KEPT = {"clean": False, "props": [("session_expiry", 300)]}
ISSUER = "https://sql.test"


class Console:
    """A schema with its roles, a node on it, and a connection for each kind of account."""

    def __init__(self, database, directory):
        self.database, self.dir = database, directory
        self.dsn = database.new_schema()
        self.schema = stack.parse_dsn(self.dsn)["database"]
        stack.leat("migrate", "--db", self.dsn)
        self.root = database.connect(self.schema)
        self.admin_dsn, self.read_dsn, self.node_dsn = (database.account(self.dsn, role)
                                                        for role in ("admin", "read", "node"))
        self.admin, self.read = stack.connect(self.admin_dsn), stack.connect(self.read_dsn)
        self.node = stack.Node(os.path.join(directory, "node"), self.node_dsn)
        self.numbers = 0

    @staticmethod
    def run(connection, *statements):
        with connection.cursor() as q:
            for text in statements:
                q.execute(text)
            return q.lastrowid

    def call(self, name, *args):
        """The procedure's rows, as the admin."""
        with self.admin.cursor() as q:
            q.execute(f"CALL {name}({','.join(['%s'] * len(args))})", args)
            rows = q.fetchall()
            while q.nextset():
                pass
            return rows

    def refused(self, name, *args):
        """What the procedure says when it refuses."""
        with pytest.raises(pymysql.Error) as e:
            self.call(name, *args)
        assert e.value.args[0] == 1644, e.value.args
        return e.value.args[1]

    def rows(self, text, *args, by=None):
        with (by or self.root).cursor(pymysql.cursors.DictCursor) as q:
            q.execute(text, args)
            return q.fetchall()

    def audit(self, action):
        """The newest audit row of this action: who, tenant, target, before, after."""
        row = self.rows("SELECT * FROM audit_log WHERE action=%s ORDER BY audit_id DESC LIMIT 1", action,
                        by=self.read)[0]
        detail = json.loads(row["detail"])
        assert row["who"].startswith(f"{self.schema}_some_admin@")
        return row["tenant"], row["target"], detail["before"], detail["after"]

    def name(self, prefix):
        self.numbers += 1
        return f"{prefix}-{self.numbers}"

    def tenant(self):
        """A new tenant with a key: its name and who signs its tokens."""
        name = self.name("t")
        self.call("tenant_create", name, None, None)
        return name, self.key(name)

    def key(self, tenant):
        key, kid = pki.new_key("ES256"), self.name("k")
        self.call("key_add", tenant, ISSUER, kid, "ES256", pki.public_pem(key))
        return Signer(tenant, ISSUER, kid, "ES256", key)

    def answer(self, signer, client_id=""):
        """The reason of the CONNACK."""
        with contextlib.closing(self.node.open()) as c:
            return c.connect(client_id, signer.token(), check=False).reason

    def enter(self, signer, client_id="", **kw):
        wait_for(lambda: self.answer(signer) == 0, SOON_S, "a new key that works")
        c = self.node.open()
        c.connack = c.connect(client_id, signer.token(), **kw)
        return c

    def settled(self, tenant):
        """Wait until all that its subscriptions were sent is acknowledged and stored."""
        wait_for(lambda: {r["behind"] for r in self.rows("SELECT behind FROM subscription_lag WHERE tenant=%s",
                                                         tenant)} == {0}, what="no lag")

    def subscription(self, tenant, kind, subject, name):
        """The id of a new one without an owner."""
        n = self.run(self.root,
                     "INSERT INTO subscription(tenant_id,kind,subject,name,filters,expiry_s) SELECT tenant_id,"
                     f"{kind},'{subject}','{name}','[]',4294967295 FROM tenant WHERE name='{tenant}'")
        self.run(self.root, "INSERT INTO cursors(tenant_id,subscription_id,partition_id,epoch,acked_through,"
                 f"acked_ahead) SELECT tenant_id,{n},0,0,0,'' FROM tenant WHERE name='{tenant}'")
        return n

    def dead_letters(self, tenant, subscription, reasons):
        ids = []
        for seq, reason in enumerate(reasons, 1):
            with self.root.cursor() as q:
                q.execute("INSERT INTO dead_letter(tenant_id,subscription_id,partition_id,seq,attempt,reason,"
                          "history,attributes,body) SELECT tenant_id,%s,0,%s,3,%s,%s,%s,'paid' FROM tenant"
                          " WHERE name=%s", (subscription, seq, reason, '[{"reason":"no"}]',
                                             '[{"topic":"orders/ä","key":"k1","o":0,"l":4}]', tenant))
                ids.append(q.lastrowid)
        return ids


@pytest.fixture(scope="module")
def console(tmp_path_factory, database):
    c = Console(database, str(tmp_path_factory.mktemp("console")))
    c.node.start()
    yield c
    c.node.stop()


# ---- tenants and keys -----------------------------------------------------------------------------

def test_a_new_tenant_and_its_key_work(console):
    name, signer = console.tenant()
    c = console.enter(signer)
    c.subscribe("a")
    c.publish("a", b"x")
    assert c.receive().payload == b"x"
    row, = console.rows("SELECT * FROM tenants WHERE name=%s", name, by=console.read)
    assert (row["state"], row["weight"], row["partitions"]) == ("active", 1, 1)
    assert console.audit("tenant_create") == (name, name, None, {"weight": 1, "partitions": 1})
    assert console.audit("key_add") == (name, f"{ISSUER} {signer.kid}", None,
                                        {"issuer": ISSUER, "kid": signer.kid, "alg": "ES256"})
    assert "taken, or was: names are never reused" in console.refused("tenant_create", name, 1, 1)


def test_suspend_and_resume(console):
    name, signer = console.tenant()
    _, other = console.tenant()
    c, kept = console.enter(signer), console.enter(other)
    console.call("tenant_suspend", name)
    last = c.closed(timeout=SOON_S * stack.SLOW)[-1]
    assert (last.kind, last.reason) == (mqtt.DISCONNECT, 0x98)
    assert last.prop("reason_string") == "the tenant is suspended"
    assert console.answer(signer) == 0x8A
    assert console.audit("tenant_suspend") == (name, name, {"state": "active"}, {"state": "suspended"})
    kept.ping()
    console.call("tenant_resume", name)
    wait_for(lambda: console.answer(signer) == 0, SOON_S, "a resumed tenant")
    assert console.audit("tenant_resume")[2:] == ({"state": "suspended"}, {"state": "active"})


def test_keys_rotate_with_overlap(console):
    name, old = console.tenant()
    by_old = console.enter(old)
    new = console.key(name)
    by_new = console.enter(new)
    assert console.answer(old) == 0, "both verify"
    console.call("key_retire", name, ISSUER, old.kid)
    last = by_old.closed(timeout=SOON_S * stack.SLOW)[-1]
    assert (last.kind, last.reason) == (mqtt.DISCONNECT, 0x87)
    by_new.ping()
    assert console.answer(old) == 0x86 and console.answer(new) == 0
    assert console.audit("key_retire") == (name, f"{ISSUER} {old.kid}", {"state": "active"},
                                           {"state": "retired"})
    states = {r["kid"]: r["state"] for r in console.rows("SELECT * FROM tenant_keys WHERE tenant=%s", name)}
    assert states == {old.kid: "retired", new.kid: "active"}


def test_delete_and_purge(console):
    name, signer = console.tenant()
    c = console.enter(signer, "dev", **KEPT)
    c.subscribe("a")
    c.publish_many([("a", b"x")] * 5, window=1)
    queue = console.subscription(name, 3, "", "q")
    console.dead_letters(name, queue, ["nack"] * 3)
    console.call("schedule_create", name, "s", "@daily", None, "a", None, None)
    assert "is not deleted" in console.refused("tenant_purge_step", name, 10)
    console.call("tenant_delete", name)
    assert c.closed(timeout=SOON_S * stack.SLOW)[-1].reason == 0x98
    removed = []
    while not removed or removed[-1][2] != "nothing is left":
        removed.append(console.call("tenant_purge_step", name, 4)[0])
        assert removed[-1][0] <= 4
    assert sum(r[0] for r in removed) >= 5 + 2 + 2 + 3 + 1 + 1 + 1  # journal, subs, cursors, dead, head …
    tables = ("head", "journal", "subscription", "cursors", "timer", "schedule", "dead_letter", "tenant_key")
    for table in tables:
        assert console.rows(f"SELECT 1 FROM {table} JOIN tenant t USING (tenant_id) WHERE t.name=%s", name) == ()
    assert console.rows("SELECT state FROM tenants WHERE name=%s", name) == [{"state": "deleted"}]
    assert "names are never reused" in console.refused("tenant_create", name, 1, 1)
    assert "any more: it was deleted" in console.refused("tenant_resume", name)
    assert console.audit("tenant_purge_step")[3]["left_events"] == 0


def test_limits_and_weight(console):
    name, signer = console.tenant()
    c = console.enter(signer)
    assert c.publish("a", b"x" * 1001).reason in (0, 0x10)

    def too_large():
        return c.publish("a", b"x" * 1001, check=False).reason >= 0x80
    for limit, value in (("max_connections", 7), ("max_events_per_s", 100), ("max_bytes_per_s", 1 << 40),
                         ("max_event_bytes", 1000), ("max_subscriptions", 3), ("max_stored_bytes", 2**64 - 1),
                         ("max_backlog_events", 10), ("retention_s", 86400)):
        console.call("tenant_set_limit", name, limit, value)
        assert console.audit("tenant_set_limit") == (name, name, {limit: 0}, {limit: value})
        assert console.rows(f"SELECT {limit} AS v FROM tenants WHERE name=%s", name)[0]["v"] == value
    wait_for(lambda: too_large(), SOON_S, "a limit that applies")
    console.call("tenant_set_weight", name, 9)
    assert console.audit("tenant_set_weight") == (name, name, {"weight": 1}, {"weight": 9})
    shown = stack.leat("tenant", "show", name, "--db", console.dsn).stdout.split()
    assert "9" in shown and "86400" in shown


@pytest.mark.parametrize("procedure, args, says", [
    ("tenant_create", (None, 1, 1), "1 to 63 of a-z, 0-9 and -"),
    ("tenant_create", ("", 1, 1), "1 to 63 of a-z, 0-9 and -"),
    ("tenant_create", ("UPPER", 1, 1), "'UPPER'"),
    ("tenant_create", ("a\n", 1, 1), "1 to 63 of a-z"),
    ("tenant_create", ("-a", 1, 1), "not starting with -"),
    ("tenant_create", ("a" * 64, 1, 1), "1 to 63"),
    ("tenant_create", ("a" * 60000, 1, 1), "1 to 63"),
    ("tenant_create", ("x'; DROP TABLE tenant; -- ", 1, 1), "1 to 63"),
    ("tenant_create", ("ü", 1, 1), "1 to 63"),
    ("tenant_create", ("fine", 0, 1), "weight must be 1 to 65535, not 0"),
    ("tenant_create", ("fine", 1, 65), "partitions must be 1 to 64, not 65"),
    ("tenant_create", ("fine", 10**29, 1), "weight must be 1 to 65535"),
    ("tenant_suspend", (None,), "there is no tenant NULL"),
    ("tenant_suspend", ("alpha ",), "there is no tenant 'alpha '"),
    ("tenant_suspend", ("ALPHA",), "there is no tenant 'ALPHA'"),
    ("tenant_suspend", ("x" * 5000,), "there is no tenant 'xxx"),
    ("tenant_set_weight", ("alpha", 65536), "weight must be 1 to 65535, not 65536"),
    ("tenant_set_weight", ("alpha", None), "not NULL"),
    ("tenant_set_limit", ("alpha", "max_connections", -1), "max_connections must be 0 to 4294967295, not -1"),
    ("tenant_set_limit", ("alpha", "max_stored_bytes", 2**64), "max_stored_bytes must be 0 to"),
    ("tenant_set_limit", ("alpha", "state", 3), "no limit 'state': see"),
    ("tenant_set_limit", ("alpha", None, 3), "no limit NULL: see"),
    ("tenant_purge_step", ("alpha", 0), "rows must be 1 to 10000, not 0"),
    ("tenant_purge_step", ("alpha", 10), "tenant alpha is not deleted"),
    ("key_add", ("alpha", "", "k", "ES256", "x"), "an issuer has 1 to 255 bytes"),
    ("key_add", ("alpha", "i" * 256, "k", "ES256", "x"), "this one has 256"),
    ("key_add", ("alpha", "i", "k k", "ES256", "x"), "a kid is 1 to 64 of"),
    ("key_add", ("alpha", "i", "k\n", "ES256", "x"), "a kid is 1 to 64 of"),
    ("key_add", ("alpha", "i", "k", "none", "x"), "alg must be HS256"),
    ("key_add", ("alpha", "i", "k", "es256", "x"), "alg must be HS256"),
    ("key_add", ("alpha", "i", "k", "HS256", b"\xff" * 31), "this one has 31"),
    ("key_add", ("alpha", "i", "k", "HS256", None), "this one has 0"),
    ("key_add", ("alpha", "i", "k", "HS256", "-----BEGIN PUBLIC KEY-----" + "x" * 64), "is no secret"),
    ("key_add", ("alpha", "i", "k", "ES256", "x" * 100), "a public key in PEM"),
    ("key_add", ("alpha", "i", "k", "RS256", "-----BEGIN " + "PRIVATE KEY-----\nx"), "give its public half"),
    ("key_add", ("nobody", "i", "k", "HS256", "x" * 32), "there is no tenant 'nobody'"),
    ("key_retire", ("alpha", "i", "nothing"), "has no key with this issuer and kid"),
    ("key_retire", ("alpha", None, None), "has no key with this issuer and kid"),
    ("subscription_pause", ("alpha", "topic", "", "x"), "kind must be session, share or queue, not 'topic'"),
    ("subscription_pause", ("alpha", None, "", "x"), "kind must be session, share or queue, not NULL"),
    ("subscription_pause", ("alpha", "queue", None, "x'x"), r"tenant alpha has no queue 'x\'x'"),
    ("subscription_seek", ("alpha", "queue", "", "x", "yesterday"), "a position is earliest, latest, a number"),
    ("subscription_seek", ("alpha", "queue", "", "x", None), "not NULL"),
    ("subscription_set_policy", ("alpha", "queue", "", "x", "state", 1), "policies are max_attempts"),
    ("subscription_set_policy", ("alpha", "queue", "", "x", "pin", 2), "pin must be 0 to 1, not 2"),
    ("subscription_create", ("alpha", "share", "", "g/a", "a", None), "only a queue can be made here"),
    ("subscription_create", ("alpha", "queue", "me", "q", "a", None), "with the subject ''"),
    ("subscription_create", ("alpha", "queue", "", "a/b", "a", None), "1 to 128 bytes without /, + and #"),
    ("subscription_create", ("alpha", "queue", "", "", "a", None), "1 to 128 bytes without /, + and #"),
    ("subscription_create", ("alpha", "queue", "", "q", None, None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", "", None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", "a/#/b", None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", "a+", None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", "$share/g/a", None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", "/" * 32, None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", '["a", 7]', None), "not a topic filter"),
    ("subscription_create", ("alpha", "queue", "", "q", '["a"', None), "a JSON array of 1 to 100"),
    ("subscription_create", ("alpha", "queue", "", "q", '["a", "a"]', None), "is there twice"),
    ("subscription_create", ("alpha", "queue", "", "q", "a", "now"), "a position is earliest"),
    ("subscription_create", ("nobody", "queue", "", "q", "a", None), "there is no tenant 'nobody'"),
    ("subscription_delete", ("alpha", "session", "who", "x"), "has no session 'x' of this subject"),
    ("dead_letter_redrive", ("1 OR 1=1",), "give a dead_letter_id, or a JSON array"),
    ("dead_letter_redrive", ("[]",), "give a dead_letter_id, or a JSON array"),
    ("dead_letter_redrive", ("[[1]]",), "give a dead_letter_id, or a JSON array"),
    ("dead_letter_redrive", ("9" * 30,), "give a dead_letter_id, or a JSON array"),
    ("dead_letter_redrive", (None,), "not NULL"),
    ("dead_letter_discard", ("999999999",), "there is no dead letter 999999999"),
    ("timer_cancel", ("alpha", "who", "nothing"), "has no scheduled event 'nothing' of this subject"),
    ("schedule_create", ("alpha", "s", "* * * *", None, "a", "", ""), "cron is five fields, @hourly"),
    ("schedule_create", ("alpha", "s", "* * * * *\n", None, "a", "", ""), "cron is five fields, @hourly"),
    ("schedule_create", ("alpha", "s", "@fortnightly", None, "a", "", ""), "not '@fortnightly'"),
    ("schedule_create", ("alpha", "s", "@every soon", None, "a", "", ""), "@every DURATION, not '@every soon'"),
    ("schedule_create", ("alpha", "s", "@daily", "a b", "a", "", ""), "a zone is an IANA name"),
    ("schedule_create", ("alpha", "s", "@daily", None, "a/#", "", ""), "a topic has 1 to 1024 bytes"),
    ("schedule_create", ("alpha", "s", "@daily", None, "$leat/x", "", ""), "does not begin with $"),
    ("schedule_create", ("alpha", "", "@daily", None, "a", "", ""), "has 1 to 255 bytes"),
    ("schedule_create", ("alpha", "s", "@daily", None, "a", "", b"x" * 1048577), "up to 1048576 bytes"),
    ("schedule_pause", ("alpha", "nothing"), "has no schedule 'nothing'"),
])
def test_refused(console, procedure, args, says):
    with contextlib.suppress(pymysql.Error):
        console.call("tenant_create", "alpha", 1, 1)
    before = console.rows("SELECT COUNT(*) AS n FROM audit")
    assert says in console.refused(procedure, *args)
    assert console.rows("SELECT COUNT(*) AS n FROM audit") == before, "what was not done is not audited"


def test_a_server_error_leaves_nothing_behind(console):
    """Bytes that are no text, and numbers that are none, do not reach a statement."""
    for args in ((b"\xff\xfe", 1, 1), ("fine", "x", 1)):
        with pytest.raises(pymysql.Error) as e:
            console.call("tenant_create", *args)
        assert e.value.args[0] == 1366
    assert console.rows("SELECT 1 FROM tenant WHERE name='fine'") == ()


# ---- subscriptions --------------------------------------------------------------------------------

def test_a_paused_share_delivers_nothing_until_resumed(console):
    tenant, signer = console.tenant()
    c, publisher = console.enter(signer), console.enter(signer)
    c.subscribe("$share/g/a")
    publisher.publish("a", b"1")
    assert c.receive().payload == b"1"
    console.settled(tenant)
    console.call("subscription_pause", tenant, "share", "", "g/a")
    assert console.audit("subscription_pause") == (tenant, "share g/a", {"state": "active"},
                                                   {"state": "paused"})
    wait_for(lambda: console.rows("SELECT 1 FROM subscriptions WHERE tenant=%s AND state='paused'"
                                  " AND node IS NULL", tenant), SOON_S, "it has no owner")
    c.silent(SOON_S)
    publisher.publish("a", b"2")
    assert c.silent(1.5), "its consumer stays, and gets nothing"
    console.call("subscription_resume", tenant, "share", "", "g/a")
    assert c.receive(timeout=SOON_S * stack.SLOW).payload == b"2"


def test_seek_a_share(console):
    tenant, signer = console.tenant()
    c, publisher = console.enter(signer), console.enter(signer)
    c.subscribe("$share/g/a")
    for i in range(4):
        publisher.publish("a", b"%d" % i)
    assert [p.payload for p in c.receive_many(4)] == [b"0", b"1", b"2", b"3"]
    console.settled(tenant)
    console.call("subscription_seek", tenant, "share", "", "g/a", "3")
    assert [p.payload for p in c.receive_many(2, timeout=SOON_S * stack.SLOW)] == [b"2", b"3"]
    assert console.audit("subscription_seek") == (
        tenant, "share g/a", {"acked_through": {"0": 4}}, {"to": "3", "acked_through": {"0": 2}})
    console.call("subscription_seek", tenant, "share", "", "g/a", "earliest")
    assert len(c.receive_many(4, timeout=SOON_S * stack.SLOW)) == 4
    console.call("subscription_seek", tenant, "share", "", "g/a", "2020-01-01 00:00:00")
    assert len(c.receive_many(4, timeout=SOON_S * stack.SLOW)) == 4
    console.call("subscription_seek", tenant, "share", "", "g/a", "latest")
    assert c.silent(1)


def test_seek_and_delete_a_session(console):
    tenant, signer = console.tenant()
    c = console.enter(signer, "dev", **KEPT)
    c.subscribe("a")
    c.publish_many([("a", b"%d" % i) for i in range(3)])
    c.receive_many(3)
    console.call("subscription_seek", tenant, "session", "tester", "dev", "earliest")
    assert c.closed(timeout=SOON_S * stack.SLOW)[-1].kind == mqtt.DISCONNECT
    c = console.enter(signer, "dev", **KEPT)
    assert c.connack.present
    assert [p.payload for p in c.receive_many(3)] == [b"0", b"1", b"2"]
    console.call("subscription_delete", tenant, "session", "tester", "dev")
    c.closed(timeout=SOON_S * stack.SLOW)
    assert not console.enter(signer, "dev", **KEPT).connack.present
    target, before, after = console.audit("subscription_delete")[1:]
    assert target == "session tester dev" and len(before["filters"]) == 1
    assert after == {"waiting_events_removed": 0}


def test_a_deleted_share_is_made_anew_by_its_consumers(console):
    tenant, signer = console.tenant()
    c, publisher = console.enter(signer), console.enter(signer)
    c.subscribe("$share/g/a")
    before, = console.rows("SELECT subscription_id FROM subscriptions WHERE tenant=%s", tenant)
    console.call("subscription_delete", tenant, "share", "", "g/a")
    wait_for(lambda: console.rows("SELECT 1 FROM subscriptions WHERE tenant=%s AND subscription_id<>%s AND node"
                                  " IS NOT NULL", tenant, before["subscription_id"]), SOON_S, "a new one")
    publisher.publish("a", b"1")
    assert c.receive().payload == b"1"


def test_changes_under_load_lose_nothing(console):
    """A share is taken from its owner again and again while events flow through it."""
    tenant, signer = console.tenant()
    c, publisher = console.enter(signer), console.enter(signer)
    c.subscribe("$share/g/a")
    got, sent = set(), 0

    def drain(quiet_s):
        with contextlib.suppress(TimeoutError):
            while True:
                got.add(int(c.receive(timeout=quiet_s).payload))

    for change in range(12):
        publisher.publish_many([("a", b"%d" % (sent + i)) for i in range(100)])
        sent += 100
        console.call("subscription_set_policy", tenant, "share", "", "g/a", "max_attempts", 1 + change)
        drain(0.05)
    while len(got) < sent:
        got.add(int(c.receive().payload))
    drain(SOON_S)  # what came twice is acknowledged, too
    assert got == set(range(sent))
    console.settled(tenant)


def test_a_session_is_not_paused(console):
    tenant, _ = console.tenant()
    console.subscription(tenant, 1, "who", "dev")
    assert "only a share or a queue" in console.refused("subscription_pause", tenant, "session", "who", "dev")
    assert "no policy" in console.refused("subscription_set_policy", tenant, "session", "who", "dev", "pin", 1)


def test_create_a_queue(console):
    tenant, signer = console.tenant()
    console.enter(signer).publish_many([("orders/1", b"x")] * 3)
    console.call("subscription_create", tenant, "queue", "", "wörk",
                 '["orders/#", "Orders/#", "+/ä/\\"x\\""]', "earliest")
    console.call("subscription_create", tenant, "queue", "", "later", "orders/#", None)
    rows = {r["name"]: r for r in console.rows("SELECT * FROM subscriptions WHERE tenant=%s", tenant,
                                               by=console.read)}
    assert json.loads(rows["wörk"]["filters"]) == [{"filter": f, "qos": 1} for f in
                                                   ("orders/#", "Orders/#", '+/ä/"x"')]
    assert json.loads(rows["later"]["filters"]) == [{"filter": "orders/#", "qos": 1}]
    assert rows["wörk"]["node"] is None and rows["wörk"]["expires_at"] is None
    lag = console.rows("SELECT name, behind FROM subscription_lag WHERE tenant=%s", tenant)
    assert {r["name"]: r["behind"] for r in lag} == {"wörk": 3, "later": 0}
    assert console.audit("subscription_create") == (
        tenant, "queue later", None, {"filters": [{"filter": "orders/#", "qos": 1}], "from": None})
    said = console.refused("subscription_create", tenant, "queue", "", "later", "a", None)
    assert "has a queue 'later' already" in said


def test_policy(console):
    tenant, _ = console.tenant()
    console.subscription(tenant, 3, "", "q")
    for policy, before, value in (("max_attempts", 10, 3), ("ack_timeout_ms", 30000, 5000),
                                  ("backoff_ms", 1000, 5), ("backoff_max_ms", 600000, 6), ("max_failed", 1000, 50), ("ordered", 0, 1),
                                  ("pin", 0, 1)):
        console.call("subscription_set_policy", tenant, "queue", "", "q", policy, value)
        assert console.audit("subscription_set_policy") == (tenant, "queue q", {policy: before}, {policy: value})
        row, = console.rows("SELECT * FROM subscriptions WHERE tenant=%s", tenant)
        assert row[policy] == value
    assert row["epoch"] == 7, "each change takes it from its owner"
    assert "backoff_ms (7) is above backoff_max_ms (6)" in console.refused(
        "subscription_set_policy", tenant, "queue", "", "q", "backoff_ms", 7)


# ---- dead letters, timers, schedules --------------------------------------------------------------

def test_dead_letters(console):
    tenant, _ = console.tenant()
    queue = console.subscription(tenant, 3, "", "work")
    ids = console.dead_letters(tenant, queue, ["timeout", "nack", "timeout", "nack", "timeout"])
    row = console.rows("SELECT * FROM dead_letters WHERE dead_letter_id=%s", ids[0], by=console.read)[0]
    assert (row["tenant"], row["name"], row["topic"], row["reason"]) == (tenant, "work", "orders/ä", "timeout")
    assert (row["payload"], row["data"], row["attempt"]) == ("paid", b"paid", 3)

    console.call("dead_letter_redrive", ids[0])
    timer, = console.rows("SELECT * FROM timer WHERE subscription_id=%s", queue)
    assert (timer["kind"], timer["seq"], timer["attempt"], timer["body"]) == (3, 1, 0, b"paid")
    assert json.loads(timer["history"]) == [{"reason": "no"}] and timer["ordering"] == b""
    assert console.rows("SELECT due_at<=UTC_TIMESTAMP(3) AS due FROM timer WHERE subscription_id=%s",
                        queue) == [{"due": 1}]
    assert console.audit("dead_letter_redrive")[2] == {"dead_letter_ids": [ids[0]]}
    assert console.rows("SELECT epoch FROM subscription WHERE subscription_id=%s", queue) == [{"epoch": 1}]

    # some, by any SELECT; those of an ordered queue keep their order by key
    console.call("subscription_set_policy", tenant, "queue", "", "work", "ordered", 1)
    console.run(console.admin, "SELECT JSON_ARRAYAGG(dead_letter_id) INTO @ids FROM dead_letters"
                f" WHERE tenant='{tenant}' AND reason='nack'")
    console.run(console.admin, "CALL dead_letter_redrive(@ids)")
    row, = console.rows("SELECT COUNT(*) AS n, MAX(ordering) AS k FROM timer WHERE subscription_id=%s AND seq>1",
                        queue)
    assert row == {"n": 2, "k": b"k1"}

    # all, at a rate
    assert console.call("dead_letter_redrive_all", tenant, "queue", "", "work", "time%", 10, 2) == ((2,),)
    row, = console.rows("SELECT TIMESTAMPDIFF(MICROSECOND,MIN(due_at),MAX(due_at)) AS apart FROM timer"
                        " WHERE subscription_id=%s AND seq IN (3,5)", queue)
    assert row["apart"] == 500000
    assert console.call("dead_letter_redrive_all", tenant, "queue", "", "work", None, 10, None) == ((0,),)
    kinds = console.rows("SELECT kind, subscription, topic FROM timers WHERE tenant=%s", tenant, by=console.read)
    assert len(kinds) == 5 and kinds[0] == {"kind": "retry", "subscription": "work", "topic": "orders/ä"}


def test_a_running_queue(console):
    """Made by SQL, consumed, its dead letters tried again by their own queue, paused and resumed."""
    tenant, signer = console.tenant()
    worker, publisher = console.enter(signer), console.enter(signer)
    publisher.publish("orders/1", b"early")
    console.call("subscription_create", tenant, "queue", "", "work", "orders/#", "earliest")
    worker.subscribe("$queue/work")
    assert worker.receive(timeout=SOON_S * stack.SLOW).payload == b"early"

    for i in range(3):
        publisher.publish("orders/1", b"%d" % i)
        p = worker.receive(ack=False)
        worker.send(mqtt.puback(p.packet_id, 0x99, [("reason_string", "no stock")]))
    wait_for(lambda: len(console.rows("SELECT 1 FROM dead_letters WHERE tenant=%s", tenant)) == 3,
             what="dead letters")
    rows = console.rows("SELECT * FROM dead_letters WHERE tenant=%s ORDER BY dead_letter_id", tenant,
                        by=console.read)
    assert [(r["name"], r["topic"], r["payload"]) for r in rows] == [("work", "orders/1", n) for n in "012"]
    assert "no stock" in rows[0]["reason"] + rows[0]["history"]

    console.call("dead_letter_redrive", rows[0]["dead_letter_id"])
    again = worker.receive(timeout=SOON_S * stack.SLOW)
    assert again.payload == b"0" and ("leat-attempt", "1") in again.all("user")
    assert console.call("dead_letter_redrive_all", tenant, "queue", "", "work", None, 10, 2) == ((2,),)
    assert {worker.receive(timeout=2 * SOON_S * stack.SLOW).payload for _ in range(2)} == {b"1", b"2"}
    wait_for(lambda: console.rows("SELECT 1 FROM timers WHERE tenant=%s", tenant) == (), what="all are done")

    console.settled(tenant)
    console.call("subscription_pause", tenant, "queue", "", "work")
    assert worker.silent(SOON_S)
    publisher.publish("orders/1", b"later")
    assert worker.silent(1)
    console.call("subscription_resume", tenant, "queue", "", "work")
    assert worker.receive(timeout=SOON_S * stack.SLOW).payload == b"later"


def test_discard(console):
    tenant, _ = console.tenant()
    queue = console.subscription(tenant, 3, "", "work")
    ids = console.dead_letters(tenant, queue, ["timeout", "nack", "timeout"])
    console.call("dead_letter_discard", json.dumps(ids[:1] * 2))
    assert console.audit("dead_letter_discard")[2] == {"dead_letter_ids": ids[:1]}
    assert console.call("dead_letter_discard_all", tenant, "queue", "", "work", "nack", 10) == ((1,),)
    assert console.audit("dead_letter_discard_all") == (tenant, "queue work", {"dead_letter_ids": ids[1:2]}, None)
    assert console.rows("SELECT 1 FROM timer WHERE subscription_id=%s", queue) == ()
    assert len(console.rows("SELECT 1 FROM dead_letter WHERE subscription_id=%s", queue)) == 1


def test_dead_letters_that_cannot_be_redriven(console):
    tenant, _ = console.tenant()
    one, two = (console.subscription(tenant, 3, "", n) for n in ("one", "two"))
    ids = console.dead_letters(tenant, one, ["nack"] * 3) + console.dead_letters(tenant, two, ["nack"])
    assert "of 2 subscriptions" in console.refused("dead_letter_redrive", json.dumps(ids))
    said = console.refused("dead_letter_redrive", json.dumps([ids[0], ids[3] + 1]))
    assert f"no dead letter {ids[3] + 1}" in said
    console.call("subscription_set_policy", tenant, "queue", "", "one", "max_failed", 2)
    assert "pass its max_failed, 2" in console.refused("dead_letter_redrive", json.dumps(ids[:3]))
    console.call("dead_letter_redrive", json.dumps(ids[:2]))
    assert "2 events wait" in console.refused("dead_letter_redrive", ids[2])
    console.call("subscription_delete", tenant, "queue", "", "one")
    assert console.audit("subscription_delete")[3] == {"waiting_events_removed": 2}
    assert "can only be discarded" in console.refused("dead_letter_redrive", ids[2])
    console.call("dead_letter_discard", ids[2])


def test_a_scheduled_event_is_cancelled(console):
    tenant, signer = console.tenant()
    c = console.enter(signer)
    c.subscribe("a")
    for name in ("kept", "cancelled"):
        c.publish("$delayed/2/a", name, props=[("user", ("leat-timer", name))])
    rows = console.rows("SELECT * FROM timers WHERE tenant=%s ORDER BY name", tenant, by=console.read)
    assert [(r["kind"], r["subject"], r["name"], r["topic"], r["payload"]) for r in rows] == [
        ("scheduled", "tester", n, "a", n) for n in ("cancelled", "kept")]
    assert "of this subject" in console.refused("timer_cancel", tenant, "eve", "cancelled")
    console.call("timer_cancel", tenant, "tester", "cancelled")
    _, target, before, after = console.audit("timer_cancel")
    assert (target, before["topic"], after) == ("tester cancelled", "a", None)
    assert c.receive().payload == b"kept"
    assert c.silent(1)


def test_schedules(console):
    tenant, _ = console.tenant()
    console.call("schedule_create", tenant, "nightly", "30 2 * * 1-5", "Europe/Paris", "jobs/ä",
                 "text/plain", "go")
    assert "already" in console.refused("schedule_create", tenant, "nightly", "@daily", None, "a", None, None)
    row, = console.rows("SELECT * FROM schedules WHERE tenant=%s", tenant, by=console.read)
    assert (row["cron"], row["zone"], row["topic"], row["payload"], row["state"]) == (
        "30 2 * * 1-5", "Europe/Paris", "jobs/ä", "go", "active")
    console.call("schedule_pause", tenant, "nightly")
    assert console.rows("SELECT state FROM schedules WHERE tenant=%s", tenant) == [{"state": "paused"}]
    console.call("schedule_resume", tenant, "nightly")
    console.call("schedule_delete", tenant, "nightly")
    assert console.audit("schedule_delete") == (
        tenant, "nightly", {"state": "active", "cron": "30 2 * * 1-5", "ticks": 0}, None)
    assert console.rows("SELECT 1 FROM schedules WHERE tenant=%s", tenant) == ()


# ---- views ----------------------------------------------------------------------------------------

def test_views(console):
    tenant, signer = console.tenant()
    console.call("key_add", tenant, ISSUER, "secret", "HS256", "0123456789abcdef0123456789abcdef")
    c = console.enter(signer, "dev", **KEPT)
    c.subscribe("a")
    c.publish_many([("a", b"x")] * 3)
    row, = console.rows("SELECT * FROM tenant_usage WHERE tenant=%s", tenant, by=console.read)
    assert (row["events_ever"], row["events_stored"]) == (3, 3) and row["bytes_stored"] == row["bytes_ever"] > 0
    row, = console.rows("SELECT * FROM subscriptions WHERE tenant=%s", tenant, by=console.read)
    assert (row["kind"], row["subject"], row["name"], row["state"]) == ("session", "tester", "dev", "active")
    node, = console.rows("SELECT * FROM nodes", by=console.read)
    assert row["node"] == node["name"] and node["renewals"] >= 0
    row, = console.rows("SELECT * FROM subscription_lag WHERE tenant=%s", tenant, by=console.read)
    assert row["behind"] == 3
    keys = {r["kid"]: r for r in console.rows("SELECT * FROM tenant_keys WHERE tenant=%s", tenant,
                                              by=console.read)}
    assert "BEGIN PUBLIC KEY" in keys[signer.kid]["public_key"] and keys["secret"]["public_key"] is None
    events = console.rows("SELECT topic, data FROM event WHERE tenant=%s", tenant, by=console.read)
    assert events == [{"topic": "a", "data": b"x"}] * 3


def test_the_docs_have_every_procedure_and_view(console):
    with open(os.path.join(stack.ROOT, "docs", "admins.md")) as f:
        text = f.read()
    assert [p for p in objects(console, "ROUTINE") if p[0] != "_" and f"CALL {p}(" not in text] == []
    views = console.rows("SELECT TABLE_NAME AS v FROM information_schema.VIEWS WHERE TABLE_SCHEMA=%s",
                         console.schema)
    assert [v["v"] for v in views if f"`{v['v']}`" not in text] == []


# ---- roles ----------------------------------------------------------------------------------------

TABLES = ("tenant", "storage_full", "tenant_key", "change_counter", "node_session", "writer", "head",
          "journal", "subscription", "cursors", "role", "timer", "schedule", "dead_letter", "audit")
DENIED = (1044, 1142, 1143, 1227, 1305, 1370)  # 1305: it may not even know that it is there


def denied(connection, text):
    with pytest.raises(pymysql.Error) as e, connection.cursor() as q:
        q.execute(text)
    return e.value.args[0] in DENIED


def objects(console, kind):
    rows = console.rows(f"SELECT {kind}_NAME AS name FROM information_schema.{kind}S WHERE {kind}_SCHEMA=%s",
                        console.schema)
    return {r["name"] for r in rows}


def test_what_an_admin_and_a_reader_cannot_do(console):
    for who in (console.admin, console.read):
        for table in TABLES:
            if who is console.read or table not in ("tenant", "storage_full"):
                assert denied(who, f"SELECT * FROM {table}"), table
            assert denied(who, f"DELETE FROM {table}"), table
        assert denied(who, "SELECT key_material FROM tenant_key")
        for text in ("INSERT INTO audit(who,action,target,detail) VALUES ('x','x','x','{}')",
                     "UPDATE tenant SET state=1", "UPDATE tenants SET state=1", "CREATE TABLE t (a INT)",
                     "DROP TABLE journal", "DROP PROCEDURE tenant_create", "DROP VIEW tenants",
                     "CREATE PROCEDURE p() SELECT 1", "CALL _refuse('x')", "CALL _changed()",
                     "CALL _audit(1,'x','x',NULL,NULL)", "CALL _dead_letters_delete('[1]')",
                     "CREATE USER x@'%'", "GRANT SELECT ON tenants TO PUBLIC"):
            assert denied(who, text) or "GRANT" in text, text
    for procedure in objects(console, "ROUTINE"):
        count = console.rows("SELECT COUNT(*) AS n FROM information_schema.PARAMETERS WHERE SPECIFIC_SCHEMA=%s"
                             " AND SPECIFIC_NAME=%s", console.schema, procedure)[0]["n"]
        assert denied(console.read, f"CALL {procedure}({','.join(['NULL'] * count)})"), procedure


def test_an_admin_may_call_every_procedure_and_read_every_view(console):
    """A procedure or view that was added has its row in sql/roles.def."""
    for view in console.rows("SELECT TABLE_NAME AS name FROM information_schema.VIEWS WHERE TABLE_SCHEMA=%s",
                             console.schema):
        for who in (console.admin, console.read):
            assert console.rows(f"SELECT * FROM {view['name']} LIMIT 1", by=who) is not None
    for procedure in objects(console, "ROUTINE"):
        count = console.rows("SELECT COUNT(*) AS n FROM information_schema.PARAMETERS WHERE SPECIFIC_SCHEMA=%s"
                             " AND SPECIFIC_NAME=%s", console.schema, procedure)[0]["n"]
        args = ",".join(["NULL"] * count)
        if procedure.startswith("_"):
            args = args.replace("NULL", "@x")
            assert denied(console.admin, f"CALL {procedure}({args})"), procedure
        else:
            assert console.refused(procedure, *[None] * count), procedure


def test_what_a_node_cannot_do(console):
    with contextlib.closing(stack.connect(console.node_dsn)) as c:
        for text in ("INSERT INTO tenant(name) VALUES ('x')", "UPDATE tenant SET state=1", "DELETE FROM tenant",
                     "UPDATE tenant_key SET state=1", "INSERT INTO tenant_key(issuer) VALUES ('x')",
                     "DELETE FROM change_counter", "SELECT * FROM audit", "DELETE FROM audit",
                     "UPDATE audit SET who='x'", "UPDATE journal SET body=''", "DELETE FROM head",
                     "UPDATE dead_letter SET reason=''", "DELETE FROM role", "DELETE FROM schema_version",
                     "INSERT INTO schema_version VALUES (1,'x',NOW())", "CREATE TABLE t (a INT)",
                     "ALTER TABLE journal ADD a INT", "DROP TABLE journal", "TRUNCATE TABLE journal",
                     "DROP VIEW event", "SELECT * FROM audit_log", "CALL tenant_suspend('alpha')"):
            assert denied(c, text), text


def test_a_node_by_its_role_passes_the_doctor(console):
    report = json.loads(stack.leat("doctor", "--json", "--db", console.node_dsn, check=False).stdout)
    checks = {c["check"]: c for s in report["servers"] for c in s["checks"]}
    assert checks["rights"]["verdict"] == "ok" and "_node`" in checks["rights"]["found"]
    assert "median" in checks["commit"]["found"]


def test_leat_tenant_by_the_admins_role(console, tmp_path):
    db = "--db", console.admin_dsn
    name = console.name("t")
    (tmp_path / "key").write_bytes(pki.public_pem(pki.new_key("ES256")))
    stack.leat("tenant", "create", name, "--partitions", "3", *db)
    assert console.audit("tenant_create") == (name, name, None, {"weight": 1, "partitions": 3})
    stack.leat("tenant", "key-add", name, "--kid", "k", "--key", tmp_path / "key", *db)
    assert "k" in stack.leat("tenant", "key-list", name, *db).stdout.split()
    stack.leat("tenant", "key-retire", name, "--kid", "k", *db)
    stack.leat("tenant", "suspend", name, *db)
    assert console.audit("tenant_suspend")[0] == name
    assert "suspended" in stack.leat("tenant", "list", *db).stdout
    stack.leat("tenant", "resume", name, *db)
    stack.leat("tenant", "delete", name, *db)
    said = stack.leat("tenant", "resume", name, *db, check=False).stderr
    assert f"there is no tenant {name} any more: it was deleted" in said


def test_roles_are_made_by_who_may(console):
    """By an account with all rights; one with its schema's alone is told what to do, and migrates."""
    dsn = console.database.new_schema()
    schema = stack.parse_dsn(dsn)["database"]
    said = stack.leat("migrate", "--db", dsn).stderr
    assert "the schema's roles were not made" in said and "--show-roles" in said
    admin_dsn = console.database.admin_dsn.replace("/leat?", f"/{schema}?")
    assert "roles" not in stack.leat("migrate", "--db", admin_dsn).stderr
    console.run(console.root, f"GRANT {schema}_read TO {console.schema}_some_read@'%'")
    assert "_some_read" in str(console.rows("SELECT * FROM mysql.roles_mapping" if stack.ENGINE != "mysql" else
                                            "SELECT * FROM mysql.role_edges"))
    assert denied(console.admin, f"CALL {schema}.tenant_create('x',1,1)"), "another schema's admin"
