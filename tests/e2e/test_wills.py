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


def test_disconnect_ends_the_session(client, node, topic, cid):
    """A DISCONNECT that shortens the session's expiry shortens the wait (MQTT 5, 3.1.3.2.2): the will is
    published when its delay is over or the session, whichever is first."""
    s = client(node)
    s.subscribe(topic)
    start = time.monotonic()
    for name, expiry in ("now", 0), ("soon", 2), ("longer", 600):
        client(node, cid(name), will=(topic, name.encode(), 1, False), **kept(300, expiry=300 if expiry < 300 else 1)
               ).disconnect(reason=4, props=[("session_expiry", expiry)])
    assert s.receive(timeout=5).payload == b"now"
    assert time.monotonic() - start < 1.9
    # Whoever comes back at once finds its session over, and takes nothing away.
    client(node, cid("now"), clean=False, props=[("session_expiry", 300)])
    assert s.receive(timeout=5).payload == b"soon"
    assert time.monotonic() - start >= 1.9
    assert s.silent(1)  # the session lives, and its delay is 300 s again


@pytest.mark.parametrize("expiry", [0, 300])
def test_a_clean_start_ends_the_delay(client, node, topic, cid, expiry):
    """The session is over, and with it the wait; whether the client is still connected or was lost before."""
    s = client(node)
    s.subscribe(topic)
    client(node, cid("lost"), will=(topic, b"lost", 1, False), **kept(300)).reset()
    client(node, cid("here"), will=(topic, b"here", 1, False), **kept(300))
    assert s.silent(0.5)
    for name in "lost", "here":
        client(node, cid(name), clean=True, props=[("session_expiry", expiry)])
        assert s.receive(timeout=5).payload == name.encode()
    assert s.silent(1)


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


def test_attributes_and_expiry(client, sql_node, sql, topic, cid):
    """As an ordinary publish's; the expiry begins when it is published."""
    user = [("specversion", "1.0"), ("id", "w-1"), ("type", "gone"), ("source", "/dev/7"), ("leat-key", "k7")]
    props = [("will_delay", 2), ("message_expiry", 60), *(("user", u) for u in user)]
    client(sql_node, cid(), will=(topic, b"x", 1, False), clean=False, props=[("session_expiry", 300)],
           will_props=props).reset()
    s = client(sql_node)
    s.subscribe(topic)
    got = s.receive(timeout=5)
    assert got.payload == b"x" and 58 <= got.prop("message_expiry") <= 60
    assert got.all("user") == user
    row, = sql("SELECT id, type, source, event_key, TIMESTAMPDIFF(SECOND, appended_at, expires_at) FROM event"
               " WHERE topic=%s AND id='w-1'", topic)
    assert row[:4] == ("w-1", "gone", "/dev/7", "k7") and row[4] in (59, 60)
    assert s.silent(0.5)


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
        client(one, cid("moved"), will=(topic, b"20", 1, False), **kept(300))
        client(two, cid("moved"), clean=True)  # [MQTT-3.1.3-9]: the session ends, so nobody waits
        assert s.receive(timeout=5).payload == b"20"
        one.kill()
        assert sorted(int(m.payload) for m in s.receive_many(20, timeout=20)) == list(range(20))
        assert s.silent(3)
    finally:
        two.stop()
