"""Work queues: $queue/NAME over real connections and databases."""

import json
import time

import pytest

from leat import mqtt
from leat.stack import SLOW, wait_for

FAST = {"leat-backoff": "200ms", "leat-backoff-max": "400ms"}


def policy(**more):
    return [("user", (k, str(v))) for k, v in {**FAST, **more}.items()]


@pytest.fixture
def name(topic):
    """A queue of this test alone."""
    return topic.replace("/", "-")


def attempt(packet):
    return int(dict(packet.all("user"))["leat-attempt"])


def nack(c, packet, reason=0x80, why=None):
    props = [("reason_string", why)] if why else []
    c.send(mqtt.puback(packet.packet_id, reason, props))


def make(client, node, cid, name, topic, **more):
    c = client(node, cid("w"), props=[("receive_maximum", more.pop("prefetch", 10))])
    c.subscribe(f"$queue/{name}/{topic}", props=policy(**more))
    return c


def why(packet):
    return packet.prop("reason_string") or ""


def waiting(sql, name):
    return sql("SELECT COUNT(*) FROM timer WHERE subscription_id ="
               " (SELECT subscription_id FROM subscription WHERE name = %s)", name)[0][0]


# ---- making and joining ---------------------------------------------------------------------------

def test_two_workers_share(client, node, cid, name, topic):
    a = make(client, node, cid, name, topic + "/#", prefetch=4)
    b = client(node, cid("b"), props=[("receive_maximum", 4)])
    b.subscribe(f"$queue/{name}")
    client(node).publish_many([(f"{topic}/{i % 7}", str(i)) for i in range(8)])
    got = [a.receive(ack=False) for _ in range(4)] + [b.receive(ack=False) for _ in range(4)]
    assert sorted(int(p.payload) for p in got) == list(range(8))
    assert all(attempt(p) == 1 and not p.dup for p in got)
    assert a.silent() and b.silent()  # prefetch is the Receive Maximum


@pytest.mark.parametrize("version", [4, 5], ids=["v3", "v5"])
def test_puback_is_done(client, node, cid, name, topic, version):
    a = client(node, cid("a"), version=version)
    a.subscribe(f"$queue/{name}/{topic}")
    client(node).publish_many([(topic, str(i)) for i in range(20)])
    assert [int(p.payload) for p in a.receive_many(20)] == list(range(20))
    a.disconnect()
    b = client(node, cid("b"), version=version)
    b.subscribe(f"$queue/{name}")
    assert b.silent(0.5)


@pytest.mark.parametrize("filter_, words", [
    ("$queue/{name}", "makes one"), ("$queue/{name}/a/#/b", "#"), ("$queue/a+b/x", "+")])
def test_names_that_are_refused(client, node, cid, name, filter_, words):
    c = client(node, cid())
    answer = c.subscribe(filter_.format(name=name), check=False)
    assert answer.reasons[0] == 0x8F
    assert words in why(answer)


def test_another_filter_is_refused(client, node, cid, name, topic):
    make(client, node, cid, name, topic)
    c = client(node, cid("c"))
    answer = c.subscribe(f"$queue/{name}/{topic}/other", check=False)
    assert answer.reasons[0] == 0x8F
    assert topic in why(answer)
    assert c.subscribe(f"$queue/{name}/{topic}").reasons == [1]


def test_no_local_is_refused(client, node, cid, name, topic):
    c = client(node, cid())
    c.send(mqtt.subscribe(1, [(f"$queue/{name}/{topic}", 1 | 4)]))
    assert c.closed()[-1].reason == 0x82


@pytest.mark.parametrize("version", [4, 5], ids=["v3", "v5"])
def test_qos_0_is_refused(client, node, cid, name, topic, version):
    """What a worker does not acknowledge would be done when it is sent, and lost with the worker."""
    c = client(node, cid(), version=version)
    answer = c.subscribe((f"$queue/{name}/{topic}", 0), (topic, 0), check=False)
    assert answer.reasons == [0x83 if version == 5 else 0x80, 0]
    if version == 5:
        assert why(answer) == ("subscribe with QoS 1: a queue's events are done when they are"
                               " acknowledged")
    assert c.subscribe(f"$queue/{name}", check=False).reasons[0] >= 0x80  # none was made
    assert c.subscribe(f"$queue/{name}/{topic}").reasons == [1]


