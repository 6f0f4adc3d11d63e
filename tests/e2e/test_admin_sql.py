"""A SQL prompt is the admin console: every procedure, as a running node sees it. The console's account
has the role SCHEMA_admin and nothing else, the node's has SCHEMA_node."""

import contextlib
import json
import os
import signal
import threading
import time

import pymysql
import pytest

from leat import mqtt, pki, stack
from leat.schema import Schema
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
    c.node.end()


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
    key, = console.rows("SELECT SHA2(key_material,256) AS sum FROM tenant_key WHERE kid=%s AND issuer=%s", signer.kid, ISSUER)
    assert console.audit("key_add") == (name, f"{ISSUER} {signer.kid}", None,
                                        {"issuer": ISSUER, "kid": signer.kid, "alg": "ES256", "sha256": key["sum"]})
    assert "taken, or was: names are never reused" in console.refused("tenant_create", name, 1, 1)


@pytest.mark.parametrize("alg", ["RS256", "PS256", "ES256", "EdDSA", "HS256"])
def test_a_jwk_is_a_key(console, tmp_path, alg):
    """As text in SQL, and as a file on the command line, which says what it is for."""
    name, _ = console.tenant()
    key, kid = pki.new_key(alg), console.name("j/w+k=")
    console.call("key_add", name, ISSUER, kid, alg, json.dumps(pki.jwk(key, use="sig", kid=kid, alg=alg)))
    console.enter(Signer(name, ISSUER, kid, alg, key)).close()
    if alg == "HS256":
        shown, = console.rows("SELECT public_key FROM tenant_keys WHERE kid=%s", kid, by=console.read)
        assert shown["public_key"] is None
    other, kid = pki.new_key(alg), console.name("j/w+k=")
    (tmp_path / "jwk").write_text(json.dumps(pki.jwk(other, alg=alg), indent=2))
    said = stack.leat("tenant", "key-add", name, "--kid", kid, "--issuer", ISSUER, "--key", tmp_path / "jwk",
                      "--db", console.admin_dsn).stdout
    assert f"key {kid} ({alg})" in said
    console.enter(Signer(name, ISSUER, kid, alg, other)).close()


def test_a_jwk_that_is_no_key_is_known_by_the_command(console, tmp_path):
    """What SQL cannot see; a node leaves it out."""
    name, signer = console.tenant()
    bad = {**pki.jwk(signer.key), "y": pki.jwk(signer.key)["x"]}
    (tmp_path / "jwk").write_text(json.dumps(bad))
    said = stack.leat("tenant", "key-add", name, "--kid", "x", "--key", tmp_path / "jwk", "--db",
                      console.admin_dsn, check=False).stderr
    assert "the numbers in this JWK are no ES256 key" in said
    kid = console.name("jwk")
    console.call("key_add", name, ISSUER, kid, "ES256", json.dumps(bad))
    console.key(name)
    wait_for(lambda: console.answer(signer) == 0, SOON_S, "the others")
    unusable, why = Signer(name, ISSUER, kid, "ES256", signer.key), "unusable: the numbers in this JWK are no ES256 key"
    # refused before the node has loaded the key, too, and looked at when a token first asks for it
    wait_for(lambda: console.answer(unusable) == 0x86 and f'kid="{kid}" {why}' in console.node.text(), SOON_S, "why")


def test_what_stands_beside_a_key_is_not_shown(console):
    """Members that mean nothing may be somebody's secret; so may what stands around a PEM block."""
    name, signer = console.tenant()
    jwk = json.dumps({**pki.jwk(pki.new_key("EdDSA")), "note": "hush", "x5c": ["a:b"], "deep": [["hush{"]]})
    pem = pki.public_pem(signer.key).decode()
    for kid, alg, text in (("jwk", "EdDSA", jwk), ("pem", "ES256", f"hush\n{pem}\nhush")):
        console.call("key_add", name, name, kid, alg, text)
    shown = {r["kid"]: r["public_key"] for r in console.rows("SELECT * FROM tenant_keys WHERE issuer=%s", name, by=console.read)}
    assert "hush" not in str(shown) and json.loads(shown["jwk"])["x"] == json.loads(jwk)["x"]
    assert shown["pem"] == pem.strip()


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


def revoked(client):
    """Its connection was ended, and it was told why."""
    last = client.closed(timeout=SOON_S * stack.SLOW)[-1]
    return (last.kind, last.reason, last.prop("reason_string")) == (
        mqtt.DISCONNECT, 0x87, "the token was revoked: get a new one")


def holding(console, signer, **claims):
    """A connection with a token of these claims."""
    c = console.node.open()
    c.connect("", signer.token(**claims))
    return c


def refused_as_revoked(console, signer, **claims):
    with contextlib.closing(console.node.open()) as c:
        ack = c.connect("", signer.token(**claims), check=False)
        return (ack.reason, ack.prop("reason_string")) == (0x87, "the token was revoked: get a new one")


def revocations(console, tenant):
    return [(r["kind"], r["name"], r["reason"]) for r in console.rows(
        "SELECT * FROM revocations WHERE tenant=%s ORDER BY kind", tenant, by=console.read)]


def test_a_subjects_tokens_are_revoked(console):
    """Those issued until now and those that do not say when, not another subject's, and not new ones."""
    name, signer = console.tenant()
    other_name, other = console.tenant()
    console.enter(other).close()
    kept = [console.enter(signer), holding(console, other, subject="ann")]
    ended = [holding(console, signer, subject="ann"), holding(console, signer, subject="ann", iat=None)]
    console.call("token_revoke_subject", name, "ann", None, None, "left")
    assert all(revoked(c) for c in ended)
    for c in kept:
        c.ping()
    assert refused_as_revoked(console, signer, subject="ann")
    assert refused_as_revoked(console, signer, subject="ann", iat=None)
    assert revocations(console, name) == [("subject", "ann", "left")] and revocations(console, other_name) == []
    tenant, target, before, after = console.audit("token_revoke_subject")
    assert (tenant, target, before, after["reason"]) == (name, "ann", None, "left")
    console.call("token_revoke_subject", name, "ann", "2026-01-01 00:00:00", None, "again")
    assert refused_as_revoked(console, signer, subject="ann"), "a second call lets nobody in"
    assert console.audit("token_revoke_subject")[3]["issued_before"] == after["issued_before"]
    console.call("token_revoke_undo", name, "subject", "ann")
    wait_for(lambda: not refused_as_revoked(console, signer, subject="ann"), SOON_S, "what was undone")
    assert console.audit("token_revoke_undo")[1] == "subject ann"


