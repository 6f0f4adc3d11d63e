"""The ports that tests give their servers: no two processes have the same."""

import os
import subprocess
import sys

import pytest

from leat import ports

HERE = os.path.dirname(os.path.abspath(__file__))
OTHER = """
from leat import ports
ports.FIRST, ports.LAST = {}, {}
print(*(ports.free_port() for _ in range({})))
"""


@pytest.fixture
def few(monkeypatch):
    """Only forty to choose from; what is taken of them is given back."""
    first = ports.FIRST + os.getpid() % 200 * 40  # beside what other processes of this run use
    monkeypatch.setattr(ports, "FIRST", first)
    monkeypatch.setattr(ports, "LAST", first + 39)
    monkeypatch.setattr(ports, "claims", [])
    yield first, first + 39
    for claim in ports.claims:
        claim.close()


def test_another_process_gets_others(few):
    mine = [ports.free_port() for _ in range(15)]
    done = subprocess.run([sys.executable, "-c", OTHER.format(*few, 15)], cwd=HERE, check=True, timeout=30,
                          stdout=subprocess.PIPE, text=True)
    theirs = [int(port) for port in done.stdout.split()]
    assert len({*mine, *theirs}) == 30, (mine, theirs)
    assert all(few[0] <= port <= few[1] for port in mine + theirs)


def test_other_errors_are_told(few, monkeypatch):
    """They would be met for ever."""
    class Refusing(ports.socket.socket):
        def bind(self, address):
            raise PermissionError(1, "not permitted")

    monkeypatch.setattr(ports.socket, "socket", Refusing)
    with pytest.raises(PermissionError):
        ports.free_port()
