"""Limits of a tenant, on two nodes that are linked: each breach has its answer, its count and its event at
$leat/limits; a change applies within two seconds; the other tenant does not notice. What is counted is asserted exactly,
once the nodes know of each other's (`knows`); only waits are generous."""

import contextlib
import json
import os
import queue
import re
import secrets
import ssl
import subprocess
import threading
import time
from types import SimpleNamespace

import paho.mqtt.client as paho
import pymysql
import pytest
from conftest import prepare
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from leat import mqtt, stack
from leat.stack import SLOW, Node, free_port, page, wait_for

SOON_S = 2
QUOTA = 0x97
LEAT = [{"permission": "allow", "action": "all", "topic": "#"},
        {"permission": "allow", "action": "subscribe", "topic": "$leat/#"}]

# Each test has a tenant of its own, which is there, with its limits, before the nodes are.
TENANTS = {
    "connections": {"max_connections": 3},
    "rate": {"max_events_per_s": 200},
    "regardless": {"max_events_per_s": 10},
    "bytes": {"max_bytes_per_s": 100000, "max_event_bytes": 50000},
    "subscriptions": {"max_subscriptions": 3, "max_filters": 2},
    "in-flight": {"max_in_flight": 5},
    "scheduled": {"max_scheduled": 3},
    "scheduled-2": {"max_scheduled": 7},
    "token": {},
    "usage": {"max_connections": 7},
    "paho-connections": {"max_connections": 2},
    "paho-rate": {"max_events_per_s": 10},
    "paho": {"max_event_bytes": 10, "max_subscriptions": 1},
    "dead": {"max_dead_letters": 2},
    "backlog": {"max_backlog_events": 10},
    "age": {},
    "sql": {"max_events_per_s": 50},
    "sql-bytes": {"max_bytes_per_s": 20000},
    "sql-later": {"max_scheduled": 3},
    "sql-size": {},
    "wills": {"max_events_per_s": 2},
    "ticks": {"max_event_bytes": 100},
    "tick-rate": {"max_events_per_s": 1},
    "full": {"max_stored_bytes": 20000},
}


class Cluster:
    def __init__(self, first, directory, key):
        self.nodes = []
        for i in range(2):
            admin = free_port()
            n = Node(f"{directory}-{i}", first.dsn, name=f"node{i}",
                     extra=["--admin", f"127.0.0.1:{admin}", "--peer", "127.0.0.1:0", "--cluster-key", key,
                            "--max-event-bytes", "200000"])
            n.dsn, n.signers, n.admin = first.dsn, first.signers, admin
            self.nodes.append(n)
        self.dsn, self.db = first.dsn, stack.connect(first.dsn)
        self.tenants = first.tenants
        self.signers = first.signers
        for name, limits in TENANTS.items():
            self.signers[name] = self.tenants.create(name, "ES256")
            for limit, value in limits.items():
                self.limit(name, limit, value)

    def sql(self, text, *args):
        with self.db.cursor() as q:
            q.execute(text, args)
            return q.fetchall()

    def limit(self, tenant, name, value):
        self.sql("CALL tenant_set_limit(%s, %s, %s)", tenant, name, value)

    def enter(self, node, signer, client_id="", token=None, **kw):
        c = node.open(kw.pop("version", 5))
        try:
            c.connack = c.connect(client_id, token or signer.token(acl=LEAT), **kw)
        except BaseException:
            c.close()
            raise
        return c

    def counted(self, tenant):
        """What the nodes say to all of a tenant: events in, and what limits refused."""
        return tuple(int(n or 0) for n in self.sql(
            "SELECT SUM(n.events_in), SUM(n.refused) FROM node_tenant n JOIN tenant t USING (tenant_id)"
            " WHERE t.name=%s", tenant)[0])

    def metric(self, name, limit):
        return gauge(self, f'{name}{{limit="{limit}"}}')


@pytest.fixture(scope="module")
def cluster(work, database):
    directory = f"{work}/limits"
    dsn = database.new_schema()
    tenants, signers = prepare(directory, dsn)

    first = SimpleNamespace(dsn=dsn, tenants=tenants, signers=signers)
    key = f"{directory}.key"
    with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
        f.write(secrets.token_bytes(32))
    c = Cluster(first, directory, key)
    for n in c.nodes:
        n.start(wait=False)
    for n in c.nodes:
        n.wait_ready()
    yield c
    for n in c.nodes:
        n.end()


@pytest.fixture
def enter(cluster):
    with contextlib.ExitStack() as s:
        def connect(i, signer, *a, **kw):
            c = cluster.enter(cluster.nodes[i], signer, *a, **kw)
            s.callback(c.close)
            return c
        yield connect


def next_told(c, limit, timeout=10):
    """The next event at $leat/limits of this limit."""
    while True:
        p = c.receive(timeout=timeout * SLOW)
        said = json.loads(p.payload)
        assert p.topic == "$leat/limits" and p.prop("content_type") == "application/json"
        if said["limit"] == limit:
            return said


