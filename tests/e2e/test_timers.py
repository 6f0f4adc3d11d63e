"""Scheduled publishes: they arrive when they are due and not before, once, whatever happens to the
node that stored them or to the one that moves them; bad ones are refused with words."""

import contextlib
import datetime
import time

import pymysql
import pytest

from leat import mqtt, stack
from leat.stack import Node


def at(seconds, form="rfc"):
    """A leat-deliver-at of so many seconds from now."""
    when = time.time() + seconds
    if form == "ms":
        return ("leat-deliver-at", str(int(when * 1000)))
    text = datetime.datetime.fromtimestamp(when, datetime.timezone.utc)
    return ("leat-deliver-at", text.isoformat(timespec="milliseconds"))


def user(*pairs):
    return {"props": [("user", p) for p in pairs]}


def test_delayed_publish_arrives_in_time(client, node, topic):
    s, p = client(node), client(node)
    s.subscribe(topic + "/#")
    start = time.monotonic()
    p.publish(f"$delayed/1/{topic}/a", "a")
    p.publish(f"$delayed/0.5/{topic}/b", "b", qos=0)
    p.publish(f"{topic}/c", "c", **user(at(1.5)))
    p.publish(f"{topic}/d", "d", **user(at(2, "ms"), ("mine", "1")))
    p.publish(f"$delayed/0/{topic}/now", "now")
    for name, due in (("now", 0), ("b", 0.5), ("a", 1), ("c", 1.5), ("d", 2)):
        got = s.receive(timeout=5)
        took = time.monotonic() - start
        assert (got.topic, got.payload.decode()) == (f"{topic}/{name}", name)
        assert due - 0.01 <= took < due + 1.5 * stack.SLOW, f"{name} after {took:.3f} s"
    assert got.prop("user") == ("mine", "1")  # what is said to the server stays with it
    assert s.silent()


def test_a_time_in_the_past_is_now(client, node, topic):
    s, p = client(node), client(node)
    s.subscribe(topic)
    p.publish(topic, "1", **user(at(-3600)))
    assert s.receive().payload == b"1"
    p.publish(topic, "2", **user(("leat-deliver-at", "0")))
    assert s.receive().payload == b"2"


def test_cancel_and_replace(client, node, topic, cid):
    s, p = client(node), client(node)
    s.subscribe(topic)
    name = cid("timer/1")
    p.publish(f"$delayed/2/{topic}", "old", **user(("leat-timer", name)))
    p.publish(f"$delayed/1/{topic}", "new", **user(("leat-timer", name)))
    p.publish(f"$delayed/1/{topic}", "never", **user(("leat-timer", name + "x")))
    assert p.publish(f"$delayed/cancel/{name}x").reason == 0
    gone = p.publish(f"$delayed/cancel/{name}x")
    assert gone.reason == 0x10
    assert "nothing of this name" in gone.prop("reason_string")
    assert s.receive(timeout=5).payload == b"new"
    assert s.silent(2)
    assert p.publish(f"$delayed/cancel/{name}").reason == 0x10  # it is published


def test_names_belong_to_their_subject(client, sql_node, topic, cid):
    alpha = sql_node.signers["alpha"]
    s = client(sql_node, tenant="alpha")
    s.subscribe(topic)
    mine = client(sql_node, token=alpha.token("alice"))
    yours = client(sql_node, token=alpha.token("bob"))
    mine.publish(f"$delayed/1/{topic}", "mine", **user(("leat-timer", cid())))
    yours.publish(f"$delayed/1.1/{topic}", "yours", **user(("leat-timer", cid())))
    assert yours.publish(f"$delayed/cancel/{cid()}").reason == 0
    assert s.receive(timeout=5).payload == b"mine"
    assert s.silent(1)


BAD = [
    ("$delayed/x/TOPIC", [], "SECONDS"),
    ("$delayed/-1/TOPIC", [], "SECONDS"),
    ("$delayed/1", [], "SECONDS"),
    ("$delayed/1/", [], "SECONDS"),
    ("$delayed/31622401/TOPIC", [], "366 days"),
    ("$delayed/1/$SYS/x", [], "$"),
    ("$delayed/cancel/", [], "1 to 255"),
    ("TOPIC", [("leat-deliver-at", "tomorrow")], "RFC 3339"),
    ("TOPIC", [("leat-deliver-at", "2026-13-01T00:00:00Z")], "RFC 3339"),
    ("TOPIC", [("leat-deliver-at", "9999-01-01T00:00:00Z")], "366 days"),
    ("$delayed/1/TOPIC", [("leat-deliver-at", "0")], "does not go with"),
    ("TOPIC", [("leat-timer", "x")], "say when"),
    ("$delayed/1/TOPIC", [("leat-timer", "")], "1 to 255"),
]