def test_new_tokens_of_a_revoked_subject_are_good(console):
    """Only what was issued before the moment is refused: log out everywhere, log in again."""
    name, signer = console.tenant()
    console.enter(signer).close()
    now = int(time.time())
    old, new = ({"subject": "ann", "iat": now - s} for s in (20, 10))
    ended, kept = holding(console, signer, **old), holding(console, signer, **new)
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now - 10))
    console.call("token_revoke_subject", name, "ann", moment, None, None)
    assert revoked(ended) and refused_as_revoked(console, signer, **old)
    kept.ping()
    holding(console, signer, **new).close()
    console.call("token_revoke_subject", name, "ann", moment + ".5", None, None)
    assert revoked(kept), "a fraction counts as the whole second"


def test_a_token_is_revoked_by_its_id(console):
    name, signer = console.tenant()
    kept, ended = console.enter(signer), holding(console, signer, jti="t-1")
    also = holding(console, signer, jti="t-2")
    console.call("token_revoke_id", name, "t-1", "2099-01-01", "stolen")
    assert revoked(ended) and refused_as_revoked(console, signer, jti="t-1", iat=int(time.time()) + 4)
    kept.ping()
    also.ping()
    assert refused_as_revoked(console, signer, jti="t-1") and revocations(console, name) == [("id", "t-1", "stolen")]
    # AUTH with it ends a connection that came with another
    c = console.node.open()
    method = [("auth_method", "OAUTH2-JWT")]
    c.connect("", None, props=method + [("auth_data", signer.token())])
    c.send(mqtt.auth(0x19, method + [("auth_data", signer.token(jti="t-1"))]))
    assert revoked(c)


def test_all_tokens_of_a_tenant_are_revoked(console):
    name, signer = console.tenant()
    _, other = console.tenant()
    ended, kept = [console.enter(signer), holding(console, signer, subject="x", jti="y")], console.enter(other)
    console.call("token_revoke_before", name, None, None, None)
    assert all(revoked(c) for c in ended)
    kept.ping()
    assert refused_as_revoked(console, signer) and revocations(console, name) == [("all", "", "")]
    console.call("token_revoke_undo", name, "all", "")
    wait_for(lambda: console.answer(signer) == 0, SOON_S, "what was undone")


def test_a_revocation_that_ran_out_goes(console):
    name, _ = console.tenant()
    for n in range(3):
        console.call("token_revoke_id", name, f"t-{n}", "2099-01-01", None)
    console.run(console.root, "UPDATE revocation r JOIN tenant t USING (tenant_id)"
                f" SET r.expires_at='2020-01-01' WHERE t.name='{name}' AND r.name<>'t-0'")
    console.call("token_revoke_id", name, "t-9", None, None)
    assert {r[1] for r in revocations(console, name)} == {"t-0", "t-9"}


def test_delete_and_purge(console):
    name, signer = console.tenant()
    c = console.enter(signer, "dev", **KEPT)
    c.subscribe("a")
    c.publish_many([("a", b"x")] * 5, window=1)
    queue = console.subscription(name, 3, "", "q")
    console.dead_letters(name, queue, ["nack"] * 3)
    console.call("schedule_create", name, "s", "@daily", None, "a", None, None)
    console.call("token_revoke_id", name, "j", None, None)
    assert "is not deleted" in console.refused("tenant_purge_step", name, 10)
    console.call("tenant_delete", name)
    assert c.closed(timeout=SOON_S * stack.SLOW)[-1].reason == 0x98
    removed = []
    while not removed or removed[-1][2] != "nothing is left":
        removed.append(console.call("tenant_purge_step", name, 4)[0])
        assert removed[-1][0] <= 4
    assert sum(r[0] for r in removed) >= 5 + 2 + 2 + 3 + 1 + 1 + 1  # journal, subs, cursors, dead, head …
    tables = ("head", "journal", "subscription", "cursors", "timer", "schedule", "dead_letter", "tenant_key",
              "revocation", "node_tenant")
    for table in tables:
        assert console.rows(f"SELECT 1 FROM {table} JOIN tenant t USING (tenant_id) WHERE t.name=%s", name) == ()
    assert console.rows("SELECT state FROM tenants WHERE name=%s", name) == [{"state": "deleted"}]
    assert "names are never reused" in console.refused("tenant_create", name, 1, 1)
    assert "any more: it was deleted" in console.refused("tenant_resume", name)
    assert console.audit("tenant_purge_step")[3]["left_events"] == 0


def of_tenant(console, name):
    """Rows of it in every table; its own row, and what is kept of it, aside."""
    me = console.rows("SELECT tenant_id FROM tenant WHERE name=%s", name)[0]["tenant_id"]
    tables = console.rows("SELECT c.table_name AS t FROM information_schema.columns c JOIN information_schema.tables b"
                          " ON b.table_schema=c.table_schema AND b.table_name=c.table_name AND b.table_type='BASE TABLE'"
                          " WHERE c.table_schema=%s AND c.column_name='tenant_id'", console.schema)
    counts = {r["t"]: console.rows(f"SELECT COUNT(*) AS n FROM {r['t']} WHERE tenant_id=%s", me)[0]["n"]
              for r in tables if r["t"] not in ("tenant", "audit")}
    return {t: n for t, n in counts.items() if n}


def purge(console, name):
    while console.call("tenant_purge_step", name, 1000)[0][2] != "nothing is left":
        pass


def test_a_purge_beside_a_node_that_sleeps(console):
    """What it was told before, and does when the tenant is deleted and purged, leaves nothing."""
    name, signer = console.tenant()
    clients = [console.enter(signer, f"dev-{i}", **KEPT) for i in range(3)]
    clients[0].subscribe("$queue/before/a/#")
    new = console.node.open()
    os.kill(console.node.process.pid, signal.SIGSTOP)
    try:
        for i, c in enumerate(clients):
            c.send(mqtt.subscribe(101, [(f"$queue/q{i}/a/#", 1), (f"$share/s{i}/b/#", 1), ("c/#", 1)]))
            c.send(mqtt.publish(f"$delayed/{3600 + i}/later", "x", 1, 102))
            c.send(mqtt.publish("a/now", "x", 1, 103))
        new.send(mqtt.connect("new", password=signer.token(), clean=False, props=[("session_expiry", 3600)],
                              will=("gone", b"will", 1, False)))
        console.call("tenant_delete", name)
        purge(console, name)
        assert of_tenant(console, name) == {}
    finally:
        os.kill(console.node.process.pid, signal.SIGCONT)
    for c in clients:
        said = c.closed(timeout=SOON_S * stack.SLOW)
        assert said[-1].reason in (0x8E, 0x98)  # its session is nobody's any more, or the tenant was deleted
        assert not [p for p in said if p.kind == mqtt.PUBACK and (p.reason or 0) < 0x80], "nothing is kept for it"
    with contextlib.suppress(mqtt.Closed):
        new.closed(timeout=SOON_S * stack.SLOW)
    time.sleep(1)
    assert of_tenant(console, name) == {}


