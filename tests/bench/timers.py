"""timers: many scheduled events that are due one after the other at a steady rate, and how late each
is received. They are stored first, all of them, before the first is due."""
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from leat import mqtt  # noqa: E402

import stack  # noqa: E402

WINDOW = 1000        # publishes not answered yet
STORED_PER_S = 4000  # at least: so long before the first is due the storing begins
READ = 1 << 18


def connect(url_port, tls, token, client_id):
    c = mqtt.Client(("127.0.0.1", url_port), tls, timeout=60)
    c.send(mqtt.connect(client_id, token, keep_alive=0))
    c.expect(mqtt.CONNACK)
    return c


def packets(c, buf):
    """Wait for bytes; the whole packets among them."""
    c.sock.settimeout(60)
    data = c.sock.recv(READ)
    if not data:
        raise stack.Failed("the node closed the connection of the timers' client")
    buf += data
    while found := mqtt.split(buf):
        kind, flags, body, used = found
        del buf[:used]
        yield kind, flags, body


def store(c, count, first_ms, per_s):
    """Publish them all; done when the last is acknowledged."""
    sent, acked, buf = 0, 0, bytearray()
    while acked < count:
        chunk = []
        while sent < count and sent - acked + len(chunk) < WINDOW and len(chunk) < 200:
            n = sent + len(chunk)
            due = str(first_ms + n * 1000 // per_s)
            chunk.append(mqtt.publish("timers", due, 1, n % 65535 + 1,
                                      props=[("user", ("leat-deliver-at", due))]))
        if chunk:
            c.send(b"".join(chunk))
            sent += len(chunk)
        if sent == count or sent - acked >= WINDOW - 200:
            for kind, _, body in packets(c, buf):
                if kind != mqtt.PUBACK or (len(body) > 2 and body[2] >= 0x80):
                    raise stack.Failed(f"a scheduled publish was refused: {body}")
                acked += 1


def receive(c, count, late_ms):
    """QoS 0, so that the receiver, which is slower than the node, has as little to do as can be."""
    buf = bytearray()
    while len(late_ms) < count:
        for kind, _, body in packets(c, buf):
            if kind == mqtt.PUBLISH:  # topic, no properties of ours, payload: the due time
                late_ms.append(time.time() * 1000 - int(body[-13:]))


def measure(port, tls, token, count, per_s):
    """count events, per_s of them due each second."""
    late_ms = []
    listener, publisher = (connect(port, tls, token, name) for name in ("timers-in", "timers-out"))
    listener.send(mqtt.subscribe(1, [("timers", 0)]))
    listener.expect(mqtt.SUBACK)
    reader = threading.Thread(target=receive, args=(listener, count, late_ms), daemon=True)
    began = time.time()
    first_ms = int((began + 2 + count / STORED_PER_S) * 1000)
    store(publisher, count, first_ms, per_s)
    stored_s = time.time() - began
    if time.time() * 1000 > first_ms:
        raise stack.Failed(f"storing {count} scheduled events took {stored_s:.1f} s: they were due before")
    reader.start()
    reader.join(first_ms / 1000 - time.time() + count / per_s + 60)
    took = (time.time() * 1000 - first_ms) / 1000
    publisher.close()
    listener.close()
    if len(late_ms) < count:
        raise stack.Failed(f"{count - len(late_ms)} of {count} scheduled events did not come")
    late_ms.sort()
    return {"count": count, "due_per_s": per_s, "stored_per_s": count / stored_s,
            "received_per_s": count / took, "early": sum(ms < 0 for ms in late_ms),
            "p50_ms": late_ms[count // 2], "p99_ms": late_ms[count * 99 // 100], "max_ms": late_ms[-1]}
