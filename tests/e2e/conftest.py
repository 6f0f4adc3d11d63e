"""Fixtures of the end-to-end tests. `node` runs a test on both backends; `sql_node` and `memory_node`
on one. They live as long as their pytest-xdist worker; tests keep apart by topics and client ids
(`topic`, `cid`) of their own. A test that stops, floods or starves a node takes `own_node`."""

import contextlib
import itertools
import os
import re
import secrets

import pytest

from leat import stack
from leat.stack import Database, Node, Process, Tenants

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return str(tmp_path_factory.mktemp("leat"))


@pytest.fixture(scope="session")
def database(work):
    db = Database(os.path.join(work, "db"))
    yield db
    db.stop()


def prepare(directory, dsn):
    """Migrate and create tenants alpha and beta; {name: Signer}."""
    stack.leat("migrate", "--db", dsn)
    tenants = Tenants(os.path.join(directory, "keys"), dsn)
    signers = {"alpha": tenants.create("alpha", "ES256"), "beta": tenants.create("beta", "HS256")}
    return tenants, signers


@pytest.fixture(scope="session")
def sql_node(work, database):
    """Its account has the role of a node and nothing else: what it needs beyond that fails here."""
    directory = os.path.join(work, "node")
    tenants, signers = prepare(directory, database.dsn)
    n = Node(directory, database.account(database.dsn, "node"))
    n.dsn, n.tenants, n.signers = database.dsn, tenants, signers
    n.start()
    yield n
    n.end()


@pytest.fixture(scope="session")
def memory_node(work):
    n = stack.MemoryNode(os.path.join(work, "memory"))
    n.start()
    yield n
    n.end()


@pytest.fixture(params=["sql", "memory"])
def node(request):
    return request.getfixturevalue(request.param + "_node")


@pytest.fixture
def own_node(work, database):
    """Call it for a node of this test alone, on a schema of its own."""
    with contextlib.ExitStack() as stack_:
        def make(start=True, extra=(), dsn=None, env=None):
            directory = os.path.join(work, f"own{next(numbers)}")
            dsn = dsn or database.new_schema()
            tenants, signers = prepare(directory, dsn)
            n = Node(directory, dsn, extra=extra, env=env)
            n.dsn, n.tenants, n.signers = dsn, tenants, signers
            stack_.callback(n.end)
            return n.start() if start else n
        yield make


@pytest.fixture
def topic(request):
    """A topic prefix of this test alone."""
    name = re.sub(r"[^a-z0-9_]", "_", request.node.name.lower())[:40]
    return f"{name}/{next(numbers)}"


@pytest.fixture
def cid(topic):
    """Client ids of this test alone."""
    return lambda name="c": f"{topic.replace('/', '-')}-{name}"


@pytest.fixture
def client():
    """client(node, …): node.connect(…), closed when the test ends."""
    with contextlib.ExitStack() as s:
        def connect(node, *a, **kw):
            c = node.connect(*a, **kw)
            s.callback(c.close)
            return c
        yield connect


@pytest.fixture
def sql(sql_node):
    """sql(text, *args): rows of a query in the shared node's schema."""
    with contextlib.closing(stack.connect(sql_node.dsn)) as c:
        def query(text, *args):
            with c.cursor() as q:
                q.execute(text, args)
                return q.fetchall()
        yield query


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for n in stack.nodes:
            if os.path.exists(n.log) and (text := n.tail(60, new=True)):
                report.sections.append((f"log of {' '.join(n.argv[:1])} {n.log}", text))


@pytest.fixture(autouse=True)
def logs_are_clean():
    """No node may report a sanitizer finding, fail an assertion or die unasked during a test."""
    before = [n for n in stack.nodes if n.alive()]
    for n in stack.nodes:
        n.seen = os.path.getsize(n.log) if os.path.exists(n.log) else 0
    yield
    for n in before:
        n.check_log()
        assert n.alive() or n.process.returncode == 0, f"a node ended: {n.process.returncode}"


@pytest.fixture
def linked(own_node, work, topic):
    """Two linked nodes of one schema."""
    key = os.path.join(work, f"key-{topic.replace('/', '-')}")
    with open(key, "w") as f:
        f.write(secrets.token_hex(32) + "\n")
    os.chmod(key, 0o600)
    extra = ["--peer", "127.0.0.1:0", "--cluster-key", key]
    one = own_node(extra=extra)
    two = Node(f"{one.dir}-2", one.dsn, extra=extra)
    two.dsn, two.tenants, two.signers = one.dsn, one.tenants, one.signers
    two.start()
    yield one, two
    two.end()
