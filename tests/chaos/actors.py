"""The clients of the kill test and of the chaos suite: publishers, durable subscribers, and the watch
over cursors. Each is a thread that reconnects whenever it is cut, or its node says nothing although it
was asked; `cut` asks it to reset its own connection, as the thread that reads a socket is the only one
that may close it. `node` is what it connects to: open(version, timeout) and token."""

import collections
import contextlib
import random
import threading
import time

from history import parse, payload
from leat import mqtt
from leat.stack import SLOW
from stall import clock

IO_ERRORS = (OSError, mqtt.Closed, mqtt.Refused, TimeoutError)
FOREVER = [("session_expiry", mqtt.FOREVER)]
QUIET_S = 1.0  # of silence, then a PINGREQ is sent
DEAD_S = 4.0   # of silence: the node is gone


class Meter:
    """The longest time without progress since start(). Any thread."""

    def __init__(self):
        self.last = self.begun = time.monotonic()
        self.longest, self.marks = 0, 0

    def start(self):
        self.begun = self.last = time.monotonic()
        self.longest, self.marks = 0, 0

    def mark(self):
        now = time.monotonic()
        self.longest = max(self.longest, now - self.last)
        self.last = now
        self.marks += 1


class Actor(threading.Thread):
    def __init__(self, node, history, name, version):
        super().__init__(name=name, daemon=True)
        self.node, self.history, self.version = node, history, version
        self.cut = threading.Event()      # reset the connection, soon
        self.stopping = threading.Event()
        self.failure = None               # why the thread died
        self.meter = Meter()

    def run(self):
        try:
            while not self.stopping.is_set():
                try:
                    self.life()
                except IO_ERRORS:
                    time.sleep(random.uniform(0.02, 0.06))
        except BaseException as e:
            self.failure = e
            self.history.violation("actor", f"{self.name}: {type(e).__name__}: {e}")

    def life(self):
        raise NotImplementedError

    def connect(self, **kw):
        c = self.node.open(self.version, timeout=3)
        c.pinged = 0
        try:
            c.connack = c.connect(self.name, self.node.token, **kw)
        except BaseException:
            c.close()
            raise
        return c

    def look_after(self, c):
        """Cut the connection if that was asked for, or if nobody is at its other end."""
        if self.cut.is_set():
            self.cut.clear()
            c.reset()
            raise mqtt.Closed("cut")
        now = time.monotonic()
        if now - c.heard > DEAD_S * SLOW and c.pinged > c.heard:
            c.reset()
            raise mqtt.Closed("the node is silent")
        if now - c.heard > QUIET_S and c.pinged <= c.heard:
            c.pinged = now
            c.send(mqtt.pingreq())


class Publisher(Actor):
    """Keeps a window of QoS 1 publishes open; what was not answered is sent again, in order, as the
    next attempt."""

    def __init__(self, node, history, number, topics, window=200, size=64, version=5,
                 rate=None):
        super().__init__(node, history, f"pub{number}", version)
        self.number, self.topics, self.window, self.size = number, topics, window, size
        self.rate, self.due = rate, time.monotonic()  # events a second; when the next may go
        self.paused = threading.Event()
        self.next = 0
        self.pending = collections.OrderedDict()  # number: [topic, attempt, packet id]
        self.acks = 0

    def life(self):
        with self.connect(clean=True) as c:
            ids = {}
            self.send(c, ids, list(self.pending))
            while not self.stopping.is_set():
                self.look_after(c)
                fresh = []
                while self.may_publish():
                    self.pending[self.next] = [self.topic(), 0, None]
                    fresh.append(self.next)
                    self.next += 1
                self.send(c, ids, fresh)
                self.answers(c, ids)

    def may_publish(self):
        if self.paused.is_set() or len(self.pending) >= self.window:
            return False
        if self.rate:
            now = time.monotonic()
            if now < self.due:
                return False
            self.due = max(self.due, now - 0.1) + 1 / self.rate
        return True

    def topic(self):
        return random.choice(self.topics)

    def send(self, c, ids, numbers):
        data = []
        for n in numbers:
            row = self.pending[n]
            props = self.props(row[0], n) if self.version == 5 else ()
            row[1] += 1
            self.history.sent[self.number, n] = row[1]
            while (pid := c.packet_id()) in ids:
                pass
            ids[pid] = n
            data.append(mqtt.publish(row[0], payload(self.number, n, row[1], self.size), 1, pid,
                                     dup=row[1] > 1, props=props, version=self.version))
        if data:
            c.send(b"".join(data))

    def props(self, topic, number):
        return ()

    def answers(self, c, ids):
        """Take at least one PUBACK if any is due, then what else has arrived."""
        wait = 0.05 if self.pending else 0.02
        try:
            while True:
                p = c.read(wait)
                if p.kind == mqtt.DISCONNECT:
                    raise mqtt.Closed(str(p))
                if p.kind == mqtt.PINGRESP:
                    continue
                n = ids.pop(p.packet_id)
                topic, attempt, _ = self.pending.pop(n)
                if p.reason not in (0, 0x10):
                    raise AssertionError(f"publish refused: {p}")
                with self.history.lock:
                    self.history.acked.add((self.number, n, attempt))
                self.acks += 1
                self.meter.mark()
                if mqtt.split(c.buf) is None:
                    return
        except TimeoutError:
            return


