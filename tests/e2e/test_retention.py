"""Retention: what is too old or too much goes, oldest first, in the order of the journal; who was
overtaken is told; a pinned queue is waited for; nobody who publishes ever waits for it."""

import contextlib
import json
import os
import re
import signal
import threading
import time

import pytest

from leat import stack
from leat.stack import SLOW, Node, free_port, page, wait_for

KEPT = {"clean": False, "props": [("session_expiry", 300)]}
BODY = "x" * 1000


class Journal:
    """What SQL shows of tenant alpha."""

    def __init__(self, dsn):
        self.c = stack.connect(dsn)

    def rows(self, text, *args):
        with self.c.cursor() as q:
            q.execute(text, args)
            return q.fetchall()

    def limit(self, name, value):
        self.rows("CALL tenant_set_limit('alpha', %s, %s)", name, value)

    def batches(self):
        return self.rows("SELECT COUNT(*) FROM journal j JOIN tenant t USING (tenant_id)"
                         " WHERE t.name = 'alpha'")[0][0]

    def head(self):
        """next_seq, first_seq, stored bytes by the head, stored bytes by the rows, lowest row"""
        return self.rows(
            "SELECT h.next_seq, h.first_seq, CAST(h.bytes - h.removed_bytes AS SIGNED),"
            " CAST((SELECT COALESCE(SUM(LENGTH(attributes) + LENGTH(body)), 0) FROM journal j"
            "   WHERE j.tenant_id = h.tenant_id) AS SIGNED),"
            " (SELECT COALESCE(MIN(base_seq), h.next_seq) FROM journal j WHERE j.tenant_id = h.tenant_id)"
            " FROM head h JOIN tenant t USING (tenant_id) WHERE t.name = 'alpha'")[0]

    def consistent(self):
        _, first, by_head, by_rows, lowest = self.head()
        assert (first, by_head) == (lowest, by_rows)
        return True

    def audit(self, action):
        return self.rows("SELECT who, target, detail FROM audit WHERE action = %s ORDER BY audit_id",
                         action)


@pytest.fixture
def journal():
    with contextlib.ExitStack() as s:
        def make(node):
            j = Journal(node.dsn)
            s.callback(j.c.close)
            return j
        yield make


def metric(node, name):
    return int(re.search(rf"^{name} (\d+)$", page(node.admin_port), re.M)[1])


@pytest.fixture
def keeper(own_node):
    def make(*extra):
        port = free_port()
        n = own_node(extra=["--admin", f"127.0.0.1:{port}", *extra])
        n.admin_port = port
        return n
    return make


def test_old_events_go(client, keeper, journal, topic):
    n = keeper("--retention", "2s")
    j = journal(n)
    p = client(n)
    p.publish_many([(topic, str(i)) for i in range(300)])
    wait_for(lambda: j.batches() == 0, 15, "everything is older than two seconds")
    next_seq, first_seq, *_ = j.head()
    assert next_seq == first_seq == 301
    j.limit("retention_s", 3600)  # the tenant's own setting counts
    p.publish(topic, "kept")
    time.sleep(3)
    assert j.batches() == 1 and j.consistent()
    s = client(n)
    s.subscribe(topic, props=[("user", ("leat-start", "earliest"))])
    assert s.receive().payload == b"kept"
    assert metric(n, "leat_retention_removed_total") > 0
    assert metric(n, "leat_retention_leader") == 1


def test_too_much_goes_oldest_first(client, keeper, journal, topic):
    n = keeper("--max-stored", "50000")
    j = journal(n)
    p = client(n)
    for i in range(200):
        p.publish(topic, f"{i:04}" + BODY)
    wait_for(lambda: j.head()[2] <= 50000, 15, "within the limit")
    j.consistent()
    s = client(n)
    s.subscribe(topic, props=[("user", ("leat-start", "earliest"))])
    left = j.batches()
    assert 30 < left < 50
    got = [int(m.payload[:4]) for m in s.receive_many(left)]
    assert got == list(range(200 - left, 200))


def test_gap_is_told_and_written_down(client, keeper, journal, topic, cid):
    n = keeper()
    j = journal(n)
    p, c = client(n), client(n, cid(), **KEPT)
    c.subscribe(topic + "/#")
    p.publish(topic, "0")
    c.receive()
    time.sleep(0.2)  # its cursor is written
    c.disconnect()
    for i in range(1, 101):
        p.publish(topic, f"{i}")
    assert not j.audit("retention.gap")
    j.limit("max_stored_bytes", 2000)
    wait_for(lambda: j.head()[2] <= 2000, 15, "within the limit")
    _, first, *_ = j.head()
    n.stop()  # what it has in memory it could still deliver
    n.start()
    again = client(n, cid(), **KEPT)
    assert again.connack.present
    m = again.receive()
    assert int(m.payload) == first - 1  # the event's number is one more than its text
    assert m.all("user") == [("leat-gap", f"0:2-{first - 1}")]
    m = again.receive()
    assert int(m.payload) == first and not m.all("user")
    (who, target, detail), = j.audit("retention.gap")
    assert who.startswith(b"node:")
    assert target.startswith(b"session ") and target.endswith(cid().encode())
    detail = json.loads(detail)
    assert detail["from"] == 2 and detail["partition"] == 0 and detail["to"] <= first - 1
    assert metric(n, "leat_gaps_total") == 1
    assert metric(n, "leat_gap_events_total") == first - 2


