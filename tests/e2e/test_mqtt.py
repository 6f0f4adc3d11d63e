"""MQTT 5 and 3.1.1 at packet level, on both backends: what is promised to clients, one test each."""

import os
import struct
import time

import pytest

from leat import mqtt
from leat.stack import SLOW, wait_for

VERSIONS = pytest.mark.parametrize("version", [4, 5], ids=["v3", "v5"])
KEPT = [("session_expiry", 300)]


def durable(client, node, cid, version=5, **kw):
    """A connected client whose session outlives its connection."""
    if version == 4:
        return client(node, cid, version=4, clean=False, **kw)
    props = list(kw.pop("props", [])) + KEPT
    return client(node, cid, clean=kw.pop("clean", False), props=props, **kw)


# ---- publish and subscribe ------------------------------------------------------------------------

@VERSIONS
@pytest.mark.parametrize("sub_qos,pub_qos", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_qos(client, node, topic, cid, version, sub_qos, pub_qos):
    sub, pub = client(node, cid("s"), version=version), client(node, cid("p"), version=version)
    assert sub.subscribe(topic, qos=sub_qos).reasons == [sub_qos]
    pub.publish(topic, b"hello", qos=pub_qos)
    got = sub.receive()
    assert (got.topic, got.payload, got.qos) == (topic, b"hello", min(sub_qos, pub_qos))
    assert not got.dup and not got.retain
    assert (got.packet_id is None) == (got.qos == 0)
    assert sub.silent()


@VERSIONS
def test_qos_2_is_granted_as_1(client, node, topic, version):
    c = client(node, version=version)
    assert c.subscribe((topic, 2)).reasons == [1]


def test_publish_qos_2_is_refused(client, node, topic):
    c = client(node)
    assert c.connack.prop("maximum_qos") == 1
    c.send(mqtt.publish(topic, b"x", 2, 1))
    assert c.closed()[-1].reason == 0x9B


@pytest.mark.parametrize("filter_,yes,no", [
    ("{t}/+", ["{t}/a", "{t}/b", "{t}/"], ["{t}", "{t}/a/b"]),
    ("{t}/#", ["{t}", "{t}/a", "{t}/a/b/c"], ["{t}x"]),
    ("{t}/+/c", ["{t}/a/c", "{t}//c"], ["{t}/a", "{t}/a/d", "{t}/a/c/d"]),
    ("{t}/+/#", ["{t}/a", "{t}/a/b"], ["{t}"]),
    ("{t}/é/日本", ["{t}/é/日本"], ["{t}/e/日本"]),
])
def test_wildcards(client, node, topic, filter_, yes, no):
    c = client(node)
    c.subscribe(filter_.format(t=topic))
    for name in no + yes:
        c.publish(name.format(t=topic), name)
    assert [c.receive().topic for _ in yes] == [n.format(t=topic) for n in yes]
    assert c.silent()


def test_wildcards_do_not_match_dollar_topics(client, node, topic):
    c = client(node)
    c.subscribe("#", "+/" + topic)
    assert c.publish("$own/" + topic, b"1", check=False).reason == 0x90
    c.publish(topic, b"2")
    assert c.receive().payload == b"2"


@pytest.mark.parametrize("filter_", ["a/#/b", "a#", "a/b+", "", "$share//a", "$share/a", "$share/a/",
                                     "$share/a+b/c", "$share/#/c"])
def test_bad_filters(client, node, filter_):
    c = client(node)
    c.send(mqtt.subscribe(7, [(filter_, 1)]))
    p = c.read()
    # An empty filter and a broken $share break the packet's rules, the others only the filter's.
    assert (p.kind, p.reasons) == (mqtt.SUBACK, [0x8F]) or (p.kind == mqtt.DISCONNECT and
                                                            p.reason in (0x81, 0x82, 0x8F)), str(p)


def test_mixed_subscribe_answers_each_filter(client, node, topic):
    c = client(node)
    c.send(mqtt.subscribe(9, [(topic, 0), ("a/#/b", 1), (topic + "/x", 1)]))
    assert c.expect(mqtt.SUBACK).reasons == [0, 0x8F, 1]


@VERSIONS
def test_unsubscribe(client, node, topic, version):
    c = client(node, version=version)
    c.subscribe(topic, topic + "/b")
    ack = c.unsubscribe(topic, topic + "/none")
    assert ack.reasons == ([0x00, 0x11] if version == 5 else [])
    c.publish(topic, b"1")
    c.publish(topic + "/b", b"2")
    assert c.receive().payload == b"2"
    assert c.silent()


def test_overlapping_subscriptions_deliver_once(client, node, topic):
    """[MQTT-3.3.4-2]: one or several copies are allowed; Leat sends one, at the highest QoS."""
    c = client(node)
    c.subscribe((topic, 0), (topic + "/#", 1))
    c.publish(topic, b"1")
    assert c.receive().qos == 1
    assert c.silent()


def test_replaced_subscription(client, node, topic):
    c = client(node)
    c.subscribe((topic, 1))
    assert c.subscribe((topic, 0)).reasons == [0]
    c.publish(topic, b"1")
    assert c.receive().qos == 0
    assert c.silent()


PROPERTIES = [
    ("payload_format", 1), ("content_type", "text/plain; charset=utf-8"),
    ("response_topic", "answers/1"), ("correlation_data", bytes(range(256))),
    ("user", ("b", "2")), ("user", ("a", "1")), ("user", ("b", "2")), ("user", ("", "empty key")),
    ("user", ("ключ", "значение")),
]


@pytest.mark.parametrize("qos", [0, 1])
def test_properties_are_carried_unchanged(client, node, topic, qos):
    c = client(node)
    c.subscribe(topic)
    c.publish(topic, "payload", qos=qos, props=PROPERTIES)
    got = c.receive()
    # Only user properties have an order among themselves; the others occur once.
    assert sorted(got.props[:4]) == sorted(PROPERTIES[:4]) or sorted(map(str, got.props)) == sorted(
        map(str, PROPERTIES))
    assert got.all("user") == [v for n, v in PROPERTIES if n == "user"]
    for name in ("payload_format", "content_type", "response_topic", "correlation_data"):
        assert got.prop(name) == dict(PROPERTIES[:4])[name]


def test_properties_do_not_reach_v3(client, node, topic):
    sub, pub = client(node, version=4), client(node)
    sub.subscribe(topic)
    pub.publish(topic, "payload", props=PROPERTIES)
    assert sub.receive().payload == b"payload"


def test_subscription_identifiers(client, node, topic):
    c = client(node)
    c.subscribe(topic, props=[("subscription_id", 7)])
    c.subscribe(topic + "/#", props=[("subscription_id", 268435455)])
    c.subscribe(topic + "/+")
    c.publish(topic, b"both")
    assert sorted(c.receive().all("subscription_id")) == [7, 268435455]
    c.publish(topic + "/x", b"one")
    assert c.receive().all("subscription_id") == [268435455]
    c.unsubscribe(topic + "/#")
    c.publish(topic + "/x", b"none")
    assert c.receive().all("subscription_id") == []


def test_subscription_identifier_zero_is_an_error(client, node, topic):
    c = client(node)
    c.send(mqtt.subscribe(1, [(topic, 1)], [("subscription_id", 0)]))
    assert c.closed()[-1].reason == 0x82


def test_no_local(client, node, topic):
    a, b = client(node), client(node)
    a.subscribe((topic, 1 | 4))
    a.publish(topic, b"mine")
    b.publish(topic, b"theirs")
    assert a.receive().payload == b"theirs"
    assert a.silent()


def test_no_local_on_shared_is_an_error(client, node, topic):
    c = client(node)
    c.send(mqtt.subscribe(1, [(f"$share/g/{topic}", 1 | 4)]))
    assert c.closed()[-1].reason == 0x82


def test_retain_is_refused(client, node, topic):
    """Retained messages come later: CONNACK says so, and a client that does not listen is told."""
    c = client(node)
    assert c.connack.prop("retain_available") == 0
    c.send(mqtt.publish(topic, b"x", 1, 1, retain=True))
    assert c.closed()[-1].reason == 0x9A


# ---- shared subscriptions -------------------------------------------------------------------------

@VERSIONS
def test_share_balances(client, node, topic, version):
    members = [client(node, version=version) for _ in range(3)]
    for m in members:
        m.subscribe(f"$share/g/{topic}")
    plain, pub = client(node), client(node)
    plain.subscribe(topic)
    pub.publish_many((topic, str(i)) for i in range(90))
    assert len(plain.receive_many(90)) == 90
    got = {i: drain(m) for i, m in enumerate(members)}
    everything = sorted(int(p) for g in got.values() for p in g)
    assert everything == list(range(90)), "each event to exactly one member"
    assert all(len(g) >= 15 for g in got.values()), {k: len(g) for k, g in got.items()}


def test_share_groups_each_get_everything(client, node, topic):
    a, b, pub = client(node), client(node), client(node)
    a.subscribe(f"$share/one/{topic}")
    b.subscribe(f"$share/two/{topic}")
    pub.publish_many((topic, str(i)) for i in range(10))
    assert len(drain(a)) == len(drain(b)) == 10


def test_share_member_leaves_its_unacked_to_others(client, node, topic):
    a, b, pub = client(node), client(node), client(node)
    for c in (a, b):
        c.subscribe(f"$share/g/{topic}")
    pub.publish_many((topic, str(i)) for i in range(20))
    unacked = [p.payload for p in drain(a, ack=False, packets=True)]
    first = drain(b)
    assert unacked and first
    a.reset()
    rest = drain(b, quiet=1.0)
    assert sorted(unacked) == sorted(rest)


def test_share_refused_message_is_discarded(client, node, topic):
    """[MQTT-4.8.2-6]"""
    a, b, pub = client(node), client(node), client(node)
    for c in (a, b):
        c.subscribe(f"$share/g/{topic}")
    pub.publish_many((topic, str(i)) for i in range(10))
    refused = drain(a, ack=False, packets=True)
    for p in refused:
        a.send(mqtt.puback(p.packet_id, 0x80))
    taken = drain(b)
    assert len(refused) + len(taken) == 10
    a.close()
    assert b.silent(0.5)


def drain(c, ack=True, quiet=0.5, packets=False):
    """Every PUBLISH that comes until `quiet` seconds pass without one."""
    got = []
    while True:
        try:
            p = c.receive(timeout=quiet * SLOW, ack=ack)
        except TimeoutError:
            return got
        got.append(p if packets else p.payload)


# ---- message expiry -------------------------------------------------------------------------------

def test_message_expiry_counts_down(client, node, topic, cid):
    durable(client, node, cid()).subscribe(topic)
    sub = durable(client, node, cid())
    sub.reset()
    pub = client(node)
    pub.publish(topic, b"long", props=[("message_expiry", 100)])
    pub.publish(topic, b"for ever")
    time.sleep(2.2)
    sub = durable(client, node, cid())
    first, second = sub.receive_many(2)
    assert first.payload == b"long" and 90 <= first.prop("message_expiry") <= 98
    assert second.prop("message_expiry") is None


def test_expired_message_is_not_delivered(client, node, topic, cid):
    sub = durable(client, node, cid())
    sub.subscribe(topic)
    sub.disconnect()
    pub = client(node)
    pub.publish(topic, b"short", props=[("message_expiry", 1)])
    pub.publish(topic, b"long", props=[("message_expiry", 100)])
    time.sleep(1.6)
    sub = durable(client, node, cid())
    assert sub.receive().payload == b"long"
    assert sub.silent()


# ---- flow control and limits ----------------------------------------------------------------------

def test_client_receive_maximum(client, node, topic):
    sub, pub = client(node, props=[("receive_maximum", 3)]), client(node)
    sub.subscribe(topic)
    pub.publish_many((topic, str(i)) for i in range(10))
    held = sub.receive_many(3, ack=False)
    assert sub.silent()
    assert len({p.packet_id for p in held}) == 3
    sub.send(mqtt.puback(held[1].packet_id))
    more = sub.receive(ack=False)
    assert more.payload == b"3"
    assert sub.silent()
    for p in (held[0], held[2], more):
        sub.send(mqtt.puback(p.packet_id))
    assert [sub.receive().payload for _ in range(6)] == [b"%d" % i for i in range(4, 10)]


def test_qos_0_behind_a_full_receive_maximum(client, node, topic):
    """QoS 0 may wait behind held QoS 1 ([MQTT-3.3.4-10] is about other packets), but it is not lost
    and keeps its place."""
    sub, pub = client(node, props=[("receive_maximum", 1)]), client(node)
    sub.subscribe(topic)
    pub.publish(topic, b"1")
    first = sub.receive(ack=False)
    pub.publish(topic, b"0", qos=0)
    pub.publish(topic, b"2")
    sub.ping()
    sub.send(mqtt.puback(first.packet_id))
    assert [(p.payload, p.qos) for p in sub.receive_many(2)] == [(b"0", 0), (b"2", 1)]


def test_client_receive_maximum_zero_is_an_error(node):
    with node.open() as c:
        ack = c.connect("", next(iter(node.signers.values())).token(), check=False,
                        props=[("receive_maximum", 0)])
        assert ack.reason == 0x82


def test_server_receive_maximum(client, node, topic):
    """More unanswered QoS 1 publishes than the server allowed: every one is answered or the client is
    disconnected with 0x93, never left hanging."""
    c = client(node)
    limit = c.connack.prop("receive_maximum") or 65535
    n = min(limit + 50, 65535)
    c.send(b"".join(mqtt.publish(topic, b"x", 1, i + 1) for i in range(n)))
    for _ in range(n):
        p = c.read()
        if p.kind == mqtt.DISCONNECT:
            assert p.reason == 0x93
            return
        assert p.kind == mqtt.PUBACK and p.reason in (0, 0x10)


def test_client_maximum_packet_size(client, node, topic):
    """[MQTT-3.1.2-25]: what is too large for a client is not sent, and counts as delivered."""
    sub, pub = client(node, props=[("maximum_packet_size", 200)]), client(node)
    sub.subscribe(topic)
    fits = 200 - 2 - 2 - len(topic) - 2 - 1 - 1  # header 1 + length 2, topic, id, properties
    pub.publish(topic, b"a" * (fits + 10))
    pub.publish(topic, b"b" * (fits - 10))
    got = sub.receive()
    assert got.payload[:1] == b"b"
    assert sub.silent()


def test_server_maximum_packet_size(client, node, topic):
    c = client(node)
    limit = c.connack.prop("maximum_packet_size")
    assert limit
    # Only the header: the claim alone is refused, before the bytes are taken.
    c.send(bytes([0x30]) + mqtt.varint(limit + 1))
    assert c.closed()[-1].reason == 0x95


def test_keep_alive(client, node):
    c = client(node, keep_alive=1)
    for _ in range(4):
        time.sleep(0.5)
        c.ping()
    start = time.monotonic()
    last = c.closed(timeout=5)[-1]
    assert last.reason == 0x8D
    assert 1.3 <= time.monotonic() - start <= 3 * SLOW


def test_keep_alive_is_served_by_any_packet(client, node, topic):
    c = client(node, keep_alive=1)
    for _ in range(4):
        time.sleep(0.5)
        c.publish(topic, b"x")


# ---- sessions -------------------------------------------------------------------------------------

@VERSIONS
def test_takeover(client, node, cid, version):
    a = client(node, cid(), version=version)
    b = client(node, cid(), version=version)
    left = a.closed()
    if version == 5:
        assert left[-1].reason == 0x8E
    else:
        assert not left
    b.ping()


@VERSIONS
def test_resume_delivers_what_came_meanwhile(client, node, topic, cid, version):
    sub = durable(client, node, cid(), version)
    assert not sub.connack.present
    sub.subscribe(topic)
    sub.reset()
    client(node).publish_many((topic, str(i)) for i in range(50))
    sub = durable(client, node, cid(), version)
    assert sub.connack.present
    assert [p.payload for p in sub.receive_many(50)] == [b"%d" % i for i in range(50)]
    assert sub.silent()


@VERSIONS
def test_resume_redelivers_unacked_with_dup_and_same_id(client, node, topic, cid, version):
    sub, pub = durable(client, node, cid(), version), client(node)
    sub.subscribe(topic)
    pub.publish_many((topic, str(i)) for i in range(5))
    before = sub.receive_many(5, ack=False)
    for p in before[1:3]:
        sub.send(mqtt.puback(p.packet_id, version=version))
    sub.ping()
    sub.reset()
    pub.publish(topic, b"new")
    sub = durable(client, node, cid(), version)
    assert sub.connack.present
    again = sub.receive_many(3)
    assert [(p.payload, p.packet_id, p.dup) for p in again] == [
        (p.payload, p.packet_id, True) for p in (before[0], before[3], before[4])]
    new = sub.receive()
    assert (new.payload, new.dup) == (b"new", False)
    assert sub.silent()


def test_no_resend_on_a_live_connection(client, node, topic):
    """[MQTT-4.4.0-1]"""
    c = client(node)
    c.subscribe(topic)
    c.publish(topic, b"x")
    c.receive(ack=False)
    assert c.silent(2)


def test_clean_start_drops_the_session(client, node, topic, cid):
    sub = durable(client, node, cid())
    sub.subscribe(topic)
    sub.reset()
    client(node).publish(topic, b"old")
    sub = durable(client, node, cid(), clean=True)
    assert not sub.connack.present
    assert sub.silent()
    sub.publish(topic, b"no subscription any more")
    assert sub.silent()
    sub.reset()
    assert durable(client, node, cid()).connack.present


def test_session_expires(client, node, topic, cid):
    sub = client(node, cid(), clean=False, props=[("session_expiry", 1)])
    sub.subscribe(topic)
    sub.disconnect()
    time.sleep(0.3)
    sub = client(node, cid(), clean=False, props=[("session_expiry", 1)])
    assert sub.connack.present
    sub.disconnect()

    def gone():
        time.sleep(2)
        c = client(node, cid(), clean=False, props=[("session_expiry", 1)])
        present = c.connack.present
        c.disconnect()
        return not present
    wait_for(gone, 15, "an expired session")


def test_session_ends_with_the_connection_without_expiry(client, node, topic, cid):
    sub = client(node, cid(), clean=False)
    sub.subscribe(topic)
    sub.reset()
    assert not client(node, cid(), clean=False).connack.present


def test_disconnect_changes_expiry(client, node, topic, cid):
    sub = durable(client, node, cid())
    sub.subscribe(topic)
    sub.disconnect(props=[("session_expiry", 0)])
    assert not durable(client, node, cid()).connack.present


def test_disconnect_cannot_revive_expiry(client, node, cid):
    c = client(node, cid())
    c.send(mqtt.disconnect(0, [("session_expiry", 10)]))
    assert c.closed()[-1].reason == 0x82


def test_assigned_client_id(client, node):
    a, b = client(node), client(node)
    ids = [c.connack.prop("assigned_client_id") for c in (a, b)]
    assert all(ids) and ids[0] != ids[1]
    assert client(node, "named").connack.prop("assigned_client_id") is None


def test_v3_empty_client_id(client, node):
    client(node, version=4, clean=True).ping()
    with node.open(4) as c:
        ack = c.connect("", next(iter(node.signers.values())).token(), clean=False, check=False)
        assert ack.reason == 2


# ---- load -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1_000_000])
def test_payload_sizes(client, node, topic, size):
    c = client(node)
    c.subscribe(topic)
    payload = os.urandom(size)
    c.publish(topic, payload)
    assert c.receive(timeout=20).payload == payload


def test_ten_thousand(client, node, topic):
    n = 10_000
    sub, pub = client(node), client(node)
    sub.subscribe(topic + "/+")
    got = []
    for start in range(0, n, 500):
        pub.publish_many([(f"{topic}/{i % 7}", str(i)) for i in range(start, start + 500)], window=500)
        got += [int(p.payload) for p in sub.receive_many(500)]
    assert sorted(got) == list(range(n))
    for t in range(7):
        mine = [i for i in got if i % 7 == t]
        assert mine == sorted(mine), "in order per topic"


def test_ordering_with_several_publishers(client, node, topic):
    """Each publisher's events to one topic arrive in its order, and all subscribers see one order."""
    pubs = [client(node) for _ in range(4)]
    subs = [client(node) for _ in range(2)]
    for s in subs:
        s.subscribe(topic)
    for i in range(100):
        for k, p in enumerate(pubs):
            p.send(mqtt.publish(topic, f"{k}:{i}", 1, i + 1))
    seen = [[p.payload.decode() for p in s.receive_many(400)] for s in subs]
    assert seen[0] == seen[1]
    for k in range(4):
        assert [x for x in seen[0] if x.startswith(f"{k}:")] == [f"{k}:{i}" for i in range(100)]


def test_pubacks_come_in_order(client, node, topic):
    """[MQTT-4.6.0-2], also over several topics."""
    c = client(node)
    c.send(b"".join(mqtt.publish(f"{topic}/{i % 3}", b"x", 1, i + 1) for i in range(300)))
    assert [c.expect(mqtt.PUBACK).packet_id for _ in range(300)] == list(range(1, 301))


def test_utf8_topics(client, node, topic):
    c = client(node)
    for name in ("ä/ö", "日本語/トピック", "emoji/🚀", "space in/it", "\ufeffbom"):
        c.subscribe(f"{topic}/{name}")
        c.publish(f"{topic}/{name}", name)
        got = c.receive()
        assert (got.topic, got.payload.decode()) == (f"{topic}/{name}", name)


# ---- what breaks the protocol's rules -------------------------------------------------------------

BREACHES = {
    "topic with wildcard": (mqtt.publish("a/+", b"", 1, 1), {0x90, 0x82, 0x81}),
    "topic empty, no alias": (mqtt.publish("", b"", 1, 1), {0x82, 0x90}),
    "topic with NUL": (mqtt.publish("a\0b", b"", 1, 1), {0x81, 0x82, 0x90}),
    "topic not UTF-8": (mqtt.packet(3, 0, b"\0\x02\xc3\x28\0"), {0x81}),
    "topic with a surrogate": (mqtt.packet(3, 0, b"\0\x03\xed\xa0\x80\0"), {0x81}),
    "packet id 0": (mqtt.publish("a", b"", 1, 0), {0x81, 0x82}),
    "qos 3": (mqtt.packet(3, 6, mqtt.binary("a") + b"\0\1\0"), {0x81}),
    "dup at qos 0": (mqtt.packet(3, 8, mqtt.binary("a") + b"\0"), {0x81, 0x82}),
    "topic alias not allowed": (mqtt.publish("a", b"", 0, props=[("topic_alias", 1)]), {0x94}),
    "property twice": (mqtt.publish("a", b"", 0, props=[("content_type", "x")] * 2), {0x82}),
    "property of another packet": (mqtt.publish("a", b"", 0, props=[("receive_maximum", 1)]),
                                   {0x81, 0x82}),
    "unknown property": (mqtt.packet(3, 0, mqtt.binary("a") + b"\2\x7f\0"), {0x81, 0x82}),
    "subscription id from a client": (mqtt.publish("a", b"", 0, props=[("subscription_id", 1)]),
                                      {0x81, 0x82}),
    "payload not UTF-8 though declared": (mqtt.publish("a", b"\xff", 1, 1, props=[("payload_format", 1)]),
                                          {0x99}),
    "subscribe without filters": (mqtt.subscribe(1, []), {0x81, 0x82}),
    "subscribe with flags 0": (mqtt.packet(8, 0, b"\0\1\0" + mqtt.binary("a") + b"\1"), {0x81}),
    "subscribe with reserved bits": (mqtt.subscribe(1, [("a", 0xC0)]), {0x81, 0x82}),
    "subscribe with retain handling 3": (mqtt.subscribe(1, [("a", 0x30)]), {0x81, 0x82}),
    "unsubscribe without filters": (mqtt.unsubscribe(1, []), {0x81, 0x82}),
    "second CONNECT": (mqtt.connect("x", "y"), {0x82}),
    "CONNACK from a client": (mqtt.packet(2, 0, b"\0\0\0"), {0x81, 0x82}),
    "SUBACK from a client": (mqtt.packet(9, 0, b"\0\1\0\0"), {0x81, 0x82}),
    "reserved type 0": (b"\0\0", {0x81, 0x82}),
    "ping with a body": (mqtt.packet(12, 0, b"x"), {0x81}),
    "five-byte length": (b"\x30\x80\x80\x80\x80\x01", {0x81}),
    "publish shorter than its topic": (mqtt.packet(3, 0, b"\0\x09abc"), {0x81}),
    "properties longer than the packet": (mqtt.packet(3, 0, mqtt.binary("a") + b"\x20\x01"), {0x81}),
    "AUTH without a method": (mqtt.auth(0x19), {0x82, 0x8C}),
    "response topic with wildcard": (mqtt.publish("a", b"", 0, props=[("response_topic", "a/#")]),
                                     {0x81, 0x82, 0x90}),
}


@pytest.mark.parametrize("what", BREACHES)
def test_breach(client, memory_node, what):
    data, reasons = BREACHES[what]
    c = client(memory_node)
    c.send(data)
    got = c.read()
    if what == "payload not UTF-8 though declared" and got.kind == mqtt.PUBACK:
        assert got.reason in (0, 0x99)  # checking the payload is a MAY: [MQTT-3.3.2.3.2]
        return
    assert got.kind == mqtt.DISCONNECT and got.reason in reasons, str(got)
    assert got.prop("reason_string"), "it says what was wrong"
    assert c.closed() == []


CONNECT_BREACHES = {
    "not CONNECT first": (mqtt.publish("a"), None),
    "protocol MQTTX": (mqtt.packet(1, 0, mqtt.binary("MQTTX") + b"\5\2\0\0\0\0\0"), None),
    "version 6": (mqtt.packet(1, 0, mqtt.binary("MQTT") + b"\6\2\0\0\0\0\0"), 0x84),
    "version 3.1": (mqtt.packet(1, 0, mqtt.binary("MQIsdp") + b"\3\2\0\0\0\1x"), None),
    "reserved flag": (mqtt.packet(1, 0, mqtt.binary("MQTT") + b"\5\3\0\0\0\0\0"), {0x81, 0x82}),
    "will qos 3": (mqtt.packet(1, 0, mqtt.binary("MQTT") + b"\5\x1e\0\0\0\0\0\0\0\1w\0\0"), {0x81, 0x82}),
    "no password": (mqtt.connect("x"), {0x86, 0x87, 0x8C}),
    "trailing bytes": (mqtt.packet(1, 0, mqtt.connect("x", "y")[2:] + b"zz"), {0x81}),
    "client id not UTF-8": (mqtt.packet(1, 0, mqtt.binary("MQTT") + b"\5\2\0\0\0\0\2\xc3\x28"), {0x81, 0x85}),
}


@pytest.mark.parametrize("what", CONNECT_BREACHES)
def test_connect_breach(memory_node, what):
    data, reasons = CONNECT_BREACHES[what]
    with memory_node.open() as c:
        c.send(data)
        try:
            got = c.read()
        except (mqtt.Closed, AssertionError):
            assert reasons is None, "closed without a CONNACK"
            return
        assert got.kind == mqtt.CONNACK
        if reasons is not None:
            assert got.reason in ({reasons} if isinstance(reasons, int) else reasons), str(got)
        assert got.reason >= 0x80 or got.reason == 1
        assert c.closed() == []


def test_dup_publish_is_stored_again(client, node, topic):
    """At least once: a re-sent QoS 1 publish is a publish."""
    c = client(node)
    c.subscribe(topic)
    c.publish(topic, b"x")
    c.send(mqtt.publish(topic, b"x", 1, 77, dup=True))
    assert c.expect(mqtt.PUBACK).packet_id == 77
    assert [p.dup for p in c.receive_many(2)] == [False, False]


def test_problem_information_can_be_refused(client, node):
    """Request Problem Information 0: no reason strings outside CONNACK and DISCONNECT."""
    c = client(node, props=[("request_problem_info", 0)])
    ack = c.subscribe("a/#/b", check=False)
    assert ack.reasons == [0x8F] and not ack.props
