"""What happened, and whether that keeps the promise.

A publisher numbers its events; (publisher, number, attempt) is in the payload, and each attempt goes
out once on one connection. So, whatever was killed:

  acked        an attempt that was acknowledged is in the journal
  once         no attempt is in the journal twice
  dense        a partition's numbers have no hole and no batch overlaps another
  journal-order first occurrences of a publisher's numbers on a topic are in its order
  delivered    every event in the journal reached every durable subscription
  from-journal nothing was delivered that is not in the journal
  delivery-order first deliveries of a topic's events are in journal order
  dead-letter  an event of a queue ends acknowledged, or once among the dead letters, whole, with every
               failed attempt, and only if a consumer failed it
  settled      when all is acknowledged, every cursor arrives at its partition's head
  cursors      acked_through never moves back (watched by actors.CursorWatch)
  sessions     a durable session is there when its client returns (watched by actors.Subscriber)

Checks run at the end of an epoch, when everything published was acknowledged; then the epoch's
details are dropped, so that memory stays bounded in a long run."""

import json
import threading
from collections import defaultdict, namedtuple


class Violation(Exception):
    def __init__(self, rule, text):
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def some(items, n=5):
    items = list(items)
    return ", ".join(map(str, items[:n])) + (f" … ({len(items)})" if len(items) > n else "")


Event = namedtuple("Event", "partition seq topic payload id")


class Journal:
    """Reads the journal of one tenant as it grows."""

    def __init__(self, query, tenant_id):
        self.query, self.tenant_id = query, tenant_id
        self.next_seq = defaultdict(lambda: 1)  # by partition

    def read_new(self):
        """[Event] appended since the last call; checks `dense`."""
        out = []
        heads = self.query("SELECT partition_id, next_seq FROM head WHERE tenant_id=%s", self.tenant_id)
        for partition, next_seq in heads:
            expected = self.next_seq[partition]
            rows = self.query("SELECT base_seq, event_count, attributes, body FROM journal WHERE "
                              "tenant_id=%s AND partition_id=%s AND base_seq>=%s ORDER BY base_seq",
                              self.tenant_id, partition, expected)
            for base, count, attributes, body in rows:
                if base != expected:
                    raise Violation("dense", f"partition {partition}: {base} follows {expected - 1}")
                events = json.loads(attributes)
                if len(events) != count:
                    raise Violation("dense", f"batch {base}: {count} events, {len(events)} described")
                for i, e in enumerate(events):
                    at = e.get("o", 0)
                    payload = body[at:at + e.get("l", 0)]
                    out.append(Event(partition, base + i, e["topic"], payload, e.get("id")))
                expected = base + count
            if expected != next_seq:
                raise Violation("dense", f"partition {partition}: head says {next_seq}, "
                                         f"the journal ends before {expected}")
            self.next_seq[partition] = expected
        return out


class Letter(namedtuple("Letter", "key seq topic payload attempt reasons")):
    """A dead letter, and the reasons of its failed attempts."""

    def whole(self, event):
        _, seq, topic, payload = event
        return (self.seq, self.topic, self.payload, len(self.reasons)) == (seq, topic, payload, self.attempt) \
            and all(self.reasons)