def usage(c):
    """What the connection's node knows now; it is not watched any more then."""
    assert c.subscribe("$leat/usage").reasons == [1]
    others, told = [], None
    while not told:
        p = c.receive(timeout=10 * SLOW, ack=False)
        if p.topic == "$leat/usage":
            told = p
        else:
            others.append(p)
    c.unsubscribe("$leat/usage")
    c.aside = others + [p for p in c.aside if p.kind != mqtt.PUBLISH or p.topic != "$leat/usage"]
    return json.loads(told.payload)["limits"]


def knows(c, **used):
    wait_for(lambda: (u := usage(c)) and all(u[k]["used"] == n for k, n in used.items()), 10, str(used))


def listen(enter, i, signer):
    c = enter(i, signer, "listener")
    assert c.subscribe("$leat/limits").reasons == [1]
    return c


def refused(enter, i, signer, **kw):
    with pytest.raises(mqtt.Refused) as e:
        enter(i, signer, **kw)
    assert e.value.packet.reason == QUOTA
    return e.value.packet.prop("reason_string")


def test_connections(cluster, enter):
    t = cluster.signers["connections"]
    heard = listen(enter, 1, t)
    a = enter(0, t, "a")
    enter(1, t, "b")
    knows(heard, connections=3)
    knows(a, connections=3)
    before = cluster.metric("leat_limit_refused_total", "connections")
    for i in range(2):
        assert "3 of 3 connections" in refused(enter, i, t, client_id="c")
    assert cluster.metric("leat_limit_refused_total", "connections") == before + 2
    said = next_told(heard, "connections")
    assert (said["allowed"], said["used"], said["node"]) == (3, 3, "node0") and said["what_to_do"]
    enter(0, t, "a").ping()  # the same client again, whose old connection may be broken
    enter(0, cluster.signers["beta"], "c").ping()  # another tenant
    cluster.limit("connections", "max_connections", 5)

    def let_in():
        with contextlib.suppress(mqtt.Refused):
            return enter(0, t, "d")
    wait_for(let_in, SOON_S, "room for one more")


class Flood(threading.Thread):
    """Publishes all it can, with so many unanswered at a time."""

    def __init__(self, c, window=20):
        super().__init__(daemon=True)
        self.c, self.window, self.stop, self.at, self.refused = c, window, False, [], 0
        self.start()

    def run(self):
        waiting = 0
        while not self.stop or waiting:
            while not self.stop and waiting < self.window:
                self.c.send(mqtt.publish("flood", b"x" * 20, 1, self.c.packet_id()))
                waiting += 1
            p = self.c.expect(mqtt.PUBACK, timeout=20 * SLOW)
            waiting -= 1
            if p.reason and p.reason >= 0x80:
                self.refused += 1
            else:
                self.at.append(time.monotonic())

    def end(self):
        self.stop = True
        self.join(30 * SLOW)
        assert not self.is_alive()

    def lately(self, seconds):
        """Events a second, in the last so many."""
        since = time.monotonic() - seconds
        return sum(t >= since for t in self.at) / seconds


def test_rate_goes_where_the_traffic_is(cluster, enter):
    t = cluster.signers["rate"]
    heard = listen(enter, 1, t)
    quiet = enter(1, cluster.signers["beta"], "quiet")
    start = time.monotonic()
    a = Flood(enter(0, t, "a"))
    wait_for(lambda: a.lately(1) > 150, 20, "all of the rate where all of the traffic is")
    b = Flood(enter(1, t, "b"))
    wait_for(lambda: (n := a.lately(2) + b.lately(2)) > 150 and 0.35 < a.lately(2) / n < 0.65, 30, "half and half")
    took = []
    for _ in range(21):
        at = time.monotonic()
        quiet.publish("q", b"x")
        took.append(time.monotonic() - at)
    # another tenant does not stand in that line: of those in it each waits 0.1 s for its next event
    assert sorted(took)[10] < 0.05 * SLOW
    a.end()
    wait_for(lambda: b.lately(1) > 150, 20, "it went there")
    b.end()
    # never more than the limit, a burst of a fifth of a second on each node, and a fifth of the limit while parts shift
    assert len(a.at) + len(b.at) <= 240 * (time.monotonic() - start) + 80
    assert a.refused == b.refused == 0  # slowed, and no more
    assert next_told(heard, "events_per_s")["allowed"] == 200
    assert cluster.metric("leat_limit_slowed_total", "events_per_s") >= 2
    cluster.limit("rate", "max_events_per_s", 0)
    c = enter(0, t, "c")

    wait_for(lambda: usage(c)["events_per_s"]["allowed"] is None, SOON_S, "live")
    before = cluster.metric("leat_limit_slowed_total", "events_per_s")
    c.publish_many([("flood", b"x")] * 1000, window=400)
    assert cluster.metric("leat_limit_slowed_total", "events_per_s") == before


# ---- publish() in SQL -----------------------------------------------------------------------------

@pytest.fixture
def app(cluster):
    """An application that may publish for every tenant."""
    cluster.sql("CALL publisher_allow(%s, NULL)", stack.parse_dsn(cluster.dsn)["user"])
    with contextlib.closing(stack.connect(cluster.dsn)) as c, c.cursor() as q:
        c.autocommit(False)

        def publish(tenant, count, payload=None, at=None):
            for i in range(count):
                call = "CALL publish_at(%s, 'flood', NULL, %s, NULL, UTC_TIMESTAMP(3) + INTERVAL %s SECOND)"
                args = (tenant, payload or str(i), at)
                q.execute(*((call, args) if at else ("CALL publish(%s, 'flood', NULL, %s, NULL)", args[:2])))
            c.commit()
        yield publish


