"""Outstations on one serial line: a pair of pseudo terminals, everybody hears everything.

with serial_pair() as (far, path):
    async with on_bus(far, 10, 11) as (first, second), driving(on_serial(path, 10), watch):
        ...
"""

from __future__ import annotations

import contextlib
import os
import pty
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.device import Device, Serial
from tests.protocols.dnp3.outstation import Outstation, indexed, ranged, time48
from tests.protocols.dnp3.support import device, point

POINTS = [
    point(0, Kind.BINARY, "BI:0"),
    point(1, Kind.DOUBLE, "", control=ControlMode.SBO, command="CROB:2 trip-close"),
]
STATIC = ranged(1, 2, 0, [b"\x81"])


def event(on: bool) -> bytes:
    return indexed(2, 2, [(0, bytes((0x81 if on else 0x01,)) + time48(time.time_ns() // 1_000_000))])


@contextlib.contextmanager
def serial_pair() -> Iterator[tuple[int, str]]:
    """The far end of a serial line as a descriptor, the near end as a path."""
    far, near = pty.openpty()
    os.set_blocking(far, False)
    try:
        yield far, os.ttyname(near)
    finally:
        for fd in (far, near):
            with contextlib.suppress(OSError):
                os.close(fd)


def on_serial(path: str, remote: int = 10, *, name: str = "FDR12", baud: int = 9600, **options: Any) -> Device:
    given = {"event_poll_s": 0.1, "response_timeout_s": 1, **options}
    return device(0, POINTS, name=name, serial=Serial(port=path, baud=baud), remote_address=remote, **given)


@contextlib.asynccontextmanager
async def on_bus(far: int, *addresses: int) -> AsyncIterator[list[Outstation]]:
    """Outstations on one bus: each hears everything."""
    stations = [Outstation(address=address, static=STATIC) for address in addresses]
    first, *others = stations
    let_go = first.attach(far)
    for station in others:
        station._write = first._write
    feeders = [(station, *station.readers()) for station in others]
    feed = first.feed

    def to_all(data: bytes, frames: object, fragments: object) -> None:
        feed(data, frames, fragments)  # type: ignore[arg-type]
        for station, *readers in feeders:
            station.feed(data, *readers)

    first.feed = to_all  # type: ignore[method-assign]
    try:
        yield stations
    finally:
        let_go()
