"""Applications that publish in their own transactions, with CALL publish(). What is committed is published, once,
in the caller's order; what is rolled back is not; where the connection was lost over a COMMIT, it is one of
the two, for the whole transaction."""

import contextlib
import random
import threading
import time

from history import payload
from leat.stack import pymysql


class SqlPublisher(threading.Thread):
    """`calls` are the Fates of its events."""

    def __init__(self, connect, history, calls, number, tenant, topic):
        super().__init__(name=f"sql{number}", daemon=True)
        self.connect, self.history, self.calls = connect, history, calls
        self.number, self.tenant, self.topic = number, tenant, topic
        self.next = 0
        self.paused, self.resting, self.stopping = False, False, threading.Event()

    def run(self):
        while not self.stopping.is_set():
            self.resting = self.paused
            if self.paused:
                time.sleep(0.05)
                continue
            with contextlib.suppress(pymysql.MySQLError, OSError), contextlib.closing(self.connect()) as c:
                c.autocommit(False)
                while not self.paused and not self.stopping.is_set():
                    self.transaction(c)
                    time.sleep(random.uniform(0, 0.4))

    def transaction(self, c):
        keys = [(self.number, self.next + i, 1) for i in range(random.randint(1, 4))]
        self.next += len(keys)
        for key in keys:
            with self.history.lock:
                self.history.sent[key[:2]] = 1
            self.calls[key] = "never"
        with c.cursor() as q:
            for key in keys:
                q.execute("CALL publish(%s, %s, NULL, %s, NULL)", (self.tenant, self.topic, payload(*key, 64)))
            time.sleep(random.choice((0, 0, 0.05, 0.5)))  # others commit later calls meanwhile
            if random.random() < 0.2:
                c.rollback()
                return
            self.say(keys, "may")
            c.commit()
            self.say(keys, "must")

    def say(self, keys, fate):
        for key in keys:
            self.calls[key] = fate