def gauge(cluster, name):
    return sum(float(re.search(rf"^{name} (\S+)$", page(n.admin), re.M)[1]) for n in cluster.nodes)


def test_what_is_published_in_sql_waits_for_its_rate(cluster, enter, app):
    t = cluster.signers["sql"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "c")
    c.subscribe("flood")
    other = enter(1, cluster.signers["beta"], "other")
    other.subscribe("flood")
    began = time.monotonic()
    app("sql", 200)
    committed = time.monotonic()
    took = []
    for i in range(10):  # another tenant does not stand behind them
        at = time.monotonic()
        app("beta", 1)
        assert other.receive(timeout=5).payload == b"0"
        took.append(time.monotonic() - at)
    assert sorted(took)[5] < 0.2 * SLOW
    said = next_told(heard, "events_per_s")
    assert said["allowed"] == 50 and "SQL" in said["what_to_do"]
    since, lag_s = cluster.sql("SELECT since, lag_s FROM inbox_lag WHERE tenant='sql'")[0]
    assert since and lag_s < 10 * SLOW
    assert gauge(cluster, "leat_inbox_held") == 1 and gauge(cluster, "leat_inbox_waiting") > 0
    got = []
    for i in range(200):
        got.append(int(c.receive(timeout=20 * SLOW).payload))
        # the rate, a burst, and a fifth while parts shift
        assert len(got) <= 60 * (time.monotonic() - began) + 15
    assert got == list(range(200))
    assert time.monotonic() - committed < 6.5 * SLOW
    wait_for(lambda: gauge(cluster, "leat_inbox_held") == 0, 5, "nobody is held")
    assert cluster.sql("SELECT COUNT(*) FROM inbox_lag WHERE tenant='sql'")[0][0] == 0
    cluster.limit("sql", "max_events_per_s", 0)
    time.sleep(SOON_S)
    app("sql", 200)
    c.receive_many(200, timeout=5)


def test_sql_and_connections_share_a_rate(cluster, enter, app):
    t = cluster.signers["sql"]
    cluster.limit("sql", "max_events_per_s", 100)
    time.sleep(SOON_S)
    start = time.monotonic()
    a = Flood(enter(1, t, "a"))
    app("sql", 300)
    time.sleep(4)
    a.end()
    took = time.monotonic() - start
    mine = len(a.at)
    sql = 300 - cluster.sql("SELECT COUNT(*) FROM inbox i JOIN tenant t USING (tenant_id) WHERE t.name='sql'")[0][0]
    assert mine + sql <= 120 * took + 40, (mine, sql, took)
    assert mine > 40 and sql > 40, (mine, sql, took)
    cluster.limit("sql", "max_events_per_s", 0)
    wait_for(lambda: cluster.sql("SELECT COUNT(*) FROM inbox WHERE state=1")[0][0] == 0, 10, "an empty inbox")


def test_bytes_that_are_published_in_sql(cluster, enter, app):
    t = cluster.signers["sql-bytes"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "c")
    c.subscribe("flood")
    start = time.monotonic()
    app("sql-bytes", 6, "x" * 10000)
    c.receive_many(6, timeout=10 * SLOW)
    assert 1.5 <= time.monotonic() - start <= 6 * SLOW  # one or two pass at once
    assert next_told(heard, "bytes_per_s")["allowed"] == 20000


def test_scheduled_in_sql(cluster, enter, app):
    t = cluster.signers["sql-later"]
    heard = listen(enter, 1, t)
    app("sql-later", 5, at=60)
    said = next_told(heard, "scheduled")
    assert (said["allowed"], said["used"]) == (3, 3)
    aside = cluster.sql("SELECT inbox_id, reason FROM inbox_events WHERE tenant='sql-later' AND state='set aside'")
    assert len(aside) == 2 and "max_scheduled" in aside[0][1]
    assert cluster.sql("SELECT COUNT(*) FROM timers WHERE tenant='sql-later'")[0][0] == 3
    cluster.limit("sql-later", "max_scheduled", 4)
    time.sleep(SOON_S)
    cluster.sql("CALL inbox_retry(%s)", aside[0][0])
    wait_for(lambda: cluster.sql("SELECT COUNT(*) FROM timers WHERE tenant='sql-later'")[0][0] == 4, 5, "room for it")
    cluster.sql("CALL inbox_discard(%s)", aside[1][0])
    app("sql-later", 5, at=60)
    waits = "SELECT COUNT(*) FROM inbox_events WHERE tenant='sql-later' AND state='set aside'"
    wait_for(lambda: cluster.sql(waits)[0][0] == 5, 5, "all of a flood are set aside")
    assert cluster.sql("SELECT COUNT(*) FROM audit_log WHERE tenant='sql-later' AND action='inbox.set_aside'")[0][0] <= 3
    assert cluster.sql("CALL inbox_discard_all('sql-later', 'no such reason', NULL)") == ((0, 0),)
    assert cluster.sql("CALL inbox_retry_all('sql-later', '%%max_scheduled%%', 1)") == ((1, 1),)
    wait_for(lambda: cluster.sql(waits)[0][0] == 5, 5, "it is set aside again")
    assert cluster.sql("CALL inbox_discard_all('sql-later', NULL, 3)") == ((3, 1),)
    assert cluster.sql("CALL inbox_discard_all('sql-later', NULL, NULL)") == ((2, 0),)


