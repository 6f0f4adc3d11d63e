"""A small MQTT 3.1.1 / 5 codec and blocking client, written from the specification and independent
of Leat's own codec, so that a misreading of the specification cannot hide on both sides.

Properties are lists of (name, value) in wire order; names as in PROPS. Packets are built by functions
that return bytes; tests may truncate or change those before sending. One thread uses a Client."""

import socket
import ssl
import struct
import time
from collections import deque
from dataclasses import dataclass, field

(CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK,
 PINGREQ, PINGRESP, DISCONNECT, AUTH) = range(1, 16)

NAMES = dict(enumerate("- CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK "
                       "UNSUBSCRIBE UNSUBACK PINGREQ PINGRESP DISCONNECT AUTH".split()))

# id: (name, kind)
PROPS = {
    0x01: ("payload_format", "byte"), 0x02: ("message_expiry", "u32"),
    0x03: ("content_type", "str"), 0x08: ("response_topic", "str"),
    0x09: ("correlation_data", "bin"), 0x0B: ("subscription_id", "var"),
    0x11: ("session_expiry", "u32"), 0x12: ("assigned_client_id", "str"),
    0x13: ("server_keep_alive", "u16"), 0x15: ("auth_method", "str"),
    0x16: ("auth_data", "bin"), 0x17: ("request_problem_info", "byte"),
    0x18: ("will_delay", "u32"), 0x19: ("request_response_info", "byte"),
    0x1A: ("response_info", "str"), 0x1C: ("server_reference", "str"),
    0x1F: ("reason_string", "str"), 0x21: ("receive_maximum", "u16"),
    0x22: ("topic_alias_maximum", "u16"), 0x23: ("topic_alias", "u16"),
    0x24: ("maximum_qos", "byte"), 0x25: ("retain_available", "byte"),
    0x26: ("user", "pair"), 0x27: ("maximum_packet_size", "u32"),
    0x28: ("wildcard_available", "byte"), 0x29: ("subscription_id_available", "byte"),
    0x2A: ("shared_available", "byte"),
}
PROP_IDS = {name: (pid, kind) for pid, (name, kind) in PROPS.items()}
FOREVER = 0xFFFFFFFF


class Closed(Exception):
    """The peer closed or reset the connection."""


class Refused(Exception):
    """CONNACK with an error."""

    def __init__(self, packet):
        super().__init__(f"CONNACK 0x{packet.reason:02x} {packet.prop('reason_string') or ''}")
        self.packet = packet


# ---- building -----------------------------------------------------------------------------------

def varint(n):
    out = bytearray()
    while True:
        n, low = n >> 7, n & 0x7F
        out.append(low | (0x80 if n else 0))
        if not n:
            return bytes(out)


def binary(b):
    if isinstance(b, str):
        b = b.encode()
    return struct.pack("!H", len(b)) + b


def properties(props):
    out = bytearray()
    for name, value in props:
        pid, kind = PROP_IDS[name]
        out.append(pid)
        if kind == "byte":
            out.append(value)
        elif kind == "u16":
            out += struct.pack("!H", value)
        elif kind == "u32":
            out += struct.pack("!I", value)
        elif kind == "var":
            out += varint(value)
        elif kind == "pair":
            out += binary(value[0]) + binary(value[1])
        else:
            out += binary(value)
    return varint(len(out)) + bytes(out)


def packet(kind, flags, body):
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def connect(client_id="", password=None, username="", clean=True, keep_alive=60, version=5, props=(),
            will=None, will_props=()):
    """password None sends neither; username "" with a password sends an empty name."""
    flags = (0x02 if clean else 0) | (0xC0 if password is not None else 0)
    body = binary("MQTT") + bytes([version])
    tail = binary(client_id)
    if will:
        topic, payload, qos, retain = will
        flags |= 0x04 | qos << 3 | (0x20 if retain else 0)
        tail += (properties(will_props) if version == 5 else b"") + binary(topic) + binary(payload)
    if password is not None:
        tail += binary(username) + binary(password)
    body += bytes([flags]) + struct.pack("!H", keep_alive)
    if version == 5:
        body += properties(props)
    return packet(CONNECT, 0, body + tail)


def publish(topic, payload=b"", qos=0, packet_id=None, dup=False, retain=False, props=(), version=5):
    if isinstance(payload, str):
        payload = payload.encode()
    body = binary(topic)
    if qos:
        body += struct.pack("!H", packet_id)
    if version == 5:
        body += properties(props)
    return packet(PUBLISH, (8 if dup else 0) | qos << 1 | (1 if retain else 0), body + payload)


def subscribe(packet_id, filters, props=(), version=5):
    """filters: (filter, options byte) pairs."""
    body = struct.pack("!H", packet_id) + (properties(props) if version == 5 else b"")
    for name, options in filters:
        body += binary(name) + bytes([options])
    return packet(SUBSCRIBE, 2, body)


