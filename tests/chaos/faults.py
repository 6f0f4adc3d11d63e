"""The faults: a row each, what it is called, how often it is chosen, what of the world it needs for itself,
what it does. Several strike at once (run.storm), each with a node, link or server of its own; a fault
returns when it is over, and only what met something is counted."""

import collections
import contextlib
import random
import threading
import time

from faults_db import DatabaseFaults
from faults_links import LinkFaults
from faults_nodes import NodeFaults
from ordered import OrderedWorker
from stall import clock
from world import GALERA, utc

GALERA_WEIGHTS = {"member": 12, "member-stop": 8, "majority": 4, "full-disk": 4}
GALERA_NOT = ("db-stop", "held", "db-clock", "db-fast", "db-point")  # of one server; its members have their own
# Which leave no node alive that has lost its session.
HARMLESS = ("node", "node-away", "leader", "drain", "db-cut", "lose-reply", "lose-request", "client", "outage",
            "peer-cut", "peer-away", "peer-latency")
PATIENCE_S = 2   # a fault waits so long for what it needs; then another is chosen
DB_RESTS_S = 2   # between two faults of the database, in a storm


class Strike:
    """One fault: where it strikes, and its own source of chance."""

    def __init__(self, kind, node, rng, alone):
        self.kind, self.node, self.rng = kind, node, rng
        self.alone = alone  # nothing else strikes, and the time to resume is measured


