"""What an admin reads with SQL: events as rows, dense numbers, subscriptions and cursors."""

import contextlib
import datetime
import json
import time

import pymysql.cursors
import pytest

from leat import mqtt, stack
from leat.stack import wait_for

KEPT = {"clean": False, "props": [("session_expiry", 300)]}


@pytest.fixture
def rows(sql_node):
    """rows(topic): the event rows of a topic since the test began, as dicts, in order. What other tests
    wrote is not taken apart again for each."""
    with contextlib.closing(stack.connect(sql_node.dsn)) as c:
        with c.cursor() as q:
            q.execute("SELECT UTC_TIMESTAMP(3) - INTERVAL 5 SECOND")
            since = q.fetchone()[0]

        def query(topic):
            with c.cursor(pymysql.cursors.DictCursor) as q:
                q.execute("SELECT * FROM event WHERE topic=%s AND appended_at>=%s"
                          " ORDER BY tenant_id, partition_id, seq", (topic, since))
                return q.fetchall()
        yield query


def test_plain_event(client, sql_node, rows, topic, cid):
    c = client(sql_node, cid())
    before = datetime.datetime.utcnow() - datetime.timedelta(seconds=2)
    c.publish(topic, b"\x00\xffbytes")
    row, = rows(topic)
    assert (row["tenant"], row["topic"], row["qos"], row["data"]) == ("alpha", topic, 1, b"\x00\xffbytes")
    assert row["client_id"] == cid()
    assert row["id"] == f"{row['partition_id']}-{row['seq']}", "an id is made"
    assert row["source"] == f"mqtt:{cid()}" and row["type"] == "mqtt.publish"
    made = datetime.datetime.strptime(row["time"][:19], "%Y-%m-%dT%H:%M:%S")
    assert row["time"].endswith("Z") and before <= made <= datetime.datetime.utcnow()
    assert before <= row["appended_at"] <= datetime.datetime.utcnow()
    for absent in ("subject", "event_key", "content_type", "payload_format", "expires_at",
                   "response_topic", "correlation_data", "correlation_id", "causation_id"):
        assert row[absent] is None, absent
    assert row["user_properties"] in (None, "[]")


def test_every_attribute(client, sql_node, rows, topic):
    user = [("b", "2"), ("a", "1"), ("b", "3"), ("ключ", '"quoted" \\ \n')]
    c = client(sql_node)
    c.publish(topic, '{"n":1}', props=[
        ("payload_format", 1), ("content_type", "application/json"), ("response_topic", "answers/ä"),
        ("correlation_data", b"\x00\x01\xfe"), ("message_expiry", 3600), *[("user", u) for u in user]])
    row, = rows(topic)
    assert row["data"] == b'{"n":1}'
    assert row["content_type"] == "application/json" and row["payload_format"] == 1
    assert row["response_topic"] == "answers/ä" and row["correlation_data"] == b"\x00\x01\xfe"
    left = row["expires_at"] - datetime.datetime.utcnow()
    assert datetime.timedelta(seconds=3590) < left <= datetime.timedelta(seconds=3601)
    assert [tuple(u) for u in json.loads(row["user_properties"])] == user


def test_cloudevents_binary_mode(client, sql_node, rows, topic):
    """CloudEvents 1.0, MQTT binding: attributes are user properties, the data is the payload."""
    given = {"specversion": "1.0", "id": "e-1", "source": "/orders", "type": "order.placed",
             "time": "2026-01-02T03:04:05.678Z", "subject": "order/7", "correlationid": "corr-1",
             "causationid": "cause-1", "partitionkey": "customer-9", "myextension": "kept"}
    c = client(sql_node)
    c.subscribe(topic)
    c.publish(topic, b"{}", props=[("content_type", "application/json"),
                                   *[("user", kv) for kv in given.items()]])
    row, = rows(topic)
    for column, name in (("id", "id"), ("source", "source"), ("type", "type"), ("time", "time"),
                         ("subject", "subject"), ("correlation_id", "correlationid"),
                         ("causation_id", "causationid"), ("event_key", "partitionkey"),):
        assert row[column] == given[name], column
    assert ["myextension", "kept"] in json.loads(row["user_properties"])
    assert dict(c.receive().all("user")) == given, "readers get them as they were sent"


def test_without_specversion_they_are_only_user_properties(client, sql_node, rows, topic):
    c = client(sql_node)
    c.publish(topic, b"x", props=[("user", ("id", "mine")), ("user", ("type", "mine"))])
    row, = rows(topic)
    assert row["type"] == "mqtt.publish" and row["id"] != "mine"


def test_ordering_key(client, sql_node, rows, topic):
    client(sql_node).publish(topic, b"x", props=[("user", ("leat-key", "k-1"))])
    assert rows(topic)[0]["event_key"] == "k-1"


@pytest.mark.parametrize("payload", [b"", b"'; DROP TABLE journal; --", bytes(range(256)), b"\\x41\\",
                                     "日本🚀".encode()], ids=["empty", "quote", "all", "escapes", "utf8"])
def test_payload_bytes(client, sql_node, rows, topic, payload):
    client(sql_node).publish(topic, payload)
    assert rows(topic)[0]["data"] == payload


@pytest.mark.parametrize("name", ["it's", 'double"quote', "back\\slash", "per%cent_", "日本/🚀", "a" * 900,
                                  "semi;colon", "new\nline", "tab\there"], ids=range(9))
def test_topic_bytes(client, sql_node, rows, topic, name):
    c = client(sql_node)
    ack = c.publish(f"{topic}/{name}", b"x", check=False)
    if "\n" in name or "\t" in name:  # control characters may be refused, not altered
        assert ack.reason in (0, 0x10, 0x90)
        if ack.reason == 0x90:
            return
    assert len(rows(f"{topic}/{name}")) == 1


