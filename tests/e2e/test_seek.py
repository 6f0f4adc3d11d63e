"""`leat subscription`: a durable subscription is listed, moved to another position while it is in use or
not, and deleted."""

import re
import time

import pytest

from leat import mqtt, stack
from leat.stack import wait_for

NOTICED_S = (stack.TTL / 6 + 0.5) * stack.SLOW  # a node that has it in memory looks with its next renewal
KEPT = {"clean": False, "props": [("session_expiry", 300)]}


@pytest.fixture
def subscription(sql_node):
    def run(verb, *args, check=True):
        return stack.leat("subscription", verb, "--tenant", "alpha", *args, "--db", sql_node.dsn,
                          check=check)
    return run


def numbers(packets):
    return [int(p.payload) for p in packets]


def publish(client, node, topic, numbers_):
    client(node).publish_many([(topic, str(i)) for i in numbers_])


def subject_of(sql, client_id):
    return sql("SELECT CONVERT(subject USING utf8mb4) FROM subscription WHERE name = %s", client_id)[0][0]


def first_number(sql, topic):
    """The sequence number of the topic's first event in alpha's journal."""
    return sql("SELECT MIN(seq) FROM event WHERE tenant = 'alpha' AND topic = %s", topic)[0][0]


def test_share_in_use_gets_the_replay(client, sql_node, sql, topic, subscription):
    s = client(sql_node)
    share = f"$share/{topic.replace('/', '-')}/{topic}"
    s.subscribe(share)
    publish(client, sql_node, topic, range(20))
    assert numbers(s.receive_many(20)) == list(range(20))
    name = share.removeprefix("$share/")
    subscription("seek", "--kind", "share", "--name", name, "--to",
                 str(first_number(sql, topic) + 5))
    assert sorted(numbers(s.receive_many(15, timeout=10))) == list(range(5, 20))
    publish(client, sql_node, topic, [20])
    assert numbers([s.receive()]) == [20]
    assert s.silent()


def test_back_and_forth_by_time(client, sql_node, topic, cid, subscription, sql):
    """A session's client is disconnected, and finds the new position when it is back."""
    c = client(sql_node, cid(), **KEPT)
    c.subscribe(topic)
    publish(client, sql_node, topic, range(10))
    assert len(c.receive_many(10)) == 10
    time.sleep(1.1)
    middle = sql("SELECT DATE_FORMAT(UTC_TIMESTAMP(3), '%%Y-%%m-%%dT%%H:%%i:%%s.%%fZ')")[0][0]
    publish(client, sql_node, topic, range(10, 20))
    assert len(c.receive_many(10)) == 10
    at = ["--kind", "session", "--subject", subject_of(sql, cid()), "--name", cid()]
    subscription("seek", *at, "--to", middle)
    assert "an admin changed it" in c.closed(timeout=10)[-1].prop("reason_string")
    c = client(sql_node, cid(), **KEPT)
    assert c.connack.present
    assert numbers(c.receive_many(10)) == list(range(10, 20))
    c.disconnect()
    subscription("seek", *at, "--to", "earliest")
    time.sleep(NOTICED_S)
    c = client(sql_node, cid(), **KEPT)
    assert numbers(c.receive_many(20)) == list(range(20))
    c.disconnect()
    publish(client, sql_node, topic, range(20, 30))
    subscription("seek", *at, "--to", "head")
    time.sleep(NOTICED_S)
    c = client(sql_node, cid(), **KEPT)
    assert c.connack.present and c.silent()
    publish(client, sql_node, topic, [30])
    assert numbers([c.receive()]) == [30]


def test_queue_in_use(client, sql_node, sql, topic, subscription):
    """What its consumers hold is worth nothing after a seek, and comes again with the rest; what waits to
    be tried again does so, once."""
    name = topic.replace("/", "-")
    c = client(sql_node, props=[("receive_maximum", 20)])
    c.subscribe(f"$queue/{name}/{topic}", props=[("user", ("leat-backoff", "1500ms"))])
    publish(client, sql_node, topic, range(6))
    first = c.receive_many(6, ack=False)
    assert numbers(first) == list(range(6))
    for p in first[:4]:
        c.send(mqtt.puback(p.packet_id, 0x80 if p.payload == b"1" else 0))
    wait_for(lambda: sql("SELECT COUNT(*) FROM timer t JOIN subscription s USING (subscription_id)"
                         " WHERE s.name = %s", name)[0][0] == 1)
    subscription("seek", "--kind", "queue", "--name", name, "--to",
                 str(first_number(sql, topic) + 2))
    again = c.receive_many(5, timeout=10)  # on a slow machine the failed one is not the last
    assert sorted(numbers(again)) == [1, 2, 3, 4, 5]
    failed = next(p for p in again if p.payload == b"1")
    assert dict(failed.all("user"))["leat-attempt"] == "2"
    for p in first[4:]:
        c.send(mqtt.puback(p.packet_id, 0x80))  # of what is over: nobody's attempt
    publish(client, sql_node, topic, [6])
    assert numbers([c.receive()]) == [6]
    assert c.silent(2)


def test_list_and_delete(client, sql_node, topic, cid, subscription, sql):
    c = client(sql_node, cid(), **KEPT)
    c.subscribe(topic)
    line = next(l for l in subscription("list").stdout.splitlines() if l.endswith(cid()))
    assert re.match(r"session +active +\d+ +\S+ +\S+ ", line)
    subscription("delete", "--kind", "session", "--subject", subject_of(sql, cid()), "--name", cid())
    assert c.closed(timeout=10)
    assert cid() not in subscription("list").stdout
    c = client(sql_node, cid(), **KEPT)
    assert not c.connack.present


