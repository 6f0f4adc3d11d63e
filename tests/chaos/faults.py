"""The faults: a row each, what it is called, how often it is chosen, what it does. A fault returns when
it is over; during the long ones, short ones strike elsewhere (Faults.linger)."""

import collections
import contextlib
import os
import re
import signal
import time

from leat.stack import SLOW
from world import FAKETIME, GALERA, stat_of, utc

SLACK_S = 1.5  # from a TTL's end until what a node sent before has been read
LIGHT = ("client", "lose-reply", "lose-request", "db-cut", "peer-cut")
# Where a node is caught mostly at its start: less often chosen.
START = re.compile("(before|commit|committed) (TENANT|CHANGES|SCHEMA|SESSION_BEGIN|WRITER_CREATE)")


GALERA_WEIGHTS = {"member": 12, "member-stop": 8, "majority": 4}
GALERA_NOT = ("db-stop", "held", "full-disk")  # of one server; its members have their own


class Faults:
    """fault NAME with dashes is the method fault_NAME with underscores."""

    WEIGHTS = {
        "node": 12, "node-away": 6, "point": 24, "stop": 8, "replace": 4, "drain": 4, "leader": 5, "leader-stop": 4,
        "db": 8, "db-stop": 4, "both": 3, "held": 4,
        "hold-up": 5, "hold-down": 5, "late": 4, "db-cut": 5, "db-refuse": 2, "latency": 3,
        "peer-cut": 4, "peer-away": 5, "peer-latency": 2,
        "lose-reply": 10, "lose-request": 6, "client": 8, "clock": 4, "full-disk": 2,
    }

    @classmethod
    def weights(cls):
        if not GALERA:
            return dict(cls.WEIGHTS)
        return {k: w for k, w in {**cls.WEIGHTS, **GALERA_WEIGHTS}.items() if k not in GALERA_NOT}

    def __init__(self, world):
        self.world, self.rng = world, world.rng
        self.counts, self.log = collections.Counter(), []
        self.hits = collections.Counter()  # places where a node was caught
        self.busy = set()  # nodes a long fault has

    def strike(self, name, node=None):
        node = node or self.free_node()
        if node is None:
            return
        self.log.append(f"{utc()} {name} at node {node.number}")
        getattr(self, "fault_" + name.replace("-", "_"))(node)
        self.log.append(f"{utc()} {name} at node {node.number} is over")
        self.counts[name] += 1

    def free_node(self):
        free = [n for n in self.world.nodes if n not in self.busy and n.state() not in "TXZ"]
        return self.rng.choice(free) if free else None

    def linger(self, node, seconds):
        """Time passes under a fault of this node; others have theirs."""
        self.busy.add(node)
        try:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, self.rng.uniform(0.05, 0.8)))
                if self.rng.random() < 0.4 and time.monotonic() < end:
                    self.strike(self.rng.choice(LIGHT))
                self.world.broken()
        finally:
            self.busy.discard(node)

    def ttls(self, low, high):
        return self.rng.uniform(low, high) * self.world.ttl_s

    def link(self, node, verb, number=0):
        for k in node.links:
            self.world.proxy.command(k, verb, number)

    # ---- processes ----

    def fault_node(self, node):
        node.again()

    def fault_node_away(self, node):
        """Long enough that its shares go to others."""
        node.kill()
        node.check_log()
        node.armed = "away"  # it has ended and is meant to
        end = time.monotonic() + self.ttls(0.5, 2.5)
        self.busy.add(node)
        nodes = self.world.nodes
        self.world.nodes = [n for n in nodes if n is not node]
        try:
            self.linger(node, end - time.monotonic())
        finally:
            self.world.nodes = nodes
            self.busy.discard(node)
            node.begin()

    def fault_point(self, node):
        """A life that kills or stops itself at a named place."""
        places = self.world.places()
        place = self.rng.choice([p for p in places if self.rng.random() < 0.1 or not START.match(p)])
        often = self.rng.choice((1, 1, 1, 1, 2, 3, 10))
        what = self.rng.choice(("kill", "stop"))
        node.kill()
        node.check_log()
        node.begin({"LEAT_POINT": f"{place}:{often}:{what}"})
        begun = time.monotonic()
        calls = [0.4, 0.8, 1.5, 2.5]  # its clients come back to it
        while time.monotonic() < begun + 4:
            if calls and time.monotonic() > begun + calls[0]:
                calls.pop(0)
                self.world.go_home()
            if node.state() in "TXZ":
                self.hits[place] += 1
                self.log.append(f"{utc()} {what} at {place}")
                break
            time.sleep(0.02)
        self.world.wait(lambda: node.state() not in "TXZ", "a node at a place")

    def fault_stop(self, node):
        node.signal(signal.SIGSTOP)
        self.linger(node, self.ttls(1, 3))
        node.signal(signal.SIGCONT)

    def fault_leader(self, node):
        """The leader dies, and stays away or not."""
        self.rng.choice((self.fault_node, self.fault_node_away))(self.leader(node))

    def fault_leader_stop(self, node):
        self.fault_stop(self.leader(node))

    def leader(self, node):
        leader = self.world.leader()
        return leader if leader and leader not in self.busy and leader.state() not in "TXZ" else node

    def fault_replace(self, node):
        """A node stands still, its successor begins, and then it goes on: it has to end itself."""
        old = node.process
        node.wait_ready()
        node.signal(signal.SIGSTOP)
        self.world.proxy.command(node.peer_link, "target", node.moved())
        node.begin(wait=True)
        time.sleep(self.rng.uniform(0, 0.5))
        old.send_signal(signal.SIGCONT)
        self.world.wait(lambda: self.ended(old), "a replaced node ends")
        node.others.remove(old)

    def ended(self, process):
        """One that stops itself at its named place goes on."""
        if stat_of(process.pid) == "T":
            process.send_signal(signal.SIGCONT)
        return process.poll() is not None

    def fault_drain(self, node):
        self.world.witness.excused.add(node.argv[node.argv.index("--name") + 1])
        node.stop(timeout=30)
        node.begin()

    def fault_clock(self, node):
        """A life an hour away, or whose clock runs at double speed (the monotonic one too)."""
        shift = self.rng.choice(("+1h", "-1h", "x2"))
        env = {"LD_PRELOAD": FAKETIME, "FAKETIME": "+0 x2" if shift == "x2" else shift}
        if shift == "x2":
            self.world.witness.hurried.set()
        else:
            env["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
        node.kill()
        node.check_log()
        node.begin(env)
        self.linger(node, self.ttls(0.5, 2))
        node.again()
        if shift == "x2":
            with contextlib.suppress(Exception):
                self.world.witness.look()
            self.world.witness.hurried.clear()

    # ---- the database ----

    def fault_db(self, _):
        self.world.database.crash()
        time.sleep(self.rng.choice((0, 0, 0.3, 1)))
        self.world.database.resume()

    def fault_db_stop(self, _):
        pid = self.world.database.pid()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.ttls(0.1, 2))
        os.kill(pid, signal.SIGCONT)

    def fault_both(self, node):
        self.world.database.crash()
        node.kill()
        node.check_log()
        node.begin()
        self.world.database.resume()

    def fault_held(self, node):
        """A COMMIT under way, its connection gone, and only later its effect."""
        hold, release = self.rng.choice((
            (["BACKUP STAGE " + s for s in ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT")],
             "BACKUP STAGE END"),
            (["FLUSH TABLES WITH READ LOCK"], "UNLOCK TABLES")))
        with contextlib.closing(self.world.database.connect(read_timeout=20)) as c, c.cursor() as q:
            for text in hold:
                q.execute(text)
            time.sleep(self.rng.uniform(0.01, 0.1))
            self.link(node, "cut")
            time.sleep(self.rng.uniform(0.1, 1.2))
            q.execute(release)
        time.sleep(0.05)
        self.link(node, "drop")

    def fault_full_disk(self, _):
        with open(self.world.full, "w"):
            time.sleep(self.rng.uniform(0.5, 3))
        os.unlink(self.world.full)

    # ---- members of a Galera ----

    def fault_member(self, _):
        """Any of them, also the one that the nodes use; it comes back by itself or from a copy."""
        member = self.rng.choice((1, 1, 2, 3))
        self.world.database.crash(member)
        time.sleep(self.ttls(0, 1))
        self.world.database.resume(member)

    def fault_member_stop(self, _):
        """Until the others have given it up, or not as long."""
        pid = self.world.database.pid(self.rng.choice((1, 1, 2, 3)))
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(self.ttls(0.2, 1.5))
        finally:
            os.kill(pid, signal.SIGCONT)

    def fault_majority(self, _):
        """Two are gone: what is left takes no writes, until all come back."""
        gone = self.rng.sample((1, 2, 3), 2)
        for member in gone:
            self.world.database.crash(member)
        time.sleep(self.ttls(0, 1))
        left = ({1, 2, 3} - set(gone)).pop()
        self.world.database.crash(left)  # nobody knows of a majority any more: all begin anew
        self.world.database.resume()

    # ---- between a node and the database ----

    def fault_db_cut(self, node):
        self.link(node, "cut")
        time.sleep(self.rng.choice((0, 0.05)))
        self.link(node, "drop")

    def fault_db_refuse(self, node):
        self.link(node, self.rng.choice(("refuse", "hang")))
        self.link(node, "cut")
        self.linger(node, self.ttls(0.5, 2))
        self.link(node, "accept")
        self.link(node, "cut")
        self.link(node, "drop")

    def hold(self, node, verb):
        self.link(node, verb)
        node.silent_from = time.monotonic() + self.world.ttl_s + SLACK_S * SLOW
        try:
            self.linger(node, self.ttls(0.2, 3.5))
        finally:
            node.silent_from = None
        if self.rng.random() < 0.5:
            self.link(node, "cut")
        self.link(node, "release")
        self.link(node, "drop")

    def fault_hold_up(self, node):
        self.hold(node, "hold-up")

    def fault_hold_down(self, node):
        self.hold(node, "hold-down")

    def fault_late(self, node):
        """What the node said last arrives when it has long begun anew."""
        self.link(node, "hold-up")
        time.sleep(self.rng.uniform(0.05, 0.3))
        self.link(node, "late", int(self.rng.uniform(50, 500 * self.world.ttl_s)))
        self.link(node, "release")
        time.sleep(self.rng.uniform(0, 1))

    def fault_latency(self, node):
        self.link(node, "latency", int(self.rng.uniform(1, 100)))
        self.link(node, "slice", self.rng.choice((0, 0, 7, 100)))
        self.linger(node, self.rng.uniform(0.5, 2))
        self.link(node, "latency")
        self.link(node, "slice")

    def fault_lose_reply(self, node):
        self.link(node, "lose-reply")
        time.sleep(self.rng.uniform(0.02, 0.1))

    def fault_lose_request(self, node):
        self.link(node, "lose-request")
        time.sleep(self.rng.uniform(0.02, 0.1))

    # ---- between nodes ----

    def peers(self, node, verb, number=0):
        """The links to this node, and, one time in three, those to all."""
        nodes = self.world.nodes if self.rng.random() < 0.33 else [node]
        for n in nodes:
            self.world.proxy.command(n.peer_link, verb, number)
        return nodes

    def fault_peer_cut(self, node):
        self.peers(node, "cut")
        self.peers(node, "drop")

    def fault_peer_away(self, node):
        """Links are gone, or stand open and carry nothing one way, and come back."""
        verb = self.rng.choice(("refuse", "hang", "hold-up", "hold-down"))
        struck = self.peers(node, verb)
        for n in struck:
            if verb in ("refuse", "hang"):
                self.world.proxy.command(n.peer_link, "cut")
        self.linger(node, self.ttls(0.2, 2))
        for n in struck:
            for heal in ("accept", "release", "drop"):
                self.world.proxy.command(n.peer_link, heal)

    def fault_peer_latency(self, node):
        struck = self.peers(node, "latency", int(self.rng.uniform(1, 200)))
        self.linger(node, self.rng.uniform(0.5, 2))
        for n in struck:
            self.world.proxy.command(n.peer_link, "latency")

    # ---- clients ----

    def fault_client(self, _):
        self.rng.choice(self.world.actors).cut.set()
