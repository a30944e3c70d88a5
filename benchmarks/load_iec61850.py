"""Load for IEC 61850: one IED of libiec61850's own server whose measurements all change at a rate.

    python -m benchmarks.load_iec61850 --members 100 --rate 100 --seconds 10

Prints one JSON line with the port when it listens, begins when a line comes on standard input, and prints one JSON line
with what it offered at the end. Every member of the data set takes the number of the tick as its value; `ticks` gives
the CLOCK_MONOTONIC ns of each tick (of the update itself, before the report is made). Also one status (Ind1 in a
buffered block) that changes at each tick.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time

from tests.protocols.iec61850 import libiec61850_server as native

CHANGE = 1 | 16


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_iec61850")
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--buffered", action="store_true", help="the measurements in a buffered block, brcbMX01")
    given = parser.parse_args(arguments)
    model = native.model_create(b"LOAD")
    device = native.device_create(b"LD0", model)
    zero, io = native.node_create(b"LLN0", device), native.node_create(b"GGIO1", device)
    values = [native.mv(b"AnIn%d" % (n + 1), io, 0, False) for n in range(given.members)]
    status = native.sps(b"Ind1", io, 0)
    measured, indications = native.data_set(b"dsMX", zero), native.data_set(b"dsST", zero)
    for n in range(given.members):
        native.member(measured, b"GGIO1$MX$AnIn%d" % (n + 1), -1, None)
    native.member(indications, b"GGIO1$ST$Ind1", -1, None)
    name = b"brcbMX01" if given.buffered else b"urcbMX01"
    native.block(name, zero, b"MX", given.buffered, b"dsMX", 1, CHANGE, native.OPTIONS, 0, 0)
    native.block(b"brcbST01", zero, b"ST", True, b"dsST", 1, CHANGE, native.OPTIONS, 0, 0)
    configured = native.config_create()
    native.buffer_size(configured, 64_000_000 if given.buffered else 1_000_000)
    server = native.server_create(model, None, configured)
    native.address(server, b"127.0.0.1")
    port = free_port()
    native.start(server, port)
    if not native.is_running(server):
        print("the server does not listen", file=sys.stderr)
        return 1
    print(json.dumps({"ports": [port]}), flush=True)
    sys.stdin.readline()
    parts = [(native.child(value, b"mag.f"), native.child(value, b"t")) for value in values]
    ind, ind_t = native.child(status, b"stVal"), native.child(status, b"t")
    ticks: list[int] = []
    begin = time.monotonic()
    total = int(given.seconds * given.rate)
    for tick in range(1, total + 1):
        time.sleep(max(0.0, begin + tick / given.rate - time.monotonic()))
        now = int(time.time() * 1000)
        native.lock(server)
        ticks.append(time.monotonic_ns())
        for value, stamp in parts:
            native.update_time(server, stamp, now)
            native.update_float(server, value, float(tick))
        native.update_time(server, ind_t, now)
        native.update_boolean(server, ind, tick % 2 == 1)
        native.unlock(server)
    took = time.monotonic() - begin
    print(json.dumps({"values": total * given.members, "events": total, "seconds": took, "ticks": ticks}), flush=True)
    sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main())
