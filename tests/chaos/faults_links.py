"""Faults between a node and its database, and between nodes, by the proxy. A part of Faults. Counted
if the proxy says that it met a connection or something on its way."""

import time

from leat.stack import SLOW
from stall import clock

SLACK_S = 1.5  # from a TTL's end until what a node sent before has been read
LOSE_S = 0.5   # within which a node commits something


class LinkFaults:
    def link(self, node, verb, number=0):
        """Of all its links to the database; the sum of their answers."""
        return sum(self.world.proxy.command(k, verb, number) for k in node.links)

    def met(self, node):
        return None if self.link(node, "touched") else False

    # ---- between a node and the database ----

    def fault_db_cut(self, s):
        self.link(s.node, "touched")
        self.link(s.node, "cut")
        time.sleep(s.rng.choice((0, 0.05)))
        self.link(s.node, "drop")
        return self.met(s.node)

    def fault_db_refuse(self, s):
        self.link(s.node, "touched")
        self.link(s.node, s.rng.choice(("refuse", "hang")))
        self.link(s.node, "cut")
        self.linger(self.ttls(s, 0.5, 2))
        self.link(s.node, "accept")
        self.link(s.node, "cut")
        self.link(s.node, "drop")
        return self.met(s.node)

    def hold(self, s, verb):
        node = s.node
        self.link(node, "touched")
        self.link(node, verb)
        node.silent_from = clock.now() + self.world.ttl_s + SLACK_S * SLOW
        longer = SLACK_S * (SLOW - 1) if self.world.options.bug else 0  # or else a busy machine never shows one
        try:
            self.linger(self.ttls(s, 0.2, 3 if s.alone else 3.5) + longer)
        finally:
            node.silent_from = None
        if s.rng.random() < 0.5:
            self.link(node, "cut")
        self.link(node, "release")
        self.link(node, "drop")
        return self.met(node)

    def fault_hold_up(self, s):
        return self.hold(s, "hold-up")

    def fault_hold_down(self, s):
        return self.hold(s, "hold-down")

    def fault_late(self, s):
        """What the node said last arrives when it has long begun anew."""
        self.link(s.node, "touched")
        self.link(s.node, "hold-up")
        time.sleep(s.rng.uniform(0.05, 0.3))
        self.link(s.node, "late", int(s.rng.uniform(50, 500 * self.world.ttl_s)))
        self.link(s.node, "release")
        time.sleep(s.rng.uniform(0, 1))
        return self.met(s.node)

    def fault_latency(self, s):
        self.link(s.node, "touched")
        self.link(s.node, "latency", int(s.rng.uniform(1, 100)))
        self.link(s.node, "slice", s.rng.choice((0, 0, 7, 100)))
        self.linger(s.rng.uniform(0.5, 2))
        self.link(s.node, "latency")
        self.link(s.node, "slice")
        return self.met(s.node)

    def lose(self, s, verb):
        """Counted when a COMMIT has met it."""
        self.link(s.node, "touched")
        self.link(s.node, verb)
        end, met = clock.now() + LOSE_S, 0
        while not (met := self.link(s.node, "touched")) and clock.now() < end:
            time.sleep(0.02)
        self.link(s.node, "lose-nothing")
        time.sleep(s.rng.uniform(0, 0.1))
        return None if met else False

    def fault_lose_reply(self, s):
        return self.lose(s, "lose-reply")

    def fault_lose_request(self, s):
        return self.lose(s, "lose-request")

    # ---- between nodes ----

    def peers(self, s, verb, number=0):
        """The links to this node, and, one time in three, those to all."""
        nodes = self.world.nodes if s.rng.random() < 0.33 else [s.node]
        for n in nodes:
            self.world.proxy.command(n.peer_link, "touched")
            self.world.proxy.command(n.peer_link, verb, number)
        return nodes

    def peers_met(self, nodes):
        return None if sum(self.world.proxy.command(n.peer_link, "touched") for n in nodes) else False

    def fault_peer_cut(self, s):
        struck = self.peers(s, "cut")
        for n in struck:
            self.world.proxy.command(n.peer_link, "drop")
        return self.peers_met(struck)

    def fault_peer_away(self, s):
        """Links are gone, or stand open and carry nothing one way, and come back."""
        verb = s.rng.choice(("refuse", "hang", "hold-up", "hold-down"))
        struck = self.peers(s, verb)
        for n in struck:
            if verb in ("refuse", "hang"):
                self.world.proxy.command(n.peer_link, "cut")
        self.linger(self.ttls(s, 0.2, 2))
        for n in struck:
            for heal in ("accept", "release", "drop"):
                self.world.proxy.command(n.peer_link, heal)
        return self.peers_met(struck)

    def fault_peer_latency(self, s):
        struck = self.peers(s, "latency", int(s.rng.uniform(1, 200)))
        self.linger(s.rng.uniform(0.5, 2))
        for n in struck:
            self.world.proxy.command(n.peer_link, "latency")
        return self.peers_met(struck)