def test_what_was_published_at_qos_0_is_a_job_too(client, node, cid, name, topic):
    a = make(client, node, cid, name, topic, prefetch=1, **{"leat-ordered": "true"})
    client(node).publish_many([(topic, str(i)) for i in range(50)], qos=0)
    p = a.receive(ack=False)
    assert (p.payload, p.qos, attempt(p)) == (b"0", 1, 1)
    assert a.silent(0.3)  # ordered, and one at a time
    nack(a, p)
    again = a.receive(ack=False)
    assert (again.payload, again.qos, attempt(again)) == (b"0", 1, 2)
    a.sock.close()  # it is lost with the event in hand
    b = client(node, cid("b"))
    b.subscribe(f"$queue/{name}")
    assert [int(p.payload) for p in b.receive_many(50)] == list(range(50))


def test_token_does_not_allow_it(client, sql_node, cid, name, topic):
    make(client, sql_node, cid, name, topic)
    token = sql_node.signers["alpha"].token(acl=[
        {"permission": "allow", "action": "subscribe", "topic": "elsewhere/#"}])
    c = client(sql_node, cid("c"), token=token)
    for text in (f"$queue/{name}", f"$queue/{name}-2/{topic}"):
        answer = c.subscribe(text, check=False)
        assert answer.reasons[0] == 0x87
        assert "acl" in why(answer)


@pytest.mark.parametrize("key, value", [
    ("leat-max-attempts", "0"), ("leat-max-attempts", "many"), ("leat-ack-timeout", "1ms"),
    ("leat-ack-timeout", "30 s"), ("leat-backoff", "-1"), ("leat-backoff-max", "8000h"),
    ("leat-max-failed", "1000000"), ("leat-ordered", "yes"), ("leat-pin", "1"),
    ("leat-backoff", "2h"), ("leat-colour", "red")])
def test_policies_that_are_refused(client, node, cid, name, topic, key, value):
    answer = client(node, cid()).subscribe(f"$queue/{name}/{topic}", props=[("user", (key, value))],
                                           check=False)
    assert answer.reasons[0] >= 0x80
    assert key in why(answer)


@pytest.mark.parametrize("key, values", [
    ("leat-max-attempts", "34"), ("leat-ordered", ["true", "true"]), ("leat-start", ["new", "earliest"]),
    ("leat-until", ["now", "now"])])
def test_properties_given_twice_are_refused(client, node, cid, name, topic, key, values):
    answer = client(node, cid()).subscribe(f"$queue/{name}/{topic}", check=False,
                                           props=[("user", (key, v)) for v in values])
    assert answer.reasons == [0x83]
    assert why(answer) == f"{key} twice"


def test_what_is_said_of_a_queue_is_refused_elsewhere(client, node, cid, name, topic):
    answer = client(node, cid()).subscribe(topic, f"$share/{name}/{topic}", f"$queue/{name}/{topic}",
                                           props=[("user", ("leat-ordered", "true"))], check=False)
    assert answer.reasons == [0x83, 0x83, 1]
    assert "$queue/" in why(answer) and "leat-ordered" in why(answer)


# ---- failing --------------------------------------------------------------------------------------

def test_nack_comes_back_later(client, node, cid, name, topic):
    c = make(client, node, cid, name, topic)
    client(node).publish_many([(topic, "bad"), (topic, "good")])
    first, good = c.receive(ack=False), c.receive()
    assert good.payload == b"good"
    nack(c, first)
    began = time.monotonic()
    second = c.receive(ack=False)
    waited = time.monotonic() - began
    assert (second.payload, attempt(second), second.dup) == (b"bad", 2, False)
    assert 0.08 < waited < 2 * SLOW
    nack(c, second)
    third = c.receive()
    assert attempt(third) == 3
    assert c.silent(1)


