"""Three linked nodes, each writing through another member of a Galera cluster. Every member takes writes,
and of two that touch one row at once the later COMMIT fails: slower than all through one member, but
nothing may be lost, and nothing be made twice."""

import contextlib
import os
import secrets
import threading
import time
import urllib.parse
from collections import Counter

import pytest

from leat import mqtt, stack
from leat.stack import SLOW, Node, wait_for, wait_for_acks

pytestmark = pytest.mark.skipif(stack.ENGINE != "galera", reason="LEAT_ENGINE is not galera")

KEPT = {"clean": False, "props": [("session_expiry", 300)]}
EACH = 300  # events that each node is given


@pytest.fixture
def trio(own_node, database, work, topic):
    """Three linked nodes of one schema; node N's DSN begins with member N."""
    key = os.path.join(work, f"members-key-{topic.replace('/', '-')}")
    with open(key, "w") as f:
        f.write(secrets.token_hex(32) + "\n")
    os.chmod(key, 0o600)
    extra = ["--peer", "127.0.0.1:0", "--cluster-key", key]
    schema = database.new_schema()
    account, _, hosts = urllib.parse.urlsplit(database.any_dsn).netloc.rpartition("@")
    hosts = hosts.split(",")
    one = own_node(dsn=schema, extra=extra)
    nodes = [one]
    for i in (1, 2):
        dsn = f"mysql://{account}@{','.join(hosts[i:] + hosts[:i])}{urllib.parse.urlsplit(schema).path}"
        n = Node(f"{one.dir}-{i + 1}", dsn, extra=extra)
        n.dsn, n.tenants, n.signers = dsn, one.tenants, one.signers
        nodes.append(n.start())
    yield nodes
    for n in nodes[1:]:
        n.end()


class Consumer(threading.Thread):
    """Takes what comes and hands each packet to `settle`, which answers it."""

    def __init__(self, client, settle):
        super().__init__(daemon=True)
        self.client, self.settle, self.got, self.over = client, settle, [], False
        self.start()

    def run(self):
        with contextlib.suppress(mqtt.Closed, OSError, ValueError):
            while not self.over:
                with contextlib.suppress(TimeoutError):
                    p = self.client.receive(timeout=0.2, ack=False)
                    if self.settle(self.client, p):
                        self.got.append(p.payload.decode())


def done(c, p):
    if p.qos:
        c.send(mqtt.puback(p.packet_id))
    return True


def tried_twice(c, p):
    """Of a queue: the first attempt of every tenth event fails."""
    failed = p.payload.endswith(b"0") and ("leat-attempt", "1") in p.all("user")
    c.send(mqtt.puback(p.packet_id, 0x80 if failed else 0))
    return not failed


@pytest.fixture
def consume():
    with contextlib.ExitStack() as s:
        def make(client, settle=done):
            consumer = Consumer(client, settle)
            s.callback(consumer.join, 5)
            s.callback(setattr, consumer, "over", True)
            return consumer
        yield make