def test_qos_0_is_stored_too(client, sql_node, rows, topic):
    c = client(sql_node)
    c.publish(topic, b"0", qos=0)
    c.publish(topic, b"1")
    assert [(r["qos"], r["data"]) for r in rows(topic)] == [(0, b"0"), (1, b"1")]


def test_acknowledged_means_stored(client, sql_node, rows, topic):
    """Read on another connection, at once, after each PUBACK."""
    c = client(sql_node)
    for i in range(20):
        c.publish(topic, str(i))
        assert len(rows(topic)) == i + 1


def test_dense(client, sql_node, sql, topic):
    """Heads and journal agree and leave no number out, also with many publishers at once."""
    pubs = [client(sql_node) for _ in range(4)]
    for i in range(200):
        for k, p in enumerate(pubs):
            p.send(mqtt.publish(f"{topic}/{k}", str(i), 1, i + 1))
    for p in pubs:
        for _ in range(200):
            assert p.expect(mqtt.PUBACK).reason in (0, 0x10)
    for tenant, partition, next_seq in sql("SELECT tenant_id, partition_id, next_seq FROM head"):
        expected, bytes_before = 1, 0
        for base, count, end_bytes, attributes, body in sql(
                "SELECT base_seq, event_count, end_bytes, CHAR_LENGTH(attributes), LENGTH(body) FROM journal"
                " WHERE tenant_id=%s AND partition_id=%s ORDER BY base_seq", tenant, partition):
            assert base == expected and 1 <= count <= 1000
            assert end_bytes > bytes_before
            expected, bytes_before = base + count, end_bytes
        assert next_seq == expected
    assert sql("SELECT COUNT(*) FROM event WHERE topic LIKE %s", topic + "/%")[0][0] == 800


def test_batches_form_under_load(client, sql_node, sql, topic):
    """Group commit: a thousand pipelined events take far fewer rows."""
    client(sql_node).publish_many(((topic, str(i)) for i in range(1000)), window=500)
    batches, = sql("SELECT COUNT(DISTINCT base_seq) FROM event WHERE topic=%s", topic)[0]
    assert batches < 300


def subscription(sql, name):
    rows = sql("SELECT subscription_id, kind, subject, name, filters, epoch, acked_through, next_seq, behind, "
               "owner, expires_at FROM subscription_lag WHERE name=%s", name)
    names = "id kind subject name filters epoch acked_through next_seq behind owner expires_at".split()
    return dict(zip(names, rows[0])) if rows else None


def test_session_row(client, sql_node, sql, topic, cid):
    c = client(sql_node, cid(), **KEPT)
    c.subscribe(topic)
    row = subscription(sql, cid())
    assert (row["kind"], row["subject"]) == ("session", "tester")
    assert topic in row["filters"]
    assert row["owner"] and row["expires_at"] is None, "it has a consumer"
    pub = client(sql_node)
    pub.publish_many((topic, str(i)) for i in range(10))
    c.receive_many(10)
    wait_for(lambda: subscription(sql, cid())["behind"] == 0, 5, "the cursor at the head")
    assert subscription(sql, cid())["acked_through"] == subscription(sql, cid())["next_seq"] - 1
    c.disconnect()
    pub.publish_many((topic, str(i)) for i in range(7))
    assert subscription(sql, cid())["behind"] >= 7
    again = client(sql_node, cid(), **KEPT)
    again.receive_many(7)
    wait_for(lambda: subscription(sql, cid())["behind"] == 0, 5, "caught up")


def test_unacked_holds_the_cursor(client, sql_node, sql, topic, cid):
    c = client(sql_node, cid(), **KEPT)
    c.subscribe(topic)
    client(sql_node).publish_many((topic, str(i)) for i in range(5))
    held = c.receive_many(5, ack=False)
    for p in held[1:]:
        c.send(mqtt.puback(p.packet_id))
    c.ping()
    time.sleep(0.3)
    row = subscription(sql, cid())
    assert row["acked_through"] == row["next_seq"] - 6, "the first is not done"
    assert sql("SELECT LENGTH(acked_ahead) FROM cursors WHERE subscription_id=%s", row["id"])[0][0] > 0
    c.send(mqtt.puback(held[0].packet_id))
    wait_for(lambda: subscription(sql, cid())["behind"] == 0, 5, "the cursor at the head")


def test_share_row(client, sql_node, sql, topic, cid):
    c = client(sql_node, cid(), **KEPT)
    c.subscribe(f"$share/g/{topic}")
    row = subscription(sql, f"g/{topic}")
    assert (row["kind"], row["subject"]) == ("share", "")


def test_unsubscribe_and_clean_start_leave_no_row(client, sql_node, sql, topic, cid):
    c = client(sql_node, cid(), **KEPT)
    c.subscribe(topic)
    assert subscription(sql, cid())
    c.disconnect(props=[("session_expiry", 0)])
    wait_for(lambda: subscription(sql, cid()) is None, 5, "no row")


def test_clean_sessions_have_no_row(client, sql_node, sql, topic, cid):
    client(sql_node, cid()).subscribe(topic)
    assert subscription(sql, cid()) is None


def test_node_session_row(sql_node, sql):
    live = sql("SELECT LENGTH(session_id), renewals FROM node_session WHERE state=1")
    assert len(live) == 1 and live[0][0] == 16
    wait_for(lambda: sql("SELECT renewals FROM node_session WHERE state=1")[0][0] > live[0][1], 5, "renewal")


def test_migrate_again_changes_nothing(sql_node):
    stack.leat("migrate", "--db", sql_node.dsn)
