#!/usr/bin/python3
"""The kill test: no acknowledged event is ever lost. `make kill-test KILLS=100`.

Publishers and durable subscribers run at full speed against one node on a private MariaDB, with a
proxy between the two, while at random moments something dies:

  node     kill -9 of the node, restarted at once
  db       kill -9 of mariadbd, resumed
  both     both at the same moment
  client   one client's connection is reset
  cut      all of the node's connections to the database are reset
  held     commits are held back by a read lock while those connections are reset; then released

Every few kills the publishers rest, and history.py holds what happened against the promise. The seed
decides the order of faults and the pauses between them; --seed replays it (what a kill interrupts
still differs from run to run). Exit status 0: kept; 1: broken, with what and how; 2: could not run.

--bug NAME seeds a bug (a build with -DLEAT_SEEDED_BUGS) and turns the status round: the run must find a
violation, within --runs tries."""

import argparse
import collections
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from actors import CursorWatch, Publisher, Subscriber  # noqa: E402
from history import History, Journal, Violation, parse  # noqa: E402
from leat import stack  # noqa: E402

TENANT = "killed"
WEIGHTS = {"node": 30, "db": 22, "both": 8, "client": 22, "cut": 8, "held": 10}
# Which faults a seeded bug needs to show.
BUGS = {
    "ack-before-commit": {"node": 5, "both": 2, "db": 3},
    "dispatch-before-confirmed": {"both": 6, "node": 2, "db": 2},
    "unknown-plain-look": {"held": 1},
    "cursor-without-commit-no": {"held": 3, "cut": 3, "node": 1},
}
EPOCH = 5  # kills between checks
say_lock = threading.Lock()


