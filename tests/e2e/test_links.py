"""Nodes that are linked: what one commits the other hears of at once, and what goes wrong with links
costs time, never events."""

import os
import re
import secrets
import signal
import statistics
import time
import urllib.request

import pytest

from leat import stack
from leat.stack import Node, free_port, wait_for


class Linked:
    """Some nodes of one schema. `keys`: one a node, its cluster key; None = it has no links."""

    def __init__(self, first, directory, keys, extra=()):
        self.nodes = []
        for i, key in enumerate(keys):
            admin = free_port()
            own = ["--admin", f"127.0.0.1:{admin}", *extra]
            if key:
                own += ["--peer", "127.0.0.1:0", "--cluster-key", key]
            n = Node(f"{directory}-{i}", first.dsn, extra=own, name=f"node{i}")
            n.dsn, n.tenants, n.signers, n.admin = first.dsn, first.tenants, first.signers, admin
            self.nodes.append(n)

    def start(self):
        for n in self.nodes:
            n.start(wait=False)
        for n in self.nodes:
            n.wait_ready()
        return self

    def stop(self):
        for n in self.nodes:
            if n.alive():
                n.signal(signal.SIGCONT)
                n.stop()


def metric(node, name):
    url = f"http://127.0.0.1:{node.admin}/metrics"
    with urllib.request.urlopen(url, timeout=10) as r:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", r.read().decode(), re.M)[1])


def links(node):
    return metric(node, "leat_peer_links")


def received(node, kind):
    return metric(node, f'leat_peer_received_total{{type="{kind}"}}')


def new_key(path):
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
        f.write(secrets.token_bytes(32))
    return path


@pytest.fixture
def linked(own_node, work):
    """linked(*keys): that many nodes, started; a key is a name, the same name is the same key."""
    made = []

    def make(*keys):
        first = own_node(start=False)
        files = {k: new_key(f"{first.dir}.{k}.key") for k in set(keys) - {None}}
        made.append(Linked(first, first.dir, [files.get(k) for k in keys]))
        return made[-1].start().nodes
    yield make
    for m in made:
        m.stop()


def latencies(client, a, b, topic, count=60):
    """Seconds from publishing at a to receiving at b, one event after the other."""
    s, p = client(b), client(a)
    s.subscribe(topic)
    took = []
    for i in range(count):
        start = time.monotonic()
        p.publish(topic, str(i))
        assert int(s.receive(timeout=10).payload) == i
        took.append(time.monotonic() - start)
    return took


def test_hints_flow(client, linked, topic):
    """Both links come up by themselves; an event is at the other node long before the next look, and
    the looks find nothing that was not hinted."""
    one, two = linked("k", "k")
    for n in (one, two):
        wait_for(lambda n=n: links(n) == 1, 10, "a link")
        assert metric(n, "leat_peers") == 1
    took = latencies(client, one, two, topic)
    assert statistics.median(took) < 0.03 * stack.SLOW, took
    assert received(two, "stored") >= 60
    assert metric(one, 'leat_peer_sent_total{type="stored"}') >= 60
    assert metric(one, "leat_peer_hints_dropped_total") == 0
    assert latencies(client, two, one, topic + "/back", count=5)


def test_three_nodes_and_one_that_joins(client, linked, own_node, topic):
    """Every pair has a link; a fourth finds the others as it starts."""
    nodes = linked("k", "k", "k")
    for n in nodes:
        wait_for(lambda n=n: links(n) == 2, 10, "two links")
    more = Linked(nodes[0], nodes[0].dir + "-more", [nodes[0].argv[nodes[0].argv.index("--cluster-key") + 1]])
    more.nodes[0].argv[more.nodes[0].argv.index("node0")] = "node3"
    try:
        more.start()
        for n in nodes + more.nodes:
            wait_for(lambda n=n: links(n) == 3, 10, "three links")
    finally:
        more.stop()
    for n in nodes:
        wait_for(lambda n=n: links(n) == 2 and metric(n, "leat_peers") == 2, 10, "it has left")


def test_stopped_node_is_cut(client, linked, topic):
    """kill -STOP: the other hears nothing for five seconds and cuts the link, before the session is
    ended; when it goes on they are linked again."""
    one, two = linked("k", "k")
    wait_for(lambda: links(one) == 1, 10, "a link")
    s, p = client(one), client(one)
    s.subscribe(topic)
    two.signal(signal.SIGSTOP)
    began = time.monotonic()
    p.publish(topic, "0")
    assert int(s.receive(timeout=5).payload) == 0  # nobody waits for the one that is stopped
    wait_for(lambda: links(one) == 0, 10, "the link is cut")
    assert 4 < time.monotonic() - began < 8 * stack.SLOW
    assert 'reason="silent"' in one.text()
    two.signal(signal.SIGCONT)
    wait_for(lambda: links(one) == 1 and links(two) == 1, 20, "linked again")
    assert len(latencies(client, one, two, topic + "/again", count=5)) == 5


