"""A load of Modbus TCP devices: one port each, every register changing at 1 Hz, and what reading them costs.

    python -m benchmarks.load_modbus --devices 20 --registers 500 --seconds 10
    python -m benchmarks.load_modbus --devices 20 --registers 500 --seconds 10 --drive

The first prints one line of JSON with its ports when all of them listen, and ends after the seconds or on SIGTERM with
one line of what it served. There is no timer: a register's value follows from the clock when it is read. The value of
every register of a device is a sequence number, one more each second (modulo 65536), so that a reader sees what it
missed; devices change at moments spread over the second. `--still` lets nothing change.

With `--drive` the load runs in a process of its own, and the gateway's Modbus driver reads it in this one, into a sink
that only counts. What is printed then is this process: its CPU, what came, and
how many of the changes it looked at were missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import resource
import signal
import struct
import sys
import time
from typing import Any

GOLDEN = 0.6180339887498949
MOST = 125
SPARSE = 25


class Load:
    """What all connections share. still: the sequence numbers stand."""

    def __init__(self, devices: int, registers: int, *, still: bool) -> None:
        self.registers = registers
        self.still = still
        self.began = time.monotonic()
        self.phases = [device * GOLDEN % 1 for device in range(devices)]
        self.requests = 0
        self.values = 0
        self.refused = 0

    def sequence(self, device: int) -> int:
        """The present sequence number of a device."""
        if self.still:
            return 0
        return int(time.monotonic() - self.began + self.phases[device]) & 0xFFFF


class Connection(asyncio.Protocol):
    """One client of one device; functions 3 and 4 on the same registers."""

    def __init__(self, load: Load, device: int) -> None:
        self._load = load
        self._device = device
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        at = 0
        answers = []
        while len(buffer) - at >= 8 and len(buffer) - at >= (size := 6 + int.from_bytes(buffer[at + 4 : at + 6])):
            answers.append(self._answer(buffer[at : at + size]))
            at += size
        self._buffer = buffer[at:]
        if answers:
            self._transport.write(b"".join(answers))

    def _answer(self, frame: bytes) -> bytes:
        load, function = self._load, frame[7]
        start, count = struct.unpack_from(">HH", frame, 8) if len(frame) == 12 else (0, 0)
        if function in (3, 4) and 1 <= count <= MOST and start + count <= load.registers:
            load.requests += 1
            load.values += count
            body = bytes((function, 2 * count)) + load.sequence(self._device).to_bytes(2, "big") * count
        else:
            load.refused += 1
            body = bytes((function | 0x80, 2 if function in (3, 4) else 1))
        return frame[:4] + (len(body) + 1).to_bytes(2, "big") + frame[6:7] + body


async def serve(given: argparse.Namespace) -> None:
    load = Load(given.devices, given.registers, still=given.still)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    servers = [
        await loop.create_server(lambda device=device: Connection(load, device), "127.0.0.1", 0)  # type: ignore[misc]
        for device in range(given.devices)
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(json.dumps({"ports": ports, "registers": given.registers, "still": given.still}), flush=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(given.seconds):
            await ended.wait()
    for server in servers:
        server.close()
    served = {"requests": load.requests, "values": load.values, "refused": load.refused}
    print(json.dumps({**served, "seconds": round(time.monotonic() - load.began, 3)}), flush=True)


# ---- the driver


class Counting:
    """A sink that counts, and sees by the sequence numbers of one register in SPARSE what was missed."""

    def __init__(self, devices: int, rows: int) -> None:
        self.last: list[int | None] = [None] * rows
        self.samples = self.batches = self.missed = self.bad = 0
        self.all_up = asyncio.Event()
        self._down = devices

    def state(self, batch: Any) -> None:
        self.batches += 1
        self.samples += len(batch.samples)
        last = self.last
        for row, value, quality, _, _ in batch.samples[::SPARSE]:
            before = last[row]
            if quality & 3:
                self.bad += 1
            elif before is not None and value != before:
                self.missed += (value - before - 1) & 0xFFFF
            last[row] = value

    async def events(self, batch: Any, cursor: Any = None) -> None:
        del cursor
        self.state(batch)

    def device(self, name: str, link: str, why: str = "") -> None:
        del name, why
        if link == "up":
            self._down -= 1
            if not self._down:
                self.all_up.set()

    def gap(self, device: str, cause: str) -> None:
        del device, cause

    def progress(self, command_id: str, step: Any) -> None:
        del command_id, step


async def drive(given: argparse.Namespace) -> None:
    from gatewayd.points.types import Kind, PointSpec
    from gatewayd.protocols.device import Device
    from gatewayd.protocols.modbus.driver import create

    words = [sys.executable, "-m", "benchmarks.load_modbus", "--devices", str(given.devices)]
    words += ["--registers", str(given.registers), "--seconds", str(given.seconds + 60)]
    words += ["--still"] if given.still else []
    child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    try:
        ports = json.loads(await child.stdout.readline())["ports"]
        sink = Counting(given.devices, given.devices * given.registers)
        tasks = []
        for number, port in enumerate(ports):
            first = number * given.registers
            points = tuple(
                PointSpec(row=first + at, name=f"D{number}/{at}", kind=Kind.ANALOG, device=f"D{number}",
                          address=f"HR:{at}:u16")
                for at in range(given.registers)
            )  # fmt: skip
            options = {"poll_s": given.poll}
            device = Device(name=f"D{number}", protocol="modbus", host="127.0.0.1", port=port, framer="tcp",
                            options=options, points=points)  # fmt: skip
            tasks.append(asyncio.create_task(create(device).run(sink, {})))
            await asyncio.sleep(1 / given.devices)
        await sink.all_up.wait()
        gc.collect()
        gc.freeze()
        before = (sink.samples, sink.batches, sink.missed)
        began, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(given.seconds)
        seconds, now = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        user, system = now.ru_utime - cpu.ru_utime, now.ru_stime - cpu.ru_stime
        samples, batches, missed = (now - then for now, then in zip(
            (sink.samples, sink.batches, sink.missed), before, strict=True
        ))  # fmt: skip
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        child.terminate()
        served = json.loads(await child.stdout.read())
        await child.wait()
    polled = given.devices * given.registers / given.poll
    measured = {
        "devices": given.devices, "registers": given.registers, "poll_s": given.poll, "still": given.still,
        "cpu_percent": round((user + system) / seconds * 100, 2), "of_it_kernel": round(system / seconds * 100, 2),
        "us_per_polled_value": round((user + system) / seconds / polled * 1e6, 3),
        "samples_per_s": round(samples / seconds), "batches_per_s": round(batches / seconds, 1),
        "changes_missed": missed, "bad_samples": sink.bad, "served": served,
    }  # fmt: skip
    print(json.dumps(measured), flush=True)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_modbus", description="A load of Modbus devices.")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--registers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--still", action="store_true", help="nothing changes")
    parser.add_argument("--drive", action="store_true", help="read it with the gateway's driver, and measure that")
    parser.add_argument("--poll", type=float, default=1.0, help="with --drive: poll_s of the devices")
    given = parser.parse_args()
    asyncio.run(drive(given) if given.drive else serve(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
