"""`gatewayd journal info|export|verify`: what is in the journal, while the daemon runs and while it does not."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from gatewayd.config import ConfigError, load
from gatewayd.problems import printable
from gatewayd.store import inspect
from gatewayd.store.consumers import Place
from gatewayd.store.inspect import Info, Range
from gatewayd.store.types import JournalError

OK, INCOMPLETE, NOT_THERE = 0, 1, 2
"""As asked; something is missing or wrong; it could not be looked at."""


def place(config_path: Path, file: Path | None) -> Path:
    """Where to look: the file that was named, or the folder of the configuration. Raises ConfigError."""
    return file if file is not None else load(config_path).gateway.state_dir


def info(config_path: Path, file: Path | None, *, as_json: bool) -> int:
    """Print where the journal stands."""
    try:
        found = inspect.info(place(config_path, file))
    except (ConfigError, JournalError) as error:
        return _refuse(error, as_json=as_json)
    print(msgspec.json.encode(found).decode() if as_json else "\n".join(map(printable, lines(found))))
    return OK


def verify(config_path: Path, file: Path | None, *, as_json: bool) -> int:
    """Read every record and print what is wrong."""
    try:
        at = place(config_path, file)
        wrong = inspect.verify(at)
    except (ConfigError, JournalError) as error:
        return _refuse(error, as_json=as_json)
    if as_json:
        print(msgspec.json.encode({"ok": not wrong, "place": str(at), "wrong": wrong}).decode())
    else:
        for line in wrong:
            print(printable(line))
        print(f"{at}: {len(wrong)} findings" if wrong else f"{at}: nothing is wrong")
    return INCOMPLETE if wrong else OK


def export(config_path: Path, file: Path | None, wanted: Range, out: BinaryIO) -> int:
    """Write the wanted events as JSON lines; what of them is not there is said on standard error."""
    try:
        at = place(config_path, file)
    except (ConfigError, JournalError) as error:
        return _refuse(error)
    following, status, count = wanted.first or 0, OK, 0
    try:
        for event in inspect.events(at, wanted):
            if event.seq > following > 0 and not wanted.by_time:
                status = _missing(following, event.seq - 1)
            out.write(inspect.line(event) + b"\n")
            following = event.seq + 1
            count += 1
        out.flush()
    except JournalError as error:
        after = f"; {count} events were written, up to {following - 1}; later ones may be readable with --from"
        _say(f"{error}{after if count else ''}")
        return INCOMPLETE if count else NOT_THERE
    except BrokenPipeError:
        raise
    except OSError as error:
        _say(f"the events cannot be written: {error.strerror or error}; {count} were tried, not all of them are there")
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # what is still in its buffer has nowhere to go
        return INCOMPLETE
    if wanted.last is not None and following <= wanted.last and not wanted.by_time:
        status = _missing(following, wanted.last)
    return status


def lines(found: Info) -> list[str]:
    """For people, a line a subject."""
    used = {True: "in use by a gatewayd", False: "no gatewayd has it open", None: "whether it is in use is not known"}
    begin, end = when(found.oldest_recorded_ns), when(found.newest_recorded_ns)
    waiting = found.newest - found.handed_over
    wait = f"{waiting} wait for the broker" if waiting > 0 else "nothing waits"
    size = f"{mib(found.used_bytes)} in use, file {mib(found.file_bytes)}, WAL {mib(found.wal_bytes)}"
    rows = [
        ("file", f"{found.file} (version {found.schema_version}); {used[found.in_use]}"),
        ("epoch", f"{found.epoch}, from event {found.epoch_first} on"),
        ("events", f"{found.oldest} to {found.newest}, recorded {begin} to {end}" if found.newest else "none yet"),
        ("handed over", f"up to {found.handed_over}; {wait}"),
        *((f"consumer {name}", _consumer(place, found)) for name, place in sorted(found.consumers.items())),
        ("points", f"{found.points} with a last value"),
        ("size", size),
        ("high water", _high_water(found)),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _consumer(place: Place, found: Info) -> str:
    if place.epoch != found.epoch:
        return f"has stored up to {place.seq} of another epoch, {place.epoch}: nothing of this one"
    return f"has stored up to {place.seq}, {found.newest - place.seq} behind"


def _high_water(found: Info) -> str:
    mark = found.high_water
    if mark is None:
        return "missing or not readable: the next start begins a new epoch"
    if mark.epoch != found.epoch:
        return f"{mark.committed} of another epoch, {mark.epoch}"
    if mark.committed > found.newest:
        return f"{mark.committed}: events {found.newest + 1} to {mark.committed} were committed and are missing"
    return f"{mark.committed}, as it should be"


def when(time_ns: int) -> str:
    """UTC to the millisecond."""
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{moment}.{time_ns // 1_000_000 % 1000:03}Z"


def mib(size: int) -> str:
    """Octets in MiB."""
    return f"{size / 2**20:.1f} MiB"


def _missing(first: int, last: int) -> int:
    _say(f"events {first} to {last} are not there" if first < last else f"event {first} is not there")
    return INCOMPLETE


def _refuse(error: Exception, *, as_json: bool = False) -> int:
    if as_json:
        print(msgspec.json.encode({"ok": False, "error": str(error)}).decode())
    else:
        _say(str(error))
    return NOT_THERE


def _say(text: str) -> None:
    print("\n".join(map(printable, text.splitlines())), file=sys.stderr)
