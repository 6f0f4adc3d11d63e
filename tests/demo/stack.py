"""stack: a whole private Leat on this machine, for `make run` and `make demo`.

A database server, a CA, migrated schema, nodes, tenants with keys and tokens, and the clients that
use them, all below one temporary directory. Leaving the `with` block ends everything that was
started, in reverse order, whatever happened inside; SIGINT, SIGTERM and SIGHUP leave it too.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/e2e")]

from leat.ports import free_port  # noqa: E402

LEAT = os.environ.get("LEAT_BIN", str(TOP / "build/leat"))
STOP_S = 20  # a node that takes longer to end is a failure


class Failed(Exception):
    """Something did not work; the text is for the person who ran it."""


def stop_on_signals():
    """Turn the signals that end a program into SystemExit, so that `with` blocks are left."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def wait_until(what, check, seconds=30):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Node:
    def __init__(self, process, mqtt, admin, log):
        self.process, self.mqtt, self.admin, self.log = process, mqtt, admin, log

    @property
    def url(self):
        return f"mqtts://localhost:{self.mqtt}"

    def ready(self):
        if self.process.poll() is not None:
            raise Failed(f"the node ended with status {self.process.returncode}:\n{self.log_tail()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=1) as r:
                return r.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def log_tail(self):
        return "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-20:])


class Stack:
    def __init__(self, *tenants, nodes=1, partitions=None):
        self._names, self._count, self._partitions = tenants, nodes, partitions or {}
        self._undo = contextlib.ExitStack()
        self.nodes = []

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *exc):
        self._undo.close()

    def _start(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="leat-demo."))
        self._undo.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.dsn = self._start_database()
        self.leat("migrate", "--db", self.dsn)
        self.leat("ca", "--dir", self.dir / "ca")
        self.ca = self.dir / "ca/ca.crt"
        self.cluster_key = self.dir / "cluster.key"
        self.cluster_key.touch(0o600)
        self.cluster_key.write_bytes(os.urandom(32))
        # Before the nodes, which follow later changes within two seconds, but not at once.
        self.tenants = [self._tenant(name) for name in self._names]
        for number in range(self._count):
            self.nodes.append(self._start_node(number))
        for node in self.nodes:
            wait_until("the node is not ready", node.ready)

    def _start_database(self):
        server, where = TOP / "sql/dev-server", self.dir / "db"
        self._undo.callback(subprocess.run, [server, "stop", where], stdout=subprocess.DEVNULL)
        # In a session of its own, so that Ctrl-C does not reach the server before its clients.
        run = subprocess.run([server, "start", where], text=True, stdout=subprocess.PIPE,
                             start_new_session=True)
        if run.returncode:
            raise Failed("the database server did not start")
        return run.stdout.split()[0]

    def _start_node(self, number):
        mqtt, https, admin = free_port(), free_port(), free_port()
        log = self.dir / f"node{number}.log"
        with log.open("wb") as out:
            process = self.spawn(
                "node", "--db", self.dsn,
                "--cert", self.dir / "ca/server.crt", "--key", self.dir / "ca/server.key",
                "--mqtt", f"127.0.0.1:{mqtt}", "--admin", f"127.0.0.1:{admin}",
                "--peer", "127.0.0.1:0", "--cluster-key", self.cluster_key, stderr=out)
        return Node(process, mqtt, admin, log)

    # ---- programs ------------------------------------------------------------------------------

    def leat(self, *args, check=True, **more):
        """Run a leat command to its end; its result. A failure is Failed, unless check=False."""
        run = subprocess.run([LEAT, *map(str, args)], text=True, capture_output=True, timeout=120, **more)
        if check and run.returncode:
            raise Failed(f"leat {args[0]} ended with status {run.returncode}: {run.stderr.strip()}")
        return run

    def spawn(self, *args, **more):
        """Start a leat command that this stack ends, with SIGTERM, before what it depends on."""
        process = subprocess.Popen([LEAT, *map(str, args)], start_new_session=True, **more)
        self._undo.callback(self.end, process)
        return process

    @staticmethod
    def end(process):
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(f"process {process.pid} did not end within {STOP_S} s: killed", file=sys.stderr)
            process.kill()
            return process.wait()

    # ---- tenants and SQL -----------------------------------------------------------------------

    def _tenant(self, name):
        """A new tenant with an ES256 key under the issuer https://NAME.example; returns the Tenant."""
        secret, public = self.dir / f"{name}.key", self.dir / f"{name}.pem"
        for command in (
            ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-out", secret],
            ["openssl", "pkey", "-in", secret, "-pubout", "-out", public],
        ):
            subprocess.run(command, check=True, capture_output=True)
        issuer = f"https://{name}.example"
        self.leat("tenant", "create", name, "--partitions", self._partitions.get(name, 1), "--db", self.dsn)
        self.leat("tenant", "key-add", name, "--issuer", issuer, "--kid", f"{name}-1",
                  "--alg", "ES256", "--key", public, "--db", self.dsn)
        return Tenant(self, name, issuer, secret)

    def sql_client(self, *args):
        """What runs the stock client: for subprocess.run and Popen."""
        dsn = urllib.parse.urlsplit(self.dsn)
        return {
            "args": ["mariadb", "--no-defaults", "--batch", "--skip-column-names", "-u", dsn.username,
                     "--socket", urllib.parse.parse_qs(dsn.query)["socket"][0], dsn.path[1:], *args],
            "env": {**os.environ, "MYSQL_PWD": urllib.parse.unquote(dsn.password)},
            "text": True,
        }

    def sql(self, text):
        """The rows of a statement as tuples of text, through the stock client."""
        run = subprocess.run(**self.sql_client("-e", text), capture_output=True, timeout=120)
        if run.returncode:
            raise Failed(run.stderr.strip())
        return [tuple(line.split("\t")) for line in run.stdout.splitlines()]


class Tenant:
    def __init__(self, stack, name, issuer, key):
        self.stack, self.name, self.issuer, self.key = stack, name, issuer, key

    def token(self, subject, publish=(), subscribe=(), issuer=None, kid=None):
        """A file with a token for subject, good for an hour."""
        args = ["token", "--key", self.key, "--kid", kid or f"{self.name}-1",
                "--issuer", issuer or self.issuer, "--subject", subject, "--ttl", "1h"]
        for f in publish:
            args += ["--publish", f]
        for f in subscribe:
            args += ["--subscribe", f]
        file = self.stack.dir / f"{self.name}-{subject}.token"
        file.write_text(self.stack.leat(*args).stdout)
        file.chmod(0o600)
        return file

    def client(self, command, token, *args, node=0):
        """The words of `leat pub` or `leat sub` with this token, ready for spawn() or leat()."""
        return (command, "--url", self.stack.nodes[node].url, "--ca", self.stack.ca,
                "--token", token, *args)
