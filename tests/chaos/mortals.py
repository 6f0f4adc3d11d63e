"""Clients with wills, which they leave behind in every way there is. What has to become of each (Fates):

  must    its client was lost, or took its leave with reason 4: published, once
  never   its client was back before its delay was over, and no fault was near its node, which the others
          might have given up: not published
  may     nobody knows whether the server knew (no CONNACK, a normal DISCONNECT that nobody confirms,
          back about when the delay was over; or a CONNECT of before that was never answered, and may
          reach its node only now, takes for the client's return): at most once"""

import random
import time

from actors import FOREVER, Actor
from history import payload
from leat import mqtt, stack

SETTLED_S = 25 if stack.ENGINE == "galera" else 3.5  # after a fault, a node is given up by then or not at all
LATE_S = 60 if stack.ENGINE == "galera" else 15  # after which a CONNECT under way is answered or over
MARGIN_S = 0.5  # between what the server does and when a client's thread reads it
WITH_WILL = 0x04


class Mortal(Actor):
    def __init__(self, node, history, wills, number, topic):
        super().__init__(node, history, f"mortal{number}", 5)
        self.wills, self.number, self.topic = wills, number, topic
        self.next, self.before = 0, None  # the will left behind last: key, delay, since when its client may be lost
        self.paused, self.resting = False, False
        self.unanswered_at = 0  # its last CONNECT without a CONNACK

    def life(self):
        self.resting = self.paused
        if self.paused:
            time.sleep(0.05)
            return
        key, delay_s = (self.number, self.next, 1), random.choice((0, 0, 1, 2))
        self.next += 1
        with self.history.lock:
            self.history.sent[key[:2]] = 1
        self.wills[key] = "may"
        before, self.before = self.before, None
        if before and before[1]:
            self.wills[before[0]] = "may"  # it is taken away, if it is not too late
        unanswered_at, self.unanswered_at = self.unanswered_at, time.monotonic()
        with self.connect(clean=False, props=FOREVER, will=(self.topic, payload(*key, 64), 1, False),
                          will_props=[("will_delay", delay_s)]) as c:
            self.unanswered_at = unanswered_at
            late_connect = delay_s and time.monotonic() < unanswered_at + LATE_S
            self.wills[key] = "may" if late_connect else "must"
            if before and before[1] and time.monotonic() < before[2] + before[1] - MARGIN_S \
                    and before[2] > self.history.clock_set_at + MARGIN_S:
                self.wills[before[0]] = "never"
            self.begun = time.monotonic()
            try:
                self.live(c)
            finally:
                self.before = (key, delay_s, self.lost_since(c))
            self.leave(c, key)
        time.sleep(random.choice((0, 0, 0.2, 3)) * (not self.paused))

    def live(self, c):
        end = time.monotonic() + random.uniform(0, random.choice((0.5, 2, 8, 20)))
        while time.monotonic() < end and not self.paused and not self.stopping.is_set():
            self.look_after(c)
            try:
                c.read(0.05)
            except TimeoutError:
                pass
        c.ping()  # so that it is known to be connected until now

    def lost_since(self, c):
        """Where its node may have been given up meanwhile, nobody knows."""
        return c.heard if self.node.at.struck_at < self.begun - SETTLED_S else 0

    def leave(self, c, key):
        how = random.random()
        if how < 0.7 or self.paused:
            c.reset()
        elif how < 0.85:
            c.disconnect(WITH_WILL)
        else:
            self.wills[key] = "may"
            c.disconnect()
