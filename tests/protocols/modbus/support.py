"""What the tests of Modbus share: points, a driver on its task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.protocols.device import Device
from gatewayd.protocols.modbus import config
from gatewayd.protocols.modbus.driver import ModbusDriver, create
from tests.protocols.watching import Watch, point_of, running

point = partial(point_of, "M1")


def commanded(row: int, kind: Kind, command: str, address: str = "", **more: Any) -> PointSpec:
    return point(row, kind, address, control=ControlMode.SBO, command=command, feedback="none", **more)


def device(port: int, points: Iterable[PointSpec], *, framer: str = "tcp", tls: Any = None, **options: Any) -> Device:
    given = {"timeout_s": 0.3, "connect_timeout_s": 3, "poll_s": 0.1, **options}
    made = Device(
        name="M1", protocol="modbus", host="127.0.0.1", port=port, framer=framer, tls=tls, options=given,
        points=tuple(points),
    )  # fmt: skip
    assert config.check(made) == []
    return made


@contextlib.asynccontextmanager
async def driving(
    made: Device | ModbusDriver, watch: Watch, *, wait: bool = True
) -> AsyncIterator[tuple[ModbusDriver, asyncio.Task[None]]]:
    """A driver for one connection; wait: until it is up."""
    driver = made if isinstance(made, ModbusDriver) else create(made)
    async with running(driver, watch, wait=wait) as task:
        yield driver, task