def test_size_in_sql(cluster, enter, app):
    """The node's own limit, which SQL does not know: the tenant has none."""
    t = cluster.signers["sql-size"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "c")
    c.subscribe("flood")
    before = cluster.metric("leat_limit_refused_total", "event_bytes")
    for n in (1, 1, 1, 200000):
        app("sql-size", n if n == 1 else 1, "x" * (200001 if n == 1 else n))
    assert len(c.receive(timeout=10 * SLOW).payload) == 200000
    said = next_told(heard, "event_bytes")
    assert (said["allowed"], said["used"]) == (200000, 200001)
    assert cluster.metric("leat_limit_refused_total", "event_bytes") == before + 3
    aside = cluster.sql("SELECT reason FROM inbox_events WHERE tenant='sql-size' AND state='set aside'")
    assert len(aside) == 3 and "max_event_bytes" in aside[0][0]
    wait_for(lambda: cluster.counted("sql-size") == (1, 3), 5, "it is counted")


# ---- what has nobody to answer to -----------------------------------------------------------------

def rest(c, quiet):
    """All that has come, and comes until it was quiet for so long."""
    got = []
    with contextlib.suppress(TimeoutError):
        while True:
            got.append(c.receive(timeout=quiet))
    return got


def schedule(cluster, tenant, name, cron, payload):
    cluster.sql("CALL schedule_create(%s, %s, %s, NULL, 'tick', NULL, %s)", tenant, name, cron, payload)


def test_wills_keep_the_rate(cluster, enter):
    t = cluster.signers["wills"]
    heard = listen(enter, 1, t)
    c = enter(1, t, "c")
    c.subscribe("lost")
    before = cluster.metric("leat_limit_refused_total", "events_per_s")
    dying = [enter(0, t, f"w{i}", will=("lost", b"x", 1, False)) for i in range(40)]
    start = time.monotonic()
    for d in dying:
        d.reset()
    said = next_told(heard, "events_per_s")
    assert said["allowed"] == 2
    wait_for(lambda: cluster.sql("SELECT COUNT(*) FROM timer JOIN tenant t USING (tenant_id) WHERE t.name='wills'")
             [0][0] == 0, 20 * SLOW, "the wills are gone")
    took = time.monotonic() - start
    went = len(rest(c, 0.5))
    assert went <= 2 * took + 4
    wait_for(lambda: cluster.metric("leat_limit_refused_total", "events_per_s") == before + 40 - went, 5, "counted")
    wait_for(lambda: cluster.counted("wills") == (went, 40 - went), 5, "counted, for all to see")


def test_ticks_keep_the_size_of_events(cluster, enter):
    t = cluster.signers["ticks"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "c")
    c.subscribe("tick")
    before = cluster.metric("leat_limit_refused_total", "event_bytes")
    with pytest.raises(pymysql.Error, match="may have 100"):
        schedule(cluster, "ticks", "large", "@every 1s", "x" * 101)
    cluster.limit("ticks", "max_event_bytes", 400)
    schedule(cluster, "ticks", "large", "@every 1s", "x" * 300)
    schedule(cluster, "ticks", "small", "@every 1s", "small")
    assert {len(c.receive(timeout=5 * SLOW).payload) for _ in range(4)} == {300, 5}
    cluster.limit("ticks", "max_event_bytes", 100)
    said = next_told(heard, "event_bytes")
    assert (said["allowed"], said["used"]) == (100, 300)
    while len(c.receive(timeout=5).payload) != 5:
        pass
    assert [c.receive(timeout=5).payload for _ in range(2)] == [b"small"] * 2
    assert cluster.metric("leat_limit_refused_total", "event_bytes") > before
    cluster.sql("CALL schedule_delete('ticks', 'large')")
    cluster.sql("CALL schedule_delete('ticks', 'small')")


def test_ticks_keep_the_rate(cluster, enter):
    t = cluster.signers["tick-rate"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "c")
    c.subscribe("tick")
    before = cluster.metric("leat_limit_refused_total", "events_per_s")
    for i in range(4):
        schedule(cluster, "tick-rate", f"s{i}", "@every 1s", "x")
    start = time.monotonic()
    assert next_told(heard, "events_per_s")["allowed"] == 1
    wait_for(lambda: cluster.metric("leat_limit_refused_total", "events_per_s") >= before + 15, 30, "ticks left out")
    for i in range(4):
        cluster.sql("CALL schedule_delete('tick-rate', %s)", f"s{i}")
    took = time.monotonic() - start
    assert 1 <= len(rest(c, 0.5)) <= took + 5  # one at a time; those due in one moment go together