def say(text):
    with say_lock:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Proxy:
    """proxy.py as a child."""

    def __init__(self, target):
        self.port = stack.free_port()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "proxy.py")
        self.child = subprocess.Popen([sys.executable, script, str(self.port), str(target)],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout.readline() == "ok\n"

    def command(self, word):
        self.child.stdin.write(word + "\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "ok\n"

    def close(self):
        self.child.stdin.close()
        self.child.wait()


class World:
    """The servers and clients of one run."""

    def __init__(self, directory, rng, env):
        self.rng, self.history = rng, History()
        self.database = stack.Database(os.path.join(directory, "db"))
        stack.leat("migrate", "--db", self.database.dsn)
        signer = stack.Tenants(os.path.join(directory, "keys"), self.database.dsn).create(TENANT)
        where = stack.parse_dsn(self.database.dsn)
        self.proxy = Proxy(where["port"])
        dsn = (f"mysql://{where['user']}:{where['password']}@127.0.0.1:{self.proxy.port}/"
               f"{where['database']}")
        self.node = stack.Node(os.path.join(directory, "node"), dsn, name="kill-1", env=env)
        self.node.token = signer.token(ttl=7 * 24 * 3600)
        self.node.start()
        with contextlib.closing(self.database.connect()) as c, c.cursor() as q:
            q.execute("SELECT tenant_id FROM tenant WHERE name=%s", (TENANT,))
            self.journal = Journal(self.query, q.fetchone()[0])
        self.watch = CursorWatch(self.database, where["database"], self.history)
        self.counts = collections.Counter()
        self._clients()

    def _clients(self):
        h, n = self.history, self.node
        self.subscribers = [
            Subscriber(n, h, "sub-all", "k/#"),
            Subscriber(n, h, "sub-v3", "k/+", version=4),
            Subscriber(n, h, "share-1", "$share/g/k/#", "share"),
            Subscriber(n, h, "share-2", "$share/g/k/#", "share"),
        ]
        self.subscriptions = {"sub-all": True, "sub-v3": True, "share": False}
        self.publishers = [
            Publisher(n, h, 1, ["k/1", "k/both"]),
            Publisher(n, h, 2, ["k/2", "k/both", "k/two"], version=4),
        ]
        self.actors = self.subscribers + self.publishers
        for s in self.subscribers:
            s.start()
        for s in self.subscribers:
            assert s.ready.wait(20), f"{s.name} could not subscribe: {s.failure}"
        self.watch.start()
        for p in self.publishers:
            p.start()

    def query(self, text, *args):
        with contextlib.closing(self.database.connect()) as c, c.cursor() as q:
            q.execute(text, args)
            return q.fetchall()

    def close(self):
        for a in [*self.actors, self.watch]:
            a.stopping.set()
        for a in [*self.actors, self.watch]:
            a.join(10)
        self.node.kill()
        self.proxy.close()
        self.database.stop()

    # ---- faults ---------------------------------------------------------------------------------

    def fault(self, kind):
        getattr(self, "fault_" + kind)()
        self.counts[kind] += 1

    def fault_node(self):
        self.node.kill()
        self.node.check_log()
        self.node.start(wait=False)

    def fault_db(self):
        self.database.crash()
        time.sleep(self.rng.choice((0, 0, 0.3, 1)))
        self.database.resume()

    def fault_both(self):
        first = self.rng.random() < 0.5
        if first:
            self.node.kill()
        self.database.crash()
        if not first:
            self.node.kill()
        self.node.check_log()
        if self.rng.random() < 0.5:
            self.node.start(wait=False)
            self.database.resume()
        else:
            self.database.resume()
            self.node.start(wait=False)

    def fault_client(self):
        self.rng.choice(self.actors).cut.set()

    def fault_cut(self):
        self.proxy.command("cut")
        self.proxy.command("drop")

    def fault_held(self):
        """A COMMIT that is under way, its connection gone, and only later its effect."""
        with contextlib.closing(self.database.connect(read_timeout=20)) as c, c.cursor() as q:
            q.execute("FLUSH TABLES WITH READ LOCK")
            time.sleep(self.rng.uniform(0.01, 0.1))  # a commit runs into the lock
            self.proxy.command("cut")
            time.sleep(self.rng.uniform(0.1, 1.2))
            q.execute("UNLOCK TABLES")
        time.sleep(0.05)
        self.proxy.command("drop")

    # ---- progress and checks --------------------------------------------------------------------

    def broken(self):
        if self.history.violations:
            raise self.history.violations[0]
        if not self.node.alive():
            raise Violation("node", f"ended by itself with {self.node.process.returncode}")

    def wait(self, condition, what, seconds=30):
        end = time.monotonic() + seconds * stack.SLOW
        while not condition():
            self.broken()
            if time.monotonic() > end:
                raise Violation("liveness", f"{what}: not within {seconds} s")
            time.sleep(0.01)

    def progress(self):
        """Everything moves again after a fault."""
        before = {p: p.acks for p in self.publishers}
        self.wait(lambda: all(p.acks > before[p] for p in self.publishers), "publishes answered")

    def epoch(self):
        """Let everything come to rest and check it."""
        for p in self.publishers:
            p.paused.set()
        self.wait(lambda: not any(p.pending for p in self.publishers), "every publish answered", 60)
        events = self.journal.read_new()
        self.await_deliveries(events)
        self.history.check(events, self.subscriptions)
        for p in self.publishers:
            p.paused.clear()
        return len(events)

    def await_deliveries(self, events, seconds=60):
        """Until every subscription has everything; if not, the check says what is missing."""
        keys = {parse(payload) for _, _, _, payload in events}
        end = time.monotonic() + seconds * stack.SLOW
        while time.monotonic() < end:
            self.broken()
            with self.history.lock:
                seen = {name: {k for _, k in self.history.delivered[name]} for name in self.subscriptions}
            if all(keys <= got for got in seen.values()):
                return
            time.sleep(0.1)

    def run(self, kills, weights):
        kinds, shares = list(weights), list(weights.values())
        done = 0
        while done < kills:
            for _ in range(min(EPOCH, kills - done)):
                self.progress()
                time.sleep(self.rng.uniform(0, 0.6) ** 2)
                kind = self.rng.choices(kinds, shares)[0]
                self.fault(kind)
                done += 1
            stored = self.epoch()
            say(f"{done}/{kills} kills, last {kind}; {stored} events checked")
        self.count_events()

    def count_events(self):
        """The view an admin reads has the same events."""
        total, = self.query("SELECT COUNT(*) FROM event WHERE tenant=%s", TENANT)[0]
        if total != self.history.totals["stored"]:
            raise Violation("view", f"event has {total} rows, {self.history.totals['stored']} stored")


def one_run(seed, kills, weights, env, keep):
    """None, or the Violation that was found."""
    directory = tempfile.mkdtemp(prefix="leat-kill.")
    found, world, start = None, None, time.monotonic()
    try:
        world = World(directory, random.Random(seed), env)
        try:
            world.run(kills, weights)
            world.broken()
        except (Violation, AssertionError) as e:
            found = e if isinstance(e, Violation) else Violation("harness", str(e))
            say(f"BROKEN: {found}\nseed {seed}, after {dict(world.counts)}\n"
                f"node's last lines:\n{world.node.tail(30)}")
    finally:
        if world:
            world.close()
        if found and keep:
            say(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    t = world.history.totals
    say(f"seed {seed}: {sum(world.counts.values())} kills {dict(world.counts)} in "
        f"{time.monotonic() - start:.0f} s; {t['acked']} acknowledged, {t['stored']} stored, "
        f"{t['delivered']} delivered, {t['redelivered']} of them again; "
        f"{world.watch.samples} cursor samples")
    return found


def main():
    p = argparse.ArgumentParser(description="no acknowledged event is ever lost")
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--only", help="faults to use, comma separated")
    p.add_argument("--bug", choices=BUGS, help="seed this bug; it must be found")
    p.add_argument("--runs", type=int, default=20, help="tries to find the bug")
    p.add_argument("--keep", action="store_true", help="keep the servers' directory of a broken run")
    a = p.parse_args()
    seed = a.seed if a.seed is not None else random.SystemRandom().randrange(1 << 32)
    weights = BUGS[a.bug] if a.bug else WEIGHTS
    if a.only:
        weights = {k: WEIGHTS[k] for k in a.only.split(",")}
    say(f"kill test: {a.kills} kills, seed {seed}, binary {stack.LEAT}" + (f", bug {a.bug}" if a.bug else ""))
    if not a.bug:
        return 1 if one_run(seed, a.kills, weights, {}, a.keep) else 0
    for i in range(a.runs):
        found = one_run(seed + i, a.kills, weights, {"LEAT_BUG": a.bug}, a.keep)
        if found and found.rule in ("liveness", "harness", "node"):
            say(f"run {i + 1}: not a proof: {found}")
            return 2
        if found:
            say(f"bug {a.bug}: caught in run {i + 1} of at most {a.runs}: {found}")
            return 0
    say(f"bug {a.bug}: NOT caught in {a.runs} runs of {a.kills} kills")
    return 1


if __name__ == "__main__":
    sys.exit(main())
