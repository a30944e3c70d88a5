"""Runs inside the sandbox, under the packaged Python: one protocol's driver in a worker process, against a device.

    python3 exchange.py CONFIG PROTOCOL

It waits until every point has a value and the link is up, asks for all of it again, selects and operates the breaker
open, and prints what happened as one JSON object. The worker is started as the daemon starts it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gatewayd.config import load
from gatewayd.control.types import Control, Step
from gatewayd.points.types import Batch, Cursor, Link
from gatewayd.protocols.child import Child

WITHIN_S = 20.0


class Core:
    """Takes everything; each batch of events is on disk at once."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.batches = 0
        self.link = Link.CONNECTING
        self.why = ""
        self.steps: list[str] = []

    def state(self, batch: Batch) -> None:
        self.batches += 1
        self.rows.update(sample.point for sample in batch.samples)

    def take(self, batch: Batch, _cursor: Cursor | None) -> None:
        self.state(batch)

    async def events(self, batch: Batch, _cursor: Cursor | None = None) -> None:
        self.state(batch)

    def device(self, _name: str, link: Link, why: str = "") -> None:
        self.link, self.why = link, why or self.why

    def gap(self, _device: str, _cause: str) -> None:
        pass

    def progress(self, _command_id: str, step: Step) -> None:
        self.steps.append(step.kind)


async def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WITHIN_S} s: {what()}")
        await asyncio.sleep(0.01)


async def exchange(path: Path, protocol: str) -> dict[str, object]:
    config = load(path)
    (device,) = [device for device in config.devices if device.protocol == protocol]
    # A double of two contacts and a derived point are made by the core, of what the driver reads.
    made = {pair.double for pair in config.pairs}
    wanted = {point.row for point in device.points if not point.address.startswith("=")} - made
    core = Core()
    child = Child(protocol, core)
    await child.open()
    try:
        child.start(device, [])
        await until(
            lambda: (core.link is Link.UP and wanted <= core.rows) or child.ended.done(),
            lambda: f"link {core.link} {core.why}, points without a value {sorted(wanted - core.rows)}",
        )
        if child.ended.done():
            raise RuntimeError(f"the worker ended: {child.ended.result()}")
        before = core.batches
        interrogated = await child.ask("interrogate", device.name, None)
        await until(lambda: core.batches > before, lambda: "no answer to the interrogation")
        (row,) = [point.row for point in device.points if point.name.endswith("/CB/POS") and point.command]
        command = Control(
            id="proof/1",
            point=row,
            value=False,
            operator="proof",
            sbo=True,
            not_after_ns=time.monotonic_ns() + 10_000_000_000,
        )
        selected = await child.ask("select", device.name, command)
        operated = await child.ask("operate", device.name, command)
        rss, threads = memory(child.pid)
        return {
            "points": len(wanted),
            "interrogated": interrogated.verdict,
            "selected": selected.verdict,
            "operated": operated.verdict,
            "reason": operated.reason,
            "worker": {"rss_kib": rss, "threads": threads},
        }
    finally:
        await child.close()


def memory(pid: int) -> tuple[int, int]:
    """Resident KiB and threads of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]), int(lines["Threads"])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(exchange(Path(sys.argv[1]), sys.argv[2]))))
    sys.exit(0)