class Faults(NodeFaults, DatabaseFaults, LinkFaults):
    """fault NAME with dashes is the method fault_NAME with underscores. It returns None when it struck,
    False when there was nothing to strike, and 0 when it has counted itself."""

    KINDS = {  # name: (weight, what it has for itself)
        "node": (12, "process"), "node-away": (6, "process"), "point": (20, "process"),
        "stop": (8, "process"), "replace": (4, "process"), "drain": (4, "process"),
        "leader": (5, "leader"), "leader-stop": (4, "leader"), "clock": (4, "process"),
        "db": (7, "db"), "db-stop": (3, "db"), "both": (3, "db+process"), "held": (4, "db"),
        "full-disk": (2, "db"), "db-clock": (3, "db"), "db-fast": (2, "db"), "db-point": (6, "db+process"),
        "member": (0, "db"), "member-stop": (0, "db"), "majority": (0, "db"),
        "hold-up": (5, "link"), "hold-down": (5, "link"), "late": (5, "link"), "db-cut": (6, "link"),
        "db-refuse": (2, "link"), "latency": (3, "link"),
        "lose-reply": (12, "link"), "lose-request": (8, "link"),
        "peer-cut": (5, "peer"), "peer-away": (5, "peer"), "peer-latency": (2, "peer"),
        "client": (10, "client"), "outage": (3, "outage"),
    }

    @classmethod
    def weights(cls):
        weights = {k: w for k, (w, _) in cls.KINDS.items() if w}
        if not GALERA:
            return weights
        return {k: w for k, w in {**weights, **GALERA_WEIGHTS}.items() if k not in GALERA_NOT}

    def __init__(self, world, seed):
        self.world, self.seed = world, seed
        self.counts, self.log = collections.Counter(), []
        self.hits = collections.Counter()    # places where a node was caught
        self.missed = collections.Counter()  # what found nothing to strike
        self.lock = threading.Lock()
        self.begun = 0
        self.db_rests_until = 0  # or else other faults would meet nothing

    def total(self):
        return sum(self.counts.values())

    def next(self, weights):
        """The next fault by the seed, with what it needs taken; None when that is not soon to be had."""
        with self.lock:
            self.begun += 1
            rng = random.Random(f"{self.seed}/{self.begun}")
            kind = rng.choices(list(weights), list(weights.values()))[0]
        s, end = Strike(kind, None, rng, False), clock.now() + PATIENCE_S
        while not self.take(s):
            self.world.broken()
            if clock.now() > end:
                return None
            time.sleep(0.02)
        return s

    def named(self, kind):
        """A fault of this kind, alone."""
        with self.lock:
            self.begun += 1
            s = Strike(kind, None, random.Random(f"{self.seed}/{self.begun}"), True)
        self.world.wait(lambda: self.take(s), f"what {kind} needs is free")
        return s

    # ---- what it has for itself ----

    def take(self, s):
        needs = self.KINDS[s.kind][1]
        with self.world.tending:
            if needs == "client":
                return True
            if needs == "outage":
                return time.monotonic() > OrderedWorker.outage_until
            if needs.startswith("db") and ("db" in self.world.taken or clock.now() < self.db_rests_until):
                return False
            if needs == "leader":
                s.node = self.world.leader_seen
                if s.node not in self.free("process"):
                    return False
            elif needs != "db":
                free = self.free(needs.rpartition("+")[2])
                if not free:
                    return False
                s.node = s.rng.choice(free)
            self.world.taken |= self.things(s)
            return True

    def things(self, s):
        names = self.KINDS[s.kind][1].replace("leader", "process").split("+")
        return {n if n == "db" else (n, s.node) for n in names if n not in ("client", "outage")}

    def free(self, what):
        """Nodes that have this of theirs to lose. One at least stays out of it, so that there is work that
        faults can interrupt."""
        nodes, taken = self.world.nodes, self.world.taken
        struck = {t[1] for t in taken if t[0] in ("process", "link")}
        if what != "peer" and len(struck) >= len(nodes) - 1:
            nodes = struck
        return [n for n in nodes if (what, n) not in taken and (what != "process" or n.state() not in "TXZ")]

    def strike(self, s):
        at = f"at node {s.node.number}" if s.node else ""
        self.note(f"{s.kind} {at}")
        self.struck(s, float("inf"))
        try:
            met = getattr(self, "fault_" + s.kind.replace("-", "_"))(s)
        finally:
            self.struck(s, time.monotonic())
            with self.world.tending:
                self.world.taken -= self.things(s)
                if "db" in self.things(s) and not s.alone:
                    self.db_rests_until = clock.now() + DB_RESTS_S
        self.note(f"{s.kind} {at} is over" + (", it met nothing" if met is False else ""))
        if met is None:
            self.count(s.kind)
        elif met is False:
            with self.lock:
                self.missed[s.kind] += 1

    def struck(self, s, until):
        if s.kind in HARMLESS:
            return
        for node in self.world.nodes if "db" in self.things(s) else [s.node] if s.node else ():
            node.struck_at = until

    def count(self, kind):
        with self.lock:
            self.counts[kind] += 1

    def note(self, text):
        self.log.append(f"{utc()} {text}")

    def point_met(self, node):
        """Has this life killed or stopped itself at a place that was not counted yet? Under world.tending, or
        whoever has the node."""
        places = self.world.places_met(node)
        for place in places:
            with self.lock:
                self.hits[place] += 1
            self.count("point")
            self.note(f"{'stop' if node.state() == 'T' else 'kill'} at {place}, node {node.number}")
        return bool(places)

    # ---- time ----

    def linger(self, seconds):
        """Time passes under a fault."""
        end = clock.now() + seconds
        while (left := end - clock.now()) > 0:
            time.sleep(min(left, 0.1))
            self.world.broken()

    def ttls(self, s, low, high):
        """Alone, long enough that others have to act, so that times can be compared."""
        return s.rng.uniform(max(low, 1) if s.alone else low, max(high, 1)) * self.world.ttl_s

    # ---- clients ----

    def fault_client(self, s):
        struck = s.rng.choice([a for a in self.world.actors if a.is_alive()])
        struck.cut.set()
        end = clock.now() + 1
        while struck.cut.is_set():
            if clock.now() > end:
                with contextlib.suppress(AttributeError):
                    struck.cut.clear()
                return False  # it had no connection all the time
            time.sleep(0.01)
        return None

    def fault_outage(self, s):
        """What the consumers of the ordered queue depend on is away; they go on failing meanwhile."""
        OrderedWorker.outage_until = time.monotonic() + s.rng.uniform(0.5, 3)
        if s.alone:
            self.linger(OrderedWorker.outage_until - time.monotonic())