def test_a_full_storage_does_not_grow(cluster, enter, app):
    t = cluster.signers["full"]
    heard = listen(enter, 1, t)
    slowed = cluster.metric("leat_limit_slowed_total", "stored_bytes")
    worker = enter(0, t, "worker")
    worker.subscribe("$queue/jobs/#", props=[("user", ("leat-pin", "true"))])
    worker.close()
    c = enter(0, t, "c")
    c.publish("$delayed/6/later", b"later")
    schedule(cluster, "full", "s", "@every 1s", "tick")
    dying = [enter(1, t, f"w{i}", will=("lost", b"x" * 50, 1, False)) for i in range(20)]
    started = time.monotonic()
    with contextlib.closing(stack.connect(cluster.dsn)) as conn, conn.cursor() as q:
        conn.autocommit(False)
        q.execute("CALL publisher_allow(%s, NULL)", (stack.parse_dsn(cluster.dsn)["user"],))
        q.execute("CALL publish('full', 'sql', NULL, 'sql', NULL)")
        wait_for(lambda: c.publish("fill", b"x" * 3000, check=False).reason == QUOTA, 15, "it is full")
        conn.commit()
    assert time.monotonic() - started < 6 * SLOW
    time.sleep(SOON_S)  # every node knows
    stored = "SELECT COUNT(*) FROM event WHERE tenant='full' AND topic NOT LIKE '$leat/%%'"
    full, refused = cluster.sql(stored)[0][0], cluster.metric("leat_limit_refused_total", "stored_bytes")
    for d in dying:
        d.reset()
    assert next_told(heard, "stored_bytes")["allowed"] == 20000
    wait_for(lambda: cluster.metric("leat_limit_refused_total", "stored_bytes") >= refused + 22, 10,
             "20 wills and some ticks")
    due = ("SELECT COUNT(*) FROM timer JOIN tenant t USING (tenant_id) WHERE t.name='full' AND subscription_id=0"
           " AND due_at<UTC_TIMESTAMP(3) - INTERVAL 1 SECOND")
    wait_for(lambda: cluster.sql(due)[0][0] == 1, 15, "a scheduled event that waits")
    wait_for(lambda: cluster.metric("leat_limit_slowed_total", "stored_bytes") > slowed, 10, "that is counted")
    assert cluster.sql(stored)[0][0] == full
    assert cluster.sql("SELECT COUNT(*) FROM inbox_events WHERE tenant='full' AND state='waiting'")[0][0] == 1
    cluster.limit("full", "max_stored_bytes", 0)
    late = enter(0, t, "late")
    late.subscribe("later", "sql", "lost", "tick")
    wait_for(lambda: cluster.sql(due)[0][0] == 0, 10, "it has room again")
    wait_for(lambda: cluster.sql("SELECT COUNT(*) FROM inbox_events WHERE tenant='full'")[0][0] == 0, 10, "and SQL's")
    cluster.sql("CALL schedule_delete('full', 's')")
    topics = [r[0] for r in cluster.sql("SELECT topic FROM event WHERE tenant='full'")]
    assert topics.count("later") == topics.count("sql") == 1 and "lost" not in topics


def test_who_goes_on_regardless_is_refused(cluster, enter):
    t = cluster.signers["regardless"]
    c = enter(0, t, "a")
    before = cluster.metric("leat_limit_refused_total", "events_per_s")
    start = time.monotonic()
    c.send(b"".join(mqtt.publish("flood", b"x", 1, c.packet_id()) for _ in range(200)))
    answers = [c.expect(mqtt.PUBACK, timeout=20 * SLOW) for _ in range(140)]
    said = [p for p in answers if p.reason == QUOTA]
    assert len(said) + sum(p.reason in (0, 0x10) for p in answers) == 140
    assert 140 - len(said) <= 10 * (time.monotonic() - start) + 3  # a burst of two, and who began before the clock
    assert "events_per_s of 10" in said[0].prop("reason_string")
    assert cluster.metric("leat_limit_refused_total", "events_per_s") >= before + len(said)
    old = enter(1, t, "old", version=4)  # who cannot be told is only slowed
    for _ in range(100):
        old.send(mqtt.publish("flood", b"x", 1, old.packet_id(), version=4))
    assert old.expect(mqtt.PUBACK, timeout=20 * SLOW)


def test_bytes_and_size(cluster, enter):
    t = cluster.signers["bytes"]
    heard = listen(enter, 0, t)
    c = enter(0, t, "a")
    assert c.publish("a", b"x" * 50001, check=False).reason == QUOTA
    said = next_told(heard, "event_bytes")
    assert (said["allowed"], said["used"]) == (50000, 50001)
    start = time.monotonic()
    for _ in range(5):
        c.publish("a", b"x" * 50000)
    assert 1.3 <= time.monotonic() - start <= 20 * SLOW  # 100 kB passed at once, then at the rate


