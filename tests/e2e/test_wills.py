"""Wills: published when a client is lost, once, also when its node dies; not when it takes its leave, and not
when it is back in time."""

import time

import pytest

from leat.stack import Node

def kept(delay=0, expiry=300):
    return {"clean": False, "props": [("session_expiry", expiry)], "will_props": [("will_delay", delay)]}


def test_lost_client(client, node, topic, cid):
    s = client(node)
    s.subscribe(topic)
    client(node, cid(), will=(topic, b"lost \x00\xff", 1, False)).reset()
    assert s.receive(timeout=5).payload == b"lost \x00\xff"
    client(node, cid("old"), version=4, will=(topic, b"3.1.1", 0, False)).reset()
    assert s.receive(timeout=5).payload == b"3.1.1"
    assert s.silent()


def test_leave_taken(client, node, topic, cid):
    s = client(node)
    s.subscribe(topic)
    client(node, cid(), will=(topic, b"never", 1, False)).disconnect()
    client(node, cid("old"), version=4, will=(topic, b"never", 1, False)).disconnect()
    assert s.silent(2)
    client(node, cid(), will=(topic, b"with", 1, False)).disconnect(reason=4)
    assert s.receive(timeout=5).payload == b"with"
    assert s.silent()


def test_keep_alive_and_protocol_error(client, node, topic, cid):
    s = client(node)
    s.subscribe(topic)
    silent = client(node, cid("silent"), keep_alive=1, will=(topic, b"silent", 1, False))
    bad = client(node, cid("bad"), will=(topic, b"bad", 1, False))
    bad.send(b"\xf0\xff\xff\xff\xff")
    assert s.receive(timeout=5).payload == b"bad"
    assert s.receive(timeout=5).payload == b"silent"
    silent.close()


def test_taken_over(client, node, topic, cid):
    """A new connection of the client id: the old one's will, unless its session goes on and it has a delay."""
    s = client(node)
    s.subscribe(topic)
    client(node, cid(), will=(topic, b"1", 1, False))
    client(node, cid(), will=(topic, b"2", 1, False), **kept(delay=300))
    assert s.receive(timeout=5).payload == b"1"
    client(node, cid(), will=(topic, b"3", 1, False), **kept())
    assert s.silent(1.5)
    client(node, cid(), clean=False, props=[("session_expiry", 300)])
    assert s.receive(timeout=5).payload == b"3"
    assert s.silent(1.5)


def test_delay(client, node, topic, cid):
    s = client(node)
    s.subscribe(topic)
    start = time.monotonic()
    client(node, cid("a"), will=(topic, b"a", 1, False), **kept(2)).reset()
    client(node, cid("b"), will=(topic, b"b", 1, False), **kept(2)).reset()
    client(node, cid("c"), will=(topic, b"c", 1, False), **kept(300, expiry=1)).reset()
    time.sleep(0.5)
    back = client(node, cid("b"), clean=False, props=[("session_expiry", 300)])
    assert s.receive(timeout=5).payload == b"c"  # its session is over
    assert s.receive(timeout=5).payload == b"a"
    assert 1.9 <= time.monotonic() - start < 5
    assert s.silent(1)
    back.close()


def test_refused(node, topic, cid):
    for will, code in (((topic, b"x", 2, False), 0x9B), ((topic, b"x", 1, True), 0x9A), (("a/#", b"x", 1, False), 0x90)):
        with pytest.raises(Exception) as e:
            node.connect(cid(), will=will)
        assert f"{code:02x}" in str(e.value).lower()


def test_acl_is_asked_at_connect(sql_node, topic, cid):
    token = sql_node.signers["alpha"].token(publish=["other"])
    with pytest.raises(Exception) as e:
        sql_node.connect(cid(), token=token, will=(topic, b"x", 1, False))
    assert "87" in str(e.value)


def test_properties(client, node, topic, cid):
    s = client(node)
    s.subscribe(topic)
    client(node, cid(), will=(topic, b"{}", 1, False),
           will_props=[("content_type", "application/json"), ("user", ("k", "v"))]).reset()
    got = s.receive(timeout=5)
    assert (got.prop("content_type"), got.prop("user")) == ("application/json", ("k", "v"))


def test_node_dies(client, own_node, topic, cid):
    """kill -9 of the node: its clients are lost with it, and another publishes their wills, once."""
    one = own_node(extra=["--ttl", "3s"])
    two = Node(one.dir + "-two", one.dsn, extra=["--ttl", "3s"])
    two.dsn, two.tenants, two.signers = one.dsn, one.tenants, one.signers
    two.start()
    try:
        s = client(two)
        s.subscribe(topic)
        for i in range(20):
            client(one, cid(str(i)), will=(topic, str(i).encode(), 1, False))
        client(one, cid("left"), will=(topic, b"never", 1, False)).disconnect()
        client(two, cid("here"), will=(topic, b"never", 1, False))
        one.kill()
        assert sorted(int(m.payload) for m in s.receive_many(20, timeout=20)) == list(range(20))
        assert s.silent(3)
    finally:
        two.stop()