@pytest.mark.parametrize("age", [("--retention", "1s"), ()], ids=["old", "young"])
def test_a_pinned_queue_makes_publishes_refused(client, keeper, journal, topic, age):
    n = keeper(*age)
    j = journal(n)
    worker = n.connect(tenant="alpha")
    queue = f"$queue/jobs/{topic}"
    worker.subscribe(queue, props=[("user", ("leat-pin", "true"))])
    worker.close()  # nobody works on it
    j.limit("max_stored_bytes", 20000)
    p, other = client(n), client(n, tenant="beta")
    old = client(n, version=4)

    def refused():
        ack = p.publish(topic, BODY, check=False)
        return ack if ack.reason else None
    ack = wait_for(refused, 15, "a publish is refused")
    assert ack.reason == 0x97 and "limit" in ack.prop("reason_string")
    assert j.head()[2] > 20000 and j.head()[1] == 1  # not one event of its went, old as they are
    told = "SELECT COUNT(*) FROM event WHERE tenant='alpha' AND topic='$leat/limits'"
    wait_for(lambda: j.rows(told)[0][0] == 1, what="the tenant is told, full as it is")
    stored = j.batches()
    other.publish(topic, "beta is not concerned")
    old.send(stack.mqtt.publish(topic, BODY.encode(), 1, 1, version=4))
    assert old.closed(timeout=5) == []  # 3.1.1 has no word for it
    assert refused() and j.batches() == stored
    assert j.rows("SELECT COUNT(*) FROM tenant WHERE full_since IS NOT NULL")[0][0] == 1
    worker = client(n)
    worker.subscribe(queue)
    worker.receive_many(j.head()[0] - 1 - j.rows(told)[0][0])
    wait_for(lambda: not refused(), 10, "there is room again")
    j.consistent()
    assert j.head()[2] <= 20000 and (age or j.batches() > 10)  # young: no more went than had to
    changes = j.audit("retention.full") + j.audit("retention.room")
    assert [target for _, target, _ in changes] == [b"alpha", b"alpha"]


def test_what_ended_sessions_left_goes(keeper, journal):
    n = keeper()
    j = journal(n)
    j.rows("INSERT INTO node_session(session_id,name,state,ended_at,ended_minutes) VALUES"
           " (REPEAT('a',16),'gone',0,UTC_TIMESTAMP(),60),"
           " (REPEAT('b',16),'gone by its clock alone',0,UTC_TIMESTAMP() - INTERVAL 1 DAY,59)")
    j.rows("INSERT INTO writer(session_id,writer_no,state) VALUES (REPEAT('a',16),0,0),"
           " (REPEAT('b',16),0,0)")
    wait_for(lambda: len(j.rows("SELECT 1 FROM node_session")) == 2, 10, "one of three went")
    assert j.rows("SELECT COUNT(*) FROM writer WHERE session_id = REPEAT('a',16)")[0][0] == 0
    assert j.rows("SELECT COUNT(*) FROM writer WHERE session_id = REPEAT('b',16)")[0][0] == 1


def test_what_was_set_aside_has_a_bound(keeper, journal):
    """Of publish() in SQL, by number and age, in steps, of each tenant for itself; what is being moved stays."""
    n = keeper("--max-set-aside", "700")
    j = journal(n)
    n.kill()
    with j.c.cursor() as q:
        q.executemany("INSERT INTO inbox(tenant_id, state, account, topic, payload, reason, aside_at) SELECT tenant_id,"
                      " 2, 'hand', %s, 'x', 'no', UTC_TIMESTAMP(3) - INTERVAL %s DAY FROM tenant WHERE name = %s",
                      [(f"t{i}", 0, "alpha") for i in range(1, 1301)] +
                      [(f"t{days}", days, "beta") for days in (31, 29, 29, 31)])
    n.start()

    def left(tenant):
        return j.rows("SELECT COUNT(*), MIN(topic), MIN(aside_at) > UTC_TIMESTAMP(3) - INTERVAL 30 DAY"
                      " FROM inbox_events WHERE tenant = %s AND state = 'set aside'", tenant)[0]
    wait_for(lambda: left("alpha")[0] == 700 and left("beta")[0] == 3, 15 * SLOW, "the oldest that are too many")
    assert left("alpha")[1] == "t1000"  # of t601 to t1300, as text
    assert metric(n, "leat_retention_set_aside_total") == 601
    rows = [(t.decode(), json.loads(d)) for w, t, d in j.audit("inbox.removed") if w.startswith(b"node:")]
    assert [(t, d["rows"], d["too_many"], d["too_old"]) for t, d in rows] == [
        ("alpha", 500, 500, 0), ("alpha", 100, 100, 0), ("beta", 1, 0, 1)]
    assert "rows=500 too_old=0 too_many=500 of the inbox removed" in n.text()


