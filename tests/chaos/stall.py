"""The clock that bounds are counted on: it stands still while this process did not run, because the
machine was suspended or had no time for it. So a slow machine does not look like a node that hangs, and
a bound need not be wide enough for the slowest machine."""

import threading
import time

STEP_S = 0.02
MEANT_S = 0.05  # a step that took longer was a stall


class Clock(threading.Thread):
    def __init__(self):
        super().__init__(name="stalls", daemon=True)
        self.lock = threading.Lock()
        self.looked, self.stalled_s, self.longest_s = time.monotonic(), 0, 0
        self.start()

    def run(self):
        while True:
            time.sleep(STEP_S)
            self.now()

    def now(self):
        """Seconds, without stalls. Any thread: whoever asks first after one finds it."""
        with self.lock:
            now = time.monotonic()
            late = now - self.looked - MEANT_S
            if late > 0:
                self.stalled_s += late
                self.longest_s = max(self.longest_s, late)
            self.looked = now
            return now - self.stalled_s


clock = Clock()