@pytest.mark.parametrize("name,properties,words", BAD)
def test_bad_ones_are_refused(client, memory_node, topic, name, properties, words):
    s, p = client(memory_node), client(memory_node)
    s.subscribe("#")
    ack = p.publish(name.replace("TOPIC", topic), "x", check=False, **user(*properties))
    assert ack.reason == 0x90
    assert words in ack.prop("reason_string")
    assert s.silent(0.2)


def test_bad_one_of_an_old_client_ends_its_connection(client, memory_node, topic):
    c = client(memory_node, version=4)
    with pytest.raises(mqtt.Closed):
        c.publish(f"$delayed/soon/{topic}", "x")


def test_acl_judges_the_real_topic(client, sql_node, topic):
    alpha = sql_node.signers["alpha"]
    p = client(sql_node, token=alpha.token(publish=[f"{topic}/yes"]))
    assert p.publish(f"$delayed/1/{topic}/yes", "x").reason == 0
    assert p.publish(f"$delayed/1/{topic}/no", "x", check=False).reason == 0x87


def test_attributes_and_expiry(client, node, topic):
    """An event keeps what its publisher gave it, and its expiry runs from its publishing on."""
    s, p = client(node), client(node)
    s.subscribe(topic)
    p.publish(f"$delayed/1.5/{topic}", b"\x00\xff",
              props=[("message_expiry", 1), ("content_type", "a/b"), ("correlation_data", b"\x01"),
                     ("user", ("k", 'v"\\'))])
    got = s.receive(timeout=5)
    assert (got.topic, got.payload) == (topic, b"\x00\xff")
    assert got.prop("content_type") == "a/b"
    assert got.prop("correlation_data") == b"\x01"
    assert got.prop("user") == ("k", 'v"\\')


def test_survives_a_restart(client, own_node, topic, cid):
    n = own_node()
    s = client(n, cid(), clean=False, props=[("session_expiry", 300)])
    s.subscribe(topic)
    p = client(n)
    for i in range(20):
        p.publish(f"$delayed/{1 + i % 3}/{topic}", str(i))
    n.kill()
    time.sleep(1)
    n.start()
    s = client(n, cid(), clean=False, props=[("session_expiry", 300)])
    assert s.connack.present
    assert sorted(int(m.payload) for m in s.receive_many(20, timeout=20)) == list(range(20))
    assert s.silent(1)


@pytest.fixture
def pair(own_node, work):
    """Two nodes of one schema."""
    one = own_node()
    two = Node(one.dir + "-two", one.dsn)
    two.dsn, two.tenants, two.signers = one.dsn, one.tenants, one.signers
    two.start()
    yield one, two
    two.end()


def leads(n):
    return "role=timers" in n.text() and "held" in n.text().split("role=timers")[-1].splitlines()[0]


def test_leader_dies(client, pair, topic, cid):
    """kill -9 of the node that moves what is due: the other goes on, and each arrives once."""
    dead, other = pair if leads(pair[0]) else pair[::-1]
    s = client(other, cid(), clean=False, props=[("session_expiry", 300)])
    s.subscribe(topic)
    publishers = [client(dead), client(other)]
    for i in range(200):
        publishers[i % 2].publish(f"$delayed/{i % 40 / 10}/{topic}", str(i))
    time.sleep(1)
    dead.kill()
    got = [int(m.payload) for m in s.receive_many(200, timeout=30)]
    assert sorted(got) == list(range(200))
    assert s.silent(1)


# ---- schedules ----------------------------------------------------------------------------------

def leat_schedule(node, verb, *argv, **kw):
    return stack.leat("schedule", verb, *argv, "--tenant", "alpha", "--db", node.dsn, **kw)


def query(node, text, *args):
    with contextlib.closing(stack.connect(node.dsn)) as c, c.cursor() as q:
        q.execute(text, args)
        return q.fetchall()


def ticks_of(node, topic):
    return [r[0] for r in query(node, "SELECT id FROM event WHERE topic = %s ORDER BY seq", topic)]