def test_a_purge_beside_clients(console):
    """Who is connected when it is deleted goes on until its node has heard of it."""
    name, signer = console.tenant()
    console.enter(signer).close()
    began, errors = threading.Event(), []

    def work(n):
        for i in range(1000):
            with contextlib.suppress(mqtt.Closed, OSError, TimeoutError, AssertionError):  # DISCONNECT
                c = console.node.open()
                try:
                    if c.connect(f"c-{n}-{i}", signer.token(), check=False, will=("w", b"will", 1, False), **KEPT).reason:
                        return
                    c.subscribe(f"$queue/q-{n}-{i}/a/#", "b/#", check=False)
                    c.publish(f"$delayed/{3600}/later", b"x", check=False)
                    began.set()
                finally:
                    c.reset()
        errors.append("nobody refused it")
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    began.wait(10)
    console.call("tenant_delete", name)
    purge(console, name)
    left = [of_tenant(console, name)]
    for t in threads:
        t.join()
    time.sleep(0.5)
    left.append(of_tenant(console, name))
    assert not errors and left == [{}, {}]


def test_a_purge_waits_for_what_is_not_committed(console):
    """A search that passed over such rows would say that nothing is left, and they would come."""
    name, _ = console.tenant()
    console.call("tenant_delete", name)
    purge(console, name)
    for statement in (
            "INSERT INTO subscription(tenant_id,kind,subject,name,filters,expiry_s) SELECT tenant_id,3,'','q','[]',1"
            " FROM tenant WHERE name='%s'",
            "INSERT INTO timer(kind,tenant_id,subject,history,attributes,body) SELECT 1,tenant_id,'','[]','[]',''"
            " FROM tenant WHERE name='%s'"):
        console.run(console.root, "BEGIN", statement % name)
        try:
            console.run(console.admin, "SET innodb_lock_wait_timeout=1")
            with pytest.raises(pymysql.Error) as e:
                console.call("tenant_purge_step", name, 10)
            assert e.value.args[0] == 1205
        finally:
            console.run(console.root, "ROLLBACK")
            console.run(console.admin, "SET innodb_lock_wait_timeout=DEFAULT")
    purge(console, name)


def test_a_purge_beside_an_application(console):
    """What an application has published and not committed is not waited for; it goes with a later call."""
    name, _ = console.tenant()
    left = "SELECT COUNT(*) AS n FROM inbox JOIN tenant t USING (tenant_id) WHERE t.name=%s"
    user = console.rows("SELECT SUBSTRING_INDEX(USER(),'@',1) AS u")[0]["u"]
    console.call("publisher_allow", user, name)
    console.run(console.root, "BEGIN", f"CALL publish('{name}','t',NULL,'x',NULL)")
    try:
        console.call("tenant_delete", name)
        began, steps = time.monotonic(), []
        while not steps or steps[-1][2] != "nothing is left":
            steps.append(console.call("tenant_purge_step", name, 1)[0])
        assert time.monotonic() - began < 10 * stack.SLOW and sum(s[0] for s in steps) >= 3  # head, key, publisher
        assert console.rows(left, name) == [{"n": 1}], "its own"
    finally:
        console.run(console.root, "COMMIT")
    row = console.call("tenant_purge_step", name, 100)[0]
    assert row in ((1, 0, "nothing is left"), (0, 0, "nothing is left")), "0 if the leader was quicker"
    assert console.rows(left, name) == [{"n": 0}]


def test_limits_and_weight(console):
    name, signer = console.tenant()
    c = console.enter(signer)
    assert c.publish("a", b"x" * 1001).reason in (0, 0x10)

    def too_large():
        return c.publish("a", b"x" * 1001, check=False).reason >= 0x80
    for limit, value in (("max_connections", 7), ("max_events_per_s", 100), ("max_bytes_per_s", 1 << 40),
                         ("max_event_bytes", 1000), ("max_subscriptions", 3), ("max_stored_bytes", 2**64 - 1),
                         ("max_backlog_events", 10), ("retention_s", 86400), ("max_filters", 5),
                         ("max_in_flight", 20), ("max_backlog_s", 3600), ("max_scheduled", 2**32 - 1),
                         ("max_dead_letters", 5)):
        console.call("tenant_set_limit", name, limit, value)
        assert console.audit("tenant_set_limit") == (name, name, {limit: 0}, {limit: value})
        assert console.rows(f"SELECT {limit} AS v FROM tenants WHERE name=%s", name)[0]["v"] == value
    wait_for(lambda: too_large(), SOON_S, "a limit that applies")
    console.call("tenant_set_weight", name, 9)
    assert console.audit("tenant_set_weight") == (name, name, {"weight": 1}, {"weight": 9})
    shown = stack.leat("tenant", "show", name, "--db", console.dsn).stdout.split()
    assert "9" in shown and "86400" in shown


