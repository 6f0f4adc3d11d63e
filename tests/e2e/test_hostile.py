"""Bad input and bad peers: refused with little memory and time, and nobody else notices."""

import random
import socket
import ssl
import subprocess
import time

import pytest

from leat import mqtt, stack
from leat.stack import wait_for

SEED = 20260301


def works(node, topic="hostile/works"):
    with node.connect() as c:
        c.subscribe(topic)
        c.publish(topic, b"x")
        assert c.receive().payload == b"x"


@pytest.fixture(autouse=True)
def node_still_works(memory_node):
    yield
    works(memory_node)


def token(node):
    return next(iter(node.signers.values())).token()


def swallow(c, timeout=0.05):
    """Read whatever comes, until a close or silence."""
    try:
        while True:
            c.read(timeout)
    except (mqtt.Closed, TimeoutError, AssertionError, UnicodeDecodeError, KeyError, IndexError):
        return


def good_packets(node):
    return [
        mqtt.connect("x", token(node), props=[("session_expiry", 10), ("receive_maximum", 5),
                                              ("user", ("a", "b"))]),
        mqtt.publish("a/b", b"payload", 1, 1, props=[("content_type", "t"), ("user", ("k", "v")),
                                                     ("correlation_data", b"123")]),
        mqtt.subscribe(2, [("a/#", 1), ("$share/g/b", 1)], [("subscription_id", 5)]),
        mqtt.unsubscribe(3, ["a/#"]),
        mqtt.puback(9, 0x80, [("reason_string", "no")]),
        mqtt.pingreq(),
        mqtt.disconnect(4, [("reason_string", "bye")]),
    ]


