"""A fault proxy, as a process of its own, and the class that commands it.

It has any number of links, each a listening port and a target port on loopback. "Up" is from who
connects to the target, for example from a node to its database. Commands on stdin, one a line, each
answered with "ok N": LINK VERB [NUMBER]. N is 0 but for `touched`

  cut           reset every connection on the near side; the far side stays open for a while, so that a
                server goes on with what it was told
  drop          forget those far sides
  refuse hang accept   what happens to new connections: reset, taken and left alone, connected
  hold-up hold-down    what comes that way is kept: a network that swallows it
  release       what was kept goes on its way
  late MS       as cut, but what was held on its way up arrives after MS: long after its connection
  lose-reply    the next COMMIT is passed on, its connection reset when the answer comes
  lose-request  the next COMMIT is not passed on, its connection reset
  latency MS    added both ways
  lose-nothing  neither, any more
  touched       how often any of this has met something since this was asked last
  target PORT   where new connections lead
  slice BYTES   pieces of that size both ways; 0 = as they come
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading

SLICE_PAUSE_S = 0.001


class Pair:
    """A connection and its continuation."""

    def __init__(self, near, far):
        self.near, self.far = near, far  # writers
        self.kept = b""                  # held on its way up
        self.lost = False                # the answer to its COMMIT is to be lost


class Link:
    def __init__(self, target):
        self.target = target
        self.pairs, self.orphans = set(), []
        self.accepting = "accept"
        self.open = {"up": asyncio.Event(), "down": asyncio.Event()}
        for gate in self.open.values():
            gate.set()
        self.latency_s, self.slice, self.lose = 0, 0, None
        self.touched = 0

    # ---- the ways ----

    async def serve(self, reader, writer):
        self.touched += self.accepting != "accept"
        if self.accepting == "refuse":
            reset(writer)
            return
        if self.accepting == "hang":
            with contextlib.suppress(OSError):
                await reader.read()  # until whoever connected gives up
            reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            reset(writer)
            return
        pair = Pair(writer, far_writer)
        self.pairs.add(pair)
        ways = [asyncio.ensure_future(self.up(pair, reader)),
                asyncio.ensure_future(self.down(pair, far_reader))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        if pair in self.pairs:  # not cut: one side ended
            self.end(pair)

    def end(self, pair):
        self.pairs.discard(pair)
        reset(pair.near)
        pair.far.transport.abort()

    async def up(self, pair, reader):
        while data := await reader.read(1 << 16):
            pair.kept = data
            await self.gate("up")
            pair.kept = b""
            if self.lose and data.endswith(b"COMMIT"):
                lose, self.lose = self.lose, None
                self.touched += 1
                if lose == "request":
                    return
                pair.lost = True
            await self.write(pair.far, data)

    async def down(self, pair, reader):
        while data := await reader.read(1 << 16):
            if pair.lost:
                return
            await self.gate("down")
            await self.write(pair.near, data)

    async def gate(self, way):
        self.touched += not self.open[way].is_set()
        await self.open[way].wait()

    async def write(self, writer, data):
        self.touched += bool(self.latency_s or self.slice)
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        step = self.slice or len(data)
        for at in range(0, len(data), step):
            writer.write(data[at:at + step])
            await writer.drain()
            if self.slice:
                await asyncio.sleep(SLICE_PAUSE_S)

    # ---- commands ----

    def cut(self):
        while self.pairs:
            pair = self.pairs.pop()
            self.touched += 1
            self.orphans.append(pair.far)
            reset(pair.near)

    def drop(self):
        while self.orphans:
            self.orphans.pop().transport.abort()

    def late(self, ms):
        kept = [(p.far, p.kept) for p in self.pairs if p.kept]
        self.cut()
        for far, _ in kept:
            self.orphans.remove(far)
        asyncio.get_running_loop().call_later(
            ms / 1000, lambda: [asyncio.ensure_future(arrive(*k)) for k in kept])

    def command(self, verb, number):
        if verb in ("accept", "refuse", "hang"):
            self.accepting = verb
        elif verb in ("hold-up", "hold-down"):
            self.open[verb[5:]].clear()
        elif verb == "release":
            for gate in self.open.values():
                gate.set()
        elif verb in ("lose-reply", "lose-request", "lose-nothing"):
            self.lose = verb[5:] if verb != "lose-nothing" else None
        elif verb == "latency":
            self.latency_s = number / 1000
        elif verb == "target":
            self.target = number
        elif verb == "slice":
            self.slice = number
        elif verb == "late":
            self.late(number)
        elif verb == "cut":
            self.cut()
        elif verb == "touched":
            touched, self.touched = self.touched, 0
            return touched
        else:
            self.drop()
        return 0


async def arrive(far, data):
    """What was under way gets there; who sent it is long gone."""
    with contextlib.suppress(OSError):
        far.write(data)
        await far.drain()
        await asyncio.sleep(0.2)
    far.transport.abort()


def reset(writer):
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def main(pairs):
    links = []
    for port, target in pairs:
        links.append(Link(target))
        await asyncio.start_server(links[-1].serve, "127.0.0.1", port)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    print("ok", flush=True)
    while line := await stdin.readline():  # end of file: our parent is gone
        words = line.decode().split()
        n = links[int(words[0])].command(words[1], int(words[2]) if len(words) > 2 else 0)
        print(f"ok {n}", flush=True)
    os._exit(0)  # at once: nobody wants to hear how its connections end


class Proxy:
    """This script as a child; `ports` are where its links listen, in the order of `targets`. Any thread."""

    def __init__(self, targets, free_port):
        self.lock = threading.Lock()
        self.ports = [free_port() for _ in targets]
        self.child = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__),
             *(f"{p}:{t}" for p, t in zip(self.ports, targets))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout.readline() == "ok\n"

    def command(self, link, verb, number=0):
        with self.lock:
            self.child.stdin.write(f"{link} {verb} {number}\n")
            self.child.stdin.flush()
            ok, n = self.child.stdout.readline().split()
        assert ok == "ok"
        return int(n)

    def close(self):
        self.child.stdin.close()
        self.child.wait()


if __name__ == "__main__":
    asyncio.run(main([tuple(map(int, pair.split(":"))) for pair in sys.argv[1:]]))