class Scheduler(Publisher):
    """Publishes what is due up to LATER_S later."""

    LATER_S = 2.5

    def topic(self):
        return f"$delayed/{random.uniform(0, self.LATER_S):.2f}/{super().topic()}"


class Subscriber(Actor):
    """A durable session; `name` in the history is its subscription's. Holds some acknowledgements
    back for a while, so that a cut finds deliveries in flight. A slow one (think_s for each event, two
    at a time) lets a backlog grow behind it; `hurry` asks it to catch up."""

    def __init__(self, node, history, name, filter_, subscription=None, version=5, think_s=0):
        super().__init__(node, history, name, version)
        self.filter, self.subscription = filter_, subscription or name
        self.think_s, self.hurry = think_s, threading.Event()
        self.policy, self.batch = (), 2 if think_s else 20  # events taken before the first is answered
        self.ready = threading.Event()
        self.reconnects = 0

    def life(self):
        kw = {"props": FOREVER + [("receive_maximum", 2)] * bool(self.think_s)} if self.version == 5 else {}
        with self.connect(clean=False, **kw) as c:
            if not c.connack.present:
                if self.ready.is_set():
                    self.history.violation("sessions", f"{self.name}: its session is gone")
                    self.stopping.set()
                    return
                c.subscribe(self.filter, props=self.policy)
                self.ready.set()
            self.reconnects += 1
            held = collections.deque()
            while not self.stopping.is_set():
                self.look_after(c)
                self.take(c, held)

    def take(self, c, held):
        got = []
        try:
            while len(got) < 200:
                p = c.read(0.02 if held or got else 0.1)
                if p.kind == mqtt.DISCONNECT:
                    raise mqtt.Closed(str(p))
                if p.kind == mqtt.PINGRESP:
                    continue
                assert p.kind == mqtt.PUBLISH, str(p)
                got.append((p.topic, parse(p.payload)))
                self.on_delivery(p, got[-1][1])
                held.append((p.packet_id, parse(p.payload)))
                if mqtt.split(c.buf) is None and len(got) >= self.batch:
                    break
        except TimeoutError:
            pass
        finally:
            # Also when the connection broke: the client has seen these.
            if got:
                with self.history.lock:
                    self.history.delivered[self.subscription] += got
                self.meter.mark()
                self.check_silence()
        if self.think_s and not self.hurry.is_set():
            self.hurry.wait(self.think_s * len(got))
        keep = random.randrange(0, 30) if got and not self.think_s else 0
        data = []
        while len(held) > keep:
            packet_id, key = held.popleft()
            data.append(self.answer(packet_id, key))
        if data:
            c.send(b"".join(data))

    def on_delivery(self, p, key):
        pass

    def answer(self, packet_id, _):
        return mqtt.puback(packet_id, version=self.version)

    def check_silence(self):
        """A node that cannot renew its session says nothing any more once its TTL is over, but for what
        a live owner sends it over their link: shares and queues."""
        if self.filter.startswith("$"):
            return
        silent_from = getattr(getattr(self.node, "at", None), "silent_from", None)
        if silent_from and clock.now() > silent_from:
            self.history.violation("self-fencing", f"{self.name} got an event from a node that had not "
                                                   "renewed its session for longer than its TTL")


