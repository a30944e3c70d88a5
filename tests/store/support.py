"""What the tests of the journal share."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gatewayd.store.journal import Journal, NewEvent, StoredEvent, WhenFull

DAY_S = 86400.0


def opened(directory: Path, **more: Any) -> Journal:
    settings: dict[str, Any] = {"keep_s": 7 * DAY_S, "max_bytes": 64 * 1024 * 1024, "when_full": WhenFull.BLOCK}
    return Journal.open(directory, **{**settings, **more})


def event(number: int, size: int = 0, kind: str = "point") -> NewEvent:
    payload = {"point": "FDR12/CB/POS", "n": number} | ({"pad": "x" * size} if size else {})
    return NewEvent(kind, "FDR12", json.dumps(payload).encode(), 1_000_000 + number)


def numbers(events: list[StoredEvent]) -> list[int | None]:
    return [json.loads(event.payload).get("n") for event in events]


def gaps(events: list[StoredEvent]) -> list[dict[str, Any]]:
    return [found | {"seq": e.seq} for e in events if (found := json.loads(e.payload)).get("type") == "gap"]


async def everything(journal: Journal, first: int = 0) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    while part := await journal.read(max(first, found[-1].seq + 1 if found else first), 1000, 1 << 20):
        found += part
    return found


async def until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in {deadline_s} s: {what}"
        await asyncio.sleep(0.01)