def at_once(jobs):
    """Run them side by side; what one raised is raised."""
    errors = []

    def run(job):
        try:
            job()
        except BaseException as e:
            errors.append(e)
    threads = [threading.Thread(target=run, args=(j,)) for j in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def counted(consumers):
    return Counter(x for c in consumers for x in c.got)


def expect_once(consumers, expected, what, timeout=60):
    """All of them together get each of these once."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: len(counted(consumers)) >= len(expected), timeout)
    counts = counted(consumers)
    assert not expected - counts.keys(), f"{what}: {len(expected - counts.keys())} lost"
    assert counts.keys() <= expected
    time.sleep(0.5)
    assert max(counted(consumers).values()) == 1, f"{what}: made twice"


def members_in_use(database):
    """How many of the members have connections of nodes."""
    used = 0
    for dsn in database.admin_dsns:
        with contextlib.closing(database.connect(dsn=dsn)) as c, c.cursor() as q:
            q.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user='leat'")
            used += q.fetchone()[0] > 0
    return used


def test_everything_at_once(trio, database, client, consume, topic, cid):
    """Published on every node at the same time, to one partition: subscriptions everywhere, a share and
    a queue with consumers on every node, retries, and scheduled events."""
    assert members_in_use(database) == 3
    policy = [("user", ("leat-backoff", "200ms")), ("user", ("leat-backoff-max", "200ms"))]
    own, share, queue = [], [], []
    for i, n in enumerate(trio):
        c = client(n, cid(f"own{i}"), **KEPT)
        c.subscribe(topic + "/#")
        own.append(consume(c))
        c = client(n, cid(f"share{i}"), **KEPT)
        c.subscribe(f"$share/work/{topic}/#")
        share.append(consume(c))
        c = client(n, cid(f"queue{i}"), **KEPT)
        c.subscribe(f"$queue/{cid()}/{topic}/#", props=policy)
        queue.append(consume(c, tried_twice))

    def publish(i):
        p = client(trio[i])
        for k in range(0, EACH, 50):
            p.publish_many([(f"{topic}/{i}", f"{i}-{k + j}") for j in range(50)])
            for j in range(5):
                p.publish(f"$delayed/{j / 5}/{topic}/later/{i}", f"later-{i}-{k + j}")
    start = time.monotonic()
    at_once([lambda i=i: publish(i) for i in range(3)])
    print(f"\n{3 * EACH} events and {3 * EACH // 10} scheduled ones: {time.monotonic() - start:.1f} s")
    expected = {f"{i}-{k}" for i in range(3) for k in range(EACH)}
    expected |= {f"later-{i}-{k + j}" for i in range(3) for k in range(0, EACH, 50) for j in range(5)}
    for consumer in own:
        expect_once([consumer], expected, "a session")
        for i in range(3):
            mine = [int(x.split("-")[1]) for x in consumer.got if x.startswith(f"{i}-")]
            assert mine == list(range(EACH)), "in the order of each topic"
    expect_once(share, expected, "the share")
    expect_once(queue, expected, "the queue")
    assert all(c.got for c in share) and all(c.got for c in queue)


def test_session_follows_its_client(trio, client, topic, cid):
    """Its next node reads through another member what the one before has just written."""
    p = client(trio[0])
    c = client(trio[0], cid(), **KEPT)
    c.subscribe(topic)
    for i in range(1, 7):
        p.publish_many([(topic, f"{i}-{k}") for k in range(10)])
        got = [x.payload.decode() for x in c.receive_many(10)]
        assert got == [f"{i}-{k}" for k in range(10)]
        wait_for_acks(trio[(i - 1) % 3].dsn, cid())
        old, c = c, client(trio[i % 3], cid(), **KEPT)
        assert c.connack.present
        assert old.closed(timeout=10 * SLOW)[-1].reason == 0x8E
    assert c.silent()


def leads(n):
    return "role=timers" in n.text() and "held" in n.text().split("role=timers")[-1].splitlines()[0]


def test_leader_dies(trio, client, topic, cid):
    """Whoever moves what is due next does so through another member: each arrives, and once."""
    leader = next(n for n in trio if leads(n))
    others = [n for n in trio if n is not leader]
    s = client(others[0], cid(), **KEPT)
    s.subscribe(topic)
    publishers = [client(n) for n in trio]
    for i in range(150):
        publishers[i % 3].publish(f"$delayed/{i % 40 / 10}/{topic}", str(i))
    time.sleep(0.5)
    leader.kill()
    got = sorted(int(m.payload) for m in s.receive_many(150, timeout=30 * SLOW))
    assert got == list(range(150))
    assert s.silent(1)


def test_member_that_lags(trio, database, client, topic):
    """One member applies nothing for a while: its node is told of commits it cannot see yet."""
    s, p = client(trio[1]), client(trio[0])
    s.subscribe(topic)
    p.publish(topic, "before")
    assert s.receive().payload == b"before"
    with contextlib.closing(database.connect(dsn=database.admin_dsns[1])) as c, c.cursor() as q:
        q.execute("SET GLOBAL wsrep_desync=ON")
        try:
            q.execute("FLUSH TABLES WITH READ LOCK")
            p.publish_many([(topic, str(i)) for i in range(50)])
            assert s.silent(1)
            q.execute("UNLOCK TABLES")
        finally:
            q.execute("SET GLOBAL wsrep_desync=OFF")
    assert [int(x.payload) for x in s.receive_many(50, timeout=20 * SLOW)] == list(range(50))
    assert s.silent()
