"""Slow consumers are bounded and alone with it; start positions."""

import time

import pytest

from leat import mqtt, stack
from leat.stack import wait_for

KEPT = {"clean": False, "props": [("session_expiry", 300)]}


def test_slow_consumer(client, sql_node, topic, cid):
    """A subscriber that stops reading: the node's memory stays bounded, another gets everything
    promptly, and the slow one gets all of it in the end."""
    slow = client(sql_node, cid(), **KEPT)
    slow.subscribe(topic)
    quick, pub = client(sql_node), client(sql_node)
    quick.subscribe(topic)
    before = sql_node.rss_kb()
    n, size = 1500, 40_000  # 60 MB through a client that reads nothing
    done = 0
    for start in range(0, n, 25):
        pub.publish_many([(topic, b"%6d" % i + b"." * size) for i in range(start, start + 25)], window=25)
        for p in quick.receive_many(25):
            assert int(p.payload[:6]) == done
            done += 1
    grown = sql_node.rss_kb() - before
    assert grown < 160_000 * stack.SLOW, f"{grown} KB"
    for i in range(n):
        assert int(slow.receive(timeout=20).payload[:6]) == i
    assert slow.silent()


def test_slow_ephemeral_consumer(client, node, topic):
    """Without a session nothing keeps its place for it but memory, which is bounded: it lags or is
    cut, and the publisher and others do not notice."""
    slow, quick, pub = client(node), client(node), client(node)
    for c in (slow, quick):
        c.subscribe((topic, 0))
    before = node.rss_kb()
    for start in range(0, 1000, 25):
        pub.publish_many([(topic, b"." * 40_000)] * 25, window=25)
        quick.receive_many(25)
    assert node.rss_kb() - before < 400_000


def test_who_pings_and_never_reads_is_cut(client, node, topic):
    """It once stayed as long as its token was good: what it sent waited unread, because its answers
    did, and that counted as heard."""
    deaf, pub = client(node, keep_alive=1), client(node)
    deaf.subscribe((topic, 0))
    pub.publish_many([(topic, b"." * 500_000)] * 40, window=25)
    deaf.sock.settimeout(1)
    end = time.monotonic() + 10 * stack.SLOW
    with pytest.raises(OSError):
        while time.monotonic() < end:
            deaf.sock.sendall(mqtt.packet(mqtt.PINGREQ, 0, b""))
            time.sleep(0.1)


def test_slow_publisher_reading_no_pubacks(client, node, topic):
    """A publisher that never reads its PUBACKs is held or cut; others are served."""
    bad, good = client(node), client(node)
    bad.sock.settimeout(1)
    data = b"".join(mqtt.publish(topic, b"x" * 50, 1, i % 1000 + 1) for i in range(1000))
    try:
        for _ in range(30):
            bad.sock.sendall(data)
    except OSError:
        pass
    good.publish(topic + "/good", b"y")


def test_many_offline_sessions_catch_up(client, sql_node, topic, cid):
    """One shared scan: 20 devices come back to the same backlog."""
    names = [cid(str(i)) for i in range(20)]
    for name in names:
        c = client(sql_node, name, **KEPT)
        c.subscribe(topic)
        c.disconnect()
    client(sql_node).publish_many((topic, str(i)) for i in range(500))
    for c in [client(sql_node, name, **KEPT) for name in names]:
        assert [int(p.payload) for p in c.receive_many(500)] == list(range(500))
        c.disconnect(props=[("session_expiry", 0)])


# ---- start positions ------------------------------------------------------------------------------

def start_at(client, node, cid, filter_, where, check=True):
    c = client(node, cid, **KEPT)
    ack = c.subscribe(filter_, props=[("user", ("leat-start", where))], check=check)
    return c if check else ack


def seqs(sql, topic):
    return [r[0] for r in sql("SELECT seq FROM event WHERE topic=%s ORDER BY seq", topic)]


