"""Nodes that are linked: what one commits the other hears of at once, and what goes wrong with links
costs time, never events."""

import os
import re
import secrets
import signal
import statistics
import time

import pytest

from leat import stack
from leat.stack import Node, free_port, wait_for


class Linked:
    """Nodes of one schema, node0 and so on; `like` has it, and is not one of them."""

    def __init__(self, like):
        self.like, self.nodes = like, []

    def add(self, *options):
        """One more, with these options of its links; none = it has no links."""
        admin, i = free_port(), len(self.nodes)
        links = ["--peer", "127.0.0.1:0", *options] if options else []
        n = Node(f"{self.like.dir}-{i}", self.like.dsn, extra=["--admin", f"127.0.0.1:{admin}", *links], name=f"node{i}")
        n.dsn, n.tenants, n.signers, n.admin = self.like.dsn, self.like.tenants, self.like.signers, admin
        self.nodes.append(n)
        return n

    def file(self, name):
        return f"{self.like.dir}.{name}"

    def start(self, *nodes):
        nodes = nodes or self.nodes
        for n in nodes:
            n.start(wait=False)
        for n in nodes:
            n.wait_ready()

    def stop(self):
        for n in self.nodes:
            if n.alive():
                n.signal(signal.SIGCONT)
                n.end()


@pytest.fixture
def cluster(own_node):
    """Nodes are added to it, and started."""
    c = Linked(own_node(start=False))
    yield c
    c.stop()


