#!/usr/bin/env python3
"""Write the seeds of fuzz_peer: a HELLO, a ping and one frame of every type of message."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "fuzz_peer"


def frame(kind, payload=b""):
    return struct.pack(">IB", len(payload) + 1, kind) + payload


def short(text):
    return struct.pack(">H", len(text)) + text


def long(text):
    return struct.pack(">I", len(text)) + text


def delivery(seq, result, reason=b""):
    return struct.pack(">IQQQIB", 3, seq, 99, 0, 2, result) + short(reason)


def deliveries(*items):
    return struct.pack(">I", len(items)) + b"".join(items)


TENANT = struct.pack(">I", 7)
NAME = TENANT + b"\x03" + short(b"orders")
EPOCH = struct.pack(">QQ", 12, 42)
POLICY = struct.pack(">5IB", 10, 30000, 1000, 600000, 1000, 1)
HEADS = struct.pack(">I", 2) + struct.pack(">IIQ", 1, 0, 10) + struct.pack(">IIQ", 2, 1, 77)

SEEDS = {
    "hello": frame(0x80, b"LEAT" + struct.pack(">H", 1) + bytes(range(16)) + short(b"10.0.0.1:7883")),
    "ping": frame(0x81),
    "stored": frame(1, bytes(range(16)) + struct.pack(">IQ", 1, 5) + HEADS),
    "due": frame(2, struct.pack(">Q", 1500)),
    "owner": frame(3, NAME + EPOCH),
    "held": frame(4, NAME + EPOCH + deliveries(delivery(5, 5), delivery(9, 1, b"no disk"))),
    "released": frame(5, NAME),
    "attach": frame(6, NAME + struct.pack(">II", 3, 3600)),
    "attached": frame(7, NAME + EPOCH + long(b'[{"f":"a/#"}]') + POLICY),
    "refused": frame(8, NAME),
    "credit": frame(9, TENANT + EPOCH + struct.pack(">II", 2, 100)),
    "deliver": frame(10, TENANT + EPOCH + deliveries(delivery(5, 0)) + long(b'[{"t":"a/b"}]') + long(b"x")),
    "settle": frame(11, TENANT + EPOCH + deliveries(delivery(5, 0), delivery(6, 2))),
    "detach": frame(12, TENANT + EPOCH),
    "use": frame(13, struct.pack(">I", 1) + struct.pack(">IQIIQQIIB", 7, 0, 3, 2, 1500, 99000, 1, 5, 1)),
}
SEEDS["many"] = b"".join(SEEDS.values())

HERE.mkdir(exist_ok=True)
for name, data in SEEDS.items():
    (HERE / name).write_bytes(data)
