"""What tests of the seam share: a core that keeps what it is given, devices of the crashing worker."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

from gatewayd.control.types import Control, Step
from gatewayd.points.types import Batch, Cursor, Kind, Link, PointSpec
from gatewayd.protocols.child import Child
from gatewayd.protocols.device import Device
from gatewayd.protocols.host import Core

COMMAND = (sys.executable, str(Path(__file__).with_name("crashing_worker.py")))
_ids = itertools.count(1)


class FakeCore:
    """A core without database and journal. `hold`: nothing reaches the disk until `release`."""

    def __init__(self) -> None:
        self.links: dict[str, list[tuple[Link, str]]] = {}
        self.states: list[Batch] = []
        self.batches: list[tuple[Batch, Cursor | None]] = []
        self.gaps: list[tuple[str, str]] = []
        self.steps: list[tuple[str, Step]] = []
        self.hold = False
        self.held: list[asyncio.Future[int]] = []

    def state(self, batch: Batch) -> None:
        self.states.append(batch)

    def take(self, batch: Batch, cursor: Cursor | None) -> asyncio.Future[int] | None:
        self.batches.append((batch, cursor))
        if not self.hold:
            return None
        self.held.append(asyncio.get_running_loop().create_future())
        return self.held[-1]

    def release(self) -> None:
        for future in self.held:
            future.set_result(1)
        self.held.clear()

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        if (waiting := self.take(batch, cursor)) is not None:
            await waiting

    def device(self, name: str, link: Link, why: str = "") -> None:
        self.links.setdefault(name, []).append((link, why))

    def gap(self, device: str, cause: str) -> None:
        self.gaps.append((device, cause))

    def progress(self, command_id: str, step: Step) -> None:
        self.steps.append((command_id, step))

    def link(self, name: str) -> Link | None:
        seen = self.links.get(name)
        return seen[-1][0] if seen else None

    def up(self, *names: str) -> bool:
        return all(self.link(name) is Link.UP for name in names)

    def of(self, name: str) -> list[Batch]:
        return [batch for batch in self.states if batch.device == name] + [
            batch for batch, _ in self.batches if batch.device == name
        ]

    async def cursors(self, device: str) -> list[Cursor]:
        return [cursor for batch, cursor in self.batches if batch.device == device and cursor is not None][-1:]


def device(name: str, how: str = "ok", *, row: int = 0, event: bool = False, **more: Any) -> Device:
    point = PointSpec(row=row, name=f"{name}/P", kind=Kind.COUNTER, device=name, address="x", event=event)
    return Device(name=name, protocol="modbus", host=how, port=1, points=(point,), **more)


def child(name: str, core: Core) -> Child:
    return Child(name, core, log_level="error", command=COMMAND)


def command(point: int = 0, within_s: float = 5.0) -> Control:
    return Control(
        id=f"tx{next(_ids)}",
        point=point,
        value=True,
        operator="alice",
        sbo=True,
        not_after_ns=time.monotonic_ns() + int(within_s * 1e9),
    )
