"""Sets the witness (witness.sql) up in a schema and hands over what it saw."""

import contextlib
import os
import threading

LOOK_S = 0.25
EARLY = 0.8  # of the TTL: a session that renewed as recently is not to be ended by another


class Witness(threading.Thread):
    def __init__(self, connect, history, ttl_s):
        super().__init__(name="witness", daemon=True)
        self.connect, self.history = connect, history
        self.ttl_ms = ttl_s * 1000
        self.stopping = threading.Event()
        self.excused = set()  # names of nodes that end their sessions themselves
        self.hurried = threading.Event()  # some node's clock runs fast: looks prove less
        self.seen, self.ended = 0, set()
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "witness.sql")) as f:
            statements = f.read().split("\n//\n")
        with contextlib.closing(connect()) as c, c.cursor() as q:
            for text in statements:
                q.execute(text)

    def run(self):
        while not self.stopping.wait(LOOK_S):
            with contextlib.suppress(Exception):  # the database is away, or full
                self.look()

    def look(self):
        with contextlib.closing(self.connect()) as c, c.cursor() as q:
            q.execute("SELECT id, rule, text FROM chaos_violation WHERE id>%s ORDER BY id", (self.seen,))
            for self.seen, rule, text in q.fetchall():
                self.history.violation(rule, text)
            q.execute("SELECT session_id, name, silent_ms FROM chaos_session WHERE silent_ms IS NOT NULL"
                      " AND NOT replaced")
            for row in q.fetchall():
                self.check_end(*row)

    def check_end(self, session, name, silent_ms):
        if session in self.ended:
            return
        self.ended.add(session)
        if silent_ms < EARLY * self.ttl_ms and name.decode() not in self.excused \
                and not self.hurried.is_set():
            self.history.violation("lease", f"the session {session.hex()} of {name.decode()} was ended "
                                            f"{silent_ms} ms after it had renewed")

    def check(self):
        """At rest: everything up to now."""
        self.look()
        if self.history.violations:
            raise self.history.violations[0]


