"""What the tests of IEC 61850 share: points of the simulated bay, a driver on its task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.protocols.device import Device
from gatewayd.protocols.iec61850.driver import Iec61850Driver, create
from tests.protocols.watching import Watch, point_of, running

LD = "BAY1LD0"
REPORTS = [f"{LD}/LLN0.BR.brcbST", f"{LD}/LLN0.RP.urcbMX"]
BRCB = REPORTS[0]


point = partial(point_of, "BAY1")


def commanded(row: int, kind: Kind, name: str, mode: ControlMode = ControlMode.SBO, **more: Any) -> PointSpec:
    reference = f"{LD}/{name}"
    return point(row, kind, reference, control=mode, command=reference, **more)


def device(port: int, points: Iterable[PointSpec], **options: Any) -> Device:
    given = {"reports": REPORTS, "timeout_s": 0.5, "connect_timeout_s": 3, "integrity_s": 0, "poll_s": 0.2, **options}
    return Device(name="BAY1", protocol="iec61850", host="127.0.0.1", port=port, options=given, points=tuple(points))


@contextlib.asynccontextmanager
async def driving(
    made: Device | Iec61850Driver, watch: Watch, *, wait: bool = True
) -> AsyncIterator[tuple[Iec61850Driver, asyncio.Task[None]]]:
    """Run one association of a driver; wait: until it is up."""
    driver = made if isinstance(made, Iec61850Driver) else create(made)
    async with running(driver, watch, wait=wait) as task:
        yield driver, task
