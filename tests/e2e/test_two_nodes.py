"""Two nodes on one database: what one stores the other delivers; a session follows its client."""

import os
import time

import pytest

from leat.stack import Node, wait_for_acks

KEPT = {"clean": False, "props": [("session_expiry", 300)]}


@pytest.fixture
def pair(own_node, work):
    """Two nodes of one schema."""
    one = own_node()
    two = Node(os.path.join(work, f"{os.path.basename(one.dir)}-two"), one.dsn)
    two.dsn, two.tenants, two.signers = one.dsn, one.tenants, one.signers
    two.start()
    yield one, two
    two.end()


def test_events_cross(client, pair, topic):
    """Live on both nodes, published on both, at the same time: everybody gets everything, in the
    order of each topic."""
    subscribers = [client(n) for n in pair]
    for s in subscribers:
        s.subscribe(topic + "/#")
    publishers = [client(n) for n in pair]
    for round_ in range(5):
        for i, p in enumerate(publishers):
            p.publish_many([(f"{topic}/{i}", str(round_ * 100 + k)) for k in range(100)])
    for s in subscribers:
        got = s.receive_many(1000)
        for i in range(2):
            mine = [int(p.payload) for p in got if p.topic == f"{topic}/{i}"]
            assert mine == list(range(500))
        assert s.silent()


def test_event_crosses_soon(client, pair, topic):
    """No hint, no link: the look at the writer table is enough, within a few ticks."""
    s, p = client(pair[1]), client(pair[0])
    s.subscribe(topic)
    for i in range(5):
        start = time.monotonic()
        p.publish(topic, str(i))
        assert int(s.receive(timeout=5).payload) == i
        assert time.monotonic() - start < 5


def test_session_follows_its_client(client, pair, topic, cid):
    """A client connects elsewhere with its client id: the session is there at once, with what was
    not acknowledged; the old connection is told."""
    old = client(pair[0], cid(), **KEPT)
    old.subscribe(topic)
    pub = client(pair[0])
    pub.publish_many([(topic, str(i)) for i in range(10)])
    assert [int(p.payload) for p in old.receive_many(10)] == list(range(10))
    wait_for_acks(pair[0].dsn, cid())
    new = client(pair[1], cid(), **KEPT)
    assert new.connack.present
    pub.publish_many([(topic, str(i)) for i in range(10, 20)])
    assert [int(p.payload) for p in new.receive_many(10)] == list(range(10, 20))
    assert old.closed(timeout=10)[-1].reason == 0x8E


def test_there_and_back(client, pair, topic, cid):
    """A client goes to the other node and comes back before the first heard of it: what it settled
    there is not sent again, and its connection is not ended for it."""
    c = client(pair[0], cid(), **KEPT)
    c.subscribe(topic)
    pub = client(pair[0])
    pub.publish_many([(topic, str(i)) for i in range(10)])
    assert len(c.receive_many(10, ack=False)) == 10
    c.close()
    there = client(pair[1], cid(), **KEPT)
    assert [int(p.payload) for p in there.receive_many(10)] == list(range(10))
    time.sleep(0.05)  # the cursor is committed
    there.close()
    back = client(pair[0], cid(), **KEPT)
    assert back.connack.present
    pub.publish(topic, "10")
    assert [int(p.payload) for p in back.receive_many(1)] == [10]
    assert back.silent(1.5)  # a renewal later, too
    pub.publish(topic, "11")
    assert int(back.receive(timeout=5).payload) == 11


def test_offline_session_on_another_node(client, pair, topic, cid):
    c = client(pair[0], cid(), **KEPT)
    c.subscribe(topic)
    c.disconnect()
    client(pair[0]).publish_many([(topic, str(i)) for i in range(200)])
    again = client(pair[1], cid(), **KEPT)
    assert again.connack.present
    assert [int(p.payload) for p in again.receive_many(200)] == list(range(200))


def test_node_dies_its_clients_go_on_at_the_other(client, pair, topic, cid):
    """kill -9: nothing acknowledged is lost, though the dead node's session is still counted live."""
    c = client(pair[0], cid(), **KEPT)
    c.subscribe(topic)
    client(pair[0]).publish_many([(topic, str(i)) for i in range(50)])
    pair[0].kill()
    again = client(pair[1], cid(), **KEPT)
    assert again.connack.present
    assert sorted({int(p.payload) for p in again.receive_many(50)}) == list(range(50))
    client(pair[1]).publish(topic, "50")
    assert int(again.receive(timeout=5).payload) == 50
