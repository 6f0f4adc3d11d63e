"""TCP ports of loopback for servers that tests start.

A port stays its process's until that ends, whoever else asks, so that a server may be started on it later, or
again. It lies below those that the kernel gives outgoing connections and those of sql/dev-server."""

import errno
import random
import socket

FIRST, LAST = 10000, 19999

claims = []  # sockets, whose names tell other processes of this network namespace what is taken


def free_port():
    while True:
        port = random.SystemRandom().randint(FIRST, LAST)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0leat-test-port-{port}")
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError as e:
            claim.close()
            if e.errno != errno.EADDRINUSE:
                raise
            continue
        claims.append(claim)
        return port
