"""Two tenants with the same names for everything never meet, and cannot learn of one another."""

import glob
import re
import time

import pytest

from leat import mqtt, stack
from leat.stack import connect as db_connect


@pytest.fixture
def pair(client, sql_node):
    """pair(client id, …): one connection of each tenant."""
    return lambda *a, **kw: [client(sql_node, *a, tenant=t, **kw) for t in ("alpha", "beta")]


KEPT = {"clean": False, "props": [("session_expiry", 300)]}


def test_topics(pair, topic):
    a, b = pair()
    for c, name in ((a, b"a"), (b, b"b")):
        c.subscribe(topic, "#")
    a.publish(topic, b"alpha")
    b.publish(topic, b"beta")
    assert a.receive().payload == b"alpha" and b.receive().payload == b"beta"
    assert a.silent() and b.silent()


def test_client_ids(pair, cid):
    """No takeover across tenants."""
    a, b = pair(cid())
    a.ping()
    b.ping()


def test_client_ids_of_two_subjects(client, sql_node, cid):
    """Nor between two subjects of one tenant: client ids belong to (tenant, subject)."""
    s = sql_node.signers["alpha"]
    a = client(sql_node, cid(), token=s.token("one"), **KEPT)
    a.subscribe("x/" + cid())
    b = client(sql_node, cid(), token=s.token("two"), **KEPT)
    assert not b.connack.present
    a.ping()


def test_sessions(pair, topic, cid):
    a, b = pair(cid(), **KEPT)
    a.subscribe(topic)
    b.subscribe(topic + "/b")
    for c in (a, b):
        c.reset()
    pub_a, pub_b = pair()
    for p, who in ((pub_a, b"alpha"), (pub_b, b"beta")):
        p.publish(topic, who)
        p.publish(topic + "/b", who)
    a, b = pair(cid(), **KEPT)
    assert a.connack.present and b.connack.present
    got_a, got_b = a.receive(), b.receive()
    assert (got_a.topic, got_a.payload) == (topic, b"alpha")
    assert (got_b.topic, got_b.payload) == (topic + "/b", b"beta")
    assert a.silent() and b.silent()


def test_no_session_oracle(pair, client, sql_node, cid, topic):
    """Session Present and UNSUBACK say nothing of another tenant's names."""
    a = client(sql_node, cid(), tenant="alpha", **KEPT)
    a.subscribe(topic, f"$share/g/{topic}")
    b = client(sql_node, cid(), tenant="beta", **KEPT)
    assert not b.connack.present
    assert b.unsubscribe(topic, f"$share/g/{topic}").reasons == [0x11, 0x11]


def test_shares(pair, topic):
    a, b = pair()
    for c in (a, b):
        c.subscribe(f"$share/g/{topic}")
    for i in range(10):
        a.publish(topic, b"alpha%d" % i)
    assert [a.receive().payload for _ in range(10)] == [b"alpha%d" % i for i in range(10)]
    assert b.silent()


def test_durable_shares_have_their_own_cursors(pair, topic, cid, sql):
    a, b = pair(cid(), **KEPT)
    for c in (a, b):
        c.subscribe(f"$share/g/{topic}")
    rows = sql("SELECT DISTINCT tenant, name FROM subscription_lag WHERE name=%s", f"g/{topic}")
    assert sorted(r[0] for r in rows) == ["alpha", "beta"]


def test_no_key_oracle(sql_node):
    """A beta token under alpha's kid, under its own, and under nobody's: one answer, bar the good."""
    from leat.token import raw
    alpha, beta = sql_node.signers["alpha"], sql_node.signers["beta"]
    answers = set()
    for iss, kid in ((alpha.issuer, alpha.kid), (alpha.issuer, beta.kid), (beta.issuer, alpha.kid),
                     ("https://nobody.test", "nobody")):
        text = raw(beta.header(kid=kid), beta.claims(iss=iss), beta.alg, beta.key)
        with sql_node.open() as c:
            ack = c.connect("", text, check=False)
            answers.add((ack.reason, ack.prop("reason_string")))
    assert len(answers) == 1 and answers.pop()[0] == 0x86


def test_a_tenant_claim_is_not_believed(sql_node, client, topic):
    """The key decides, whatever the token, the user name or the topic say."""
    beta = sql_node.signers["beta"]
    listener = client(sql_node, tenant="alpha")
    listener.subscribe("#")
    with sql_node.open() as c:
        c.connect("", beta.token(tenant="alpha", tenant_id=1, aud=["leat", "alpha"]), username="alpha")
        c.publish(topic, b"x")
        c.publish("alpha/" + topic, b"x")
    assert listener.silent()


