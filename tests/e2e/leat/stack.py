"""Private servers: a database through sql/dev-server, Leat nodes, tenants with keys. Everything lives
in a directory of its own and on free loopback ports; what is started here is ended here, by pid.

LEAT_BIN names the binary under test (default build/leat), so that sanitizer builds run the same
tests; a node whose log holds a sanitizer report or a failed assertion fails whoever stops it."""

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request
import weakref

import pymysql

from . import mqtt, pki
from .ports import free_port
from .token import Signer

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
LEAT = os.path.abspath(os.environ.get("LEAT_BIN", os.path.join(ROOT, "build", "leat")))
DEV_SERVER = os.path.join(ROOT, "sql", "dev-server")
ENGINE = os.environ.get("LEAT_ENGINE", "mariadb")  # or mysql, galera
TTL = 15 if ENGINE == "galera" else 6  # of a node's session, unless --ttl says: six renewals


def slow():
    """Stretches waits: as LEAT_TEST_SLOW says, for sanitizer builds, or as much as the machine is overloaded."""
    return float(os.environ.get("LEAT_TEST_SLOW") or min(4, max(1, os.getloadavg()[0] / (os.cpu_count() or 1))))


SLOW = slow()  # already, when the tests begin
BAD_LOG = re.compile(r"(Address|Leak|Thread|Memory|UndefinedBehavior)Sanitizer|runtime error: "
                     r"|[Aa]ssertion .* failed|stack smashing|level=fatal")

nodes = []  # every node object of this process, for failure reports


def wait_for(condition, timeout=10, what="condition"):
    """Poll until condition() is true and return its value."""
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        assert waited < timeout * SLOW or waited < timeout * slow(), f"{what}: not within {timeout} s"
        time.sleep(0.02)


def wait_for_acks(dsn, name):
    """All that the journal has is settled for the subscription of this name, and its cursor stored."""
    with contextlib.closing(connect(dsn)) as c, c.cursor() as q:
        def behind():
            q.execute("SELECT COUNT(*), MAX(behind) FROM subscription_lag WHERE name=%s", (name,))
            return q.fetchone()
        wait_for(lambda: (found := behind())[0] and found[1] == 0, 10, "a stored cursor")


def leat(*args, stdin=None, check=True, timeout=30, env=None):
    """Run one leat command; the finished process with text output."""
    done = subprocess.run([LEAT, *map(str, args)], input=stdin, capture_output=True, text=True,
                          timeout=timeout * SLOW, env={**os.environ, **(env or {})})
    if check and done.returncode:
        raise AssertionError(f"leat {' '.join(map(str, args))}: exit {done.returncode}\n{done.stderr}")
    return done


