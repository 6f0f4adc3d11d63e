"""Faults of the database server, and of a Galera's members. A part of Faults."""

import contextlib
import os
import signal
import time

from world import CLOCK_STEPS_S

FULL_S = 6  # within which some file wants to grow


class DatabaseFaults:
    def fault_db(self, s):
        self.world.database.crash()
        time.sleep(s.rng.choice((0, 0, 0.3, 1)))
        self.world.database.resume()

    def fault_db_stop(self, s):
        pid = self.world.database.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            self.linger(self.ttls(s, 0.1, 2))
        finally:
            os.kill(pid, signal.SIGCONT)

    def fault_both(self, s):
        self.world.database.crash()
        s.node.kill()
        s.node.check_log()
        s.node.begin()
        self.world.database.resume()

    def fault_held(self, s):
        """A COMMIT under way, the connections of all nodes gone, and only later its effect."""
        hold, release = s.rng.choice((
            (["BACKUP STAGE " + stage for stage in ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT")],
             "BACKUP STAGE END"),
            (["FLUSH TABLES WITH READ LOCK"], "UNLOCK TABLES")))
        node = s.rng.choice(self.world.nodes)
        with contextlib.closing(self.world.database.connect(read_timeout=20)) as c, c.cursor() as q:
            for text in hold:
                q.execute(text)
            time.sleep(s.rng.uniform(0.01, 0.1))
            self.link(node, "cut")
            time.sleep(s.rng.uniform(0.1, 1.2))
            q.execute(release)
        time.sleep(0.05)
        self.link(node, "drop")

    def fault_full_disk(self, s):
        """Counted if a file was refused to grow: the shim then writes into the file that says so. Big events make
        files grow soon."""
        publishers = self.world.publishers
        sizes = [p.size for p in publishers]
        for p in publishers:
            p.size = 8000
        try:
            with open(self.world.full, "w") as f:
                end = time.monotonic() + FULL_S
                while os.fstat(f.fileno()).st_size == 0 and time.monotonic() < end:
                    time.sleep(0.05)
                time.sleep(s.rng.uniform(0.2, 2))
                met = os.fstat(f.fileno()).st_size > 0
        finally:
            os.unlink(self.world.full)
            for p, size in zip(publishers, sizes):
                p.size = size
        return None if met else False

    def fault_db_clock(self, s):
        """Its wall clock is set: forward for good, or back for a while. (What is due is due by that clock: what is
        put off while it is an hour ahead would wait an hour longer when it is set back.)"""
        world, step_ms = self.world, s.rng.choice(CLOCK_STEPS_S) * 1000
        with world.witness.hurried():  # who ended when cannot be told by that clock
            if s.rng.random() < 0.5:
                world.clock_ms += step_ms
                world.set_database_clock(world.clock_ms)
            else:
                world.set_database_clock(world.clock_ms - step_ms)
            self.linger(self.ttls(s, 0.2, 1))
            world.set_database_clock(world.clock_ms)

    def fault_db_fast(self, s):
        """Its wall clock runs at double speed for a while, and goes on from where it came to."""
        world, begun = self.world, time.monotonic()
        with world.witness.hurried():
            world.set_database_clock(world.clock_ms, begun)
            self.linger(self.ttls(s, 0.5, 2))
            world.clock_ms += int((time.monotonic() - begun) * 1000)
            world.set_database_clock(world.clock_ms)

    # ---- members of a Galera ----

    def fault_member(self, s):
        """Any of them, also the one that the nodes use; it comes back by itself or from a copy."""
        member = s.rng.choice((1, 1, 2, 3))
        self.world.database.crash(member)
        time.sleep(self.ttls(s, 0, 1))
        self.world.database.resume(member)

    def fault_member_stop(self, s):
        """Until the others have given it up, or not as long."""
        pid = self.world.database.pid(s.rng.choice((1, 1, 2, 3)))
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(self.ttls(s, 0.2, 1.5))
        finally:
            os.kill(pid, signal.SIGCONT)

    def fault_majority(self, s):
        """Two are gone: what is left takes no writes, until all come back."""
        gone = s.rng.sample((1, 2, 3), 2)
        for member in gone:
            self.world.database.crash(member)
        time.sleep(self.ttls(s, 0, 1))
        left = ({1, 2, 3} - set(gone)).pop()
        self.world.database.crash(left)  # nobody knows of a majority any more: all begin anew
        self.world.database.resume()
