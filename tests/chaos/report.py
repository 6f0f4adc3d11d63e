"""What a run has to say at its end, for people and as JSON; of several runs together, too."""

import time
from collections import Counter, defaultdict

from stall import clock


def at(values, q):
    """A percentile of a sorted list."""
    return values[min(len(values) - 1, int(q * len(values)))]


def spread(values, unit, qs=((0.5, "median"), (0.9, "p90"), (1, "max"))):
    values = sorted(values)
    return " ".join(f"{name} {at(values, q):.4g} {unit}" for q, name in qs if values)


class Report:
    def __init__(self, seed=None, faults=None):
        self.seeds, self.faults = [seed] if seed is not None else [], faults
        self.begun = time.monotonic()
        self.seconds, self.stored, self.late = 0, 0, []
        self.times = defaultdict(list)  # kind: [(seconds without an answer, without a delivery)], struck alone
        self.after_storm = []           # seconds until everything moved again
        self.counts, self.missed, self.places, self.totals = Counter(), Counter(), Counter(), Counter()
        self.stalled_s, self.violations = 0, []

    def resumed(self, kind, answer_s, delivery_s):
        self.times[kind].append((answer_s, delivery_s))

    def end(self, totals, found):
        self.seconds = time.monotonic() - self.begun
        self.counts, self.missed, self.places = self.faults.counts, self.faults.missed, self.faults.hits
        self.totals, self.stalled_s = Counter(totals), clock.stalled_s
        self.violations = [str(found)] if found else []

    NAMES = ("seeds", "seconds", "stored", "late", "after_storm", "counts", "missed", "places", "totals",
             "stalled_s", "violations")

    def data(self):
        return {**{name: getattr(self, name) for name in self.NAMES}, "times": dict(self.times),
                "faults": sum(self.counts.values())}

    @classmethod
    def merged(cls, datas):
        out = cls()
        for d in datas:
            for name in cls.NAMES:
                mine, theirs = getattr(out, name), d[name]
                setattr(out, name, mine + Counter(theirs) if isinstance(mine, Counter) else mine + theirs)
            for kind, rows in d["times"].items():
                out.times[kind] += rows
        out.seconds = max((d["seconds"] for d in datas), default=0)
        return out

    def table(self):
        out = ["| struck alone | n | nobody waited longer: median | p90 | max | for an answer: median | max |",
               "|---|---|---|---|---|---|---|"]
        for kind in sorted(self.times):
            both = sorted(max(row) for row in self.times[kind])
            answers = sorted(row[0] for row in self.times[kind])
            cells = [f"{at(both, q):.2f} s" for q in (0.5, 0.9, 1)] + [f"{at(answers, q):.2f} s" for q in (0.5, 1)]
            out.append(f"| {kind} | {len(both)} | " + " | ".join(cells) + " |")
        return "\n".join(out)

    def text(self):
        n, t = sum(self.counts.values()), self.totals
        kinds = " ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items()))
        return "\n".join((
            f"seeds {self.seeds}: {n} faults in {self.seconds:.0f} s ({n / max(1, self.seconds) * 60:.0f} a minute): {kinds}",
            f"not counted, they met nothing: {dict(self.missed)}; {sum(self.places.values())} at {len(self.places)} "
            f"named places",
            " ".join(f"{name} {count}" for name, count in sorted(t.items())),
            f"everything moved again after a storm: {spread(self.after_storm, 's')} ({len(self.after_storm)}); "
            f"{len(self.late)} timers moved, late {spread(self.late, 'ms')}; this process stood still for "
            f"{self.stalled_s:.1f} s",
            f"violations: {len(self.violations)} {'; '.join(self.violations)}",
            self.table()))