def page(port, path="/metrics"):
    """What a node's admin listener answers there; raises what urlopen() does for any status but 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as r:
        return r.read().decode()


def parse_dsn(dsn):
    u = urllib.parse.urlsplit(dsn)
    query = dict(urllib.parse.parse_qsl(u.query))
    host, _, port = u.netloc.rpartition("@")[2].partition(",")[0].partition(":")
    return {"user": urllib.parse.unquote(u.username), "password": urllib.parse.unquote(u.password),
            "host": host, "port": int(port), "database": u.path.lstrip("/"),
            "unix_socket": query.get("socket")}


class Database:
    """A private database server of ENGINE in a directory; of Galera, the first member is used."""

    def __init__(self, directory):
        self.dir, self.env = directory, {}
        self._run("start", ENGINE)
        with open(os.path.join(directory, "admin-dsn")) as f:
            self.admin_dsns = f.read().split()
        self.admin_dsn = self.admin_dsns[0]
        with open(os.path.join(directory, "dsn")) as f:
            self.member_dsns = f.read().split()
        self.dsn = self.member_dsns[0]
        self.schemas = 0

    def _run(self, verb, *more):
        subprocess.run([DEV_SERVER, verb, self.dir, *more], check=True, stdout=subprocess.DEVNULL,
                       timeout=120 * SLOW, env={**os.environ, **self.env})

    @property
    def any_dsn(self):
        """Of Galera: the DSN that names all members."""
        with open(os.path.join(self.dir, "dsn-any")) as f:
            return f.read().strip()

    # member: 1, 2 or 3 of Galera; none means the server, or all members.

    def stop(self, member=None):
        self._run("stop", *[str(member)] * (member is not None))

    def crash(self, member=None):
        self._run("crash", *[str(member)] * (member is not None))

    def resume(self, member=None):
        self._run("resume", *[str(member)] * (member is not None))

    def pid(self, member=None):
        with open(os.path.join(self.dir, str(member or ""), "pid")) as f:
            return int(f.read().split()[0])

    def connect(self, schema=None, dsn=None, **kw):
        """A connection of the server's administrator, in autocommit."""
        d = parse_dsn(dsn or self.admin_dsn)
        d["database"] = schema or d["database"]
        # Over TCP: the socket's permissions are the server's matter.
        d.pop("unix_socket")
        return pymysql.connect(autocommit=True, charset="utf8mb4", connect_timeout=10, **d, **kw)

    def new_schema(self):
        """An empty schema beside `leat`; returns its DSN."""
        self.schemas += 1
        name = f"leat_{self.schemas}"
        user = parse_dsn(self.dsn)["user"]
        with contextlib.closing(self.connect()) as c, c.cursor() as q:
            q.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            q.execute(f"GRANT ALL ON {name}.* TO {user}@'%'")
        u = urllib.parse.urlsplit(self.dsn)
        return urllib.parse.urlunsplit(u._replace(path="/" + name))


    def account(self, dsn, role):
        """A new account with one role (node, admin, read) of this schema, which was migrated; its DSN."""
        schema = parse_dsn(dsn)["database"]
        name, default = f"{schema}_some_{role}", "TO" if ENGINE == "mysql" else "FOR"
        with contextlib.closing(self.connect(schema)) as c, c.cursor() as q:
            for text in leat("migrate", "--db", dsn, "--show-roles").stdout.split(";\n")[:-1]:
                q.execute(text)
            q.execute(f"CREATE USER {name}@'%' IDENTIFIED BY 'secret'")
            q.execute(f"GRANT {schema}_{role} TO {name}@'%'")
            q.execute(f"SET DEFAULT ROLE {schema}_{role} {default} {name}@'%'")
        u = urllib.parse.urlsplit(dsn)
        return urllib.parse.urlunsplit(u._replace(netloc=f"{name}:secret@{u.netloc.rpartition('@')[2]}"))


class Tenants:
    """Creates tenants and their keys with `leat tenant`, keeping the private halves."""

    def __init__(self, directory, dsn):
        self.dir, self.dsn = directory, dsn
        os.makedirs(directory, exist_ok=True)

    def create(self, name, alg="ES256"):
        leat("tenant", "create", name, "--db", self.dsn)
        return self.add_key(name, f"{name}-1", alg)

    def add_key(self, name, kid, alg, issuer=None):
        issuer = issuer or f"https://id.{name}.test"
        key = pki.new_key(alg)
        path = os.path.join(self.dir, f"{name}.{kid}.pub")
        with open(path, "wb") as f:
            f.write(key if isinstance(key, bytes) else pki.public_pem(key))
        if not isinstance(key, bytes):
            with open(path[:-3] + "key", "wb") as f:
                f.write(pki.private_pem(key))
        leat("tenant", "key-add", name, "--issuer", issuer, "--kid", kid, "--alg", alg, "--key", path,
             "--db", self.dsn)
        return Signer(name, issuer, kid, alg, key)