def test_another_node_takes_over(client, keeper, journal, topic, work):
    n = keeper("--retention", "1s")
    two = Node(os.path.join(work, "keeper-two"), n.dsn, extra=["--retention", "1s"])
    two.signers = n.signers
    two.start()
    try:
        j = journal(n)
        n.kill()
        p = client(two, tenant="alpha")
        p.publish(topic, "1")
        wait_for(lambda: j.batches() == 0, 30, "the other node removes events")
    finally:
        two.stop()


def test_a_stopped_retention_blocks_no_publish(client, keeper, journal, topic, work):
    """The leader is stopped again and again while it removes thousands of batches; publishes through
    another node, to the same partition, never wait for what it holds."""
    n = keeper("--max-stored", "20000")
    two = Node(os.path.join(work, "blocks-two"), n.dsn, extra=["--max-stored", "20000"])
    two.signers = n.signers
    two.start()
    longest, stop = [0.0], threading.Event()

    def publish():
        with contextlib.closing(two.connect(tenant="alpha")) as p:
            while not stop.is_set():
                start = time.monotonic()
                p.publish(topic, BODY)
                longest[0] = max(longest[0], time.monotonic() - start)
    threads = [threading.Thread(target=publish) for _ in range(3)]
    try:
        for t in threads:
            t.start()
        for i in range(12):
            time.sleep(0.31)
            n.signal(signal.SIGSTOP)
            time.sleep(0.4 + 0.02 * i)
            n.signal(signal.SIGCONT)
    finally:
        stop.set()
        for t in threads:
            t.join()
        n.signal(signal.SIGCONT)
        two.stop()
    j = journal(n)
    wait_for(lambda: j.head()[2] <= 20000, 20, "within the limit")
    j.consistent()
    assert longest[0] < 0.5 * SLOW, f"a publish waited {longest[0]:.2f} s"


def test_gap_is_told_until_it_was_heard(client, keeper, journal, topic, cid):
    """Whatever becomes of the node: its cursor moves on, and the gap stays with it."""
    n = keeper()
    j = journal(n)
    p, c = client(n), client(n, cid(), **KEPT)
    c.subscribe(topic)
    c.disconnect()
    for i in range(100):
        p.publish(topic, f"{i}")
    j.limit("max_stored_bytes", 2000)
    wait_for(lambda: j.head()[2] <= 2000, 15, "within the limit")
    told = [("leat-gap", f"0:1-{j.head()[1] - 1}")]

    def gap_of():
        return j.rows("SELECT c.gap_from, c.gap_to FROM cursors c JOIN subscription s USING (subscription_id)"
                      " WHERE s.name=%s", cid())[0]
    n.kill()
    n.start()
    c = client(n, cid(), **KEPT)
    m = c.receive(ack=False)
    assert m.all("user") == told
    wait_for(lambda: gap_of()[1] > 0, what="the gap is in its row")
    n.kill()
    n.start()
    c = client(n, cid(), **KEPT)
    m = c.receive()
    assert m.all("user") == told
    wait_for(lambda: gap_of() == (0, 0), what="it was heard")
    n.kill()
    n.start()
    c = client(n, cid(), **KEPT)
    assert not c.receive().all("user")


def test_gap_reaches_a_consumer_elsewhere(client, own_node, journal, work, topic):
    """The share's owner finds the gap; whoever gets its next event is told, through the link."""
    made = own_node(start=False)
    key = os.path.join(work, "gap-cluster-key")
    with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write("0123456789abcdef" * 4)
    nodes = [Node(os.path.join(work, f"gap-{i}"), made.dsn, name=f"gap{i}",
                  extra=["--peer", "127.0.0.1:0", "--cluster-key", key, "--cache", "1MiB"])
             for i in range(2)]
    try:
        for n in nodes:
            n.signers, n.dsn = made.signers, made.dsn
            n.start()
        j = journal(made)
        holder = nodes[0].connect(tenant="alpha", props=[("receive_maximum", 1)])
        share = f"$share/g/{topic}"
        holder.subscribe(share)
        p = nodes[0].connect(tenant="alpha")
        for i in range(400):
            p.publish(topic, f"{i:04}" + 10 * BODY)
        assert int(holder.receive(ack=False).payload[:4]) == 0
        j.limit("max_stored_bytes", 300000)
        wait_for(lambda: j.head()[2] <= 300000, 20, "within the limit")
        other = nodes[1].connect(tenant="alpha")
        other.subscribe(share)
        got = [other.receive() for _ in range(20)]
        gaps = [v for m in got for k, v in m.all("user") if k == "leat-gap"]
        assert len(gaps) == 1 and gaps[0].startswith("0:"), gaps
        for c in holder, p, other:
            c.close()
    finally:
        for n in nodes:
            if n.alive():
                n.stop()