def unsubscribe(packet_id, filters, props=(), version=5):
    body = struct.pack("!H", packet_id) + (properties(props) if version == 5 else b"")
    for name in filters:
        body += binary(name)
    return packet(UNSUBSCRIBE, 2, body)


def puback(packet_id, reason=0, props=(), version=5):
    body = struct.pack("!H", packet_id)
    if version == 5 and (reason or props):
        body += bytes([reason]) + (properties(props) if props else b"")
    return packet(PUBACK, 0, body)


def pingreq():
    return packet(PINGREQ, 0, b"")


def disconnect(reason=0, props=(), version=5):
    body = bytes([reason]) + properties(props) if version == 5 and (reason or props) else b""
    return packet(DISCONNECT, 0, body)


def auth(reason, props=()):
    return packet(AUTH, 0, bytes([reason]) + properties(props))


# ---- reading ------------------------------------------------------------------------------------

@dataclass
class Packet:
    kind: int
    flags: int
    raw: bytes
    packet_id: int = None
    topic: str = None
    payload: bytes = None
    reason: int = None
    reasons: list = field(default_factory=list)
    present: bool = None
    props: list = field(default_factory=list)

    qos = property(lambda self: self.flags >> 1 & 3)
    dup = property(lambda self: bool(self.flags & 8))
    retain = property(lambda self: bool(self.flags & 1))

    def prop(self, name):
        """The value of a property that occurs at most once, else None."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} occurs {len(values)} times"
        return values[0] if values else None

    def all(self, name):
        return [v for n, v in self.props if n == name]

    def __str__(self):
        text = NAMES[self.kind]
        if self.reason is not None:
            text += f" 0x{self.reason:02x}"
        if self.topic is not None:
            text += f" {self.topic} {self.payload[:40]!r}"
        return f"{text} id={self.packet_id} {self.props}"


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data), "packet is shorter than its fields"
        self.at += n
        return self.data[self.at - n:self.at]

    def byte(self):
        return self.take(1)[0]

    def u16(self):
        return struct.unpack("!H", self.take(2))[0]

    def u32(self):
        return struct.unpack("!I", self.take(4))[0]

    def var(self):
        value = shift = 0
        while True:
            b = self.byte()
            value |= (b & 0x7F) << shift
            shift += 7
            if not b & 0x80:
                return value
            assert shift <= 21, "variable byte integer longer than four bytes"

    def bin(self):
        return bytes(self.take(self.u16()))

    def str(self):
        return self.bin().decode("utf-8")

    def rest(self):
        return bytes(self.take(len(self.data) - self.at))

    def left(self):
        return len(self.data) - self.at

    def props(self):
        end = self.var()
        end += self.at
        out = []
        while self.at < end:
            name, kind = PROPS[self.byte()]
            out.append((name, (self.str(), self.str()) if kind == "pair" else getattr(self, kind)()))
        assert self.at == end, "properties run past their length"
        return out


def parse(kind, flags, body, version):
    p, r = Packet(kind, flags, body), Reader(body)
    if kind == CONNACK:
        ack = r.byte()
        assert ack in (0, 1)
        p.present, p.reason = bool(ack), r.byte()
        p.props = r.props() if version == 5 else []
    elif kind == PUBLISH:
        p.topic = r.str()
        p.packet_id = r.u16() if p.qos else None
        p.props = r.props() if version == 5 else []
        p.payload = r.rest()
    elif kind == PUBACK:
        p.packet_id, p.reason = r.u16(), 0
        if version == 5 and r.left():
            p.reason = r.byte()
            p.props = r.props() if r.left() else []
    elif kind in (SUBACK, UNSUBACK):
        p.packet_id = r.u16()
        p.props = r.props() if version == 5 else []
        p.reasons = list(r.rest())
    elif kind in (DISCONNECT, AUTH):
        p.reason = r.byte() if r.left() else 0
        p.props = r.props() if r.left() else []
    assert r.left() == 0, f"{NAMES.get(kind)} has {r.left()} bytes too many"
    return p


def split(buf):
    """(kind, flags, body, bytes used) of the first whole packet in buf, else None."""
    size = shift = 0
    for i in range(1, 5):
        if len(buf) <= i:
            return None
        size |= (buf[i] & 0x7F) << shift
        shift += 7
        if not buf[i] & 0x80:
            if len(buf) < 1 + i + size:
                return None
            return buf[0] >> 4, buf[0] & 15, bytes(buf[1 + i:1 + i + size]), 1 + i + size
    raise AssertionError("remaining length longer than four bytes")


# ---- the client ---------------------------------------------------------------------------------

class Client:
    """One connection. Reading returns packets in order; expect() sets aside what it skips."""

    def __init__(self, address, tls=None, version=5, timeout=10):
        self.version, self.timeout = version, timeout
        self.sock = socket.create_connection(address, timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.buf, self.aside, self.next_id = bytearray(), deque(), 0
        self.heard = time.monotonic()  # when anything came last

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Cut the connection with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            # Closing an SSL socket's descriptor sends no close_notify: the peer sees only the reset.
            self.sock.close()
        except OSError:
            pass

    def send(self, data):
        self.sock.settimeout(self.timeout)
        try:
            self.sock.sendall(data)
        except (ConnectionError, ssl.SSLError, BrokenPipeError) as e:
            raise Closed(str(e)) from e

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no packet in time")
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(1 << 18)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as e:
            raise Closed(str(e)) from e
        except (TimeoutError, socket.timeout) as e:
            raise TimeoutError("no packet in time") from e
        except (ssl.SSLError, OSError) as e:
            raise Closed(str(e)) from e
        if not data:
            raise Closed("end of file")
        self.heard = time.monotonic()
        self.buf += data

    def _next(self, deadline):
        while (found := split(self.buf)) is None:
            self._fill(deadline)
        kind, flags, body, used = found
        del self.buf[:used]
        return parse(kind, flags, body, self.version)

    def read(self, timeout=None):
        if self.aside:
            return self.aside.popleft()
        return self._next(time.monotonic() + (self.timeout if timeout is None else timeout))

    def expect(self, *kinds, timeout=None):
        """The next packet of one of these kinds; others are kept for later calls, in order."""
        for i, p in enumerate(self.aside):
            if p.kind in kinds:
                del self.aside[i]
                return p
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            p = self._next(deadline)
            if p.kind in kinds:
                return p
            self.aside.append(p)

    def silent(self, seconds=0.3):
        """Nothing arrives for this long (a close counts as something)."""
        try:
            p = self.read(seconds)
        except TimeoutError:
            return True
        raise AssertionError(f"unexpected {p}")

    def closed(self, timeout=None):
        """The peer closes, sending nothing more but what is returned."""
        got = []
        try:
            while True:
                got.append(self.read(timeout))
        except Closed:
            return got

    def packet_id(self):
        self.next_id = self.next_id % 65535 + 1
        return self.next_id

    def connect(self, client_id="", password=None, check=True, **kw):
        self.send(connect(client_id, password, version=self.version, **kw))
        ack = self.expect(CONNACK)
        if check and ack.reason:
            raise Refused(ack)
        return ack

    def subscribe(self, *filters, qos=1, props=(), check=True):
        """filters: names, or (name, options byte)."""
        pairs = [f if isinstance(f, tuple) else (f, qos) for f in filters]
        pid = self.packet_id()
        self.send(subscribe(pid, pairs, props, self.version))
        ack = self.expect(SUBACK)
        assert ack.packet_id == pid
        if check:
            assert all(r < 0x80 for r in ack.reasons), str(ack.reasons)
        return ack

    def unsubscribe(self, *filters):
        pid = self.packet_id()
        self.send(unsubscribe(pid, filters, version=self.version))
        ack = self.expect(UNSUBACK)
        assert ack.packet_id == pid
        return ack

    def publish(self, topic, payload=b"", qos=1, check=True, **kw):
        """Publish and, at QoS 1, wait for the PUBACK, which is returned."""
        pid = self.packet_id() if qos else None
        self.send(publish(topic, payload, qos, pid, version=self.version, **kw))
        if not qos:
            return None
        ack = self.expect(PUBACK)
        assert ack.packet_id == pid
        if check:
            assert ack.reason in (0, 0x10), str(ack)
        return ack

    def publish_many(self, messages, window=64, qos=1):
        """Publish (topic, payload) pairs with at most `window` unacknowledged; waits for all."""
        open_ids = deque()
        for topic, payload in messages:
            pid = self.packet_id() if qos else None
            self.send(publish(topic, payload, qos, pid, version=self.version))
            if qos:
                open_ids.append(pid)
            while len(open_ids) >= window:
                self._settle(open_ids)
        while open_ids:
            self._settle(open_ids)

    def _settle(self, open_ids):
        ack = self.expect(PUBACK)
        assert ack.reason in (0, 0x10), str(ack)
        open_ids.remove(ack.packet_id)

    def receive(self, timeout=None, ack=True):
        p = self.expect(PUBLISH, timeout=timeout)
        if ack and p.qos == 1:
            self.send(puback(p.packet_id, version=self.version))
        return p

    def receive_many(self, n, timeout=None, ack=True):
        return [self.receive(timeout, ack) for _ in range(n)]

    def disconnect(self, reason=0, props=()):
        self.send(disconnect(reason, props, self.version))
        self.close()

    def ping(self):
        self.send(pingreq())
        return self.expect(PINGRESP)