class Fates(dict):
    """{key: must, never or may}: what the clients that did not wait for a PUBACK know of the events they left
    behind. Filled by their threads, checked when they rest."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.totals = rule, defaultdict(int)

    def check(self, journal):
        """journal: {key: ..} of this epoch. Twice in it is found by History. Raises Violation."""
        lost = [k for k, fate in self.items() if fate == "must" and k not in journal]
        if lost:
            raise Violation(self.rule, f"not published: {some(sorted(lost))}")
        undue = [k for k, fate in self.items() if fate == "never" and k in journal]
        if undue:
            raise Violation(self.rule, f"published, and must not be: {some(sorted(undue))}")
        self.totals[f"{self.rule}s"] += sum(k in journal for k in self)
        self.totals[f"{self.rule}s_kept_back"] += sum(fate == "never" for fate in self.values())
        self.clear()


class History:
    """Filled by the actors' threads, checked by the main one while they rest."""

    def __init__(self, again=True):
        """again: what was settled in the last epoch may still come again."""
        self.again = again
        self.no_order = set()  # topics whose events come when they are due
        self.lock = threading.Lock()
        self.acked = set()             # (publisher, number, attempt)
        self.sent = defaultdict(int)   # (publisher, number): attempts
        self.delivered = defaultdict(list)  # subscription: [(topic, key)] in order
        self.done = defaultdict(set)    # queue: keys a consumer acknowledged
        self.failed = defaultdict(set)  # queue: keys a consumer did not, at least once
        self.steps = defaultdict(list)  # queue: [(got, done or failed; key; when)] as it happened
        self.clock_set_at = 0           # monotonic: the database's, for the last time
        self.failed_at = {}             # (queue, key, attempt): when it failed first
        self.violations = []           # found by actors as they go
        self.totals = defaultdict(int)
        self.journal = {}              # (publisher, number, attempt): (place, seq, topic, payload)
        self.old = set()               # the last epoch's keys: may be delivered again

    def violation(self, rule, text):
        with self.lock:
            self.violations.append(Violation(rule, text))

    def check_journal(self, events):
        """events: Journal.read_new(), when every publish was answered. Raises Violation."""
        if self.violations:
            raise self.violations[0]
        self.journal = journal = {}
        for place, (_, seq, topic, data, _) in enumerate(events):
            key = parse(data)
            if key in journal:
                raise Violation("once", f"{key} is in the journal as {journal[key][1]} and {seq}; "
                                        f"acknowledged: {key in self.acked}")
            journal[key] = (place, seq, topic, data)
        lost = self.acked - journal.keys()
        if lost:
            raise Violation("acked", f"acknowledged, not in the journal: {some(sorted(lost))}")
        unsent = [k for k in journal if self.sent.get(k[:2], 0) < k[2]]
        if unsent:
            raise Violation("once", f"in the journal, not sent since the last check: {some(unsent)}")
        self._journal_order(journal)

    def check_deliveries(self, subscriptions, unordered=()):
        """subscriptions: {name: filter}, when all had time to get everything; unordered: those with
        several consumers. Then forgets the epoch. Raises Violation."""
        for name, filter_ in subscriptions.items():
            mine = {k: at for k, at in self.journal.items() if matches(filter_, at[2])}
            self._deliveries(name, mine, name not in unordered)
        self._roll(self.journal)

    def check_queues(self, queues, dead):
        """At the end of an epoch and before check_deliveries(). dead: {queue: [Letter] there ever were}. Raises
        Violation."""
        for name, filter_ in queues.items():
            mine = {k: at for k, at in self.journal.items() if matches(filter_, at[2])}
            keys = [letter.key for letter in dead[name]]
            letters = set(keys)
            if len(letters) != len(keys):
                twice = {k for k in letters if keys.count(k) > 1}
                raise Violation("dead-letter", f"{name} gave up twice: {some(sorted(twice))}")
            open_ = mine.keys() - self.done[name] - letters
            if open_:
                raise Violation("dead-letter", f"{name}: neither acknowledged nor a dead letter: "
                                               f"{some(sorted(open_))}")
            blameless = (letters & mine.keys()) - self.failed[name]
            if blameless:
                raise Violation("dead-letter", f"{name} gave up what nobody failed: "
                                               f"{some(sorted(blameless))}")
            cut = [letter for letter in dead[name] if letter.key in mine and not letter.whole(mine[letter.key])]
            if cut:
                raise Violation("dead-letter", f"{name} did not keep whole: {some(cut, 2)}")

    def _journal_order(self, journal):
        last, seen = {}, set()
        for (pub, number, _), (_, seq, topic, _) in journal.items():
            if (pub, number) in seen:
                continue
            seen.add((pub, number))
            before = last.get((pub, topic), -1)
            if number < before and topic not in self.no_order:
                raise Violation("journal-order", f"{pub} on {topic}: {number} after {before} at {seq}")
            last[pub, topic] = number

    def _deliveries(self, name, journal, ordered):
        got = self.delivered[name]
        keys = {key for _, key in got}
        undone = set() if self.again else keys & self.old
        if undone:
            raise Violation("settled", f"{name} got what was settled before: {some(sorted(undone))}")
        strange = keys - journal.keys() - self.old
        if strange:
            raise Violation("from-journal", f"{name} got what is not in the journal: "
                                            f"{some(sorted(strange))}")
        missing = journal.keys() - keys
        if missing:
            first = min(missing, key=lambda k: journal[k][0])
            raise Violation("delivered", f"{name} did not get {len(missing)} events, first {first} "
                                         f"at {journal[first][1]}")
        if not ordered:
            return
        last, seen = {}, set()
        for topic, key in got:
            if key in seen or key not in journal:
                continue
            seen.add(key)
            place, seq, real_topic, _ = journal[key]
            if topic != real_topic:
                raise Violation("from-journal", f"{name} got {key} as {topic}, it was {real_topic}")
            if place < last.get(topic, -1):
                raise Violation("delivery-order", f"{name}: {key} at {seq} came late on {topic}")
            last[topic] = place

    def _roll(self, journal):
        self.totals["stored"] += len(journal)
        self.totals["acked"] += len(self.acked)
        self.totals["delivered"] += sum(map(len, self.delivered.values()))
        self.totals["redelivered"] += sum(len(d) - len(set(d)) for d in self.delivered.values())
        self.old = set(journal)
        self.acked.clear()
        self.sent.clear()
        self.delivered.clear()
        self.done.clear()
        self.failed.clear()
        self.steps.clear()
        self.failed_at.clear()


def matches(filter_, topic):
    """MQTT's topic filters, as far as they are used here."""
    wanted, levels = filter_.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[:len(wanted)] if len(levels) >= len(wanted) else levels
    return len(wanted) == len(levels) and all(w in ("+", at) for w, at in zip(wanted, levels))


def payload(pub, number, attempt, size):
    head = b"%d:%d:%d:" % (pub, number, attempt)
    return head + b"." * (size - len(head))


def parse(data):
    pub, number, attempt, _ = data.split(b":", 3)
    return int(pub), int(number), int(attempt)
