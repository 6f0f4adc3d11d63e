"""What the chaos suite plays with: a private database, nodes on it through fault proxies, clients on the
nodes. A World starts all of it, brings it to rest, checks it, and ends exactly what it started."""

import contextlib
import json
import os
import random
import secrets
import signal
import threading
import time
import traceback

import gaps
import ticks
from actors import Publisher, Scheduler, Subscriber, Worker
from history import Fates, History, Journal, Letter, Violation, matches, parse, some
from leat import pki, stack
from mortals import Mortal
from ordered import OrderedWorker, check_key_order, key_of
from proxy import Proxy
from sql_publisher import SqlPublisher
from stall import clock
from witness import Witness

TENANT = "chaos"
GALERA = stack.ENGINE == "galera"
RESUME_S = 90 if GALERA else 30  # everything moves again so soon after a fault, stalls of ours not counted
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


CLOCK_STEPS_S = (600, 3600, 7200)
AGAIN, DEADLOCKS = (1205, 1213), 20  # codes of the server; in a row
ORDERED = "k/two"  # a topic whose events have ordering keys


class Keyed(Publisher):
    def props(self, topic, number):
        return [("user", ("leat-key", key_of(number)))] if topic == ORDERED else ()


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
        self.name = self.argv[self.argv.index("--name") + 1]
        self.base_env, self.token = {}, None
        self.silent_from = None  # on stall.clock: it cannot renew, and has to be silent from then on
        self.struck_at = 0       # monotonic: when a fault began or ended that may cost it its session
        self.points = False      # this life has places where it kills or stops itself
        self.met = 0             # so many of them
        self.goes_on = 0         # when a life that stopped itself goes on
        self.others = []         # processes of earlier lives that still run

    def begin(self, env=None, wait=False):
        self.env = {**self.base_env, **(env or {})}
        self.points, self.met, self.goes_on = False, 0, 0
        self.start(wait=wait)

    def begin_with_points(self, points):
        """points: [(place, at which pass, kill or stop)]"""
        self.begin({"LEAT_POINT": ",".join(f"{place}:{n}:{what}" for place, n, what in points)})
        self.points = True

    def answers(self):
        """A TLS handshake succeeds."""
        try:
            self.open(5, timeout=1).close()
        except (OSError, TimeoutError):
            return False
        return True

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
    """Raises the Violation "set-up" when it could not begin."""

    def __init__(self, directory, rng, options):
        self.rng, self.options, self.ttl_s = rng, options, options.ttl
        self.history = History(again=False)
        self.tending = threading.RLock()
        self.taken = set()        # what faults have for themselves: "db", (process|link|peer, node)
        self.on_point = None      # called when a node has killed or stopped itself at a place
        self.ending, self.nodes, self.actors, self.witness = contextlib.ExitStack(), [], [], None
        self.callers = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            try:
                self._begin(directory)
            except Exception as e:
                raise Violation("set-up", f"{traceback.format_exc()}\n{self.last_lines()}") from e
            undo.pop_all()

    def _begin(self, directory):
        self.directory = directory
        self.places_file = os.path.join(directory, "places")
        self.database = stack.Database(os.path.join(directory, "db"))
        self.ending.callback(self.database.stop)
        self._preload()
        stack.leat("migrate", "--db", self.database.dsn)
        where = stack.parse_dsn(self.database.dsn)
        tenants = stack.Tenants(os.path.join(directory, "keys"), self.database.dsn)
        # Also good on a node whose clock is an hour behind.
        self.token, self.small_token = (tenants.create(name).token(ttl=7 * 24 * 3600, iat=int(time.time()) - 7200)
                                        for name in (TENANT, gaps.TENANT))
        self.tenant_id = self.query("SELECT tenant_id FROM tenant WHERE name=%s", TENANT)[0][0]
        self.journal = Journal(self.query, self.tenant_id)
        self.witness = Witness(self.connect, self.history, self.ttl_s)
        self.ticks, self.ticked, self.checked_at = ticks.Ticks(self.query, TENANT), [], time.monotonic()
        self.wills, self.calls = Fates("will"), Fates("call")
        self._nodes(where)
        self._clients()

    def _preload(self):
        """The database with shims: its disk can be full, its clock be set, and a bug's slow log."""
        self.full, self.clock_file = (os.path.join(self.directory, name) for name in ("disk-is-full", "clock"))
        self.clock_ms = 0  # where its clock stands, from ours
        self.set_database_clock(0)
        shims = [os.path.abspath(s) for s in (self.options.full_disk, self.options.clock, self.options.slow_log) if s]
        if shims:
            self.database.stop()
            self.database.env = {"LD_PRELOAD": " ".join(shims), "LEAT_FULL_DISK": self.full,
                                 "LEAT_CLOCK": self.clock_file}
            self.database.resume()

    def set_database_clock(self, ms, double_from=0):
        """From ours, and at double speed from that moment of our monotonic clock on."""
        with open(self.clock_file + ".new", "w") as f:
            f.write(f"{ms} {int(double_from * 1000)}")
        self.history.clock_set_at = time.monotonic()
        os.rename(self.clock_file + ".new", self.clock_file)
        time.sleep(0.1)  # the shim looks every few milliseconds
        self.history.clock_set_at = float("inf") if double_from else time.monotonic()

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
        self.queues = {"work": "k/#", "ordered": ORDERED}  # of the latter, what consumers of a few keys keep up with
        for i in range(3):
            self.subscribers.append(Worker(door(i), h, f"work-{i}", "work", "k/#", version=4 if i == 1 else 5))
            self.subscribers.append(OrderedWorker(door(i + 1), h, f"ordered-{i}", "ordered", ORDERED))
        self.subscriptions.update(self.queues)
        self.unordered = {"share", "work", "ordered"}  # but for ordered's keys, which have a rule of their own
        self.publishers = [
            Publisher(door(0), h, 1, ["k/1", "k/both"], 40, rate=rate),
            Publisher(door(1), h, 2, ["k/2", "k/both"], 40, version=4, rate=rate),
            Keyed(door(2), h, 3, ["k/3", "k/3", ORDERED], 5, rate=rate),
            Scheduler(door(0), h, 4, ["k/later"], 20, rate=rate / 5),
            Scheduler(door(2), h, 5, ["k/later"], 20, rate=rate / 5),
        ]
        self.mortals = [Mortal(door(i), h, self.wills, 100 + i, "k/will") for i in range(6)]
        self.callers = [SqlPublisher(self.connect, h, self.calls, 200 + i, TENANT, "k/sql") for i in range(2)]
        self.query("CALL publisher_allow('root', %s)", TENANT)
        h.no_order |= {"k/later", "k/will"}
        self.actors = self.subscribers + self.publishers + self.mortals
        # Who makes a queue says its policy, which version 3 cannot.
        for version, names in ((5, set(self.subscriptions) - {"sub-v3"}), (4, set(self.subscriptions))):
            for s in self.subscribers:
                if s.version == version:
                    s.start()
            self.wait(lambda: names <= {s.subscription for s in self.subscribers if s.ready.is_set()},
                      "subscribing")
        self.gaps = gaps.Gaps(self, [Door(self.nodes, self.nodes[i], self.small_token) for i in (0, 1)])
        self.actors += [self.gaps.publisher, self.gaps.sleeper]
        self.gaps.sleeper.start()
        self.wait(self.gaps.sleeper.ready.is_set, "a small tenant's session")
        for p in [*self.publishers, *self.mortals, *self.callers, self.gaps.publisher]:
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
        """What met a deadlock with the nodes is asked again, as an admin would."""
        for _ in range(DEADLOCKS):
            try:
                return self.query_once(text, args)
            except stack.pymysql.MySQLError as e:
                if e.args[0] not in AGAIN:
                    raise
        return self.query_once(text, args)

    def query_once(self, text, args):
        with contextlib.closing(self.connect()) as c, c.cursor() as q:
            q.execute(text, args)
            return q.fetchall()

    def ask(self, text, *args):
        """query(), while the database may be away: true then."""
        try:
            return self.query(text, *args)
        except Exception:
            return True

    @property
    def leader_seen(self):
        """The node that held the role of timers when that was looked at last."""
        return next((n for n in self.nodes if n.name == self.witness.leader), None)

    def dead_letters(self):
        """{queue: [Letter]}"""
        out = {name: [] for name in self.queues}
        for name, seq, attempt, history, attributes, body in self.query(
                "SELECT s.name, d.seq, d.attempt, d.history, d.attributes, d.body FROM dead_letter d"
                " JOIN subscription s ON s.subscription_id=d.subscription_id"):
            (event,), reasons = json.loads(attributes), [h.get("reason") for h in json.loads(history)]
            out[name.decode()].append(Letter(parse(body), seq, event["topic"], body, attempt, reasons))
        return out

    def lateness(self):
        """[ms], sorted: how late what was due was moved, but for what waited while the database's clock was set."""
        return sorted(r[0] for r in self.query("SELECT late_ms FROM chaos_fired WHERE late_ms<%s", CLOCK_STEPS_S[0] * 900))

    def close(self):
        started = [a for a in [*self.actors, *self.callers, self.witness] if a and a.is_alive()]
        for a in started:
            a.stopping.set()
        for a in started:
            a.join(15)
        self.ending.close()

    def last_lines(self):
        """Of the nodes' logs, for people."""
        return "\n".join(f"node {n.number}, last lines:\n{n.tail(25)}" for n in self.nodes if os.path.exists(n.log))

    # ---- looking after it -----------------------------------------------------------------------

    def broken(self):
        if self.history.violations:
            raise self.history.violations[0]
        self.tend()

    def tend(self):
        """Nodes that met a place of theirs: the killed begin again, the stopped go on. What else ended by
        itself is a violation. A node that a fault has is that fault's matter."""
        with self.tending:
            for n in self.nodes:
                if ("process", n) not in self.taken:
                    self._tend(n)

    def _tend(self, n):
        state = n.state()
        if state in "XZ" and n.process.poll() is not None:
            if not n.points or n.process.returncode != -signal.SIGKILL:
                raise Violation("node", f"{n.number} ended by itself with {n.process.returncode}")
            self.on_point(n)
            n.again()
        elif state == "T" and not n.goes_on:
            if not n.points:
                raise Violation("harness", f"node {n.number} stands still, and nobody knows why")
            if self.on_point(n):
                n.goes_on = clock.now() + self.rng.uniform(0.1, 1.5) * self.ttl_s
        elif state == "T" and clock.now() > n.goes_on:
            n.goes_on = 0
            n.signal(signal.SIGCONT)

    def wait(self, condition, what, seconds=RESUME_S, who=None, tend=True):
        end = clock.now() + seconds * stack.SLOW
        while not condition():
            if tend:
                self.broken()
            if clock.now() > end:
                raise Violation("liveness", f"{what}: not within {seconds} s {who() if who else ''}")
            time.sleep(0.02)

    def places(self):
        """The named places (base/point.h) that nodes of this run have passed."""
        try:
            with open(self.places_file) as f:
                return sorted({line for line in f.read().splitlines() if not line.startswith("met ")})
        except FileNotFoundError:
            return []

    def places_met(self, node):
        """Where this life of the node has killed or stopped itself since this was asked last."""
        said = f"met {node.process.pid} "
        with open(self.places_file) as f:
            met = [line.removeprefix(said) for line in f.read().splitlines() if line.startswith(said)]
        new, node.met = met[node.met:], len(met)
        return new

    def go_home(self):
        """Clients that fled to other nodes return."""
        for a in self.actors:
            if a.node.at is not a.node.home and a not in self.mortals and a is not self.gaps.sleeper:
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
        self.rested = ""  # how long what took
        self.all_quiet()
        self.lap("nodes")
        self.wait(lambda: not any(p.pending for p in self.publishers), "every publish answered")
        self.wait(lambda: all(c.resting for c in self.mortals + self.callers), "wills and calls are made")
        self.lap("answers")
        self.wait(lambda: not self.ask("SELECT 1 FROM inbox LIMIT 1"), "what was published in SQL is moved")
        self.wait(lambda: not self.ask("SELECT 1 FROM timer WHERE subscription_id=0 LIMIT 1"),
                  "every timer moved")
        self.lap("timers")
        events = self.read_new()
        self.everywhere(events)
        while late := self.read_new():
            self.check_late(late)
            events += late
            self.everywhere(events)
        for fates in (self.wills, self.calls):
            fates.check(self.history.journal)
            self.history.totals.update(fates.totals)
        self.check_queues()
        self.history.check_deliveries(self.subscriptions, self.unordered)
        self.disarm()
        self.gaps.check()
        self.ticks.check(self.ticked, self.history.clock_set_at > self.checked_at)
        self.checked_at = time.monotonic()
        self.history.totals["ticks"] += len(self.ticked)
        self.history.totals["breakers_opened"] = sum(n.text().count("breaker=open") for n in self.nodes)
        self.ticked.clear()
        self.witness.check()
        self.begin_again()
        return len(events)

    def everywhere(self, events):
        """What was published is in the journal, reaches everybody, and is settled."""
        self.history.check_journal(events)
        self.await_deliveries(events)
        self.lap(f"deliveries (last {self.last_served})")
        self.settled()
        self.lap("cursors")

    def check_late(self, events):
        """A node may have been busy storing a will whose client never heard of it, and has gone; then it is
        published later. Nothing else comes when everything was answered."""
        late = [e for e in events if self.wills.get(parse(e.payload)) != "may"]
        if late:
            raise Violation("once", f"{len(late)} events appended after everything was answered, "
                                    f"the first {late[0].seq}: {late[0].payload[:20]}")

    def disarm(self):
        """Nodes that would still meet a place begin anew."""
        with self.tending:
            for n in self.nodes:
                if n.points:
                    n.again()

    def check_queues(self):
        h, letters = self.history, self.dead_letters()
        h.totals["dead_letters"] = sum(map(len, letters.values()))
        h.check_queues(self.queues, letters)
        mine = {k: at for k, at in h.journal.items() if at[2] == ORDERED}
        given_up = {le.key: h.failed_at.get(("ordered", le.key, le.attempt)) for le in letters["ordered"]}
        check_key_order("ordered", h.steps["ordered"], mine, given_up)

    def read_new(self):
        """What was appended, but for the ticks of schedules, which are put aside."""
        events = self.journal.read_new()
        self.ticked += [e for e in events if e.topic.startswith(ticks.TOPIC)]
        return [e for e in events if not e.topic.startswith(ticks.TOPIC)]

    def all_quiet(self):
        """Clients end what they do, nodes go on."""
        self.lap_begun = time.monotonic()
        self.ticks.each("pause")
        for p in self.publishers:
            p.paused.set()
        for c in self.mortals + self.callers:
            c.paused = True
        self.gaps.pause()
        for s in self.slow:
            s.hurry.set()
        self.wait(lambda: not any(n.state() == "T" for n in self.nodes), "nodes go on")

    def begin_again(self):
        self.go_home()
        self.ticks.each("resume")
        for s in self.slow:
            s.hurry.clear()
        for c in self.mortals + self.callers:
            c.paused = False
        self.gaps.resume()
        for p in self.publishers:
            p.paused.clear()

    def lap(self, name):
        now = time.monotonic()
        self.rested += f"{name} {now - self.lap_begun:.1f} "
        self.lap_begun = now

    def await_deliveries(self, events):
        """Until every subscription has everything; if not, the check says what is missing."""
        wanted = {name: {parse(e[3]) for e in events if matches(filter_, e[2])}
                  for name, filter_ in self.subscriptions.items()}
        end, self.last_served = clock.now() + RESUME_S * stack.SLOW, "none"
        while clock.now() < end:
            self.broken()
            with self.history.lock:
                seen = {name: {k for _, k in self.history.delivered[name]} for name in self.subscriptions}
            left = {name: len(wanted[name] - got) for name, got in seen.items() if wanted[name] - got}
            if not left:
                return
            self.last_served = max(left, key=left.get)
            time.sleep(0.1)

    def settled(self):
        """Every delivery was acknowledged, so every cursor arrives at the head; what failed was tried again, until
        nothing waits for that. One whose time runs out leaves the cursor's way to wait: so both, in this order."""
        end = clock.now() + RESUME_S * stack.SLOW
        while (behind := self.query("SELECT name, acked_through, next_seq, behind FROM subscription_lag "
                                    "WHERE tenant=%s AND behind>0", TENANT)) \
                or self.ask("SELECT 1 FROM timer LIMIT 1"):
            self.broken()
            if clock.now() > end:
                raise Violation("settled", f"acknowledged, but the cursor stays behind: {some(behind)}"
                                if behind else "what failed is not tried again")
            time.sleep(0.05)