SECRET, X = "c3" * 16 + "c3Nzc3Nzc3M", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
OKP = '{"kty":"OKP","crv":"Ed25519",'
BAD_JWKS = [
    ("HS256", '{"kty":"oct","k":"AA"}', "member k of this JWK must be base64url of 32 to 1024 bytes"),
    ("HS256", '{"kty":"oct","k":"%s="}' % SECRET, "must be base64url"),
    ("HS256", '{"kty":"oct","k":"%s!"}' % SECRET[:-1], "must be base64url"),
    ("HS256", '{"kty":"oct","k":"%sN"}' % SECRET[:-1], "must be base64url"),  # bits left over
    ("HS256", '{"kty":"oct","k":"%s"}' % ("A" * 1400), "must be base64url"),
    ("HS256", '{"kty":"oct","k":7}', "must be base64url"),
    ("HS256", '{"kty":"oct","k":"%s"' % SECRET, "looks like a JWK and is no JSON"),
    ("HS256", '\n{"kty":"oct","k":"AA"}' + " " * 40, "must be base64url"),
    ("HS256", '{"kty":"oct","k":"%s","k":"%s"}' % (SECRET, SECRET), "has a member twice"),
    ("RS256", '{"kty":"RSA","kty":"oct","k":"%s","n":"AA","e":"AQAB"}' % SECRET, "has a member twice"),
    ("EdDSA", OKP + '"x":"%s","a":{"b":1,"b":2}}' % X, "has an object within"),
    ("EdDSA", OKP + '"x":"%s","a":[{}]}' % X, "has an object within"),
    ("EdDSA", OKP + '"x":"%s","d":"%s"}' % (X, SECRET), "is a private key"),
    ("EdDSA", OKP + '"x":"%s","k":"%s"}' % (X, SECRET), "is a private key"),
    ("EdDSA", OKP + '"x":"%s","\\u0064":"%s"}' % (X, SECRET), "this"),
    ("EdDSA", OKP + '"x":"%s"}' % X[:-1], "member x of this JWK must be base64url of 32 to 32 bytes"),
    ("EdDSA", OKP + '"x":"%s","note":"\\u0000"}' % X, "a string that nodes do not read"),
    ("EdDSA", OKP + '"x":"%s","key_ops":"verify"}' % X, "is not for signatures"),
    ("RS256", '{"kty":"RSA","n":"AA","e":"AQAB"}', "member n of this JWK must be base64url of 256 to 1024 bytes"),
]


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
    ("key_add", ("alpha", "i", "k k", "ES256", "x"), "a kid is 1 to 128 printable"),
    ("key_add", ("alpha", "i", "k\n", "ES256", "x"), "a kid is 1 to 128 printable"),
    ("key_add", ("alpha", "i", "k", "none", "x"), "alg must be HS256"),
    ("key_add", ("alpha", "i", "k", "es256", "x"), "alg must be HS256"),
    ("key_add", ("alpha", "i", "k", "HS256", b"\xff" * 31), "this one has 31"),
    ("key_add", ("alpha", "i", "k", "HS256", None), "this one has 0"),
    ("key_add", ("alpha", "i", "k", "HS256", "-----BEGIN PUBLIC KEY-----" + "x" * 64), "is no secret"),
    ("key_add", ("alpha", "i", "k", "ES256", "x" * 100), "a public key in PEM"),
    ("key_add", ("alpha", "i", "k", "RS256", "-----BEGIN " + "PRIVATE KEY-----\nx"), "give its public half"),
    ("key_add", ("nobody", "i", "k", "HS256", "x" * 32), "there is no tenant 'nobody'"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"EC","crv":"P-256"}'), "of kty (and crv) RSA, not EC P-256"),
    ("key_add", ("alpha", "i", "k", "HS256", '{"kty":"RSA","n":"AA","e":"AQAB"}'), "of kty (and crv) oct, not RSA"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"oct","k":"AA"}'), "of kty (and crv) RSA, not oct"),
    ("key_add", ("alpha", "i", "k", "ES256", '{"kty":"EC","crv":"P-521"}'), "EC P-256, not EC P-521"),
    ("key_add", ("alpha", "i", "k", "ES256", '{"kty":"EC","crv":null}'), "EC P-256, not EC"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":7}'), "RSA, not 7"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"RSA","n":"AA","e":"AQAB","d":"AA"}'), "is a private key"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"RSA","n":"AA"}'), "kty RSA has n and e"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"RSA","alg":"PS256"}'), "is for alg PS256, not for RS256"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"RSA","kid":"x"}'), "has the kid x, not k"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"RSA","use":"enc"}'), "is not for signatures"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":"RSA","key_ops":["sign"]}'), "is not for signatures"),
    *[("key_add", ("alpha", "i", "k", alg, text), says) for alg, text, says in BAD_JWKS],
    ("key_add", ("alpha", "i", "k", "RS256", '{"kty":'), "or a JWK, up to 16384 bytes"),
    ("key_add", ("alpha", "i", "k", "RS256", '{"a":"' + "x" * 17000 + '"}'), "or a JWK, up to 16384 bytes"),
    ("key_retire", ("alpha", "i", "nothing"), "has no key with this issuer and kid"),
    ("key_retire", ("alpha", None, None), "has no key with this issuer and kid"),
    ("token_revoke_subject", ("alpha", "", None, None, None), "a subject has 1 to 255 bytes; this one has 0"),
    ("token_revoke_subject", ("alpha", None, None, None, None), "a subject has 1 to 255 bytes"),
    ("token_revoke_subject", ("alpha", "s" * 256, None, None, None), "this one has 256"),
    ("token_revoke_subject", ("nobody", "s", None, None, None), "there is no tenant 'nobody'"),
    ("token_revoke_subject", ("alpha", "s", None, None, "r" * 256), "a reason has up to 255 bytes"),
    ("token_revoke_subject", ("alpha", "s", "1969-12-31", None, None), "issued before: from 1970 on"),
    ("token_revoke_subject", ("alpha", "s", None, "2020-01-01", None), "expires: in the future"),
    ("token_revoke_id", ("alpha", "", None, None), "a token id has 1 to 255 bytes"),
    ("token_revoke_before", ("nobody", None, None, None), "there is no tenant 'nobody'"),
    ("token_revoke_undo", ("alpha", "token", "s"), "kind must be subject, id or all, not 'token'"),
    ("token_revoke_undo", ("alpha", "subject", "s' OR 1=1"), "has no such revocation"),
    ("token_revoke_undo", ("alpha", "subject", "s" * 300), "has no such revocation"),
    ("subscription_pause", ("alpha", "topic", "", "x"), "kind must be session, share or queue, not 'topic'"),
    ("subscription_pause", ("alpha", None, "", "x"), "kind must be session, share or queue, not NULL"),
    ("subscription_pause", ("alpha", "queue", None, "x'x"), r"tenant alpha has no queue 'x\'x'"),
    ("subscription_seek", ("alpha", "queue", "", "x", "yesterday"), "a position is earliest, latest, a number"),
    ("subscription_seek", ("alpha", "queue", "", "x", "2026-13-31"), "'2026-13-31' is not a day and time"),
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
    ("timer_retry", (4711,), "there is no refused event 4711"),
    ("timer_discard", (4711,), "there is no refused event 4711"),
    ("timer_cancel_id", (4711,), "there is no scheduled event 4711"),
    ("timer_cancel_id", (None,), "a timer_id must be 1 to 18446744073709551615, not NULL"),
    ("timer_cancel_id", (1.5,), "a timer_id must be a whole number"),
    ("tenant_set_weight", ("alpha", 1.5), "weight must be a whole number, 1 to 65535, not 1.5"),
    ("tenant_set_limit", ("alpha", "max_connections", 0.4), "a whole number, 0 to 4294967295, not 0.4"),
    ("timer_cancel", ("alpha", "who", "nothing"), "has no scheduled event 'nothing' of this subject"),
    ("schedule_create", ("alpha", "s", "* * * *", None, "a", "", ""), "cron is five fields, @hourly"),
    ("schedule_create", ("alpha", "s", "* * * * *\n", None, "a", "", ""), "cron is five fields, @hourly"),
    ("schedule_create", ("alpha", "s", "@fortnightly", None, "a", "", ""), "not '@fortnightly'"),
    ("schedule_create", ("alpha", "s", "@every soon", None, "a", "", ""), "@every DURATION, not '@every soon'"),
    ("schedule_create", ("alpha", "s", "@daily", "a b", "a", "", ""), "a zone is an IANA name"),
    ("schedule_create", ("alpha", "s", "@daily", None, "a/#", "", ""), "a topic has 1 to 1024 bytes"),
    ("schedule_create", ("alpha", "s", "@daily", None, "/" * 32, "", ""), "a topic has up to 32 levels"),
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
    for args, numbers in (((b"\xff\xfe", 1, 1), (1300, 1644)), (("fine", "x", 1), (1366,))):
        with pytest.raises(pymysql.Error) as e:
            console.call("tenant_create", *args)
        assert e.value.args[0] in numbers, e.value.args
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
    late, began = console.enter(signer), time.monotonic()
    refused = late.subscribe("$share/g/a", check=False)
    assert refused.reasons == [0x83] and "is paused" in refused.prop("reason_string")
    assert time.monotonic() - began < SOON_S * stack.SLOW, "at once, not after a time-out"
    console.call("subscription_resume", tenant, "share", "", "g/a")
    assert c.receive(timeout=SOON_S * stack.SLOW).payload == b"2"


