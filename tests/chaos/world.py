"""What the chaos suite plays with: a private database, nodes on it through fault proxies, clients on the
nodes. A World starts all of it, brings it to rest, checks it, and ends exactly what it started."""

import contextlib
import os
import random
import secrets
import signal
import time

from actors import Publisher, Scheduler, Subscriber, Worker
from history import History, Journal, Violation, matches, parse, some
from leat import pki, stack
from proxy import Proxy
from witness import Witness

TENANT = "chaos"
GALERA = stack.ENGINE == "galera"
RESUME_S = 120 if GALERA else 60  # everything moves again so soon after a fault, on the slowest machine
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


def utc():
    now = time.time()
    return time.strftime("%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}"


def stat_of(pid):
    """The process's state letter; X when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


class ChaosNode(stack.Node):
    """A node with its links of the proxy, to the database and from its peers; each start may have
    faults of its own built in."""

    def __init__(self, number, directory, authority, dsn, links, peer_link, options):
        super().__init__(directory, dsn, authority, f"chaos-{number}", options)
        self.number, self.links, self.peer_link = number, links, peer_link
        self.base_env, self.token = {}, None
        self.silent_from = None  # monotonic: it cannot renew, and has to be silent from then on
        self.armed = None        # LEAT_POINT of this life
        self.stopped_until = 0   # when a life that stopped itself goes on
        self.others = []         # processes of earlier lives that still run

    def begin(self, env=None, wait=False):
        self.env = {**self.base_env, **(env or {})}
        self.armed, self.stopped_until = self.env.get("LEAT_POINT"), 0
        self.start(wait=wait)

    def again(self):
        """A next life, at once."""
        self.kill()
        self.check_log()
        self.begin()

    def moved(self):
        """Other ports, for a life beside an earlier one. Returns that of its peers."""
        self.others.append(self.process)
        self.address, peer = ("127.0.0.1", stack.free_port()), stack.free_port()
        for option, port in (("--mqtt", self.address[1]), ("--peer", peer)):
            self.argv[self.argv.index(option) + 1] = f"127.0.0.1:{port}"
        return peer

    def state(self):
        return stat_of(self.process.pid) if self.process else "X"

    def end(self):
        for p in [*self.others, self.process]:
            if p is not None:
                p.kill()
                p.wait()


class Door:
    """What a client connects to: its home node, and when that failed any, as a load balancer that
    knows nothing would choose."""

    def __init__(self, nodes, home, token):
        self.nodes, self.home, self.token = nodes, home, token
        self.at, self.failed = None, False

    def open(self, version, timeout):
        self.at = random.choice(self.nodes) if self.failed else self.home
        self.failed = True
        c = self.at.open(version, timeout)
        self.failed = False
        return c


class World:
    def __init__(self, directory, rng, options):
        self.rng, self.options, self.ttl_s = rng, options, options.ttl
        self.history = History(again=False)
        self.ending, self.nodes, self.actors, self.witness = contextlib.ExitStack(), [], [], None
        try:
            self._begin(directory)
        except BaseException:
            self.close()
            raise

    def _begin(self, directory):
        self.directory = directory
        self.places_file = os.path.join(directory, "places")
        self.database = stack.Database(os.path.join(directory, "db"))
        self.ending.callback(self.database.stop)
        self._preload()
        stack.leat("migrate", "--db", self.database.dsn)
        where = stack.parse_dsn(self.database.dsn)
        signer = stack.Tenants(os.path.join(directory, "keys"), self.database.dsn).create(TENANT)
        # Also good on a node whose clock is an hour behind.
        self.token = signer.token(ttl=7 * 24 * 3600, iat=int(time.time()) - 7200)
        self.tenant_id = self.query("SELECT tenant_id FROM tenant WHERE name=%s", TENANT)[0][0]
        self.journal = Journal(self.query, self.tenant_id)
        self.witness = Witness(self.connect, self.history, self.ttl_s)
        self._nodes(where)
        self._clients()

    def _preload(self):
        """The database with the shim that makes its disk full, and a bug's slow log."""
        self.full = os.path.join(self.directory, "disk-is-full")
        shims = [os.path.abspath(s) for s in (self.options.full_disk, self.options.slow_log) if s]
        if shims:
            self.database.stop()
            self.database.env = {"LD_PRELOAD": " ".join(shims), "LEAT_FULL_DISK": self.full}
            self.database.resume()

    def _nodes(self, where):
        ports = [stack.parse_dsn(d)["port"] for d in self.database.member_dsns]
        count = self.options.nodes
        peers = [stack.free_port() for _ in range(count)]
        self.proxy = Proxy(ports * count + peers, stack.free_port)
        self.ending.callback(self.proxy.close)
        authority = pki.Authority(os.path.join(self.directory, "ca"))
        key = os.path.join(self.directory, "cluster-key")
        with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write(secrets.token_hex(32) + "\n")
        for i in range(count):
            links = list(range(i * len(ports), (i + 1) * len(ports)))
            hosts = ",".join(f"127.0.0.1:{self.proxy.ports[k]}" for k in links)
            dsn = f"mysql://{where['user']}:{where['password']}@{hosts}/{where['database']}"
            peer = len(ports) * count + i
            node = ChaosNode(i + 1, os.path.join(self.directory, f"node{i + 1}"), authority, dsn, links,
                             peer, ["--ttl", f"{self.ttl_s}s", "--peer", f"127.0.0.1:{peers[i]}",
                                    "--peer-advertise", f"127.0.0.1:{self.proxy.ports[peer]}",
                                    "--cluster-key", key])
            node.base_env = {"LEAT_POINT_LOG": self.places_file, "LEAT_BUG": self.options.bug or ""}
            self.nodes.append(node)
            self.ending.callback(node.end)
            node.begin(wait=True)

    def _clients(self):
        h, rate = self.history, self.options.rate

        def door(i):
            return Door(self.nodes, self.nodes[i % len(self.nodes)], self.token)

        self.subscribers = [
            Subscriber(door(0), h, "sub-all", "k/#"),
            Subscriber(door(1), h, "sub-v3", "k/+", version=4),
            *(Subscriber(door(2 + i), h, f"share-{i}", "$share/g/k/#", "share") for i in range(3)),
        ]
        self.slow = [Subscriber(door(i), h, f"slow-{i}", "k/both", think_s=0.06) for i in range(3)]
        self.subscribers += self.slow
        self.subscriptions = {"sub-all": "k/#", "sub-v3": "k/+", "share": "k/#",
                              **{s.name: "k/both" for s in self.slow}}
        self.queues = {"work": "k/#", "ordered": "k/two"}  # what one consumer of one key can keep up with
        for i in range(3):
            self.subscribers.append(Worker(door(i), h, f"work-{i}", "work", "k/#", version=4 if i == 1 else 5))
            self.subscribers.append(Worker(door(i + 1), h, f"ordered-{i}", "ordered", "k/two", ordered=True))
        self.subscriptions.update(self.queues)
        self.unordered = {"share", "work"}
        self.publishers = [
            Publisher(door(0), h, 1, ["k/1", "k/both"], 40, rate=rate),
            Publisher(door(1), h, 2, ["k/2", "k/both", "k/two"], 40, version=4, rate=rate),
            Publisher(door(2), h, 3, ["k/3"], 5, rate=rate),
            Scheduler(door(0), h, 4, ["k/later"], 20, rate=rate / 5),
            Scheduler(door(2), h, 5, ["k/later"], 20, rate=rate / 5),
        ]
        h.no_order.add("k/later")
        self.actors = self.subscribers + self.publishers
        # Who makes a queue says its policy, which version 3 cannot.
        for version, names in ((5, set(self.subscriptions) - {"sub-v3"}), (4, set(self.subscriptions))):
            for s in self.subscribers:
                if s.version == version:
                    s.start()
            self.wait(lambda: names <= {s.subscription for s in self.subscribers if s.ready.is_set()},
                      "subscribing")
        for p in self.publishers:
            p.start()
        self.witness.start()

    def connect(self):
        """The administrator's connection to the server, or to a member that is in service and knows
        what the others have stored."""
        if not GALERA:
            return self.database.connect(read_timeout=10)
        for dsn in random.sample(self.database.admin_dsns, 3):
            with contextlib.suppress(stack.pymysql.MySQLError):
                return self.database.connect(dsn=dsn, read_timeout=10,
                                             init_command="SET SESSION wsrep_sync_wait=15")
        raise OSError("no member answers")

    def query(self, text, *args):
        with contextlib.closing(self.connect()) as c, c.cursor() as q:
            q.execute(text, args)
            return q.fetchall()

    def ask(self, text, *args):
        """query(), while the database may be away: true then."""
        try:
            return self.query(text, *args)
        except Exception:
            return True

    def leader(self):
        """The node that holds the role of timers, if it is one of those that live."""
        rows = self.query("SELECT s.name FROM role r JOIN node_session s ON s.session_id=r.owner"
                          " WHERE r.role=1 AND s.state=1")
        return next((n for n in self.nodes for r in rows if r[0].decode() == f"chaos-{n.number}"), None)

    def dead_letters(self):
        """{queue: [key of each]}"""
        out = {name: [] for name in self.queues}
        for name, body in self.query("SELECT s.name, d.body FROM dead_letter d JOIN subscription s"
                                     " ON s.subscription_id=d.subscription_id"):
            out[name.decode()].append(parse(body))
        return out

    def lateness(self):
        """[ms], sorted: how late what was due was moved."""
        return sorted(r[0] for r in self.query("SELECT late_ms FROM chaos_fired"))

    def close(self):
        started = [a for a in [*self.actors, self.witness] if a and a.is_alive()]
        for a in started:
            a.stopping.set()
        for a in started:
            a.join(15)
        self.ending.close()

    # ---- looking after it -----------------------------------------------------------------------

    def broken(self):
        if self.history.violations:
            raise self.history.violations[0]
        self.tend()

    def tend(self):
        """Nodes that met their point: the killed begin again, the stopped go on. What else ended by
        itself is a violation."""
        for n in self.nodes:
            state = n.state()
            if state in "XZ" and n.process.poll() is not None:
                if not n.armed or n.process.returncode != -signal.SIGKILL:
                    raise Violation("node", f"{n.number} ended by itself with {n.process.returncode}")
                n.again()
            elif state == "T" and n.armed and not n.stopped_until:
                n.stopped_until = time.monotonic() + self.rng.uniform(0.3, 2.5) * self.ttl_s
            elif state == "T" and n.stopped_until and time.monotonic() > n.stopped_until:
                n.stopped_until = 0
                n.signal(signal.SIGCONT)
            elif state != "T":
                n.stopped_until = 0

    def wait(self, condition, what, seconds=RESUME_S, who=None):
        end = time.monotonic() + seconds * stack.SLOW
        while not condition():
            self.broken()
            if time.monotonic() > end:
                raise Violation("liveness", f"{what}: not within {seconds} s {who() if who else ''}")
            time.sleep(0.02)

    def places(self):
        """The named places (base/point.h) that nodes of this run have passed."""
        try:
            with open(self.places_file) as f:
                return sorted(set(f.read().splitlines()))
        except FileNotFoundError:
            return []

    def go_home(self):
        """Clients that fled to other nodes return."""
        for a in self.actors:
            if a.node.at is not a.node.home:
                a.cut.set()

    def start_meters(self):
        for a in self.actors:
            a.meter.start()

    def still(self):
        """Publishers that were not answered and subscriptions that got nothing since the marks began."""
        got = {s.subscription for s in self.subscribers if s.meter.marks}
        return {p.name for p in self.publishers if not p.meter.marks} | (set(self.subscriptions) - got)

    def standstill(self):
        """The longest time without an answer, and without a delivery, since start_meters()."""
        by_name = {}
        for s in self.subscribers:
            by_name.setdefault(s.subscription, []).append(s.meter.longest)
        return (max(p.meter.longest for p in self.publishers), max(map(max, by_name.values())))

    # ---- rest and checks ------------------------------------------------------------------------

    def epoch(self):
        """Let everything come to rest and check it. Returns the number of events."""
        for p in self.publishers:
            p.paused.set()
        for s in self.slow:
            s.hurry.set()
        self.wait(lambda: not any(p.pending for p in self.publishers), "every publish answered")
        self.wait(lambda: not any(n.stopped_until or n.state() == "T" for n in self.nodes), "nodes go on")
        self.wait(lambda: not self.ask("SELECT 1 FROM timer WHERE subscription_id=0 LIMIT 1"),
                  "every timer moved")
        events = self.journal.read_new()
        self.history.check_journal(events)
        self.await_deliveries(events)
        late = self.journal.read_new()
        if late:
            raise Violation("once", f"{len(late)} events appended after everything was answered, "
                                    f"the first {late[0][1]}: {late[0][3][:20]}")
        self.settled()
        self.history.check_queues(self.queues, self.dead_letters())
        self.history.check_deliveries(self.subscriptions, self.unordered)
        self.witness.check()
        self.go_home()
        for s in self.slow:
            s.hurry.clear()
        for p in self.publishers:
            p.paused.clear()
        return len(events)

    def await_deliveries(self, events):
        """Until every subscription has everything; if not, the check says what is missing."""
        wanted = {name: {parse(e[3]) for e in events if matches(filter_, e[2])}
                  for name, filter_ in self.subscriptions.items()}
        end = time.monotonic() + RESUME_S * stack.SLOW
        while time.monotonic() < end:
            self.broken()
            with self.history.lock:
                seen = {name: {k for _, k in self.history.delivered[name]} for name in self.subscriptions}
            if all(wanted[name] <= got for name, got in seen.items()):
                return
            time.sleep(0.1)

    def settled(self):
        """Every delivery was acknowledged, so every cursor arrives at the head; what failed was tried
        again, until nothing waits for that."""
        self.wait(lambda: not self.ask("SELECT 1 FROM timer LIMIT 1"), "every retry made")
        end = time.monotonic() + RESUME_S * stack.SLOW
        while behind := self.query("SELECT name, acked_through, next_seq, behind FROM subscription_lag "
                                   "WHERE tenant=%s AND behind>0", TENANT):
            self.broken()
            if time.monotonic() > end:
                raise Violation("settled", f"acknowledged, but the cursor stays behind: {some(behind)}")
            time.sleep(0.05)