def test_rows_carry_the_tenant(pair, topic, sql_node):
    a, b = pair()
    a.publish(topic, b"alpha")
    b.publish(topic, b"beta")
    with db_connect(sql_node.dsn) as c, c.cursor() as q:
        q.execute("SELECT tenant, data FROM event WHERE topic=%s ORDER BY tenant", (topic,))
        assert list(q.fetchall()) == [("alpha", b"alpha"), ("beta", b"beta")]


def test_flood_does_not_delay_the_other(pair, topic):
    """A coarse bound, not the benchmark: while alpha floods, beta's publishes are answered soon."""
    a, b = pair()
    n = 3000
    a.send(b"".join(mqtt.publish(topic, b"x" * 200, 0) for _ in range(n)))
    took = []
    for _ in range(20):
        start = time.monotonic()
        b.publish(topic, b"y")
        took.append(time.monotonic() - start)
    assert sorted(took)[10] < 0.25 * stack.SLOW


# ---- every verb with a name of the other's --------------------------------------------------------
# Beta has something of a name. Alpha tries the verb on that name, and on one that nobody has: both
# answers are the same, and beta still has what it had.

def user(*pairs):
    return {"props": [("user", p) for p in pairs]}


def answer(packet):
    return packet.reasons if packet.kind in (mqtt.SUBACK, mqtt.UNSUBACK) else packet.reason, packet.prop("reason_string")


LATER = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
VERBS = {  # what beta does first, what alpha tries
    "connect": (None, lambda c, n: (c.connack.present, c.connack.reason)),
    "join a queue": (lambda c, n: c.subscribe(f"$queue/{n}/{n}"),
                     lambda c, n: answer(c.subscribe(f"$queue/{n}", check=False))),
    "make a queue": (lambda c, n: c.subscribe(f"$queue/{n}/{n}"),
                     lambda c, n: answer(c.subscribe(f"$queue/{n}/else", check=False))),
    "join a share": (lambda c, n: c.subscribe(f"$share/{n}/{n}"),
                     lambda c, n: answer(c.subscribe(f"$share/{n}/{n}", check=False))),
    "subscribe from the past": (lambda c, n: c.publish(n, b"x"),
                                lambda c, n: answer(c.subscribe(n, check=False, **user(
                                    ("leat-start", "earliest"), ("leat-until", "now"))))),
    "subscribe from a number": (lambda c, n: c.publish(n, b"x"),
                                lambda c, n: answer(c.subscribe(n, check=False, **user(("leat-start", "seq:1"))))),
    "unsubscribe": (lambda c, n: c.subscribe(n), lambda c, n: answer(c.unsubscribe(n))),
    "leave a queue": (lambda c, n: c.subscribe(f"$queue/{n}/{n}"), lambda c, n: answer(c.unsubscribe(f"$queue/{n}"))),
    "publish": (lambda c, n: c.subscribe(n), lambda c, n: answer(c.publish(n, check=False))),
    "cancel": (lambda c, n: c.publish(f"$delayed/60/{n}", "x", **user(("leat-timer", n))),
               lambda c, n: answer(c.publish(f"$delayed/cancel/{n}", check=False))),
    "replace": (lambda c, n: c.publish(f"$delayed/60/{n}", "x", **user(("leat-timer", n))),
                lambda c, n: answer(c.publish(f"$delayed/60/{n}", "y", check=False, **user(("leat-timer", n))))),
    "schedule": (lambda c, n: c.subscribe(n), lambda c, n: answer(c.publish(f"$delayed/60/{n}", check=False))),
    "replace by property": (lambda c, n: c.publish(n, "x", **user(("leat-deliver-at", LATER), ("leat-timer", n))),
                            lambda c, n: answer(c.publish(n, "y", check=False, **user(
                                ("leat-deliver-at", LATER), ("leat-timer", n))))),
    "cancel what a property scheduled": (
        lambda c, n: c.publish(n, "x", **user(("leat-deliver-at", LATER), ("leat-timer", n))),
        lambda c, n: answer(c.publish(f"$delayed/cancel/{n}", check=False))),
    "order by a key": (lambda c, n: c.publish(n, "x", **user(("leat-key", n))),
                       lambda c, n: answer(c.publish(n, "y", check=False, **user(("leat-key", n))))),
    "change a queue's policy": (lambda c, n: c.subscribe(f"$queue/{n}/{n}", **user(("leat-max-attempts", "3"))),
                                lambda c, n: answer(c.subscribe(f"$queue/{n}/{n}", check=False, **user(
                                    ("leat-max-attempts", "5"), ("leat-ack-timeout", "5s"), ("leat-backoff", "2s"),
                                    ("leat-backoff-max", "9s"), ("leat-max-failed", "7"), ("leat-ordered", "1"),
                                    ("leat-pin", "1"))))),
    "leave a share": (lambda c, n: c.subscribe(f"$share/{n}/{n}"), lambda c, n: answer(c.unsubscribe(f"$share/{n}/{n}"))),
    "publish to a queue's name": (lambda c, n: c.subscribe(f"$queue/{n}/{n}"),
                                  lambda c, n: answer(c.publish(f"$queue/{n}", check=False))),
    "publish to a share's name": (lambda c, n: c.subscribe(f"$share/{n}/{n}"),
                                  lambda c, n: answer(c.publish(f"$share/{n}/{n}", check=False))),
    "schedule for a queue's name": (lambda c, n: c.subscribe(f"$queue/{n}/{n}"),
                                    lambda c, n: answer(c.publish(f"$delayed/60/$queue/{n}", check=False))),
    "publish as the server": (lambda c, n: c.subscribe(n), lambda c, n: answer(c.publish(f"$leat/{n}", check=False))),
    "look at limits": (lambda c, n: c.subscribe(n),
                       lambda c, n: answer(c.subscribe(f"$leat/{n}", check=False))),
    "look at the bus": (lambda c, n: c.subscribe(n), lambda c, n: answer(c.subscribe(f"$SYS/{n}", check=False))),
}
# What a client can say to us beside MQTT's own: it is in one of the rows above, or names nothing of anybody.
NAMES_NOTHING = {"leat-attempt", "leat-gap", "leat-"}  # the server says the first two; the last is what all begin with