def test_schedule_ticks_once_whoever_leads(client, pair, topic, cid):
    dead, other = pair if leads(pair[0]) else pair[::-1]
    s = client(other)
    s.subscribe(topic)
    leat_schedule(other, "create", cid("every"), "--cron", "@every 1s", "-t", topic, "-m", "tick")
    first = s.receive(timeout=5)
    assert first.payload == b"tick"
    told = dict(first.all("user"))
    assert told == {"specversion": "1.0", "id": f"{cid('every')}@{told['time']}", "type": "leat.tick",
                    "source": "leat:schedule", "subject": cid("every"), "time": told["time"]}
    s.receive_many(2, timeout=5)
    dead.kill()
    s.receive_many(4, timeout=20)
    leat_schedule(other, "pause", cid("every"))
    ids = ticks_of(other, topic)
    assert told["id"] == ids[0]
    assert len(ids) == len(set(ids))
    (state, count), = query(other, "SELECT state, ticks FROM schedules WHERE name = %s", cid("every"))
    assert (state, count) == ("paused", len(ids))
    time.sleep(1.5)
    assert ticks_of(other, topic) == ids
    times = [datetime.datetime.fromisoformat(i.split("@")[1].replace("Z", "+00:00")) for i in ids]
    gaps = {(b - a).total_seconds() for a, b in zip(times, times[1:])}
    assert all(g >= 1 and g == int(g) for g in gaps)  # the beat is kept; a gap is made up by one tick


def test_what_is_due_of_a_suspended_tenant_waits(client, own_node, topic, cid):
    """Scheduled events, a will and ticks come when it is resumed, of the ticks one; nobody else waits behind them."""
    n = own_node()
    p = client(n, cid("p"), will=(f"{topic}/will", b"will", 1, False))
    p.publish_many([(f"$delayed/4/{topic}/late", str(i)) for i in range(300)])
    leat_schedule(n, "create", cid("every"), "--cron", "@every 1s", "-t", f"{topic}/tick", "-m", "tick")
    stack.wait_for(lambda: ticks_of(n, f"{topic}/tick"), 5, "a tick")
    query(n, "CALL tenant_suspend('alpha')")
    stored = "SELECT COUNT(*) FROM event WHERE tenant = 'alpha'"
    due = "SELECT COUNT(*) FROM timer WHERE due_at <= UTC_TIMESTAMP(3)"
    stack.wait_for(lambda: query(n, due)[0][0] == 301, 10 * stack.SLOW, "all of it is due")
    before = query(n, stored)
    others = client(n, tenant="beta")
    others.subscribe(topic)
    for i in range(3):
        start = time.monotonic()
        others.publish(f"$delayed/0.5/{topic}", str(i))
        assert others.receive(timeout=5).payload == str(i).encode()
        assert time.monotonic() - start < 1.5 * stack.SLOW
    assert query(n, stored) == before
    assert query(n, due)[0][0] == 301
    query(n, "CALL tenant_resume('alpha')")
    stack.wait_for(lambda: query(n, "SELECT COUNT(*) FROM timer")[0][0] == 0, 10 * stack.SLOW, "all that was due")
    leat_schedule(n, "pause", cid("every"))
    stored = query(n, "SELECT topic, CONVERT(data USING utf8mb4) FROM event WHERE tenant = 'alpha' ORDER BY seq")
    assert [int(data) for name, data in stored if name.endswith("/late")] == list(range(300))
    assert [data for name, data in stored if name.endswith("/will")] == ["will"]
    times = [datetime.datetime.fromisoformat(i.split("@")[1].replace("Z", "+00:00")) for i in ticks_of(n, f"{topic}/tick")]
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert sum(g > datetime.timedelta(seconds=3) for g in gaps) == 1 and len(set(times)) == len(times)

def test_schedule_by_fields(client, sql_node, topic, cid):
    s = client(sql_node, tenant="alpha")
    s.subscribe(topic)
    month = (time.gmtime().tm_mon + 5) % 12 + 1  # not now
    leat_schedule(sql_node, "create", cid(), "--cron", f"*/5 * * {month} MON-FRI", "--zone", "Europe/Berlin",
                  "-t", topic, "-m", "{}", "--content-type", "application/json")
    stack.wait_for(lambda: query(sql_node, "SELECT 1 FROM schedules WHERE name = %s AND next_at > "
                                 "UTC_TIMESTAMP()", cid()), 5, "a next time")
    query(sql_node, "UPDATE schedule SET next_at = UTC_TIMESTAMP() - INTERVAL 3 HOUR WHERE name = %s", cid())
    got = s.receive(timeout=5)  # those missed are one
    assert got.prop("content_type") == "application/json"
    assert s.silent(1.5)
    assert cid() in leat_schedule(sql_node, "list").stdout
    leat_schedule(sql_node, "delete", cid())
    assert cid() not in leat_schedule(sql_node, "list").stdout


