"""Other people's clients: paho (Python), mosquitto_pub and mosquitto_sub, MQTT.js."""

import json
import os
import queue
import shutil
import ssl
import subprocess
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from leat.stack import SLOW, wait_for

VERSIONS = pytest.mark.parametrize("version", [4, 5], ids=["v3", "v5"])
HERE = os.path.dirname(os.path.abspath(__file__))


def token(node):
    return next(iter(node.signers.values())).token()


# ---- paho -----------------------------------------------------------------------------------------

class Paho:
    """paho with its callbacks turned into queues."""

    def __init__(self, node, client_id, version, durable=False):
        kw = {} if version == 5 else {"clean_session": not durable}
        self.client = paho.Client(client_id, protocol=version, **kw)
        self.client.username_pw_set("paho", token(node))
        self.client.tls_set(node.ca, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.messages, self.up, self.acked, self.down, self.granted = [queue.Queue() for _ in range(5)]
        self.client.on_message = lambda c, u, m: self.messages.put(m)
        self.client.on_connect = lambda c, u, flags, rc, *p: self.up.put((flags, rc))
        self.client.on_publish = lambda c, u, mid: self.acked.put(mid)
        self.client.on_disconnect = lambda c, u, rc, *p: self.down.put(rc)
        self.client.on_subscribe = lambda c, u, mid, granted, *p: self.granted.put(granted)
        self.durable, self.version, self.node = durable, version, node

    def connect(self):
        kw = {}
        if self.version == 5:
            kw["clean_start"] = not self.durable
            if self.durable:
                kw["properties"] = Properties(PacketTypes.CONNECT)
                kw["properties"].SessionExpiryInterval = 60
        self.client.connect("localhost", self.node.address[1], 30, **kw)
        self.client.loop_start()
        flags, rc = self.up.get(timeout=10)
        assert rc == 0
        return flags["session present"]

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def make_paho(node, cid):
    made = []

    def make(name, version, durable=False):
        made.append(Paho(node, cid(name), version, durable))
        return made[-1]
    yield make
    for p in made:
        p.end()


@VERSIONS
def test_paho(make_paho, topic, version):
    sub, pub = make_paho("s", version, durable=True), make_paho("p", version)
    assert not sub.connect()
    pub.connect()
    sub.client.subscribe(topic + "/+", 1)
    granted = sub.granted.get(timeout=5)[0]
    assert (granted if version == 4 else granted.value) == 1
    for i in range(100):
        # One QoS a topic: paho itself lets QoS 0 overtake QoS 1 that waits for its window.
        pub.client.publish(f"{topic}/{i % 3}", str(i), qos=int(i % 3 != 0))
    got = [sub.messages.get(timeout=5) for _ in range(100)]
    for t in range(3):
        mine = [int(m.payload) for m in got if m.topic == f"{topic}/{t}"]
        assert mine == list(range(t, 100, 3))
    sub.end()
    pub.client.publish(f"{topic}/x", "away", qos=1).wait_for_publish(5)
    assert sub.connect()
    assert sub.messages.get(timeout=5).payload == b"away"


def test_paho_properties(make_paho, topic):
    sub, pub = make_paho("s", 5), make_paho("p", 5)
    sub.connect()
    pub.connect()
    sub.client.subscribe(topic, 1)
    sub.granted.get(timeout=5)
    props = Properties(PacketTypes.PUBLISH)
    props.ContentType, props.ResponseTopic, props.CorrelationData = "text/plain", "answer", b"\0\1"
    props.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    props.MessageExpiryInterval = 100
    pub.client.publish(topic, "x", qos=1, properties=props)
    got = sub.messages.get(timeout=5).properties
    assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("text/plain", "answer", b"\0\1")
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")]
    assert 90 <= got.MessageExpiryInterval <= 100


# ---- mosquitto ------------------------------------------------------------------------------------

def mosquitto(node, tool, *args, version=5):
    return [f"mosquitto_{tool}", "-V", {4: "311", 5: "5"}[version], "-h", "localhost", "-p",
            str(node.address[1]), "--cafile", node.ca, "-u", "m", "-P", token(node), *args]


@VERSIONS
def test_mosquitto(node, topic, version):
    sub = subprocess.Popen(["stdbuf", "-oL", *mosquitto(node, "sub", "-q", "1", "-t", topic + "/#", "-C", "101",
                                                        "-W", "20", "-v", "-d", version=version)],
                           stdout=subprocess.PIPE, text=True)
    try:
        while "Subscribed" not in sub.stdout.readline():
            assert sub.poll() is None
        lines = "".join(f"line {i}\n" for i in range(100))
        subprocess.run(mosquitto(node, "pub", "-q", "1", "-t", topic + "/l", "-l", version=version),
                       input=lines, text=True, check=True, timeout=20 * SLOW)
        subprocess.run(mosquitto(node, "pub", "-q", "0", "-t", topic + "/0", "-m", "zero", version=version),
                       check=True, timeout=20 * SLOW)
        out = [x for x in sub.communicate(timeout=20 * SLOW)[0].splitlines() if x.startswith(topic)]
    finally:
        sub.kill()
    assert sorted(out) == sorted([f"{topic}/l line {i}" for i in range(100)] + [f"{topic}/0 zero"])
    assert sub.returncode == 0


def test_mosquitto_large_file(node, topic, tmp_path):
    data = os.urandom(700_000)
    (tmp_path / "in").write_bytes(data)
    sub = subprocess.Popen(mosquitto(node, "sub", "-q", "1", "-t", topic, "-C", "1", "-W", "20", "-N"),
                           stdout=subprocess.PIPE)
    try:
        time.sleep(0.5)
        subprocess.run(mosquitto(node, "pub", "-q", "1", "-t", topic, "-f", str(tmp_path / "in")), check=True,
                       timeout=20 * SLOW)
        assert sub.communicate(timeout=20 * SLOW)[0] == data
    finally:
        sub.kill()


def test_mosquitto_bad_token(node, topic):
    args = mosquitto(node, "pub", "-q", "1", "-t", topic, "-m", "x")
    args[args.index("-P") + 1] = "nonsense"
    done = subprocess.run(args, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "bad user name or password" in done.stderr.lower()


# ---- MQTT.js --------------------------------------------------------------------------------------

@VERSIONS
@pytest.mark.skipif(not shutil.which("node") and not os.environ.get("CI"), reason="no Node.js here")
def test_mqttjs(node, topic, version):
    spec = {"url": node.url, "ca": node.ca, "token": token(node), "version": version, "topic": topic}
    done = subprocess.run(["node", os.path.join(HERE, "js", "roundtrip.js"), json.dumps(spec)],
                          capture_output=True, text=True, timeout=40 * SLOW,
                          env={"NODE_PATH": "/usr/share/nodejs", **os.environ})
    assert done.returncode == 0, done.stderr
    r = json.loads(done.stdout)
    assert [g["qos"] for g in r["granted"]] == [1]
    got = {g["topic"]: g for g in r["got"]}
    assert got[topic + "/1"]["payload"] == "one" and got[topic + "/1"]["qos"] == 1
    assert got[topic + "/2"]["payload"] == "zwei é" and got[topic + "/2"]["qos"] == 0
    assert got[topic + "/3"]["payload"] == ""
    if version == 5:
        p = got[topic + "/1"]["properties"]
        assert p["contentType"] == "text/plain" and p["userProperties"] == {"a": ["1", "2"], "b": "3"}
    assert r["present"] is True
    assert [m["payload"] for m in r["missed"]] == ["while away"]