def source(*folders):
    text = ""
    for path in (p for folder in folders for p in glob.glob(f"{stack.ROOT}/{folder}/*.[cd]*")):
        with open(path) as f:
            text += f.read()
    return text


def test_every_property_and_topic_of_the_server_is_in_the_matrix():
    with open(__file__) as f:
        rows = f.read().split("VERBS = {")[1].split("\n}\n")[0]
    said = set(re.findall(r'"(leat-[a-z-]*)"', source("node/mqtt", "node/delivery")))
    assert len(said) > 10 and {p for p in said - NAMES_NOTHING if f'"{p}"' not in rows} == set()
    forms = set(re.findall(r'"(\$[a-z]+)[/"]', source("node/mqtt", "tenancy")))
    assert len(forms) > 3 and {t for t in forms if t not in rows} == set()


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_answer_as_for_nobodys(verb, client, sql_node, cid, sql):
    has, tries = VERBS[verb]
    theirs, nobodys = cid("theirs"), cid("nobodys")
    b = client(sql_node, theirs, tenant="beta", **KEPT)
    if has:
        has(b, theirs)

    def beta_has():
        return [sql(f"SELECT kind, name FROM {view} WHERE tenant='beta' AND name LIKE %s ORDER BY 1, 2", f"%{theirs}%")
                for view in ("subscriptions", "timers")]
    before, answers = beta_has(), []
    for name in (theirs, nobodys):
        what, why = tries(client(sql_node, name, tenant="alpha", **KEPT), name)
        answers.append((what, why.replace(name, "NAME") if isinstance(why, str) else why))
    assert answers[0] == answers[1]
    b.ping()
    assert b.silent() and beta_has() == before


def test_wills_and_sessions_of_one_client_id(client, sql_node, cid, topic):
    """Alpha's client of the same id neither takes over, nor cancels or sets off beta's will."""
    will = {"will": (topic, b"beta's", 1, False)}
    listener = client(sql_node, tenant="beta")
    listener.subscribe(topic)
    other = client(sql_node, tenant="alpha")
    other.subscribe(topic)
    b = client(sql_node, cid(), tenant="beta", **will)
    a = client(sql_node, cid(), tenant="alpha")
    a.disconnect()
    b.ping()
    assert listener.silent()
    b.reset()
    assert listener.receive(timeout=5).payload == b"beta's" and other.silent()


def test_another_tenants_token_does_not_renew(sql_node):
    method = [("auth_method", "OAUTH2-JWT")]
    answers = set()
    alpha, beta = sql_node.signers["alpha"], sql_node.signers["beta"]
    for token in (beta.token(), alpha.token("somebody else")):
        with sql_node.open() as c:
            c.connect("", None, props=[*method, ("auth_data", alpha.token())])
            c.send(mqtt.auth(0x19, [*method, ("auth_data", token)]))
            last = c.closed()[-1]
            answers.add((last.kind, last.reason, last.prop("reason_string")))
    assert len(answers) == 1 and answers.pop()[1] == 0x87
