"""Consumers of a queue that is ordered by key and holds few failed events: now and then everything they
touch fails for a while (an outage, a fault of its own), so that its circuit breaker opens.

The rule `key-order`: an event is given to a consumer when every earlier one of its key was processed or
was given up for good; also that failed events wait as long as their policy says (`early`)."""

import time

from actors import Worker
from history import Violation

KEYS = 6
MAX_FAILED = 12
READ_S = 1.0  # a consumer's thread may note so late what it has got


def key_of(number):
    """The ordering key of a publisher's event."""
    return f"key-{number % KEYS}"


class OrderedWorker(Worker):
    outage_until = 0  # of all of them

    def __init__(self, *args, **kw):
        super().__init__(*args, ordered=True, **kw)
        self.policy += [("user", ("leat-max-failed", str(MAX_FAILED)))] * bool(self.policy)

    def answer(self, packet_id, key):
        if time.monotonic() < OrderedWorker.outage_until and self.version == 5:
            return self.failed(packet_id, key, 0x80)
        return super().answer(packet_id, key)


def check_key_order(name, steps, journal, letters):
    """steps: [(what, key, when)], journal: {key: (place, ..)} of this queue, letters: {key: when its last attempt
    failed; None = no consumer said so} of what it gave up. (A node that stood still may hand a consumer, late, an
    attempt that its owner has long counted as lost: so when it was got last says little.) Raises Violation."""
    got_last = {key: when for what, key, when in steps if what == "got"}
    mine = {}
    for key in sorted(journal, key=lambda k: journal[k][0]):
        mine.setdefault(key_of(key[1]), []).append(key)
    at = {key: (queue, i) for queue in mine.values() for i, key in enumerate(queue)}
    done, begun = set(), set()
    for what, key, when in steps:
        if what == "done":
            done.add(key)
        if what != "got" or key not in at or key in begun:
            continue
        begun.add(key)
        queue, i = at[key]
        for earlier in queue[:i]:
            if earlier in done or (earlier in letters
                                   and (letters[earlier] or got_last.get(earlier, 0)) < when + READ_S):
                continue
            raise Violation("key-order", f"{name}: {key} was given out while {earlier} of its key was not settled")