def metric(node, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", stack.page(node.admin), re.M)[1])


def links(node):
    return metric(node, "leat_peer_links")


def ready(node):
    """What /readyz says of a node that can serve."""
    return stack.page(node.admin, "/readyz")


def received(node, kind):
    return metric(node, f'leat_peer_received_total{{type="{kind}"}}')


def new_key(path):
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
        f.write(secrets.token_bytes(32))
    return path


@pytest.fixture
def linked(cluster):
    """linked(*keys): that many nodes, started; a key is a name, the same name is the same key; None = no links."""
    def make(*keys):
        files = {k: new_key(cluster.file(f"{k}.key")) for k in set(keys) - {None}}
        for k in keys:
            cluster.add(*(["--cluster-key", files[k]] if k else []))
        cluster.start()
        return cluster.nodes
    return make


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
        assert ready(n) == "ok\n"
    took = latencies(client, one, two, topic)
    assert statistics.median(took) < 0.03 * stack.SLOW, took
    assert received(two, "stored") >= 60
    assert metric(one, 'leat_peer_sent_total{type="stored"}') >= 60
    assert metric(one, "leat_peer_hints_dropped_total") == 0
    assert latencies(client, two, one, topic + "/back", count=5)


def test_three_nodes_and_one_that_joins(linked, cluster):
    """Every pair has a link; a fourth finds the others as it starts."""
    nodes = list(linked("k", "k", "k"))
    for n in nodes:
        wait_for(lambda n=n: links(n) == 2, 10, "two links")
    more = cluster.add("--cluster-key", cluster.file("k.key"))
    cluster.start(more)
    for n in cluster.nodes:
        wait_for(lambda n=n: links(n) == 3, 10, "three links")
    more.end()
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
    """Another key, or none: no link, a line in the log and in /readyz, and events cross by looks."""
    one, two = linked(*keys)
    if keys[1]:
        wait_for(lambda: metric(one, "leat_peer_refused_total") +
                 metric(two, "leat_peer_refused_total") > 0, 10, "somebody is refused")
    took = latencies(client, one, two, topic, count=5)
    assert max(took) < 5
    assert links(one) == 0 and links(two) == 0
    wait_for(lambda: ready(one).startswith("ok\nno link to 1 of 1 other nodes: "), 10, "it says so")
    if keys[1]:
        assert "module=links" in one.text() + two.text()
        assert "its --cluster-key is not this node's" in one.text() + two.text()
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


def test_links_by_certificates(cluster, client, topic):
    """Certificates of one CA instead of a key; one of another CA does not get in."""
    ours, other = cluster.like.authority, stack.pki.Authority(cluster.file("other-ca"))
    for i, authority in enumerate((ours, ours, other)):
        cert, key = (cluster.file(f"peer{i}.{x}") for x in ("crt", "key"))
        authority.issue(cert, key)
        cluster.add("--peer-cert", cert, "--peer-key", key, "--peer-ca", authority.file)
    nodes = cluster.nodes
    cluster.start()
    for n in nodes[:2]:
        wait_for(lambda n=n: links(n) == 1, 10, "a link")
    wait_for(lambda: metric(nodes[0], "leat_peer_refused_total") > 0, 10, "the stranger refused")
    assert [links(n) for n in nodes] == [1, 1, 0]
    assert latencies(client, nodes[0], nodes[1], topic, count=5)


def rewrite(path, text):
    """As a mounted secret is: a new file in the place of the old one."""
    with open(os.open(path + ".new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as f:
        f.write(text)
    os.rename(path + ".new", path)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def reload(*nodes):
    for n in nodes:
        times = n.text().count("credentials reloaded")
        n.signal(signal.SIGHUP)
        wait_for(lambda n=n, t=times: n.text().count("credentials reloaded") == t + 1, 5, "a reload")


def test_a_new_key_without_a_restart(cluster, client, topic):
    """As operators.md has it: three rounds of SIGHUP. No link is lost, and whoever starts meanwhile is in."""
    keys = [(new_key(cluster.file(f"k{i}")), cluster.file(f"k{i}.also")) for i in range(3)]
    rewrite(keys[1][0], read(keys[0][0]))
    old, new = read(keys[0][0]), read(keys[2][0])
    nodes = [cluster.add("--cluster-key", k, "--cluster-key-also", also) for k, also in keys]
    cluster.start(*nodes[:2])
    for n in nodes[:2]:
        wait_for(lambda n=n: links(n) == 1, 10, "a link")
    rewrite(keys[0][0], b"short")  # what cannot be used changes nothing
    nodes[0].signal(signal.SIGHUP)
    wait_for(lambda: "credentials not reloaded" in nodes[0].text(), 5, "a line in the log")
    for now, also in ((old, new), (new, old)):
        for n, (key, other) in zip(nodes[:2], keys):
            rewrite(key, now)
            rewrite(other, also)
            reload(n)
    cluster.start(nodes[2])  # it has the new key alone
    wait_for(lambda: links(nodes[2]) == 2, 10, "two links")
    for n, (_, other) in zip(nodes, keys[:2]):
        os.unlink(other)
        reload(n)
    assert [metric(n, "leat_peer_lost_total") for n in nodes[:2]] == [0, 0]
    assert latencies(client, nodes[0], nodes[1], topic, count=5)


def test_new_certificates_without_a_restart(cluster, client, topic):
    """A new CA beside the old one, then certificates of it: links stay, and a node of the new CA is let in."""
    old, new = cluster.like.authority, stack.pki.Authority(cluster.file("new-ca"), "Another test CA")
    files = [[cluster.file(f"peer{i}.{x}") for x in ("crt", "key", "ca")] for i in range(3)]
    for i, (cert, key, ca) in enumerate(files):
        (old if i < 2 else new).issue(cert, key)
        rewrite(ca, read((old if i < 2 else new).file))
        cluster.add("--peer-cert", cert, "--peer-key", key, "--peer-ca", ca)
    nodes = cluster.nodes
    cluster.start()
    for n in nodes[:2]:
        wait_for(lambda n=n: links(n) == 1, 10, "a link")
    for n, (_, _, ca) in zip(nodes[:2], files):
        rewrite(ca, read(old.file) + read(new.file))
        reload(n)
    assert links(nodes[2]) == 0  # it does not trust them yet
    for n, (cert, key, _) in zip(nodes[:2], files):
        new.issue(cert, key)
        reload(n)
    for n in nodes:
        wait_for(lambda n=n: links(n) == 2, 15, "two links")
    assert [metric(n, "leat_peer_lost_total") for n in nodes[:2]] == [0, 0]
    assert latencies(client, nodes[0], nodes[2], topic, count=5)


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