def test_what_is_refused(subscription, topic):
    for args, why in [
        (("seek", "--kind", "queue", "--name", "none", "--to", "head"), "has no queue 'none'"),
        (("seek", "--kind", "share", "--name", "a/b", "--to", "tomorrow"), "not 'tomorrow'"),
        (("seek", "--kind", "topic", "--name", "a", "--to", "head"), "session|share|queue"),
        (("delete", "--kind", "session", "--subject", "s", "--name", "x"), "of this subject"),
        (("seek", "--kind", "queue", "--name", "a"), "--to"),
    ]:
        done = subscription(*args, check=False)
        assert done.returncode in (1, 2) and why in done.stderr, done.stderr
    done = stack.leat("subscription", "list", "--tenant", "gamma", "--db", "mysql://nobody@127.0.0.1:1/x",
                      check=False)
    assert done.returncode == 1


# ---- leat-until: a new subscription that ends ----------------------------------------------------

def stretch(start, until):
    return [("user", ("leat-start", start)), ("user", ("leat-until", until))]


def test_bounded_replay(client, sql_node, sql, topic, cid):
    """Plain and shared, in memory and stored: from a number to a number, and to now."""
    publish(client, sql_node, topic, range(20))
    base = first_number(sql, topic)
    clean, kept, share = client(sql_node), client(sql_node, cid(), **KEPT), client(sql_node)
    name = f"$share/{topic.replace('/', '-')}/{topic}"
    clean.subscribe(topic, props=stretch(f"seq:{base + 3}", f"seq:{base + 9}"))
    kept.subscribe(topic, props=stretch(f"seq:{base}", "now"))
    share.subscribe(name, props=stretch(f"seq:{base + 15}", "now"))
    publish(client, sql_node, topic, range(20, 30))
    assert numbers(clean.receive_many(7)) == list(range(3, 10))
    assert numbers(kept.receive_many(20)) == list(range(20))
    assert sorted(numbers(share.receive_many(5))) == list(range(15, 20))
    for c in clean, kept, share:
        assert c.silent()
    kept.disconnect()
    publish(client, sql_node, topic, [30])
    kept = client(sql_node, cid(), **KEPT)  # it ends where it ended, also after a while
    assert kept.connack.present and kept.silent()
    second = client(sql_node)
    second.subscribe(name)  # so does the share for who joins it
    publish(client, sql_node, topic, [31])
    assert second.silent()
    stored = sql("SELECT filters FROM subscription WHERE name = %s", name.removeprefix("$share/"))
    assert f'"until":[{base + 20}]' in stored[0][0]


def test_bounded_by_time(client, sql_node, sql, topic):
    publish(client, sql_node, topic, range(5))
    time.sleep(1.1)
    middle = sql("SELECT DATE_FORMAT(UTC_TIMESTAMP(3), '%%Y-%%m-%%dT%%H:%%i:%%s.%%fZ')")[0][0]
    publish(client, sql_node, topic, range(5, 10))
    c = client(sql_node)
    c.subscribe(topic, props=stretch("earliest", f"time:{middle}"))
    assert numbers(c.receive_many(5)) == list(range(5))
    assert c.silent()


def test_bounded_queue(client, sql_node, sql, topic):
    publish(client, sql_node, topic, range(10))
    base = first_number(sql, topic)
    name = topic.replace("/", "-")
    worker = client(sql_node)
    worker.subscribe(f"$queue/{name}/{topic}", props=stretch(f"seq:{base + 2}", f"seq:{base + 4}"))
    publish(client, sql_node, topic, [10])
    assert sorted(numbers(worker.receive_many(3))) == [2, 3, 4]
    assert worker.silent()
    assert "until" in sql("SELECT filters FROM subscription WHERE name = %s", name)[0][0]


def test_until_that_is_not_understood(client, sql_node, topic):
    for text in "later", "time:2999-01-01T00:00:00Z", "seq:0":
        ack = client(sql_node).subscribe(topic, props=stretch("earliest", text), check=False)
        assert ack.reasons == [0x83] and "leat-until" in ack.prop("reason_string")


def test_a_stretch_without_events(client, sql_node, sql, topic):
    """It would be granted, and deliver nothing for ever."""
    publish(client, sql_node, topic, range(3))
    base, c = first_number(sql, topic), client(sql_node)
    for start, until in ("new", "now"), (f"seq:{base + 2}", f"seq:{base + 1}"), ("time:2999-01-01T00:00:00Z", "now"):
        ack = c.subscribe(topic, props=stretch(start, until), check=False)
        assert ack.reasons == [0x83] and "leat-start" in ack.prop("reason_string")
    c.subscribe(topic, props=stretch(f"seq:{base + 2}", f"seq:{base + 2}"))
    assert numbers(c.receive_many(1)) == [2]


def test_sub_until(sql_node, client, topic, sql, work):
    """`leat sub --start … --until now`"""
    publish(client, sql_node, topic, range(5))
    base = first_number(sql, topic)
    token = f"{work}/until-token"
    with open(token, "w") as f:
        f.write(sql_node.signers["alpha"].token())
    done = stack.leat("sub", "--url", sql_node.url, "--ca", sql_node.ca, "--token", token, "-t", topic,
                      "--start", f"seq:{base}", "--until", f"seq:{base + 2}", "--count", "3")
    assert done.stdout.split() == ["0", "1", "2"]