def test_subscriptions(cluster, enter):
    t = cluster.signers["subscriptions"]
    heard = listen(enter, 1, t)  # one
    a = enter(0, t, "a")
    assert a.subscribe("x/1", "x/2").reasons == [1, 1]
    answer = a.subscribe("x/3", check=False)
    assert answer.reasons == [QUOTA] and "may have 2" in answer.prop("reason_string")
    assert next_told(heard, "filters")["allowed"] == 2
    keep = {"clean": False, "props": [("session_expiry", 60)]}
    knows(heard, subscriptions=2)
    before = cluster.metric("leat_limit_refused_total", "subscriptions")
    enter(1, t, "b", **keep).disconnect()  # three, though it is away
    assert "max_subscriptions" in refused(enter, 1, t, client_id="new", **keep)
    assert enter(1, t, "b", **keep).connack.present  # who has one goes on
    c = enter(1, t, "c")
    answer = c.subscribe("y", check=False)
    assert answer.reasons == [QUOTA] and "3 of 3 subscriptions" in answer.prop("reason_string")
    answer = c.subscribe("$share/s/y", check=False)
    assert answer.reasons == [QUOTA] and "max_subscriptions" in answer.prop("reason_string")
    assert c.subscribe("$queue/q/y", check=False).reasons == [QUOTA]
    assert cluster.metric("leat_limit_refused_total", "subscriptions") == before + 4
    assert cluster.sql("SELECT COUNT(*) FROM subscription s JOIN tenant t USING (tenant_id) WHERE t.name=%s",
                       "subscriptions")[0][0] == 1
    assert next_told(heard, "subscriptions")["allowed"] == 3
    cluster.limit("subscriptions", "max_subscriptions", 8)
    wait_for(lambda: c.subscribe("y", "$share/s/y", check=False).reasons == [1, 1], SOON_S, "a change")


def test_in_flight(cluster, enter):
    t = cluster.signers["in-flight"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "a")
    c.subscribe("in")
    before = cluster.metric("leat_limit_slowed_total", "in_flight")
    p = enter(1, t, "p")
    for i in range(8):
        p.publish("in", b"%d" % i)
    got = [c.receive(ack=False, timeout=5 * SLOW) for _ in range(5)]
    c.silent(0.3)
    said = next_told(heard, "in_flight")
    assert (said["allowed"], said["used"]) == (5, 5)
    assert cluster.metric("leat_limit_slowed_total", "in_flight") == before + 1
    cluster.limit("in-flight", "max_in_flight", 6)
    cluster.limit("in-flight", "max_connections", 99)
    wait_for(lambda: usage(c)["connections"]["allowed"] == 99, SOON_S, "a change")
    c.send(mqtt.puback(got[0].packet_id))
    assert [c.receive(ack=False, timeout=5).payload for _ in range(2)] == [b"5", b"6"]
    c.silent(0.3)


def test_scheduled(cluster, enter):
    t = cluster.signers["scheduled"]
    heard = listen(enter, 1, t)
    c = enter(0, t, "a")
    for _ in range(3):
        c.publish("$delayed/60/later", b"x")
    answer = c.publish("$delayed/60/later", b"x", check=False)
    assert answer.reason == QUOTA and "3 of 3 scheduled" in answer.prop("reason_string")
    assert next_told(heard, "scheduled")["used"] == 3
    knows(heard, scheduled=3)  # the other node asks the database
    assert enter(1, t, "b").publish("$delayed/60/later", b"x", check=False).reason == QUOTA
    c.publish("now", b"x")
    assert cluster.sql("SELECT COUNT(*) FROM timer JOIN tenant t USING (tenant_id) WHERE t.name=%s",
                       "scheduled")[0][0] == 3


def test_scheduled_at_once(cluster, enter):
    """Many at a time, and a node that knows nothing of the tenant yet."""
    t = cluster.signers["scheduled-2"]
    for i in range(2):
        with contextlib.closing(enter(i, t, f"c{i}")) as c:
            c.send(b"".join(mqtt.publish("$delayed/60/later", b"x", 1, c.packet_id()) for _ in range(50)))
            answers = [c.expect(mqtt.PUBACK, timeout=10 * SLOW) for _ in range(50)]
            assert sum(p.reason == QUOTA for p in answers) == (43, 50)[i]
    assert cluster.sql("SELECT COUNT(*) FROM timer JOIN tenant t USING (tenant_id) WHERE t.name=%s",
                       "scheduled-2")[0][0] == 7


def test_token_narrows(cluster, enter):
    t = cluster.signers["token"]

    def token(subject, **limits):
        return t.token(sub=subject, acl=LEAT, limits=limits)
    heard = listen(enter, 1, t)
    a = enter(0, t, "a", token=token("alice", connections=2, event_bytes=10))
    c = enter(1, t, "b", token=token("alice", connections=2, event_bytes=10))
    knows(heard, connections=3)
    knows(a, connections=3)
    for i in range(2):
        assert "the token's subject has 2 of 2 connections" in \
            refused(enter, i, t, client_id="c", token=token("alice", connections=2))
    said = next_told(heard, "connections")
    assert (said["allowed"], said["used"], said["subject"]) == (2, 2, "alice")
    assert c.publish("x", b"x" * 11, check=False).reason == QUOTA
    said = next_told(heard, "event_bytes")
    assert (said["allowed"], said["used"], said["subject"]) == (10, 11, "alice")
    c.subscribe("$leat/usage")
    mine = json.loads(c.receive(timeout=5 * SLOW).payload)["token"]
    assert mine["connections"] == {"allowed": 2, "used": 2} and mine["event_bytes"] == {"allowed": 10}
    enter(0, t, "d", token=token("bob", connections=2)).publish("x", b"x" * 11)
    with pytest.raises(mqtt.Refused) as e:
        enter(0, t, "e", token=token("carol", connection=2))
    assert e.value.packet.reason == 0x87 and "no limit" in e.value.packet.prop("reason_string")