def test_dead_letter_has_it_all(client, sql_node, cid, name, topic, sql):
    c = make(client, sql_node, cid, name, topic, **{"leat-max-attempts": 2})
    client(sql_node).publish(topic, "bad", props=[("user", ("colour", "red"))])
    nack(c, c.receive(ack=False), 0x83, "first")
    nack(c, c.receive(ack=False), 0x80, "ü" * 200)

    def rows():
        return sql("SELECT attempt, reason, history, data, topic FROM dead_letters"
                   " WHERE name = %s AND tenant = 'alpha'", name)
    wait_for(rows)
    attempts, reason, history, data, topic_ = rows()[0]
    assert (attempts, data, topic_) == (2, b"bad", topic)
    assert reason == "ü" * 127  # whole characters of 255 bytes
    history = json.loads(history)
    assert [(h["attempt"], h["reason"]) for h in history] == [(1, "first"), (2, "ü" * 127)]
    assert history[0]["at"] < history[1]["at"]
    assert waiting(sql, name) == 0


def test_dead_at_once(client, sql_node, cid, name, topic, sql):
    c = make(client, sql_node, cid, name, topic)
    client(sql_node).publish(topic, "bad")
    nack(c, c.receive(ack=False), 0x99, "cannot be parsed")
    wait_for(lambda: sql("SELECT 1 FROM dead_letters WHERE name = %s"
                         " AND reason = 'cannot be parsed'", name))
    assert c.silent(0.8)


def test_lost_is_not_failed(client, node, cid, name, topic):
    a = make(client, node, cid, name, topic)
    client(node).publish_many([(topic, str(i)) for i in range(5)])
    assert len([a.receive(ack=False) for _ in range(5)]) == 5
    b = client(node, cid("b"), props=[("receive_maximum", 1)])
    a.reset()
    b.subscribe(f"$queue/{name}")
    got = b.receive_many(5)
    assert [int(p.payload) for p in got] == list(range(5))
    assert {attempt(p) for p in got} == {1}


def test_ack_timeout(client, node, cid, name, topic):
    a = make(client, node, cid, name, topic, **{"leat-ack-timeout": "500ms"})
    client(node).publish(topic, "slow")
    a.receive(ack=False)
    b = client(node, cid("b"))
    b.subscribe(f"$queue/{name}")
    last = a.closed(timeout=5)[-1]
    assert last.reason == 0x83
    assert name in why(last) and "500" in why(last)
    again = b.receive(timeout=5)
    assert (again.payload, attempt(again)) == (b"slow", 2)


# ---- order ----------------------------------------------------------------------------------------

def test_a_failing_key_holds_back_itself_alone(client, node, cid, name, topic):
    c = make(client, node, cid, name, topic + "/+", **{"leat-ordered": "true"})
    events = [(f"{topic}/{key}", f"{key}{i}") for i in range(5) for key in "ab"]
    client(node).publish_many(events)
    got, refused = [], 0
    while len(got) < 10:
        p = c.receive(ack=False, timeout=5)
        if p.payload == b"a0" and refused < 2:
            refused += 1
            nack(c, p)
            continue
        c.send(mqtt.puback(p.packet_id))
        got.append(p.payload.decode())
    assert [x for x in got if x[0] == "a"] == [f"a{i}" for i in range(5)]
    assert [x for x in got if x[0] == "b"] == [f"b{i}" for i in range(5)]
    assert got.index("b4") < got.index("a0")


# ---- the cap --------------------------------------------------------------------------------------

def test_breaker_keeps_the_backlog(client, sql_node, cid, name, topic, sql):
    """A worker that refuses everything: the backlog stays in the journal, not in dead letters."""
    c = make(client, sql_node, cid, name, topic, prefetch=2,
             **{"leat-max-failed": 3, "leat-max-attempts": 100})
    client(sql_node).publish_many([(topic, str(i)) for i in range(50)])
    seen, until = 0, time.monotonic() + 2
    while time.monotonic() < until:
        try:
            nack(c, c.receive(ack=False, timeout=0.5))
            seen += 1
        except TimeoutError:
            pass
    assert 4 <= seen <= 25
    assert waiting(sql, name) <= 5
    assert not sql("SELECT 1 FROM dead_letters WHERE name = %s", name)
    done = set()
    while len(done) < 50:
        done.add(int(c.receive(timeout=10).payload))
    assert done == set(range(50))