def test_a_number_after_the_partitions_changed(console):
    """It is one of the only partition, once nothing is left of those before."""
    tenant, _ = console.tenant()
    args = (tenant, "queue", "", "q", "a", "1")
    console.call("tenant_set_partitions", tenant, 3)
    assert f"tenant {tenant} has 3 partitions" in console.refused("subscription_create", *args)
    console.run(console.root, "UPDATE head h JOIN tenant t USING (tenant_id) SET h.next_seq=h.next_seq+1"
                f" WHERE t.name='{tenant}' AND h.partition_id=t.first_partition")
    console.call("tenant_set_partitions", tenant, 1)
    assert "still has events in sealed partitions" in console.refused("subscription_create", *args)
    console.run(console.root, "UPDATE head h JOIN tenant t USING (tenant_id) SET h.first_seq=h.next_seq"
                f" WHERE t.name='{tenant}'")
    console.run(console.admin, "SET SESSION group_concat_max_len=4")
    try:
        console.call("subscription_create", tenant, "queue", "", "q", '["a","b/#"]', "1")
    finally:
        console.run(console.admin, "SET SESSION group_concat_max_len=DEFAULT")
    console.call("subscription_seek", tenant, "queue", "", "q", "1")
    row, = console.rows("SELECT filters FROM subscription WHERE name='q' AND tenant_id="
                        "(SELECT tenant_id FROM tenant WHERE name=%s)", tenant)
    assert json.loads(row["filters"]) == [{"filter": "a", "qos": 1}, {"filter": "b/#", "qos": 1}]


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
    assert console.audit("dead_letter_redrive")[2:] == ({"dead_letter_ids": [ids[0]]},
                                                        {"state": "waiting", "events": 1, "per_s": None})
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
    assert console.call("dead_letter_redrive_all", tenant, "queue", "", "work", "time%", 10, 2) == ((2, 0),)
    row, = console.rows("SELECT TIMESTAMPDIFF(MICROSECOND,MIN(due_at),MAX(due_at)) AS apart FROM timer"
                        " WHERE subscription_id=%s AND seq IN (3,5)", queue)
    assert row["apart"] == 500000
    assert console.audit("dead_letter_redrive_all")[3] == {"state": "waiting", "events": 2, "per_s": 2}
    assert console.call("dead_letter_redrive_all", tenant, "queue", "", "work", None, 10, None) == ((0, 0),)
    kinds = console.rows("SELECT kind, subscription, topic FROM timers WHERE tenant=%s", tenant, by=console.read)
    assert len(kinds) == 5 and kinds[0] == {"kind": "retry", "subscription": "work", "topic": "orders/ä"}


def test_queues_up_to_max_subscriptions(console):
    tenant, _ = console.tenant()
    console.call("tenant_set_limit", tenant, "max_subscriptions", 2)
    for name in ("one", "two"):
        console.call("subscription_create", tenant, "queue", "", name, "a", None)
    said = console.refused("subscription_create", tenant, "queue", "", "three", "a", None)
    assert "has 2 of 2 subscriptions (max_subscriptions)" in said
    console.call("subscription_delete", tenant, "queue", "", "one")
    console.call("subscription_create", tenant, "queue", "", "three", "a", None)


def test_queues_up_to_the_nodes_max_subscriptions(console):
    """Of a tenant without a limit of its own, as the nodes say it in their sessions."""
    tenant, _ = console.tenant()
    live, = console.rows("SELECT HEX(session_id) AS id, max_subscriptions AS most FROM node_session WHERE state=1")
    assert live["most"] == 100000
    console.run(console.root, "UPDATE node_session SET max_subscriptions=1 WHERE state=1")
    try:
        console.call("subscription_create", tenant, "queue", "", "one", "a", None)
        said = console.refused("subscription_create", tenant, "queue", "", "two", "a", None)
        assert "has 1 of 1 subscriptions (max_subscriptions)" in said
        console.call("tenant_set_limit", tenant, "max_subscriptions", 2)
        console.call("subscription_create", tenant, "queue", "", "two", "a", None)
    finally:
        console.run(console.root, f"UPDATE node_session SET max_subscriptions=100000 WHERE session_id=x'{live['id']}'")