def test_usage(cluster, enter):
    t = cluster.signers["usage"]
    c = enter(0, t, "a")
    for i in range(3):
        enter(1, t, f"b{i}").subscribe("x")
    knows(c, connections=4, subscriptions=4)
    assert c.subscribe("#").reasons == [1]
    c.silent(0.2)  # # does not match it
    assert c.subscribe("$leat/usage").reasons == [1]
    p = c.receive(timeout=5 * SLOW)
    said = json.loads(p.payload)
    assert p.topic == "$leat/usage" and p.qos == 0
    assert said["limits"]["connections"] == {"allowed": 7, "used": 4}
    assert said["limits"]["subscriptions"]["used"] == 4
    assert said["limits"]["events_per_s"]["allowed"] is None
    assert said["limits"]["stored_bytes"]["used"] == said["limits"]["scheduled"]["used"] == 0
    # the first message of a node that has not asked yet says what there is, too
    for i in range(2):
        c.publish("$delayed/600/later", b"x" * 1000)
        c.publish("now", b"x" * 1000)
    fresh = enter(1, t, "fresh")
    now = usage(fresh)
    assert now["scheduled"]["used"] == 2 and now["stored_bytes"]["used"] >= 2000
    # a token without the explicit permission reads none of it, and nobody publishes there
    other = enter(1, t, "o", token=t.token())
    assert other.subscribe("$leat/usage", "$leat/limits", check=False).reasons == [0x87, 0x87]
    assert c.publish("$leat/limits", b"{}", check=False).reason == 0x90


def test_backlog(cluster, enter):
    t = cluster.signers["backlog"]
    heard = listen(enter, 1, t)
    keep = {"clean": False, "props": [("session_expiry", 300)]}
    c = enter(0, t, "slow", **keep)
    c.subscribe("work/#")
    c.disconnect()
    p = enter(1, t, "p")
    p.publish_many([("work/1", b"%d" % i) for i in range(100)])
    c = enter(0, t, "slow", **keep)
    first = c.receive(timeout=10 * SLOW)
    assert int(first.payload) >= 88  # the oldest are gone, and it is told
    assert ("leat-gap") in dict(first.all("user"))
    rest = [int(c.receive(timeout=5 * SLOW).payload) for _ in range(99 - int(first.payload))]
    assert rest == list(range(int(first.payload) + 1, 100))
    said = next_told(heard, "backlog_events")
    assert said["allowed"] == 10 and said["used"] >= 80
    assert cluster.metric("leat_limit_refused_total", "backlog_events") >= 80
    wait_for(lambda: cluster.sql("SELECT COUNT(*) FROM audit a JOIN tenant t USING (tenant_id)"
                                 " WHERE t.name=%s AND action='backlog.gap'", "backlog")[0][0] == 1, 5, "the audit")


def test_backlog_age(cluster, enter):
    t = cluster.signers["age"]
    keep = {"clean": False, "props": [("session_expiry", 300)]}
    c = enter(0, t, "slow", **keep)
    c.subscribe("work/#")
    c.disconnect()
    p = enter(1, t, "p")
    p.publish("work/1", b"old")
    time.sleep(2.5)
    p.publish("work/1", b"new")
    cluster.limit("age", "max_backlog_s", 2)
    time.sleep(SOON_S * SLOW)
    p.publish("work/1", b"newer")
    c = enter(0, t, "slow", **keep)
    got = c.receive(timeout=10 * SLOW)
    assert got.payload != b"old" and "leat-gap" in dict(got.all("user"))


def test_dead_letters(cluster, enter):
    """At the limit nothing is dropped: what would be one is tried again, until somebody makes room."""
    t = cluster.signers["dead"]
    heard = listen(enter, 1, t)
    knows(heard, dead_letters=0)
    c = enter(1, t, "c")
    c.subscribe("$queue/q/work", props=[("user", ("leat-backoff", "200ms")), ("user", ("leat-backoff-max", "200ms"))])
    enter(0, t, "p").publish_many([("work", b"%d" % i) for i in range(3)])

    def dead():
        return cluster.sql("SELECT COUNT(*) FROM dead_letters WHERE tenant='dead'")[0][0]

    def refuse(timeout=10 * SLOW):
        p = c.receive(timeout=timeout, ack=False)
        c.send(mqtt.puback(p.packet_id, 0x99))
        return p
    attempts = [dict(refuse().all("user")).get("leat-attempt") for _ in range(3 + 4)]
    assert attempts[3:] == ["2", "3", "4", "5"] and dead() == 2
    said = next_told(heard, "dead_letters")
    assert (said["allowed"], said["used"]) == (2, 2)
    knows(heard, dead_letters=2)
    cluster.sql("CALL dead_letter_discard((SELECT MIN(dead_letter_id) FROM dead_letters WHERE tenant='dead'))")

    def buried():
        with contextlib.suppress(TimeoutError):
            refuse(timeout=0.5)
        return dead() == 2
    wait_for(buried, 20, "the third")
    assert c.silent(1)