class Worker(Subscriber):
    """A consumer of a work queue. Most events it processes; some it fails now and then, a few always, a
    few it gives up at once, and some are too long in its hands."""

    ATTEMPTS = 4
    POLICY = {"leat-max-attempts": ATTEMPTS, "leat-backoff": "100ms", "leat-backoff-max": "400ms",
              "leat-ack-timeout": "3s"}
    PAUSES_S = (0, 0.05, 0.1, 0.2)  # at least, before the next attempt: half of the back-off
    CLOCKS_S = 0.005                # the database's clock is another, and counts milliseconds

    def __init__(self, node, history, name, queue, filter_, ordered=False, version=5):
        super().__init__(node, history, name, f"$queue/{queue}/{filter_}", queue, version)
        self.attempts = {}  # key: of what it has in hand
        if version == 5:
            more = {"leat-ordered": "true"} if ordered else {}
            self.batch = 1 if ordered else self.batch
            self.policy = [("user", (k, str(v))) for k, v in {**self.POLICY, **more}.items()]

    def answer(self, packet_id, key):
        fate = hash(key) % 100
        if self.version == 4:
            return self.done(packet_id, key)
        if fate == 0 or (fate < 12 and random.random() < 0.5):
            return self.failed(packet_id, key, 0x80)
        if fate == 12:
            return self.failed(packet_id, key, 0x99)
        if fate == 13 and random.random() < 0.02:
            self.note(self.history.failed, key)
            return b""  # its time runs out, and with it this connection
        return self.done(packet_id, key)

    def on_delivery(self, p, key):
        """Never before its pause is over, counted from when the attempt before failed first."""
        attempt = int(dict(p.all("user")).get("leat-attempt", 1)) if self.version == 5 else 1
        now = time.monotonic()
        self.attempts[key] = attempt
        with self.history.lock:
            failed_at = self.history.failed_at.get((self.subscription, key, attempt - 1))
            self.history.steps[self.subscription].append(("got", key, now))
        if failed_at and failed_at > self.history.clock_set_at and now - failed_at < self.PAUSES_S[min(attempt, self.ATTEMPTS) - 1] - self.CLOCKS_S:
            self.history.violation("early", f"{self.name} got attempt {attempt} of {key} {now - failed_at:.3f} s after "
                                            "the one before had failed")

    def done(self, packet_id, key):
        self.note(self.history.done, key)
        return mqtt.puback(packet_id, version=self.version)

    def failed(self, packet_id, key, reason):
        self.note(self.history.failed, key)
        return mqtt.puback(packet_id, reason)

    def note(self, what, key):
        h, now = self.history, time.monotonic()
        with h.lock:
            what[self.subscription].add(key)
            h.steps[self.subscription].append(("done" if what is h.done else "failed", key, now))
            if what is h.failed:
                h.failed_at.setdefault((self.subscription, key, self.attempts[key]), now)


class CursorWatch(threading.Thread):
    """Samples cursors.acked_through. What a reader sees may not be durable yet, so a sample counts
    only when a commit made after it succeeded."""

    def __init__(self, database, schema, history):
        super().__init__(name="cursors", daemon=True)
        self.database, self.schema, self.history = database, schema, history
        self.stopping = threading.Event()
        self.best, self.samples = {}, 0
        with self.connection() as q:
            q.execute("CREATE TABLE kill_watch (id INT PRIMARY KEY, n BIGINT NOT NULL)")
            q.execute("INSERT INTO kill_watch VALUES (1, 0)")
        self.open.close()

    def connection(self):
        self.open = self.database.connect(self.schema, read_timeout=10, write_timeout=10)
        return self.open.cursor()

    def run(self):
        while not self.stopping.is_set():
            try:
                q = self.connection()
                while not self.stopping.is_set():
                    self.sample(q)
                    time.sleep(0.03)
            except Exception:  # the database is away: samples begin again when it is back
                time.sleep(0.1)
            finally:
                with contextlib.suppress(Exception):
                    self.open.close()

    def sample(self, q):
        q.execute("SELECT subscription_id, partition_id, acked_through FROM cursors")
        rows = q.fetchall()
        q.execute("UPDATE kill_watch SET n=n+1 WHERE id=1")
        for sub, partition, through in rows:
            best = self.best.get((sub, partition), 0)
            if through < best:
                self.history.violation("cursors", f"subscription {sub}, partition {partition}: "
                                                  f"acked_through went from {best} to {through}")
            self.best[sub, partition] = max(best, through)
        self.samples += 1
