"""A tenant that may keep little, and a durable session that is often away for longer than that lasts. The rule
`gap`: when all is at rest, and the session was away for too long once more, each event there ever was, whatever
struck meanwhile, was delivered or is in a gap that it was told of."""

import json
import random
import time

from actors import Publisher, Subscriber
from history import History, Violation, parse, some

TENANT = "small"
KEPT_BYTES = 4000
BURST, RATE = 100, 300  # events, a second: more than is kept
# What was appended, as the journal does not keep it.
APPENDED = ("""CREATE TABLE chaos_small (base_seq BIGINT UNSIGNED NOT NULL PRIMARY KEY, attributes JSON NOT NULL,
                 body LONGBLOB NOT NULL)""",
            """CREATE TRIGGER chaos_small AFTER INSERT ON journal FOR EACH ROW
                 INSERT INTO chaos_small SELECT NEW.base_seq, NEW.attributes, NEW.body
                   FROM tenant WHERE tenant_id=NEW.tenant_id AND name='%s'""" % TENANT)


class Sleeper(Subscriber):
    """Away now and then; and what it is told of a gap it does not always live to see."""

    DIES = 0.3

    def __init__(self, *args):
        super().__init__(*args)
        self.told, self.gone, self.keys = 0, set(), set()
        self.leaves_at, self.awake, self.napping = time.monotonic() + 2, False, False

    def on_delivery(self, p, key):
        gap = dict(p.all("user")).get("leat-gap")
        if gap and random.random() < self.DIES:
            raise ConnectionError("died with it in hand")
        self.keys.add(key)
        if gap:
            first, last = map(int, gap.partition(":")[2].split("-"))
            self.gone.update(range(first, last + 1))
            self.told += 1

    def look_after(self, c):
        super().look_after(c)
        if not self.napping and (self.awake or time.monotonic() < self.leaves_at):
            return
        c.reset()
        end = time.monotonic() + random.uniform(1, 6)
        while self.napping or (time.monotonic() < end and not self.awake and not self.stopping.is_set()):
            time.sleep(0.05)
        self.leaves_at = time.monotonic() + random.uniform(0.5, 3)
        raise ConnectionError("away")


class Gaps:
    def __init__(self, world, doors):
        """doors: for the publisher and the session, with this tenant's token."""
        self.world, history, self.checked = world, History(), 0  # the last event that was accounted for
        history.violations = world.history.violations  # they are everybody's
        self.publisher = Publisher(doors[0], history, 300, ["g/1"], 40, rate=world.options.rate / 2)
        self.sleeper = Sleeper(doors[1], history, "sleeper", "g/#")
        self.publisher.name = "pub300"
        world.query("CALL tenant_set_limit(%s, 'max_stored_bytes', %s)", TENANT, KEPT_BYTES)
        for text in APPENDED:
            world.query(text)

    def pause(self):
        self.publisher.paused.set()
        self.sleeper.awake = True

    def resume(self):
        self.publisher.paused.clear()
        self.sleeper.awake = False

    def served(self):
        """The session has had what is there."""
        w = self.world
        w.wait(lambda: not self.publisher.pending, "every publish of a small tenant answered")
        w.wait(lambda: not w.ask("SELECT 1 FROM subscription_lag WHERE tenant=%s AND behind>0", TENANT),
               "a small tenant's session is served")

    def appended(self):
        """{seq: key} since the last check."""
        out = {}
        for base, attributes, body in self.world.query("SELECT base_seq, attributes, body FROM chaos_small"
                                                       " WHERE base_seq>%s", self.checked):
            for i, e in enumerate(json.loads(attributes)):
                if e["topic"].startswith("g/"):
                    at = e.get("o", 0)
                    out[base + i] = parse(body[at:at + e.get("l", 0)])
        return out

    def head(self):
        """Events ever, and bytes that are kept."""
        return self.world.query("SELECT next_seq-1, CAST(bytes-removed_bytes AS SIGNED) FROM head h"
                                " JOIN tenant t ON t.tenant_id=h.tenant_id WHERE t.name=%s", TENANT)[0]

    def check(self):
        """At rest, and no fault to come. Raises Violation."""
        w, rate = self.world, self.publisher.rate
        self.served()
        before = self.head()[0]
        self.sleeper.napping = True
        self.publisher.rate = RATE
        self.publisher.paused.clear()
        w.wait(lambda: self.head()[0] >= before + BURST, "a small tenant's burst")
        self.publisher.paused.set()
        self.publisher.rate = rate
        w.wait(lambda: not self.publisher.pending and self.head()[1] <= KEPT_BYTES, "retention")
        self.sleeper.napping = False
        self.served()
        events, s = self.appended(), self.sleeper
        unheard = [seq for seq, key in sorted(events.items()) if seq not in s.gone and key not in s.keys]
        if unheard:
            raise Violation("gap", f"neither delivered nor in a gap that the session was told of: {some(unheard)}")
        w.history.totals["gaps_told"] = s.told
        w.history.totals["gap_events"] += len(s.gone)
        self.checked = max(events)
        s.keys.clear()
        s.gone.clear()