# ---- other people's clients -----------------------------------------------------------------------

class Paho:
    def __init__(self, node, signer, client_id, version=paho.MQTTv5):
        self.c = paho.Client(client_id, protocol=version)
        self.c.max_inflight_messages_set(200)
        self.c.username_pw_set("paho", signer.token(acl=LEAT))
        self.c.tls_set(node.ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.up, self.down, self.granted, self.acks, self.got = [queue.Queue() for _ in range(5)]
        self.c.on_connect = lambda c, u, flags, rc, *p: self.up.put((rc, *p))
        self.c.on_disconnect = lambda c, u, rc, *p: self.down.put(rc)
        self.c.on_subscribe = lambda c, u, mid, granted, *p: self.granted.put(granted)
        self.c.on_message = lambda c, u, m: self.got.put(m)
        # paho 1.6 tells no reason codes of PUBACKs: they are looked at where it takes them apart
        handle = self.c._handle_pubackcomp

        def on_puback(cmd):
            data = bytes(self.c._in_packet["packet"])
            self.acks.put(data[2] if len(data) > 2 else 0)
            return handle(cmd)
        self.c._handle_pubackcomp = on_puback
        self.c.connect("localhost", node.address[1], 30)
        self.c.loop_start()

    def connected(self):
        rc = self.up.get(timeout=10 * SLOW)[0]
        return rc if isinstance(rc, int) else rc.value

    def close(self):
        self.c.disconnect()
        self.c.loop_stop()


@pytest.fixture
def make_paho(cluster):
    made = []

    def make(i, tenant, client_id, version=paho.MQTTv5):
        made.append(Paho(cluster.nodes[i], cluster.signers[tenant], client_id, version))
        return made[-1]
    yield make
    for p in made:
        p.close()


def test_paho_connections(cluster, make_paho):
    heard = make_paho(0, "paho-connections", "listener")
    assert heard.connected() == 0
    heard.c.subscribe("$leat/limits", 1)
    heard.granted.get(timeout=10 * SLOW)
    assert make_paho(0, "paho-connections", "b").connected() == 0
    assert make_paho(0, "paho-connections", "c").connected() == QUOTA
    said = json.loads(heard.got.get(timeout=10 * SLOW).payload)
    assert (said["limit"], said["allowed"], said["used"]) == ("connections", 2, 2)
    assert make_paho(0, "paho-connections", "old", paho.MQTTv311).connected() == 3  # server unavailable


def test_paho_rate(cluster, make_paho):
    """Answered with 0x97 where it goes too far, and it goes on with the same connection; in 3.1.1 slowed alone."""
    p = make_paho(0, "paho-rate", "a")
    assert p.connected() == 0
    start = time.monotonic()
    for _ in range(120):
        p.c.publish("flood", "x", qos=1)
    acks = [p.acks.get(timeout=20 * SLOW) for _ in range(60)]
    assert set(acks) <= {0, 0x10, QUOTA} and acks.count(QUOTA) >= 1
    assert 60 - acks.count(QUOTA) <= 10 * (time.monotonic() - start) + 3
    assert p.down.empty()
    old = make_paho(1, "paho-rate", "old", paho.MQTTv311)
    assert old.connected() == 0
    for _ in range(20):
        old.c.publish("flood", "x", qos=1)
    assert old.acks.get(timeout=20 * SLOW) == 0 and old.down.empty()


def test_paho_size_and_subscriptions(cluster, make_paho):
    p = make_paho(0, "paho", "a")
    assert p.connected() == 0
    p.c.publish("x", "x" * 11, qos=1)
    assert p.acks.get(timeout=10 * SLOW) == QUOTA
    p.c.publish("x", "x" * 10, qos=1)
    assert p.acks.get(timeout=10 * SLOW) in (0, 0x10) and p.down.empty()
    p.c.subscribe("x", 1)
    assert [r.value for r in p.granted.get(timeout=10 * SLOW)] == [1]
    q = make_paho(0, "paho", "b")
    assert q.connected() == 0
    q.c.subscribe("x", 1)
    assert [r.value for r in q.granted.get(timeout=10 * SLOW)] == [QUOTA]
    old = make_paho(0, "paho", "old", paho.MQTTv311)
    assert old.connected() == 0
    old.c.subscribe("x", 1)
    assert old.granted.get(timeout=10 * SLOW) == (0x80,)
    old.c.publish("x", "x" * 11, qos=1)  # nothing else says no in 3.1.1
    assert old.down.get(timeout=10 * SLOW) != 0


def test_mosquitto_pub(cluster, enter):
    def pub(version, size):
        n = cluster.nodes[0]
        return subprocess.run(["mosquitto_pub", "-V", version, "-h", "localhost", "-p", str(n.address[1]), "--cafile",
                               n.ca, "-u", "m", "-P", cluster.signers["paho"].token(), "-q", "1", "-t", "x", "-m",
                               "x" * size], capture_output=True, text=True, timeout=20 * SLOW)
    assert pub("5", 10).returncode == 0 and pub("5", 10).stderr == ""
    assert "Quota exceeded" in pub("5", 11).stderr
    assert pub("311", 11).returncode != 0