def test_what_is_locked_is_named(console):
    """Who waits in vain for a row that somebody's transaction holds is told which, by every procedure."""
    tenant, _ = console.tenant()
    console.call("subscription_create", tenant, "queue", "", "q", "a", None)
    console.call("schedule_create", tenant, "s", "@hourly", None, "t", None, "x")
    event = "INSERT INTO {} SELECT tenant_id, '[]', '[{{\"topic\": \"t\"}}]', '', {} FROM tenant WHERE name='{}'"
    timer = console.run(console.root, event.format("timer(tenant_id,history,attributes,body,kind,name,refused)",
                                                   "1, 'n', 'no'", tenant))
    dead = console.run(console.root, event.format(
        "dead_letter(tenant_id,history,attributes,body,subscription_id,partition_id,seq,attempt,reason)",
        "(SELECT subscription_id FROM subscription s WHERE s.tenant_id=tenant.tenant_id), 0, 1, 1, 'no'", tenant))
    aside = console.run(console.root, "INSERT INTO inbox(tenant_id,state,account,topic,payload,aside_at) SELECT tenant_id,2,"
                        f"'x','t','',UTC_TIMESTAMP(3) FROM tenant WHERE name='{tenant}'")
    queue = (tenant, "queue", "", "q")
    waits = {
        "subscription": [("subscription_pause", *queue), ("subscription_delete", *queue), ("subscription_seek", *queue, "1"),
                         ("dead_letter_redrive", dead)],
        "event": [("timer_cancel", tenant, "", "n"), ("timer_cancel_id", timer), ("timer_retry", timer),
                  ("timer_discard", timer)],
        "schedule": [("schedule_pause", tenant, "s"), ("schedule_delete", tenant, "s")],
        "dead letter": [("dead_letter_discard", dead)],
        "inbox": [("inbox_retry", aside), ("inbox_discard", aside), ("inbox_discard_all", tenant, None, None)],
    }
    rows = {"event": "timer", "dead letter": "dead_letter"}
    console.run(console.admin, "SET innodb_lock_wait_timeout=1")
    try:
        for what, calls in waits.items():
            console.run(console.root, "BEGIN", f"SELECT 1 FROM {rows.get(what, what)} WHERE tenant_id=(SELECT tenant_id"
                        f" FROM tenant WHERE name='{tenant}') FOR UPDATE")
            for call in calls:
                with pytest.raises(pymysql.Error) as e:
                    console.call(*call)
                assert e.value.args[0] == 1205 and "is locked by another transaction: try again" in e.value.args[1], call
                if what != "inbox":
                    assert f" {what} is locked" in e.value.args[1], call
            console.run(console.root, "ROLLBACK")
    finally:
        console.run(console.root, "ROLLBACK")
        console.run(console.admin, "SET innodb_lock_wait_timeout=DEFAULT")
    console.call("inbox_discard", aside)
    console.call("timer_discard", timer)


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
    assert console.call("dead_letter_redrive_all", tenant, "queue", "", "work", None, 10, 2) == ((2, 0),)
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
    told = {"partition": 0, "seq": 1, "attempt": 3, "topic": "orders/ä", "reason": "timeout"}
    assert console.audit("dead_letter_discard")[2] == {"dead_letter_ids": ids[:1], "events": [told]}
    assert console.call("dead_letter_discard_all", tenant, "queue", "", "work", "nack", 10) == ((1, 0),)
    assert console.audit("dead_letter_discard_all") == (
        tenant, "queue work", {"dead_letter_ids": ids[1:2], "events": [{**told, "seq": 2, "reason": "nack"}]}, None)
    assert console.rows("SELECT 1 FROM timer WHERE subscription_id=%s", queue) == ()
    assert len(console.rows("SELECT 1 FROM dead_letter WHERE subscription_id=%s", queue)) == 1


def test_all_dead_letters_in_steps(console):
    """As many as may wait at a time, slower than one a second; each step goes on behind the one before."""
    tenant, _ = console.tenant()
    queue = console.subscription(tenant, 3, "", "work")
    console.dead_letters(tenant, queue, ["timeout", "nack", "timeout", "timeout", "timeout"])
    console.call("subscription_set_policy", tenant, "queue", "", "work", "max_failed", 2)
    redrive = ("dead_letter_redrive_all", tenant, "queue", "", "work", "time%", None, "0.5")
    due = "SELECT TIMESTAMPDIFF(MICROSECOND,UTC_TIMESTAMP(3),MAX(due_at)) AS us FROM timer WHERE subscription_id=%s"
    assert console.call(*redrive) == ((2, 1),)
    assert console.call(*redrive) == ((0, 1),)  # no room: nothing is done, and it is no error
    assert 0 < console.rows(due, queue)[0]["us"] <= 2000000
    console.rows("DELETE FROM timer WHERE subscription_id=%s ORDER BY due_at LIMIT 1", queue)
    assert console.call(*redrive) == ((1, 1),)
    assert 1000000 < console.rows(due, queue)[0]["us"] <= 4000000
    console.call("subscription_set_policy", tenant, "queue", "", "work", "max_failed", 1000)
    assert console.call(*redrive) == ((1, 0),)
    assert console.audit("dead_letter_redrive_all")[3] == {"state": "waiting", "events": 1, "per_s": 0.5}
    assert "0.0001 to 100000" in console.refused(*redrive[:-1], "0.00001")
    assert console.call("dead_letter_discard_all", tenant, "queue", "", "work", None, None) == ((1, 0),)


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


def test_a_scheduled_event_without_a_name_is_cancelled(console):
    tenant, _ = console.tenant()
    insert = ("INSERT INTO timer(kind,tenant_id,due_at,history,attributes,body) SELECT {},tenant_id,'2099-01-01','[]',"
              "'[{\"topic\":\"a\",\"o\":0,\"l\":1}]','x' FROM tenant WHERE name='" + tenant + "'")
    will, one, other = (console.run(console.root, insert.replace("{}", kind)) for kind in "211")
    assert f"no scheduled event {will}" in console.refused("timer_cancel_id", will)
    console.call("timer_cancel_id", one)
    assert console.audit("timer_cancel_id") == (tenant, str(one), {
        "due_at": "2099-01-01 00:00:00.000", "topic": "a", "subject": "", "name": None, "refused": None}, None)
    assert [r["timer_id"] for r in console.rows("SELECT timer_id FROM timers WHERE tenant=%s ORDER BY 1", tenant)] == [
        will, other]
    console.call("tenant_delete", tenant)