def test_node_dies(client, linked):
    one, two = linked("k", "k")
    wait_for(lambda: links(one) == 1, 10, "a link")
    two.kill()
    wait_for(lambda: links(one) == 0, 5, "its end is seen at once")
    two.start()
    wait_for(lambda: links(one) == 1 and links(two) == 1, 10, "linked with its next life")


@pytest.mark.parametrize("keys", [("k", "other"), ("k", None)])
def test_not_linked(client, linked, topic, keys):
    """Another key, or none: no link, a line in the log, and events cross by looks."""
    one, two = linked(*keys)
    if keys[1]:
        wait_for(lambda: metric(one, "leat_peer_refused_total") +
                 metric(two, "leat_peer_refused_total") > 0, 10, "somebody is refused")
    took = latencies(client, one, two, topic, count=5)
    assert max(took) < 5
    assert links(one) == 0 and links(two) == 0
    if keys[1]:
        assert "module=links" in one.text() + two.text()
        assert received(two, "stored") == 0


def test_junk_at_the_peer_port(client, linked, topic):
    """A port scanner, a plain HTTP client, a TLS client: told nothing, and nobody is hurt."""
    import socket
    import ssl
    one, two = linked("k", "k")
    wait_for(lambda: links(one) == 1, 10, "a link")
    port = int(re.search(r"module=listener name=peer addr=127\.0\.0\.1:(\d+)", one.text())[1])
    for junk in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), b"\x16\x03\x01\x00\x05hello"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            s.sendall(junk)
            s.shutdown(socket.SHUT_WR)
            answer = s.recv(100)
            assert answer[:1] in (b"", b"\x15"), answer  # nothing, or a TLS alert
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            context.wrap_socket(s)
    assert links(one) == 1 and links(two) == 1
    assert metric(one, "leat_peer_refused_total") >= 3
    assert latencies(client, one, two, topic, count=5)


def test_links_by_certificates(own_node, client, topic):
    """Certificates of one CA instead of a key; one of another CA does not get in."""
    first = own_node(start=False)

    def node(i, authority):
        cert, key = (os.path.join(first.dir, f"peer{i}.{x}") for x in ("crt", "key"))
        authority.issue(cert, key)
        return ["--peer", "127.0.0.1:0", "--peer-cert", cert, "--peer-key", key,
                "--peer-ca", authority.file]

    ours = first.authority
    other = stack.pki.Authority(os.path.join(first.dir, "other-ca"))
    groups = [Linked(first, f"{first.dir}-c{i}", [None], extra=node(i, a))
              for i, a in enumerate((ours, ours, other))]
    nodes = [g.nodes[0] for g in groups]
    for i, n in enumerate(nodes):
        n.argv[n.argv.index("node0")] = f"node{i}"
    try:
        for g in groups:
            g.start()
        for n in nodes[:2]:
            wait_for(lambda n=n: links(n) == 1, 10, "a link")
        wait_for(lambda: metric(nodes[0], "leat_peer_refused_total") > 0, 10, "the stranger refused")
        assert [links(n) for n in nodes] == [1, 1, 0]
        assert latencies(client, nodes[0], nodes[1], topic, count=5)
    finally:
        for g in groups:
            g.stop()


def test_options(own_node, work):
    """What is missing or too open is said at the start."""
    n = own_node(start=False)
    base = ["node", "--db", n.dsn, "--cert", n.cert, "--key", n.key, "--mqtt", "127.0.0.1:0"]
    short, shown = os.path.join(work, "short.key"), os.path.join(work, "shown.key")
    with open(os.open(short, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write("too short")
    new_key(shown)
    os.chmod(shown, 0o644)
    for args, text in ((["--peer", "127.0.0.1:0"], "--cluster-key"),
                       (["--peer", "127.0.0.1:0", "--cluster-key", short], "32 bytes"),
                       (["--peer", "127.0.0.1:0", "--cluster-key", shown], "chmod"),
                       (["--peer", "127.0.0.1:0", "--cluster-key", short + "x"], "cannot open"),
                       (["--peer", "127.0.0.1:0", "--peer-cert", n.cert], "--peer-ca")):
        done = stack.leat(*base, *args, check=False)
        assert done.returncode and text in done.stderr, (args, done.stderr)
