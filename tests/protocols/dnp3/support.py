"""What the tests of DNP3 share: points, a driver on its task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any

from gatewayd.clock import ClockState
from gatewayd.points.types import PointSpec
from gatewayd.protocols.device import Device
from gatewayd.protocols.dnp3.driver import Dnp3Driver
from tests.protocols.watching import Watch, point_of, running

NAME = "FDR12"
HUNG_UP = ("the device closed the connection", "the connection broke: Connection reset by peer")
"""How it is told that the far end closed; the second where it had not read all."""


point = partial(point_of, NAME)


def device(port: int, points: Iterable[PointSpec], *, name: str = NAME, **options: Any) -> Device:
    more = {key: options.pop(key) for key in ("tls", "serial", "host") if key in options}
    given = {"response_timeout_s": 0.5, "connect_timeout_s": 3, "event_poll_s": 0.2, **options}
    where = {"host": "127.0.0.1", "port": port} if "serial" not in more else {}
    return Device(name=name, protocol="dnp3", options=given, points=tuple(points), **{**where, **more})


def clock_in_step() -> ClockState:
    return ClockState(True, 1.0, 0.1)


def clock_adrift() -> ClockState:
    return ClockState(False)


@contextlib.asynccontextmanager
async def driving(
    made: Device | Dnp3Driver, watch: Watch, *, wait: bool = True, clock: Callable[[], ClockState] = clock_in_step
) -> AsyncIterator[tuple[Dnp3Driver, asyncio.Task[None]]]:
    """Run one connection of a driver; wait: until it is up."""
    driver = made if isinstance(made, Dnp3Driver) else Dnp3Driver(made, clock_state=clock)
    async with running(driver, watch, wait=wait) as task:
        yield driver, task