def test_a_refused_event(console):
    """What the leader set aside is tried again, or given up, when an admin says so."""
    tenant, signer = console.tenant()
    c = console.enter(signer)
    c.subscribe("a")
    insert = ("INSERT INTO timer(kind,tenant_id,subject,history,refused,attributes,body) SELECT 1,tenant_id,'x',"
              "'[]','too large','[{\"topic\":\"a\",\"o\":0,\"l\":1}]','{}' FROM tenant WHERE name='" + tenant + "'")
    again, given_up = (console.run(console.root, insert.replace("{}", x)) for x in "12")
    seen = console.rows("SELECT timer_id,refused,due_at FROM timers WHERE tenant=%s AND state='refused'", tenant,
                        by=console.read)
    assert seen == [{"timer_id": i, "refused": "too large", "due_at": None} for i in (again, given_up)]
    console.call("timer_discard", given_up)
    _, target, before, after = console.audit("timer_discard")
    assert (target, before["topic"], before["subject"], after) == (str(given_up), "a", "x", None)
    console.call("timer_retry", again)
    tenant_, target, before, after = console.audit("timer_retry")
    assert (tenant_, target, before) == (tenant, str(again), {
        "due_at": None, "topic": "a", "subject": "x", "name": None, "refused": "too large"}) and after["due_at"]
    assert c.receive(timeout=SOON_S * stack.SLOW).payload == b"1"
    assert console.rows("SELECT * FROM timers WHERE tenant=%s", tenant) == ()
    assert "no refused event" in console.refused("timer_retry", again)


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


@pytest.mark.parametrize("view", ["tenant_usage", "connections"])
def test_views_of_one_tenant_read_one_tenant(console, view):
    """What reading costs is counted in rows: the same with forty tenants more."""
    tenant, signer = console.tenant()
    console.enter(signer, "a").ping()
    wait_for(lambda: console.rows("SELECT connections FROM connections WHERE tenant=%s", tenant), 10)

    def reads(text, *args):
        def counted():
            return sum(int(r["Value"]) for r in console.rows("SHOW SESSION STATUS LIKE 'Handler\\_read%%'",
                                                             by=console.read))
        counted()
        a, b = counted(), counted()
        assert len(console.rows(text, *args, by=console.read)) >= 1
        return counted() - b - (b - a)
    for text, value in ((f"SELECT * FROM {view} WHERE tenant=%s", tenant),
                        (f"SELECT * FROM {view} WHERE tenant_id=%s",
                         console.rows("SELECT tenant_id FROM tenants WHERE name=%s", tenant)[0]["tenant_id"])):
        before = reads(text, value)
        more = [console.name("more") for _ in range(40)]
        for name in more:
            console.call("tenant_create", name, None, None)
        assert before <= 100 and reads(text, value) <= before + 10
        assert view != "tenant_usage" or reads(f"SELECT * FROM {view}") > 80  # it is counted


def test_connections_and_usage(console):
    tenant, signer = console.tenant()
    reads = "SELECT * FROM connections WHERE tenant=%s", "SELECT * FROM tenant_usage WHERE tenant=%s"

    def see(**want):
        rows = [console.rows(text, tenant, by=console.read) for text in reads]
        got = [{k: r[k] for k in want if k in r} for found in rows for r in found]
        return got == [{k: v for k, v in want.items() if k in r} for found in rows for r in found] and rows[0]

    a, b = console.enter(signer, "a", **KEPT), console.enter(signer, "b")
    b.subscribe("x/#")
    a.publish_many([("x/1", b"12345")] * 3)
    for _ in range(3):
        b.receive()
    wait_for(lambda: see(connections=2, durable=1, ephemeral=1, subscriptions=2, events_in=3, bytes_in=15,
                         events_out=3, bytes_out=15, refused=0), SOON_S, "what the node says")
    row, = console.rows(reads[0], tenant)
    assert row["node"] == console.rows("SELECT name FROM nodes")[0]["name"]
    console.call("tenant_set_limit", tenant, "max_event_bytes", 10)
    wait_for(lambda: b.publish("x/2", b"1234567890x", check=False).reason == 0x97, SOON_S, "the limit")
    b.close()
    wait_for(lambda: see(connections=1, ephemeral=0, subscriptions=1, refused=1), SOON_S, "one left")
    said = console.rows(reads[0], tenant)
    wait_for(lambda: console.rows("SELECT TIMESTAMPDIFF(MICROSECOND,%s,UTC_TIMESTAMP(3))>1500000 AS late",
                                  said[0]["reported_at"])[0]["late"], what="a pause")
    assert console.rows(reads[0], tenant) == said  # nothing is written while nothing changes


def test_the_docs_have_every_procedure_and_view(console):
    with open(os.path.join(stack.ROOT, "docs", "admins.md")) as f:
        text = f.read()
    assert [p for p in objects(console, "ROUTINE") if p[0] != "_" and f"CALL {p}(" not in text] == []
    views = console.rows("SELECT TABLE_NAME AS v FROM information_schema.VIEWS WHERE TABLE_SCHEMA=%s",
                         console.schema)
    assert [v["v"] for v in views if f"`{v['v']}`" not in text] == []


# ---- roles ----------------------------------------------------------------------------------------

# What SCHEMA_node may do with each table: Select, Insert, Update, Delete; U* = of some columns. A new table is decided on here.
NODE_MAY = {
    "tenant": "SU*", "tenant_key": "S", "revocation": "S", "client_certificate": "S", "tenant_move": "S", "schema_version": "S",
    "schema_lock": "", "publisher": "", "issuer": "SU*", "change_counter": "SU", "role": "SU", "schedule": "SU", "audit": "I",
    "journal": "SID", "dead_letter": "SID", "head": "SIU", "inbox": "SUD",
    **dict.fromkeys(("node_session", "writer", "subscription", "cursors", "timer", "node_tenant"), "SIUD"),
}
# And the others of tables, which they need not: the views and procedures show and do everything. S* = not the secrets.
ADMIN_MAY = {"tenant": "S", "tenant_key": "S*", "schema_version": "S"}
READ_MAY = {"schema_version": "S"}
DENIED = (1044, 1142, 1143, 1227, 1305, 1370)  # 1305: it may not even know that it is there


def denied(connection, text):
    with pytest.raises(pymysql.Error) as e, connection.cursor() as q:
        q.execute(text)
    return e.value.args[0] in DENIED


