"""Cron schedules: one event for each tick, however many leaders come and go. Ticks that nobody was there
for become one."""

from history import Violation, some

SCHEDULES = (("beat", "@every 1s", "UTC", "tick/beat"), ("minute", "* * * * *", "Europe/Paris", "tick/minute"))
TOPIC = "tick/"


class Ticks:
    def __init__(self, query, tenant):
        self.query, self.tenant = query, tenant
        self.seen, self.last = set(), {}
        for name, cron, zone, topic in SCHEDULES:
            query("CALL schedule_create(%s, %s, %s, %s, %s, NULL, 'tick')", tenant, name, cron, zone, topic)

    def each(self, verb):
        for name, *_ in SCHEDULES:
            self.query(f"CALL schedule_{verb}(%s, %s)", self.tenant, name)

    def check(self, events, clock_was_set):
        """events: those of schedules, that were appended since the last call; the schedules are paused. A schedule
        that is resumed while the database's clock is set back begins there. Raises Violation."""
        count = dict.fromkeys((name for name, *_ in SCHEDULES), 0)
        for e in events:
            name, _, at = e.id.partition("@")
            if e.id in self.seen:
                raise Violation("schedule", f"{e.id} ticked twice, the second time as {e.seq}")
            if at <= self.last.get(name, "") and not clock_was_set:
                raise Violation("schedule", f"{e.id} at {e.seq} came after {self.last[name]}")
            self.seen.add(e.id)
            self.last[name] = at
        for key in self.seen:
            count[key.partition("@")[0]] += 1
        told = dict(self.query("SELECT CONVERT(name USING utf8mb4), ticks FROM schedules WHERE tenant=%s", self.tenant))
        wrong = [(name, n, told.get(name)) for name, n in count.items() if told.get(name) != n]
        if wrong:
            raise Violation("schedule", f"(schedule, events, ticks counted): {some(wrong)}")
        return len(events)