@pytest.fixture
def five(client, node, topic):
    client(node).publish_many((topic, str(i)) for i in range(5))


def test_new_is_the_default(client, node, topic, cid, five):
    c = client(node, cid(), **KEPT)
    c.subscribe(topic)
    d = start_at(client, node, cid("d"), topic, "new")
    c.publish(topic, b"after")
    assert c.receive().payload == d.receive().payload == b"after"


def test_earliest(client, node, topic, cid, five):
    c = start_at(client, node, cid(), topic, "earliest")
    c.publish(topic, b"after")
    assert [p.payload for p in c.receive_many(6)] == [b"0", b"1", b"2", b"3", b"4", b"after"]


def test_seq(client, sql_node, topic, cid, sql):
    client(sql_node).publish_many((topic, str(i)) for i in range(5))
    c = start_at(client, sql_node, cid(), topic, f"seq:{seqs(sql, topic)[2]}")
    assert [p.payload for p in c.receive_many(3)] == [b"2", b"3", b"4"]


def test_seq_ahead_waits_for_it(client, sql_node, topic, cid, sql):
    pub = client(sql_node)
    pub.publish(topic, b"0")
    c = start_at(client, sql_node, cid(), topic, f"seq:{seqs(sql, topic)[0] + 3}")
    for i in range(1, 6):
        pub.publish(topic, str(i))
    assert c.receive().payload in (b"1", b"3"), "the number, or what came after the SUBSCRIBE"


def test_time(client, node, topic, cid):
    pub = client(node)
    pub.publish(topic, b"old")
    time.sleep(1.2)
    at = time.time()
    time.sleep(0.3)
    pub.publish(topic, b"young")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03}Z"
    c = start_at(client, node, cid(), topic, f"time:{stamp}")
    assert c.receive().payload == b"young"
    assert c.silent()


@pytest.mark.parametrize("where", ["", "first", "seq:", "seq:-1", "seq:x", "time:", "time:yesterday",
                                   "time:2026-01-01", "time:2026-13-01T00:00:00Z", "EARLIEST"])
def test_bad_start(client, memory_node, topic, cid, where):
    ack = start_at(client, memory_node, cid(), topic, where, check=False)
    assert ack.reasons[0] >= 0x80 and ack.prop("reason_string")


def test_start_counts_only_once(client, node, topic, cid, five):
    """Resubscribing an existing session does not rewind it."""
    c = start_at(client, node, cid(), topic, "earliest")
    c.receive_many(5)
    c.subscribe(topic, props=[("user", ("leat-start", "earliest"))])
    assert c.silent()


def test_shared_start(client, sql_node, topic, cid):
    client(sql_node).publish_many((topic, str(i)) for i in range(5))
    a = start_at(client, sql_node, cid("a"), f"$share/g/{topic}", "earliest")
    assert [int(a.receive().payload) for _ in range(5)] == list(range(5))
    b = start_at(client, sql_node, cid("b"), f"$share/g/{topic}", "earliest")
    assert a.silent() and b.silent(), "the position is the share's, and it is there already"


def test_ephemeral_earliest(client, node, topic, five):
    c = client(node)
    c.subscribe(topic, props=[("user", ("leat-start", "earliest"))])
    assert len(c.receive_many(5)) == 5


def test_large_backlog(client, sql_node, topic, cid):
    """Catching up with more than the caches hold, while new events come in: in order, without a gap."""
    pub = client(sql_node)
    pub.publish_many(((topic, b"%6d" % i + b"." * 2000) for i in range(4000)), window=200)
    c = start_at(client, sql_node, cid(), topic, "earliest")
    got = 0
    for i in range(4000, 4400):
        pub.publish(topic, b"%6d" % i, qos=0)
    while got < 4400:
        p = c.receive(timeout=20)
        assert int(p.payload[:6]) == got
        got += 1
    wait_for(lambda: c.silent(), 2)