def objects(console, kind):
    rows = console.rows(f"SELECT {kind}_NAME AS name FROM information_schema.{kind}S WHERE {kind}_SCHEMA=%s",
                        console.schema)
    return {r["name"] for r in rows}


def base_tables(console):
    rows = console.rows("SELECT TABLE_NAME AS t FROM information_schema.TABLES WHERE TABLE_SCHEMA=%s AND"
                        " TABLE_TYPE='BASE TABLE'", console.schema)
    return sorted(r["t"] for r in rows)


def may(connection, table, columns):
    """What the account may do with a table, of SIUD, tried on no row; and of which columns not all."""
    tries = {"S": "SELECT {} FROM " + table + " WHERE 1=0", "I": f"INSERT INTO {table}({{}}) SELECT NULL FROM DUAL WHERE 1=0",
             "U": f"UPDATE {table} SET {{}}=DEFAULT({{}}) WHERE 1=0", "D": f"DELETE FROM {table} WHERE 1=0"}
    said = ""
    for letter, text in tries.items():
        got = [not refuses(connection, text.format(c, c)) for c in (columns if "{}" in text else [""])]
        said += letter * any(got) + "*" * (any(got) and not all(got))
    return said


def refuses(connection, text):
    try:
        with connection.cursor() as q:
            q.execute(text)
        return False
    except pymysql.Error as e:
        return e.args[0] in DENIED


def test_what_each_role_may_do_with_each_table(console):
    """Neither less nor more than is written down here; a table that is not written down fails."""
    tables = base_tables(console)
    assert set(tables) == set(NODE_MAY), "say in NODE_MAY what a node may do with it, and in sql/roles.def"
    columns = {t: [r["c"] for r in console.rows(
        "SELECT COLUMN_NAME AS c FROM information_schema.COLUMNS WHERE TABLE_SCHEMA=%s AND TABLE_NAME=%s"
        " AND EXTRA NOT LIKE '%%VIRTUAL%%'", console.schema, t)] for t in tables}
    publish = console.database.account(console.dsn, "publish")
    with contextlib.closing(stack.connect(console.node_dsn)) as node, contextlib.closing(stack.connect(publish)) as app:
        for who, expected in ((node, NODE_MAY), (console.admin, ADMIN_MAY), (console.read, READ_MAY), (app, {})):
            found = {t: may(who, t, columns[t]) for t in tables}
            assert {t: m for t, m in found.items() if m} == {t: m for t, m in expected.items() if m}
        views = [r["v"] for r in console.rows("SELECT TABLE_NAME AS v FROM information_schema.VIEWS WHERE"
                                              " TABLE_SCHEMA=%s", console.schema)]
        assert len(views) > 15 and all(denied(who, f"SELECT 1 FROM {v}") for v in views for who in (node, app))
        for procedure in objects(console, "ROUTINE"):
            n = console.rows("SELECT COUNT(*) AS n FROM information_schema.PARAMETERS WHERE SPECIFIC_SCHEMA=%s"
                             " AND SPECIFIC_NAME=%s", console.schema, procedure)[0]["n"]
            call = f"CALL {procedure}({','.join(['@x'] * n)})"
            assert denied(node, call), procedure
            assert refuses(app, call) == (procedure not in ("publish", "publish_at")), procedure


def test_what_an_admin_and_a_reader_cannot_do(console):
    for who in (console.admin, console.read):
        assert denied(who, "SELECT key_material FROM tenant_key")
        for text in ("INSERT INTO audit(who,action,target,detail) VALUES ('x','x','x','{}')",
                     "UPDATE tenant SET state=1", "UPDATE tenants SET state=1", "CREATE TABLE t (a INT)",
                     "DROP TABLE journal", "DROP PROCEDURE tenant_create", "DROP VIEW tenants",
                     "CREATE PROCEDURE p() SELECT 1", "CALL _refuse('x')", "CALL _changed()", "CALL _revocations_changed()",
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


LARGE = {"event", "dead_letters", "timers", "audit_log"}  # a reader's locks are taken there by MariaDB
HOT = ("UPDATE head SET bytes=bytes", "UPDATE node_session SET renewals=renewals", "UPDATE cursors SET commit_no=commit_no",
       "UPDATE subscription SET epoch=epoch", "UPDATE node_tenant SET refused=refused", "UPDATE tenant SET full_since=NULL",
       "UPDATE timer SET attempt=attempt", "UPDATE issuer SET wanted=wanted", "DELETE FROM inbox", "UPDATE schedule SET ticks=ticks",
       "INSERT INTO inbox(tenant_id,account,topic,payload) VALUES (0,'x','t','x')",
       "INSERT INTO audit(who,action,target,detail) VALUES ('x','x','x','{}')",
       "INSERT INTO journal(tenant_id,partition_id,base_seq,event_count,end_bytes,session_id,writer_no,flush_no,attributes,body)"
       " SELECT 0,0,1+COALESCE(MAX(base_seq),0),1,1,'',0,0,'[]','' FROM journal")


def test_a_reader_locks_nothing(database):
    """What nodes change all the time they can change, whatever a reader writes behind a view."""
    schema = Schema(database)
    schema.tenant("alpha")
    schema.run("INSERT INTO node_session(session_id,name) VALUES (REPEAT('r',16),'reader')")
    schema.run("INSERT INTO node_tenant SELECT REPEAT('r',16),tenant_id,0,0,0,0,0,0,0,0,0,UTC_TIMESTAMP(3) FROM tenant")
    schema.run("CALL subscription_create('alpha','queue','','q','a',NULL)")
    views = {r["v"] for r in schema.rows("SELECT TABLE_NAME AS v FROM information_schema.VIEWS WHERE TABLE_SCHEMA=%s", schema.name)}
    assert LARGE < views
    reader = stack.connect(database.account(schema.dsn, "read"))
    schema.run("SET innodb_lock_wait_timeout=1")
    for view in sorted(views - (set() if stack.ENGINE == "mysql" else LARGE)):
        for clause in ("FOR UPDATE", "LOCK IN SHARE MODE"):
            try:
                Console.run(reader, "START TRANSACTION", f"SELECT * FROM {view} {clause}")
            except pymysql.Error as e:
                assert stack.ENGINE == "mysql" and clause == "FOR UPDATE" and e.args[0] in DENIED
            Console.run(schema.connection, "START TRANSACTION", *HOT, "ROLLBACK")
            reader.rollback()
    reader.close()


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