# ---- restarts -------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["stop", "kill"])
def test_retries_outlive_their_owner(client, own_node, cid, name, topic, how):
    node = own_node()
    c = make(client, node, cid, name, topic, **{"leat-backoff": "1s", "leat-backoff-max": "1s"})
    client(node).publish_many([(topic, str(i)) for i in range(5)])
    for p in [c.receive(ack=False) for _ in range(5)]:
        nack(c, p)
    time.sleep(0.3)  # they are written down
    getattr(node, how)()
    node.start()
    c = client(node, cid("b"))
    c.subscribe(f"$queue/{name}")
    got = [c.receive(timeout=20) for _ in range(5)]
    assert sorted(int(p.payload) for p in got) == list(range(5))
    assert {attempt(p) for p in got} == {2}
    assert c.silent(0.5)


def test_a_deleted_queue_tells_its_consumers(client, sql_node, cid, name, topic, sql):
    c = make(client, sql_node, cid, name, topic)
    sql("CALL subscription_delete('alpha', 'queue', '', %s)", name)
    last = c.closed(timeout=10)[-1]
    assert last.reason == 0x98
    assert name in why(last)


# ---- several nodes --------------------------------------------------------------------------------

def test_workers_at_another_node(client, linked, cid, name, topic):
    """Nack, dead letter and ack time-out work where the queue is served elsewhere, and the filter is
    judged there too."""
    one, two = linked
    owner = make(client, one, cid, name, topic, prefetch=1,
                 **{"leat-ack-timeout": "700ms", "leat-max-attempts": 2})
    c = client(two, cid("two"))
    assert c.subscribe(f"$queue/{name}/other", check=False).reasons == [0x8F]
    client(one).publish(topic, "hold")
    owner.receive(ack=False)  # its only place is taken: all else goes to the other node
    c.subscribe(f"$queue/{name}")
    client(two).publish(topic, "bad")
    first = c.receive(ack=False)
    assert (first.payload, attempt(first)) == (b"bad", 1)
    nack(c, first, 0x80, "no")
    got = []
    for _ in range(2):  # each at once: held until the other comes, it would be this one that is cut off
        got.append(c.receive(ack=False, timeout=5))
        nack(c, got[-1], 0x83, "never")
    assert sorted((p.payload, attempt(p)) for p in got) == [(b"bad", 2), (b"hold", 2)]
    assert owner.closed(timeout=5)[-1].reason == 0x83
    from leat import stack
    db = stack.connect(one.dsn)
    with db.cursor() as q:
        def rows():
            db.rollback()
            q.execute("SELECT payload, attempt, reason FROM dead_letters ORDER BY payload")
            return q.fetchall()
        wait_for(lambda: len(rows()) == 2)
        assert [tuple(r) for r in rows()] == [("bad", 2, "never"), ("hold", 2, "never")]
    db.close()


def test_retries_follow_the_queue(client, linked, cid, name, topic):
    """The node that serves the queue is killed with retries waiting: the other one makes them."""
    one, two = linked
    a = make(client, one, cid, name, topic, **{"leat-backoff": "2s", "leat-backoff-max": "2s"})
    b = client(two, cid("b"))
    b.subscribe(f"$queue/{name}")
    client(two).publish_many([(topic, str(i)) for i in range(6)])
    for c in (a, b):
        for p in [c.receive(ack=False) for _ in range(3)]:
            nack(c, p)
    time.sleep(0.3)
    one.kill()
    got = [b.receive(timeout=30) for _ in range(6)]
    assert sorted(int(p.payload) for p in got) == list(range(6))
    assert {attempt(p) for p in got} == {2}
