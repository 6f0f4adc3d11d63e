"""servers: Leat and the brokers it is measured beside, each private, below one directory, on free
loopback ports, with TLS (one certificate for all) and a password or token.

A server has name, title, version, durability, settings, the window (unacknowledged publishes of a
publisher) it is fastest with, arguments of `leat bench` that reach it, and pids(): {part: process
ids}. Only processes started here are ended.
"""
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/demo"))
import proc  # noqa: E402
import stack  # noqa: E402

USER, PASSWORD = "bench", "bench"
RABBIT = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # not the wrapper in the path: it becomes another user
os.environ["PATH"] += ":/usr/sbin"  # where Debian has brokers, and users often do not look


def listening(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def output(*command):
    run = subprocess.run(command, text=True, capture_output=True)
    return (run.stdout or run.stderr).strip()


def package_version(name):
    return output("dpkg-query", "-W", "-f", "${Version}", name)


class Peer:
    """A broker that is not ours: one process tree."""

    window = 100

    def __init__(self, directory, certificates):
        self.dir = directory / self.name
        self.dir.mkdir()
        self.certificates = certificates
        self.port = stack.free_port()
        self.undo = contextlib.ExitStack()

    @property
    def url(self):
        return f"mqtts://localhost:{self.port}"

    def arguments(self):
        return ["--url", self.url, "--ca", self.certificates / "ca.crt", "--username", USER,
                "--password", PASSWORD, "--mqtt", self.mqtt]

    def pids(self):
        return {"server": proc.tree(self.process.pid)}

    def spawn(self, *command, **more):
        """Start a process in a session of its own, which close() ends."""
        with (self.dir / "log").open("ab") as log:
            process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=True, **more)
        self.undo.callback(self.end, process)
        return process

    @staticmethod
    def end(process):
        """SIGTERM, patience, then SIGKILL to the session that is ours."""
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start(self):
        self.process = self.launch()

        def up():
            if self.process.poll() is not None:
                raise stack.Failed(f"{self.title} ended: {(self.dir / 'log').read_text()[-600:]}")
            return listening(self.port)

        stack.wait_until(f"{self.title} does not listen", up, 60)

    def close(self):
        self.undo.close()


class Mosquitto(Peer):
    name = package = program = "mosquitto"  # name is a purpose of tests/deps
    title = "mosquitto"
    mqtt = "5"
    durability = "none: everything in memory"
    settings = "persistence off; queue and in-flight limits off; TCP_NODELAY"

    def version(self):
        return package_version("mosquitto")

    def launch(self):
        subprocess.run(["mosquitto_passwd", "-b", "-c", self.dir / "passwords", USER, PASSWORD],
                       check=True, capture_output=True)
        (self.dir / "conf").write_text(f"""\
{"user root" if os.getuid() == 0 else ""}
listener {self.port} 127.0.0.1
certfile {self.certificates}/server.crt
keyfile {self.certificates}/server.key
password_file {self.dir}/passwords
allow_anonymous false
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
log_type error
""")
        return self.spawn("mosquitto", "-c", self.dir / "conf")


class Nats(Peer):
    name = "nats"
    package = program = "nats-server"
    title = "NATS JetStream (file)"
    mqtt = "3.1.1"
    durability = "file store; no fsync before the acknowledgement (every 2 minutes)"
    settings = "JetStream file store, one replica; max_ack_pending 32000"

    def version(self):
        return package_version("nats-server")

    def launch(self):
        (self.dir / "conf").write_text(f"""\
server_name: bench
listen: "127.0.0.1:{stack.free_port()}"
authorization {{ user: {USER}, password: {PASSWORD} }}
jetstream {{ store_dir: "{self.dir}/store" }}
mqtt {{
  listen: "127.0.0.1:{self.port}"
  max_ack_pending: 32000
  tls {{ cert_file: "{self.certificates}/server.crt", key_file: "{self.certificates}/server.key" }}
}}
""")
        return self.spawn("nats-server", "-c", self.dir / "conf")


class Rabbit(Peer):
    name = "rabbitmq"
    package, program = "rabbitmq-server", RABBIT
    title = "RabbitMQ (durable queue)"
    mqtt = "3.1.1"
    durability = "durable classic queues, persistent messages; written, fsynced in groups"
    settings = "rabbitmq_mqtt; durable classic queue per session; prefetch 1000"

    def version(self):
        return package_version("rabbitmq-server")

    def launch(self):
        epmd, dist = stack.free_port(), stack.free_port()
        (self.dir / "plugins").write_text("[rabbitmq_mqtt].\n")
        (self.dir / "rabbitmq.conf").write_text(f"""\
listeners.tcp = none
mqtt.listeners.tcp = none
mqtt.listeners.ssl.1 = 127.0.0.1:{self.port}
mqtt.tcp_listen_options.nodelay = true
mqtt.allow_anonymous = false
mqtt.prefetch = 1000
ssl_options.cacertfile = {self.certificates}/ca.crt
ssl_options.certfile = {self.certificates}/server.crt
ssl_options.keyfile = {self.certificates}/server.key
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
default_user = {USER}
default_pass = {PASSWORD}
log.file.level = error
""")
        env = {
            **os.environ, "HOME": str(self.dir),
            # An epmd of our own, so that none is left behind and nobody else's is used.
            "ERL_EPMD_PORT": str(epmd), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"leat-bench-{os.getpid()}@localhost",
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.dir / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.dir / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.dir / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.dir / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.dir / "logs"),
            "RABBITMQ_PID_FILE": str(self.dir / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.dir / "generated"),
        }
        self.spawn("epmd", "-port", epmd, "-address", "127.0.0.1", env=env)
        stack.wait_until("epmd does not listen", lambda: listening(epmd))
        return self.spawn(RABBIT, env=env, cwd=self.dir)


class Leat:
    """A node on a private MariaDB."""

    name = "leat"
    title = "Leat (MariaDB)"
    window = 1000
    durability = "in MariaDB, fsynced before the acknowledgement; cursors too"
    settings = "sql/dev-server's: innodb_flush_log_at_trx_commit=1, 256 MB pool, 64 MB redo; ES256 tokens"

    def __init__(self, s):
        self.stack = s
        with (s.dir / "db/pid").open() as f:
            self.database = int(f.read().split()[0])

    def version(self):
        return f"{output(stack.LEAT, '--version')}; MariaDB {package_version('mariadb-server-core')}"

    def tenant(self, name):
        """What of `leat bench` reaches a tenant that the stack was made with."""
        t = next(t for t in self.stack.tenants if t.name == name)
        return self.reach(t.token("bench", publish=["#"], subscribe=["#"]))

    def reach(self, tokens):
        return ["--url", self.stack.nodes[0].url, "--ca", self.stack.ca, "--token", tokens]

    def start(self):
        self._arguments = self.tenant("bench")

    def arguments(self):
        return self._arguments

    def metric(self, name):
        with urllib.request.urlopen(
                f"http://127.0.0.1:{self.stack.nodes[0].admin}/metrics", timeout=10) as r:
            for line in r.read().decode().splitlines():
                if line.startswith(name + " "):
                    return float(line.split()[1])
        raise stack.Failed(f"/metrics has no {name}")

    def pids(self):
        return {"node": [self.stack.nodes[0].process.pid], "database": [self.database]}

    def close(self):
        pass  # the stack ends it


PEERS = [Mosquitto, Nats, Rabbit]
