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
        self.excuses = []  # [name, over]: nodes that end their sessions themselves; None: whoever it was
        self.leader = None  # name of the node that has the role of timers, as far as anybody knows
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

    def excusing(self, name):
        """While it lasts, and until it was looked at, the session of this node may end by itself."""
        return self._excuse(name)

    def hurried(self):
        """Some node's clock runs fast, so that its looks prove less."""
        return self._excuse(None)

    @contextlib.contextmanager
    def _excuse(self, name):
        excuse = [name, False]
        self.excuses.append(excuse)
        try:
            yield
        finally:
            excuse[1] = True

    def look(self):
        over = [e for e in self.excuses if e[1]]
        with contextlib.closing(self.connect()) as c, c.cursor() as q:
            q.execute("SELECT id, rule, text FROM chaos_violation WHERE id>%s ORDER BY id", (self.seen,))
            for self.seen, rule, text in q.fetchall():
                self.history.violation(rule, text)
            q.execute("SELECT session_id, name, silent_ms FROM chaos_session WHERE silent_ms IS NOT NULL"
                      " AND NOT replaced")
            for row in q.fetchall():
                self.check_end(*row)
            q.execute("SELECT s.name FROM role r JOIN node_session s ON s.session_id=r.owner"
                      " WHERE r.role=1 AND s.state=1")
            self.leader = next((name.decode() for name, in q.fetchall()), None)
        self.excuses = [e for e in self.excuses if e not in over]

    def check_end(self, session, name, silent_ms):
        if session in self.ended:
            return
        self.ended.add(session)
        if silent_ms < EARLY * self.ttl_ms and not any(e[0] in (None, name.decode()) for e in self.excuses):
            self.history.violation("lease", f"the session {session.hex()} of {name.decode()} was ended "
                                            f"{silent_ms} ms after it had renewed")

    def check(self):
        """At rest: everything up to now."""
        self.look()
        if self.history.violations:
            raise self.history.violations[0]