class Process:
    """A leat server process with its log in a file."""

    def __init__(self, directory, argv, env=None):
        os.makedirs(directory, exist_ok=True)
        self.log = os.path.join(directory, "log")
        self.argv, self.env, self.process = argv, env or {}, None
        self.seen = 0  # bytes of the log that earlier tests wrote
        nodes.append(self)

    def start(self):
        with open(self.log, "ab") as log:
            # In a group of its own, so that a Ctrl-C at the terminal does not reach it first.
            self.process = subprocess.Popen([LEAT, *self.argv], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env={**os.environ, **self.env},
                                            start_new_session=True)
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout=15):
        """SIGTERM, and insist on exit status 0 and a clean log."""
        if self.alive():
            self.process.terminate()
        try:
            code = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the node did not end after SIGTERM") from None
        self.check_log()
        assert code == 0, f"the node ended with status {code}:\n{self.tail()}"

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def tail(self, lines=40, new=False):
        with open(self.log, "rb") as f:
            f.seek(self.seen if new else 0)
            return "\n".join(f.read().decode(errors="replace").splitlines()[-lines:])

    def check_log(self):
        bad = [line for line in self.text().splitlines() if BAD_LOG.search(line)]
        assert not bad, "in the node's log:\n" + "\n".join(bad[:20])

    def rss_kb(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])


class Node(Process):
    """`leat node` with its own CA. `signers` maps tenant name to Signer."""

    def __init__(self, directory, dsn=None, authority=None, name=None, extra=(), env=None):
        self.dir = directory
        os.makedirs(directory, exist_ok=True)
        self.authority = authority or pki.Authority(os.path.join(directory, "ca"))
        self.cert, self.key = (os.path.join(directory, f) for f in ("server.crt", "server.key"))
        self.authority.issue(self.cert, self.key)
        self.address = ("127.0.0.1", free_port())
        self.tls = pki.client_context(self.authority.file)
        self.ca = self.authority.file
        self.url = f"mqtts://localhost:{self.address[1]}"
        self.signers = {}
        self.opened = weakref.WeakSet()
        argv = ["node", "--cert", self.cert, "--key", self.key,
                "--mqtt", f"127.0.0.1:{self.address[1]}", *extra]
        argv += ["--db", dsn] if dsn else ["--memory"]
        argv += ["--name", name] if name else []
        super().__init__(directory, argv, env)

    def start(self, wait=True):
        super().start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=20):
        """Until a TLS handshake succeeds."""
        def ready():
            assert self.alive(), f"the node ended with {self.process.poll()}:\n{self.tail()}"
            try:
                mqtt.Client(self.address, self.tls, timeout=2).close()
                return True
            except (OSError, TimeoutError):
                return False
        wait_for(ready, timeout, "a node that answers")

    def open(self, version=5, timeout=10):
        """A connection without CONNECT."""
        c = mqtt.Client(self.address, self.tls, version, timeout * SLOW)
        self.opened.add(c)
        return c

    def end(self):
        """Stop it when the test is over: without its clients, for whom it would wait."""
        if self.alive():
            for c in list(self.opened):
                c.close()
            self.stop()
        elif os.path.exists(self.log):
            self.check_log()

    def connect(self, client_id="", tenant=None, version=5, token=None, **kw):
        """A connected client; its CONNACK is client.connack."""
        signer = self.signers[tenant] if tenant else next(iter(self.signers.values()))
        c = self.open(version)
        try:
            c.connack = c.connect(client_id, token or signer.token(), **kw)
        except BaseException:
            c.close()
            raise
        return c


class MemoryNode(Node):
    """`leat node --memory` with one tenant and one key."""

    def __init__(self, directory, name="dev", alg="ES256"):
        os.makedirs(directory, exist_ok=True)
        key, path = pki.new_key(alg), os.path.join(directory, "dev.pub")
        with open(path, "wb") as f:
            f.write(pki.public_pem(key))
        super().__init__(directory, extra=["--memory-tenant", name, "--memory-key", f"k1:{alg}:{path}"])
        self.signers = {name: Signer(name, name, "k1", alg, key)}


def connect(dsn):
    """An autocommit connection with a DSN's own account."""
    d = parse_dsn(dsn)
    d.pop("unix_socket")
    return pymysql.connect(autocommit=True, charset="utf8mb4", connect_timeout=10, **d)
