"""A TCP proxy between node and database, as a process of its own: proxy.py PORT TARGET_PORT.

Commands on stdin, one a line, each answered with "ok": `cut` resets every connection on the node's
side and leaves the database's side open for a while, so that the server goes on with what it was
told; `drop` forgets those; `refuse` and `accept` say what happens to new connections."""

import asyncio
import socket
import struct
import sys

pairs = set()     # (node's writer, server's writer) being piped
orphans = []      # the server's writers of connections that were cut
accepting = True


def reset(writer):
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.transport.abort()


async def pipe(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def serve(reader, writer, target):
    if not accepting:
        reset(writer)
        return
    try:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
    except OSError:
        reset(writer)
        return
    pair = (writer, up_writer)
    pairs.add(pair)
    ways = [asyncio.ensure_future(pipe(reader, up_writer)),
            asyncio.ensure_future(pipe(up_reader, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    if pair in pairs:  # not cut: one side ended
        pairs.discard(pair)
        reset(writer)
        up_writer.transport.abort()


def cut():
    while pairs:
        node, server = pairs.pop()
        orphans.append(server)
        reset(node)


def drop():
    while orphans:
        orphans.pop().transport.abort()


def command(word):
    global accepting
    if word == "cut":
        cut()
    elif word == "drop":
        drop()
    elif word in ("refuse", "accept"):
        accepting = word == "accept"


async def main(port, target):
    await asyncio.start_server(lambda r, w: serve(r, w, target), "127.0.0.1", port)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    print("ok", flush=True)
    while line := await stdin.readline():  # end of file: our parent is gone
        command(line.decode().strip())
        print("ok", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