@pytest.mark.parametrize("cron,zone,words", [
    ("61 * * * *", "UTC", "minute"), ("* * * *", "UTC", "five fields"), ("@every 0s", "UTC", "duration"),
    ("@hourly", "Europe/Atlantis", "time zone"), ("0 0 30 2 *", "UTC", "never ticks"),
    ("0 0 31 4 *", "UTC", "never ticks"), ("@hourly x", "UTC", "nothing behind it"),
])
def test_bad_schedule_is_refused(sql_node, topic, cid, cron, zone, words):
    done = leat_schedule(sql_node, "create", cid(), "--cron", cron, "--zone", zone, "-t", topic, "-m", "x",
                         check=False)
    assert done.returncode and words in done.stderr


def test_schedule_that_cannot_be_understood_stops(sql_node, topic, cid):
    """Whoever writes nonsense into the table finds it in the audit; the leader goes on."""
    query(sql_node, "CALL schedule_create('alpha', %s, '0 0 30 2-2 *', 'UTC', %s, '', 'x')", cid(), topic)
    stack.wait_for(lambda: query(sql_node, "SELECT 1 FROM schedules WHERE name = %s"
                                 " AND state = 'not understood'", cid()), 5, "the state")
    (detail,), = query(sql_node, "SELECT detail FROM audit WHERE action = 'schedule.error' AND target = %s",
                       cid())
    assert "never ticks" in detail


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "5 4 30,31 Feb *", "0 0 31 4,6,SEP *", "* *  31 11 */2"])
def test_sql_refuses_days_that_never_come(sql_node, topic, cid, cron):
    with pytest.raises(pymysql.err.MySQLError, match="never ticks"):
        query(sql_node, "CALL schedule_create('alpha', %s, %s, 'UTC', %s, '', 'x')", cid(), cron, topic)


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 30 2 1", "0 0 30,28 2 *", "0 0 31 4,5 *", "0 0 30 4 *"])
def test_sql_takes_days_that_come(sql_node, topic, cid, cron):
    query(sql_node, "CALL schedule_create('alpha', %s, %s, 'UTC', %s, '', 'x')", cid(), cron, topic)
    query(sql_node, "CALL schedule_delete('alpha', %s)", cid())


@pytest.mark.parametrize("version", [4, 5], ids=["v3", "v5"])
@pytest.mark.parametrize("where, props", [("$delayed/abc/{}", ()), ("$delayed/{}", ()),
                                          ("{}", [("user", ("leat-deliver-at", "soon"))])])
def test_qos_0_that_cannot_be_understood_ends_the_connection(client, node, topic, where, props, version):
    """There is no PUBACK, and it is not discarded without a word."""
    if props and version == 4:
        return
    c = client(node, version=version)
    c.publish(where.format(topic), "x", qos=0, props=props)
    said = c.closed()
    if version == 5:
        assert said[-1].reason == 0x90 and said[-1].prop("reason_string")
    else:
        assert said == []


def test_timer_command(client, sql_node, topic, cid):
    p = client(sql_node, token=sql_node.signers["alpha"].token("alice"))
    p.publish(f"$delayed/3600/{topic}", "x", **user(("leat-timer", cid())))
    where = ["--tenant", "alpha", "--db", sql_node.dsn]
    assert cid() in stack.leat("timer", "list", *where).stdout
    stack.leat("timer", "cancel", cid(), "--subject", "alice", *where)
    assert cid() not in stack.leat("timer", "list", *where).stdout
    assert p.publish(f"$delayed/cancel/{cid()}").reason == 0x10


def test_the_leader_is_told_what_is_due(client, linked, topic):
    """What another node stores is moved when it is due, not with the leader's next look, a second apart."""
    one, two = linked
    s, p = client(two), client(two)
    s.subscribe(topic)
    p.publish(f"$delayed/0.1/{topic}", "0")  # by now the leader is known
    assert s.receive(timeout=5).payload == b"0"
    took = []
    for i in range(1, 10):
        time.sleep(0.13)  # at any time between its looks
        start = time.monotonic()
        p.publish(f"$delayed/0.1/{topic}", str(i))
        assert int(s.receive(timeout=5).payload) == i
        took.append(time.monotonic() - start)
    assert sorted(took)[-3] < 0.1 + 0.2 * stack.SLOW, [f"{t:.3f}" for t in took]