def test_truncated(memory_node):
    """Every prefix of every packet, then the end of the stream."""
    for data in good_packets(memory_node):
        first = data[0] >> 4 == mqtt.CONNECT
        for n in range(1, len(data), max(1, len(data) // 12)):
            with memory_node.open() as c:
                if not first:
                    c.connect("", token(memory_node))
                c.send(data[:n])


def test_mutated(memory_node):
    """Bytes changed, removed and put in, after a good CONNECT and inside it."""
    rng = random.Random(SEED)
    packets = good_packets(memory_node)
    c = None
    for i in range(600):
        data = bytearray(rng.choice(packets))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            how = rng.randrange(3)
            if how == 0:
                data[at] = rng.randrange(256)
            elif how == 1 and len(data) > 2:
                del data[at]
            else:
                data.insert(at, rng.randrange(256))
        try:
            if c is None:
                c = memory_node.open()
                if i % 3:
                    c.connect("", token(memory_node))
            c.send(bytes(data))
            if i % 4 == 0:
                swallow(c, 0.005)
                c.send(mqtt.pingreq())
        except (mqtt.Closed, OSError, TimeoutError, AssertionError):
            c.close()
            c = None
        if c and i % 10 == 9:
            c.close()
            c = None
    if c:
        c.close()


def test_one_byte_at_a_time(memory_node, topic):
    with memory_node.open() as c:
        for b in mqtt.connect("", token(memory_node)):
            c.send(bytes([b]))
        assert c.expect(mqtt.CONNACK).reason == 0
        for data in (mqtt.subscribe(1, [(topic, 1)]), mqtt.publish(topic, b"slow", 1, 2)):
            for b in data:
                c.send(bytes([b]))
        assert c.receive().payload == b"slow"


def test_many_packets_in_one_write(memory_node, topic):
    with memory_node.open() as c:
        c.send(mqtt.connect("", token(memory_node)) + mqtt.subscribe(1, [(topic, 1)]) +
               mqtt.publish(topic, b"1", 1, 2) + mqtt.pingreq())
        assert c.expect(mqtt.CONNACK).reason == 0
        assert c.expect(mqtt.SUBACK).reasons == [1]
        assert c.receive().payload == b"1"
        c.expect(mqtt.PINGRESP)


@pytest.mark.parametrize("first", [0x10, 0x30, 0x82, 0xF0])
def test_length_claims_before_connect(memory_node, first):
    """256 MB announced before authentication: closed at once, without taking memory for it."""
    before = memory_node.rss_kb()
    conns = []
    for _ in range(50):
        c = memory_node.open()
        c.send(bytes([first]) + b"\xff\xff\xff\x7f" + b"\0\x04MQTT\x05")
        conns.append(c)
    for c in conns:
        c.closed(timeout=3)
        c.close()
    assert memory_node.rss_kb() - before < 20_000


def test_length_claims_after_connect(memory_node):
    before = memory_node.rss_kb()
    conns = [memory_node.connect() for _ in range(20)]
    for c in conns:
        c.send(b"\x30\xff\xff\xff\x7f")
    for c in conns:
        assert c.closed(timeout=3)[-1].reason == 0x95
        c.close()
    assert memory_node.rss_kb() - before < 20_000


def test_oversized_connect(memory_node):
    """A CONNECT may have 16 KiB before anyone has shown who they are."""
    with memory_node.open() as c:
        c.send(mqtt.connect("x" * 200, "p" * 60000))
        got = c.closed(timeout=3)
        assert not got or got[-1].reason == 0x95, str(got[-1])


def test_memory_is_flat_over_many_refusals(memory_node):
    """CVE-2023-28366, CVE-2023-3592: crafted CONNECTs leak nothing."""
    def round_():
        for i in range(150):
            with memory_node.open() as c:
                c.send(mqtt.connect(f"c{i}", "x" * 8000, props=[("user", ("k" * 50, "v" * 50))] * 20,
                                    will=("w", b"w" * 2000, 1, False)))
                swallow(c, 1)
    round_()
    before = memory_node.rss_kb()
    round_()
    round_()
    assert memory_node.rss_kb() - before < 4_000 * stack.SLOW


def test_garbage_before_tls(memory_node):
    rng = random.Random(SEED)
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x10\x0c\0\x04MQTT\x05\0\0\0\0", b"\x16\x03\x01\xff\xff",
                 b"\0" * 5000, rng.randbytes(5000), b"\x80\x2e\x01\x03\x01"):
        with socket.create_connection(memory_node.address, 5) as s:
            s.sendall(data)
            s.settimeout(8)
            try:
                while s.recv(4096):
                    pass
            except ConnectionError:
                pass


def handshake(node, low, high, ciphers=None):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.load_verify_locations(node.ca)
    ctx.set_ciphers(ciphers or "ALL:@SECLEVEL=0")
    ctx.minimum_version, ctx.maximum_version = low, high
    with socket.create_connection(node.address, 5) as raw, \
            ctx.wrap_socket(raw, server_hostname="localhost") as s:
        return s.version(), s.cipher()[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_tls_is_refused(memory_node, version):
    v = getattr(ssl.TLSVersion, version)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(memory_node, v, v)


@pytest.mark.parametrize("version,name", [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")])
def test_tls_versions(memory_node, version, name):
    v = getattr(ssl.TLSVersion, version)
    assert handshake(memory_node, v, v)[0] == name


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256",
                                     "ECDHE-ECDSA-AES256-SHA", "aNULL", "NULL"])
def test_weak_ciphers_are_refused(memory_node, ciphers):
    """No CBC, no RSA key exchange, nothing anonymous."""
    v = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(memory_node, v, v, ciphers + ":@SECLEVEL=0")


def test_renegotiation_is_refused(memory_node):
    p = subprocess.Popen(["openssl", "s_client", "-connect", "%s:%d" % memory_node.address, "-tls1_2",
                          "-CAfile", memory_node.ca], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    time.sleep(0.5)
    try:
        p.stdin.write(b"R\n")
        p.stdin.flush()
        out = p.communicate(timeout=10)[0].decode(errors="replace")
    finally:
        p.kill()
    assert "RENEGOTIATING" in out
    assert "no renegotiation" in out or "handshake failure" in out or "unexpected message" in out, out[-400:]


def test_silent_peers_are_cut(memory_node):
    """A peer that never shakes hands, one that stops in the handshake, one that never sends CONNECT, one
    that sends half of it: each is cut after its time-out (5 s), while others are served."""
    tcp = socket.create_connection(memory_node.address, 5)
    half = socket.create_connection(memory_node.address, 5)
    half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    quiet, partial, dripping = memory_node.open(), memory_node.open(), memory_node.open()
    partial.send(mqtt.connect("x", token(memory_node))[:20])
    start = time.monotonic()
    works(memory_node)
    data = mqtt.connect("x", token(memory_node))
    for i in range(12):  # a byte each half second does not buy more time
        try:
            dripping.send(data[i:i + 1])
        except mqtt.Closed:
            break
        time.sleep(0.5)
    for s in (tcp, half):
        s.settimeout(4)
        try:
            while s.recv(100):
                pass
        except ConnectionError:
            pass
        s.close()
    for c in (quiet, partial, dripping):
        try:
            c.closed(timeout=4)
        except AssertionError:
            pass
        c.close()
    assert 4 <= time.monotonic() - start < 12 * stack.SLOW


def test_half_open_connections(memory_node):
    """2,000 connections that never speak: a good client is still let in and served meanwhile."""
    idle = []
    try:
        for _ in range(2000):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(memory_node.address)
            idle.append(s)
        start = time.monotonic()
        works(memory_node)
        assert time.monotonic() - start < 3 * stack.SLOW
    finally:
        for s in idle:
            s.close()
    wait_for(lambda: works(memory_node) is None, 10)


def test_reconnect_storm(memory_node):
    """300 clients that vanish without goodbye leave nothing behind."""
    before = memory_node.rss_kb()
    for _ in range(3):
        clients = []
        for i in range(100):
            c = memory_node.connect(f"storm-{i}")
            c.send(mqtt.subscribe(1, [(f"storm/{i}", 1)]))
            clients.append(c)
        for c in clients:
            c.reset()
    assert memory_node.rss_kb() - before < 30_000 * stack.SLOW


@pytest.mark.parametrize("filter_", ["/".join(["+"] * 300), "a/" * 500 + "#", "x" * 65535])
def test_absurd_filters(memory_node, filter_):
    with memory_node.connect() as c:
        c.send(mqtt.subscribe(1, [(filter_, 1)]))
        p = c.read()
        assert p.kind in (mqtt.SUBACK, mqtt.DISCONNECT)


def test_many_filters(memory_node, topic):
    """One client cannot hold more filters than it may."""
    with memory_node.connect() as c:
        refused = 0
        for start in range(0, 400, 50):
            ack = c.subscribe(*[f"{topic}/{i}" for i in range(start, start + 50)], check=False)
            refused += sum(r >= 0x80 for r in ack.reasons)
            assert all(r in (0, 1, 0x97) for r in ack.reasons)
        assert refused
