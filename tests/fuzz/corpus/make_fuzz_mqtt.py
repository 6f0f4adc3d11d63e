#!/usr/bin/env python3
"""Writes the seeds of fuzz_mqtt beside this file: the valid packets of the codec's unit test, each
behind the byte that tells the fuzz target version and direction, and one whole conversation."""
import os
import re

here = os.path.dirname(os.path.abspath(__file__))
test = os.path.join(here, "../../unit/node/test_mqtt_codec.c")
out = os.path.join(here, "fuzz_mqtt")

text = open(test).read()
table = text[text.index("} good[] = {"):text.index("};", text.index("} good[] = {"))]
row = re.compile(r"\{((?:\s*\"[0-9a-f ]*\")+),\s*(V\d), (UP|DOWN), MQTT_(\w+)\}")
versions = {"V0": 0, "V3": 1, "V5": 2}

os.makedirs(out, exist_ok=True)
talk = b""
for i, (hexes, version, way, name) in enumerate(row.findall(table)):
    packet = bytes.fromhex("".join(re.findall(r"\"([0-9a-f ]*)\"", hexes)).replace(" ", ""))
    head = bytes([versions[version] + (3 if way == "DOWN" else 0)])
    with open(os.path.join(out, f"{i:02d}_{name.lower()}_{version.lower()}"), "wb") as f:
        f.write(head + packet)
    if version == "V5" and way == "UP":
        talk += packet
connect = bytes.fromhex("100d00044d515454050200000000" + "00")
with open(os.path.join(out, "conversation"), "wb") as f:
    f.write(bytes([0]) + connect + talk)
