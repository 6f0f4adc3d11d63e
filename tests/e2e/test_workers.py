"""`leat node --workers`: several nodes behind one listener, minded by their parent."""

import os
import re
import signal
import time

import pytest

from leat import stack
from leat.stack import Node, wait_for

WORKERS = 4


class Workers(Node):
    """A node of several workers: what its log and the admin ports say of them."""

    def pids(self):
        """Of the workers as they were started last."""
        found = re.findall(r"module=workers worker=(\d+) pid=(\d+) started", self.text())
        return {int(no): int(pid) for no, pid in found}

    def ports(self):
        found = re.findall(r"worker=(\d+) .*admin_port=(\d+) .*serving", self.text())
        return {int(no): int(port) for no, port in found}

    def metric(self, worker, name):
        return int(re.search(rf"^{name} (\d+)$", stack.page(self.ports()[worker]), re.M)[1])

    def clients(self):
        return [self.metric(i, "leat_clients") for i in range(1, WORKERS + 1)]

    def wait_serving(self, times):
        """All together; a worker that was started again counts again."""
        wait_for(lambda: len(re.findall(r"worker=\d .* serving$", self.text(), re.M)) >= times, 20,
                 "the workers serve")


@pytest.fixture
def workers(own_node, work):
    """Four of them on a schema of its own; own_node only prepares it."""
    made = own_node(start=False)
    n = Workers(made.dir, made.dsn, made.authority, name="w",
                extra=["--workers", str(WORKERS), "--admin", "127.0.0.1:0"])
    n.dsn, n.tenants, n.signers = made.dsn, made.tenants, made.signers
    n.start()
    n.wait_serving(WORKERS)
    yield n
    if n.alive():
        n.stop()
    n.check_log()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as f:  # a zombie whose parent is gone waits for init
        return f.read().rpartition(")")[2].split()[0] == "Z"


def test_clients_spread_and_events_cross(client, workers, topic):
    """Each worker has its share of the clients, whatever worker the others are at, everybody gets
    everything."""
    subscribers = [client(workers) for _ in range(20)]
    counts = workers.clients()
    assert sum(counts) == 20
    assert min(counts) >= 3 and max(counts) <= 8, counts
    assert len(set(workers.ports().values())) == WORKERS
    for s in subscribers:
        s.subscribe(topic + "/#")
    publishers = [client(workers) for _ in range(4)]
    for i, p in enumerate(publishers):
        p.publish_many([(f"{topic}/{i}", str(k)) for k in range(100)])
    for s in subscribers:
        got = s.receive_many(400)
        for i in range(4):
            assert [int(p.payload) for p in got if p.topic == f"{topic}/{i}"] == list(range(100))


def test_names(workers):
    with stack.connect(workers.dsn) as c, c.cursor() as q:
        q.execute("SELECT name FROM node_session WHERE state = 1")
        assert {row[0].decode() for row in q.fetchall()} == {f"w/{i}" for i in range(1, WORKERS + 1)}


def test_dead_worker_is_started_again(client, workers, topic, cid):
    kept = client(workers, cid(), clean=False, props=[("session_expiry", 300)])
    kept.subscribe(topic)
    before = workers.pids()
    for pid in list(before.values())[:2]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len([p for p in workers.pids().values() if p not in before.values()]) == 2,
             10, "two new workers")
    client(workers).publish(topic, "on")
    again = client(workers, cid(), clean=False, props=[("session_expiry", 300)])
    assert again.receive(timeout=10).payload == b"on"
    workers.wait_serving(WORKERS + 2)


def test_a_worker_that_is_told_to_stop_drains(client, workers):
    c = client(workers)
    at = workers.clients().index(1) + 1
    os.kill(workers.pids()[at], signal.SIGTERM)
    assert c.closed(timeout=10)[-1].reason == 0x8B
    wait_for(lambda: re.search(rf"module=workers worker={at} status=0 signal=0", workers.text()), 10,
             "the worker ended cleanly")
    client(workers)


def test_hup_reloads_all(workers):
    workers.authority.issue(workers.cert, workers.key)
    workers.signal(signal.SIGHUP)
    wait_for(lambda: len(set(re.findall(r"worker=(\d) .*certificates reloaded", workers.text())))
             == WORKERS, 10, "all have reloaded")


def test_term_to_all_of_them_drains_once(client, workers):
    """As a service manager or a terminal does it: parent and workers each get the signal."""
    c = client(workers)
    for pid in [*workers.pids().values(), workers.process.pid]:
        os.kill(pid, signal.SIGTERM)
    assert c.closed(timeout=10)[-1].reason == 0x8B
    assert workers.process.wait(20 * stack.SLOW) == 0
    assert all(gone(pid) for pid in workers.pids().values())


def test_second_signal_ends_at_once(workers):
    os.kill(workers.pids()[1], signal.SIGSTOP)  # it cannot drain
    workers.signal(signal.SIGTERM)
    wait_for(lambda: "shutting down" in workers.text(), 5, "it drains")
    time.sleep(0.3)
    start = time.monotonic()
    workers.signal(signal.SIGTERM)
    assert workers.process.wait(10) == 1
    assert time.monotonic() - start < 2 * stack.SLOW
    assert all(gone(pid) for pid in workers.pids().values())


def test_workers_do_not_outlive_their_parent(workers):
    pids = workers.pids().values()
    workers.kill()
    wait_for(lambda: all(gone(pid) for pid in pids), 15, "the workers ended")


def test_start_that_cannot_work(work, own_node):
    """Nobody restarts for ever what can never serve; the memory backend is one process's."""
    done = stack.leat("node", "--memory", "--workers", "2", "--mqtt", "127.0.0.1:0", check=False)
    assert done.returncode == 2 and "--workers is for --db" in done.stderr
    n = own_node(start=False)
    done = stack.leat("node", "--db", n.dsn, "--workers", "2", "--mqtt", "127.0.0.1:0",
                      "--cert", "/nonexistent", "--key", n.key, check=False)
    assert done.returncode == 1 and "cannot serve: ending" in done.stderr
    done = stack.leat("node", "--db", n.dsn, "--workers", "3", "--mqtt", "127.0.0.1:0",
                      "--admin", "127.0.0.1:65534", "--cert", n.cert, "--key", n.key, check=False)
    assert done.returncode == 1 and "do not exist" in done.stderr
