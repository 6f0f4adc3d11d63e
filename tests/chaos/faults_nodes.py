"""Faults of node processes: killed, stopped, replaced, shut down, their clocks. A part of Faults."""

import contextlib
import functools
import os
import re
import signal
import time

from stall import clock
from world import FAKETIME, stat_of

# Where a node is caught mostly at its start: less often chosen.
START = re.compile("(before|commit|committed) (TENANT|CHANGES|SCHEMA|SESSION_BEGIN|WRITER_CREATE)")
REPLACED = 1  # exit status of a node that another of its name has replaced
POINTS_S = 4  # to meet places; what is left of them may be met later


class NodeFaults:
    def fault_node(self, s):
        s.node.again()
        time.sleep(s.rng.uniform(0.1, 0.4))  # others may have it then; it has a life of its own first

    def fault_node_away(self, s):
        """Long enough that its shares go to others."""
        s.node.kill()
        s.node.check_log()
        self.linger(self.ttls(s, 0.5, 2.5))
        s.node.begin()

    def fault_point(self, s):
        """A life that stops itself at named places, and kills itself at some."""
        return self.at_points(s, ["stop"] * 6 + ["kill"] * 2, self.after_point)

    def fault_db_point(self, s):
        """The same, where the database dies or stands still just when a node comes to the first of its places, and
        the node goes on before the database does, or after it."""
        struck = []

        def met(s):
            if struck:
                self.after_point(s)
            else:
                struck.append(True)
                self.strike_database(s)
        return self.at_points(s, ["stop"] * 6, met)

    def strike_database(self, s):
        database, node = self.world.database, s.node
        if s.rng.random() < 0.5:
            database.crash()
            back = database.resume
        else:
            pid = database.pid()
            os.kill(pid, signal.SIGSTOP)
            back = functools.partial(os.kill, pid, signal.SIGCONT)
        try:
            self.linger(self.ttls(s, 0, 0.5))
            if s.rng.random() < 0.5:
                node.signal(signal.SIGCONT)
                self.linger(self.ttls(s, 0, 0.5))
        finally:
            back()
        node.signal(signal.SIGCONT)
        self.count("db-point")

    def at_points(self, s, whats, met):
        node, rng, wanted = s.node, s.rng, self.world.options.places
        places = [p for p in self.world.places()
                  if (not START.match(p) or rng.random() < 0.1) and (not wanted or re.search(wanted, p))]
        if not places:
            return False
        node.kill()
        node.check_log()
        self.count("node")
        node.begin_with_points([(rng.choice(places), rng.choice((1, 1, 1, 2, 3, 10)), what) for what in whats])
        end = clock.now() + POINTS_S
        calls = [end - POINTS_S + t for t in (0.4, 0.8, 1.5, 2.2)]  # its clients come back to it
        while node.points and clock.now() < end:
            if calls and clock.now() > calls[0]:
                calls.pop(0)
                self.world.go_home()
            if node.state() in "TXZ" and self.point_met(node):
                met(s)
            time.sleep(0.01)
        return 0

    def after_point(self, s):
        node = s.node
        if node.state() != "T":
            node.again()
            return
        self.linger(s.rng.uniform(0, 0.3) if s.rng.random() < 0.8 else self.ttls(s, 0.3, 2.5))
        node.signal(signal.SIGCONT)

    def go_on(self, node):
        node.signal(signal.SIGCONT)
        self.world.wait(lambda: node.state() != "T" or node.points, "it goes on", tend=False)

    def fault_stop(self, s):
        s.node.signal(signal.SIGSTOP)
        self.linger(self.ttls(s, 1, 3))
        self.go_on(s.node)

    def fault_leader(self, s):
        """The leader dies, and stays away or not."""
        if s.alone or s.rng.random() < 0.5:
            self.fault_node_away(s)
        else:
            self.fault_node(s)

    def fault_leader_stop(self, s):
        self.fault_stop(s)

    def fault_replace(self, s):
        """A node stands still, its successor begins, and then it goes on: it has to end itself. Unless its
        session is over by then for another reason: it begins a new one, and replaces its successor."""
        node = s.node
        self.await_answer(node)  # perhaps of a next life
        old = node.process
        node.signal(signal.SIGSTOP)
        self.world.proxy.command(node.peer_link, "target", node.moved())
        node.begin()
        self.world.wait(node.answers, "a successor that answers")
        time.sleep(s.rng.uniform(0, 0.5))
        old.send_signal(signal.SIGCONT)
        self.world.wait(lambda: self.ended(old) or node.process.poll() is not None, "one of two nodes ends")
        if old.poll() != REPLACED:
            old.kill()
            old.wait()
            node.again()
        node.others.remove(old)

    def await_answer(self, node):
        """It may still meet places."""
        def answers():
            if node.points and node.state() in "TXZ" and self.point_met(node):
                if node.state() == "T":
                    node.signal(signal.SIGCONT)
                else:
                    node.again()
            return node.answers()
        self.world.wait(answers, "a node that answers")

    def ended(self, process):
        """One that stops itself at its named place goes on."""
        if stat_of(process.pid) == "T":
            process.send_signal(signal.SIGCONT)
        return process.poll() is not None

    def fault_drain(self, s):
        self.await_answer(s.node)
        with self.world.witness.excusing(s.node.name):
            node = s.node
            node.signal(signal.SIGTERM)
            armed = node.points
            self.world.wait(lambda: self.ended(node.process), "a node that is shut down ends")
            code = node.process.returncode
            node.check_log()
            assert code == 0 or (armed and code == -signal.SIGKILL), f"shut down, node {node.number} ended with {code}"
            node.begin()

    def fault_clock(self, s):
        """A life an hour away, or whose clock runs at double speed (the monotonic one too)."""
        shift = s.rng.choice(("+1h", "-1h", "x2"))
        env = {"LD_PRELOAD": FAKETIME, "FAKETIME": "+0 x2" if shift == "x2" else shift}
        with contextlib.ExitStack() as during:
            if shift == "x2":
                during.enter_context(self.world.witness.hurried())
            else:
                env["FAKETIME_DONT_FAKE_MONOTONIC"] = "1"
            s.node.kill()
            s.node.check_log()
            s.node.begin(env)
            self.linger(self.ttls(s, 0.5, 2))
            s.node.again()
