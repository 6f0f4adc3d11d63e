"""A tenant's partitions are changed while its clients publish and consume on three nodes, one of which
is stopped across the change and hears of it later. `pytest -s` shows how long consumers waited."""

import contextlib
import signal
import threading
import time
from collections import defaultdict

import pytest

from leat import mqtt, stack
from leat.stack import wait_for
from test_anywhere import cleanup, trio  # noqa: F401  (fixtures)

KEPT = {"clean": False, "props": [("session_expiry", 300)]}
PUBLISHERS, TOPICS = 6, 4  # of each publisher
AT_ONCE = 5  # events of a topic, before their answers


class Publisher(threading.Thread):
    """Numbered events on topics of its own, each acknowledged."""

    def __init__(self, node, prefix):
        super().__init__(daemon=True)
        self.client, self.over = node.connect(), False
        self.sent = {f"{prefix}/{t}": 0 for t in range(TOPICS)}
        self.start()

    def run(self):
        while not self.over:
            self.client.publish_many([(topic, str(n + i)) for i in range(AT_ONCE)
                                      for topic, n in self.sent.items()])
            self.sent = {topic: n + AT_ONCE for topic, n in self.sent.items()}
            time.sleep(0.02)

    def stop(self):
        self.over = True
        self.join(20)
        assert not self.is_alive()
        self.client.close()


class Reader(threading.Thread):
    """What came by topic, in order; several readers of one subscription write into one `got`."""

    def __init__(self, node, client_id, *filters, got=None, times=None, options=(), **kw):
        super().__init__(daemon=True)
        self.got = defaultdict(list) if got is None else got
        self.times, self.over = [] if times is None else times, False
        self.client = node.connect(client_id, **kw)
        if filters:
            self.client.subscribe(*filters, props=options)
        self.start()

    def run(self):
        with contextlib.suppress(mqtt.Closed, OSError, ValueError):
            while not self.over:
                with contextlib.suppress(TimeoutError):
                    p = self.client.receive(timeout=0.2, ack=False)
                    self.got[p.topic].append(int(p.payload))  # before the next of its key may come
                    self.times.append(time.monotonic())
                    if p.qos:
                        self.client.send(mqtt.puback(p.packet_id))

    def stop(self):
        self.over = True
        self.join(5)
        self.client.close()


def firsts(numbers):
    seen = set()
    return [n for n in numbers if not (n in seen or seen.add(n))]


def count(got):
    return sum(len(set(numbers)) for numbers in got.values())


def in_order(got, sent, what):
    for topic, n in sent.items():
        numbers = firsts(got[topic])
        assert numbers == list(range(n)), f"{what}: {topic}: {len(numbers)} of {n}, or out of order"


def again(got):
    return sum(len(numbers) - len(set(numbers)) for numbers in got.values())


def biggest_gap(times, since, until):
    inside = sorted(t for t in times if since <= t <= until)
    return max(b - a for a, b in zip([since, *inside], [*inside, until]))


@pytest.fixture
def partitions(trio):  # noqa: F811
    """Change alpha's partitions and wait for the effect."""
    with contextlib.closing(stack.connect(trio[0].dsn)) as c, c.cursor() as q:
        def change(n):
            q.execute("CALL tenant_set_partitions('alpha', %s)", (n,))
            return time.monotonic()

        def query(text, *args):
            q.execute(text, args)
            return q.fetchall()
        change.query = query
        yield change


def test_order_is_kept_across_changes(trio, topic, cid, cleanup, partitions):  # noqa: F811
    away = trio[0].connect(cid("away"), **KEPT)
    away.subscribe(f"{topic}/#")
    away.disconnect()
    plain = cleanup(Reader(trio[0], cid("plain"), f"{topic}/#", **KEPT))
    fleeting = cleanup(Reader(trio[1], "", f"{topic}/#"))
    name = topic.replace("/", "-")
    share, queue = defaultdict(list), defaultdict(list)
    for i in range(2):
        cleanup(Reader(trio[i], cid(f"s{i}"), f"$share/{name}/{topic}/#", got=share, **KEPT))
    cleanup(Reader(trio[0], cid("q0"), f"$queue/{name}/{topic}/#", got=queue,
                   options=[("user", ("leat-ordered", "true"))], **KEPT))
    cleanup(Reader(trio[1], cid("q1"), f"$queue/{name}", got=queue, **KEPT))
    publishers = [Publisher(trio[i % 3], f"{topic}/{i}") for i in range(PUBLISHERS)]
    time.sleep(1)
    trio[2].signal(signal.SIGSTOP)
    changed = [partitions(4)]
    time.sleep(2.5)
    trio[2].signal(signal.SIGCONT)
    changed.append(partitions(2))
    time.sleep(2.5)
    for p in publishers:
        p.stop()
    sent = {t: n for p in publishers for t, n in p.sent.items()}
    total = sum(sent.values())
    for what, got in (("plain", plain.got), ("fleeting", fleeting.got), ("share", share),
                      ("queue", queue)):
        wait_for(lambda got=got: count(got) >= total, 20, f"{what}: {total} events")
    late = cleanup(Reader(trio[2], cid("away"), **KEPT))
    wait_for(lambda: count(late.got) >= total, 20, f"away: {total} events")
    for what, got in (("plain", plain.got), ("fleeting", fleeting.got), ("queue", queue),
                      ("away", late.got)):
        in_order(got, sent, what)
    assert not again(plain.got) and not again(fleeting.got) and not again(late.got)
    ids = dict(partitions.query("SELECT layout, COUNT(*) FROM tenant_partitions WHERE tenant='alpha'"
                                " GROUP BY layout"))
    assert ids == {0: 1, 1: 4, 5: 2}
    used = partitions.query("SELECT partition_id FROM tenant_partitions WHERE tenant='alpha'"
                            " AND next_seq > 1")
    assert len(used) >= 6
    left = partitions.query("SELECT SUM(subscriptions_left) FROM tenant_partitions"
                            " WHERE tenant='alpha' AND state='sealed'")
    assert int(left[0][0]) == 0
    pauses = [biggest_gap(plain.times, at - 0.1, at + 2.4) for at in changed]
    print(f"{total} events; plain session waited at most "
          + ", ".join(f"{p * 1000:.0f} ms" for p in pauses) + f"; share again {again(share)}")
    assert max(pauses) < 2.2 * stack.SLOW
