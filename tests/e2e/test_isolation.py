"""Two tenants with the same names for everything never meet, and cannot learn of one another."""

import time

import pytest

from leat import mqtt
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
    assert sorted(took)[10] < 0.25
