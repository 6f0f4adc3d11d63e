"""A node whose DSN names all members of a Galera: it uses one and goes on to the next. Of the member in
use it stays with what the cluster's own time-outs allow (6 s to give up a dead member)."""

import contextlib
import os
import threading
import time

import pytest

from leat import stack
from leat.stack import SLOW, Database, wait_for

pytestmark = pytest.mark.skipif(stack.ENGINE != "galera", reason="LEAT_ENGINE is not galera")

KEPT = {"clean": False, "props": [("session_expiry", 300)]}
GAP_S = 15  # the longest time without an acknowledgement, when a majority is left


class Load(threading.Thread):
    """Publishes numbers one after the other on a connection that must last; times of the PUBACKs."""

    def __init__(self, node, topic):
        super().__init__()
        self.client = node.connect()
        self.client.timeout = 60 * SLOW
        self.topic, self.acked, self.error = topic, [], None
        self.ending = threading.Event()

    def run(self):
        try:
            number = 0
            while not self.ending.is_set():
                self.client.publish(self.topic, b"%d" % number)
                self.acked.append(time.monotonic())
                number += 1
        except BaseException as e:  # told by whoever ends it
            self.error = e

    def count_grows(self, by=20, timeout=60):
        end = len(self.acked) + by
        wait_for(lambda: self.error or len(self.acked) >= end, timeout, "publishing to go on")

    def end(self):
        self.ending.set()
        self.join()
        self.client.close()
        if self.error:
            raise self.error

    def longest_gap(self):
        return max(b - a for a, b in zip(self.acked, self.acked[1:]))


@pytest.fixture
def cluster(work):
    db = Database(os.path.join(work, f"cluster{time.monotonic_ns()}"))
    yield db
    db.stop()


@contextlib.contextmanager
def under_load(node, topic, cid):
    """A Load; at the end a durable subscriber must get every acknowledged number, in order."""
    subscriber = node.connect(cid(), **KEPT)
    subscriber.subscribe(topic)
    load = Load(node, topic)
    load.start()
    try:
        load.count_grows()
        yield load
    finally:
        load.end()
    got = []
    while len(got) < len(load.acked):
        p = subscriber.receive(timeout=30 * SLOW)
        number = int(p.payload)
        assert number in got or number == len(got), f"{number} after {len(got)} in order"
        if number == len(got):
            got.append(number)
    subscriber.close()


def member_in_use(db):
    """1, 2 or 3, by where the account's connections are."""
    for number, dsn in enumerate(db.member_dsns, 1):
        try:
            with stack.connect(dsn) as c, c.cursor() as q:
                q.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE id<>CONNECTION_ID()"
                          " AND user='leat'")
                if q.fetchone()[0] > 0:
                    return number
        except stack.pymysql.MySQLError:
            pass
    return None


def test_member_in_use_crashes(own_node, cluster, topic, cid):
    """And the next one too, after the first has come back."""
    n = own_node(dsn=cluster.any_dsn)
    with under_load(n, topic, cid) as load:
        for _ in range(2):
            member = member_in_use(cluster)
            cluster.crash(member)
            load.count_grows()
            assert member_in_use(cluster) not in (None, member)
            cluster.resume(member)
    print(f"longest time without an acknowledgement: {load.longest_gap():.2f} s")
    assert load.longest_gap() < GAP_S * SLOW


def test_member_in_use_is_stopped(own_node, cluster, topic, cid):
    n = own_node(dsn=cluster.any_dsn)
    with under_load(n, topic, cid) as load:
        cluster.stop(member_in_use(cluster))
        load.count_grows()
    print(f"longest time without an acknowledgement: {load.longest_gap():.2f} s")
    assert load.longest_gap() < 5 * SLOW


def test_majority_is_gone(own_node, cluster, topic, cid):
    """What is left takes no writes and so nothing is acknowledged; clients stay, and are served when
    all have come back."""
    n = own_node(dsn=cluster.any_dsn)
    with under_load(n, topic, cid) as load:
        cluster.crash()
        time.sleep(0.5)
        count = len(load.acked)
        time.sleep(2)
        assert len(load.acked) == count
        cluster.resume()
        load.count_grows()
