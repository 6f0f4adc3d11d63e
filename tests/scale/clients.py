"""clients: thousands of idle MQTT clients in one process, each with a durable session and the filters
it is given, that go to one of the other nodes when theirs is gone. Handshakes run on threads; what is connected
costs a socket. Events are not expected: whatever arrives is read and dropped."""
import concurrent.futures
import contextlib
import pathlib
import random
import selectors
import ssl
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from leat import mqtt  # noqa: E402

THREADS = 16
PAUSE_S = 0.2  # between two tries to connect
GONE = (OSError, mqtt.Closed, mqtt.Refused, TimeoutError, AssertionError)


class Client:
    def __init__(self, token, filters, node):
        self.token, self.filters, self.node = token, filters, node
        self.mqtt = None


class Clients:
    """nodes: (host, port) of each; a client's node is an index. alive[i]: node i is worth a try."""

    def __init__(self, nodes, ca, keep_alive_s, expiry_s=3600):
        self.nodes, self.alive = nodes, [True] * len(nodes)
        self.keep_alive_s, self.expiry_s = keep_alive_s, expiry_s
        self.tls = ssl.create_default_context(cafile=str(ca))
        self.all, self.failures = [], []
        self.connected, self.fresh = 0, 0  # now; sessions that were not there any more
        self.lock = threading.Lock()
        self.poll = selectors.EpollSelector()
        self.pool = concurrent.futures.ThreadPoolExecutor(THREADS)
        self.stopping = False
        self.loop = threading.Thread(target=self._watch, daemon=True)
        self.loop.start()

    def add(self, token, filters, node):
        c = Client(token, filters, node)
        self.all.append(c)
        self._begin(c)

    def move(self, c, node):
        """Off its connection, without a goodbye, to this node."""
        c.node = node
        self._gone(c)

    def close(self):
        self.stopping = True
        self.loop.join()
        self.pool.shutdown(cancel_futures=True)
        for c in self.all:
            if c.mqtt:
                c.mqtt.close()

    # ---- on the pool's threads -----------------------------------------------------------------

    def _begin(self, c):
        if not self.stopping:
            self.pool.submit(self._connect, c)

    def _connect(self, c):
        while not self.stopping:
            if not self.alive[c.node]:
                c.node = random.choice([i for i, alive in enumerate(self.alive) if alive])
            try:
                self._attempt(c)
                return
            except GONE as e:
                self.failures.append(f"{type(e).__name__}: {e}")
            time.sleep(PAUSE_S)

    def _attempt(self, c):
        m = mqtt.Client(self.nodes[c.node], self.tls, timeout=20)
        try:
            m.send(mqtt.connect("c", c.token, clean=False, keep_alive=self.keep_alive_s,
                                props=[("session_expiry", self.expiry_s)]))
            connack = m.expect(mqtt.CONNACK)
            if connack.reason:
                raise mqtt.Refused(connack)
            if not connack.present:
                self._subscribe(m, c)
        except BaseException:
            m.close()
            raise
        m.sock.setblocking(False)
        c.mqtt = m
        with self.lock:
            self.connected += 1
            self.fresh += not connack.present
        self.poll.register(m.sock, selectors.EVENT_READ, c)

    @staticmethod
    def _subscribe(m, c):
        m.send(mqtt.subscribe(1, [(f, 1) for f in c.filters]))
        reasons = m.expect(mqtt.SUBACK).reasons
        if any(r >= 0x80 for r in reasons):
            raise mqtt.Closed(f"SUBACK {reasons}")

    # ---- on one thread -------------------------------------------------------------------------

    def _gone(self, c):
        m, c.mqtt = c.mqtt, None
        if m is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self.poll.unregister(m.sock)
        m.close()
        with self.lock:
            self.connected -= 1
        self._begin(c)

    def _drop(self, c):
        """What it said is of no interest, unless that was goodbye."""
        try:
            while c.mqtt and (data := c.mqtt.sock.recv(4096)):
                if data[0] >> 4 == mqtt.DISCONNECT:
                    break
            self._gone(c)
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        except OSError:
            self._gone(c)

    def _watch(self):
        due, at = time.monotonic(), 0
        while not self.stopping:
            for key, _ in self.poll.select(0.05):
                self._drop(key.data)
            now = time.monotonic()
            count = int((now - due) * len(self.all) / (self.keep_alive_s * 0.8))
            if count < 1:
                continue
            due = now
            for c in (self.all[(at + i) % len(self.all)] for i in range(min(count, len(self.all)))):
                self._ping(c)
            at = (at + count) % len(self.all)

    @staticmethod
    def _ping(c):
        with contextlib.suppress(OSError, AttributeError):  # whatever is wrong is found by reading
            c.mqtt.sock.send(mqtt.pingreq())
