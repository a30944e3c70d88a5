"""`gatewayd audit`: the audit trail on the gateway itself: shown, verified, taken elsewhere.

An export has one record a line, as JSON, with its hash behind it as `chain`:

    {"n":1201,"time":…,"what":…,"chain":"9f…"}

The record is the line without `,"chain":"…"`; its hash is SHA-256(hash of the line before ‖ record), so that anybody
can follow the chain without us.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from gatewayd.config import ConfigError, load
from gatewayd.problems import printable
from gatewayd.store import audit
from gatewayd.store.audit import Entry, Head
from gatewayd.store.types import JournalError

OK, WRONG, UNREADABLE = 0, 1, 2
_CHAIN = b',"chain":"'
_TAIL = len(_CHAIN) + 64 + len(b'"}')


class Wanted(NamedTuple):
    """Which records are shown; empty is all. point and who are whole names, what the kind of record."""

    last: int = 0
    who: str = ""
    point: str = ""
    what: str = ""

    def __call__(self, record: dict[str, Any]) -> bool:
        return all(
            wanted in ("", record.get(key)) for key, wanted in zip(self._fields[1:], self[1:], strict=True)
        )  # fmt: skip


def place(config_path: Path, state_dir: Path | None) -> Path:
    """Where the journal is. Raises ConfigError."""
    return state_dir if state_dir is not None else load(config_path).gateway.state_dir


def show(config_path: Path, state_dir: Path | None, wanted: Wanted, *, as_json: bool) -> int:
    """Print the newest records that are wanted, oldest first. Returns 0, or 2 where the trail cannot be read."""
    try:
        where = place(config_path, state_dir)
        found: list[bytes] = []
        for entry in audit.entries(where):
            if wanted(json.loads(entry.record)):
                found.append(entry.record)
                if wanted.last and len(found) > wanted.last:
                    del found[0]
    except (ConfigError, JournalError) as error:
        return _unreadable(error)
    for record in found:
        print(record.decode() if as_json else printable(line(json.loads(record))))
    if not found and not as_json:
        print("no such records")
    return OK


def line(record: dict[str, Any]) -> str:
    """A record for people: number, time, what, who, where, how it ended."""
    known = dict(record)
    n, time, what, sync = (known.pop(key, "") for key in ("n", "time", "what", "sync"))
    parts = [f"{n:>6} {str(time)[:23]}{' ' if sync else '~'} {what:<12}"]
    who, stage, point, value = (known.pop(key, "") for key in ("who", "stage", "point", "value"))
    parts += [word for word in (who, stage, f"{point} -> {value}" if value else point) if word]
    reason, effect = known.pop("reason", ""), known.pop("effect", "")
    if reason:
        parts.append(f"{reason} ({effect})" if effect else reason)
    detail = known.pop("detail", "")
    for key in ("tx", "tag", "note") if detail else ("tx",):
        known.pop(key, None)  # a tag's detail has them
    parts += [f"[{detail}]"] if detail else []
    parts += [f"{key}={json.dumps(value) if isinstance(value, dict | list) else value}" for key, value in known.items()]
    return " ".join(parts)


def verify(config_path: Path, state_dir: Path | None, seen: Sequence[Head], export: Path | None) -> int:
    """Walk the chain of the trail, or of an export. Returns 0 whole, 1 not (each fault a line), 2 unreadable."""
    try:
        if export is not None:
            with export.open("rb") as file:
                wrong, first, head = walk(file, {one.n: one.hash for one in seen}, str(export))
        else:
            wrong, first, head = audit.verify(place(config_path, state_dir), seen)
    except (ConfigError, JournalError, OSError, ValueError) as error:
        return _unreadable(error)
    for fault in wrong:
        print(f"WRONG: {printable(fault)}")
    if wrong:
        return WRONG
    if head.n < first:
        print("the audit trail has no records yet")
        return OK
    compared = f", and {counted(len(seen), 'published head')} in it" if seen else ""
    print(f"records {first} to {head.n} are whole{compared}; the last hash is {head.hash.hex()}")
    if not seen:
        print("a trail that was cut at its end, or exchanged as a whole, shows only against published heads: --heads")
    return OK


def counted(number: int, what: str) -> str:
    """`1 record is`, `3 records are`."""
    return f"{number} {what} is" if number == 1 else f"{number} {what}s are"


def walk(lines: Iterable[bytes], seen: dict[int, bytes], name: str) -> audit.Verdict:
    """Verify an export. The first line's own hash can be followed only where it is record 1. Raises ValueError."""
    wrong: list[str] = []
    at: Head | None = None
    first = 1
    for number, text in enumerate(lines, 1):
        one = parsed(text, f"{name}:{number}")
        before = at.hash if at is not None else audit.ZERO if one.n == 1 else None
        if at is None:
            first = one.n
        elif one.n != at.n + 1:
            wrong.append(f"{name}:{number}: record {one.n} follows record {at.n}")
        if before is not None and audit.link(before, one.record) != one.hash:
            wrong.append(f"{name}:{number}: record {one.n} was changed, or what stood before it")
        if seen.get(one.n, one.hash) != one.hash:
            wrong.append(f"{name}:{number}: record {one.n} is not the one whose hash was published")
        at = Head(one.n, one.hash)
    end = at or audit.START
    wrong += [f"{name}: ends with record {end.n}, but record {n} was published" for n in seen if n > end.n]
    wrong += [f"{name}: begins with record {first}; the published hash of record {n} cannot be checked"
              for n in seen if n < first]  # fmt: skip
    return audit.Verdict(wrong, first, end)


def parsed(text: bytes, where: str) -> Entry:
    """One line of an export. Raises ValueError."""
    text = text.rstrip(b"\r\n")
    try:
        if text[-_TAIL:].startswith(_CHAIN) and text.endswith(b'"}'):
            digest = bytes.fromhex(text[-66:-2].decode())
            record = text[:-_TAIL] + b"}"
            return Entry(int(json.loads(record)["n"]), record, digest)
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f'{where}: this is no line of an export: it should end with {_CHAIN.decode()}<64 digits>"}}')


def exported(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The lines of an export."""
    for one in entries:
        yield one.record[:-1] + _CHAIN + one.hash.hex().encode() + b'"}\n'


def export(config_path: Path, state_dir: Path | None, out: Path | None, first: int) -> int:
    """Write records `first` and later to a new file (0600), or to standard output. Returns 0, or 2."""
    try:
        lines = exported(audit.entries(place(config_path, state_dir), first))
        if out is None:
            sys.stdout.buffer.writelines(lines)
            sys.stdout.buffer.flush()
            return OK
        with open_new(out) as file:
            count = sum(1 for one in lines if file.write(one))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return _unreadable(f"{out} is there already; nothing is overwritten")
    except (ConfigError, JournalError, OSError) as error:
        return _unreadable(error)
    print(f"{count} records written to {out}; `gatewayd audit verify --export {out}` follows their chain")
    return OK


def open_new(path: Path) -> IO[bytes]:
    """A new file that only its owner can read. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def heads(words: Sequence[str], file: Path | None) -> list[Head]:
    """Published heads: `n:hash`, and what was heard on `<base>/audit`, one JSON object a line. Raises ValueError."""
    found = [Head.parse(word) for word in words]
    if file is not None:
        for number, text in enumerate(file.read_text().splitlines(), 1):
            start = text.find("{")  # mosquitto_sub -v writes the topic before it
            if not text.strip():
                continue
            try:
                body = json.loads(text[start:])
                found.append(Head.parse(f"{body['n']}:{body['hash']}"))
            except (ValueError, KeyError, TypeError):
                raise ValueError(f'{file}:{number}: this is no head: {{"n":…,"hash":…}} is allowed') from None
    return found


def _unreadable(error: object) -> int:
    print(f"gatewayd audit: {error}", file=sys.stderr)
    return UNREADABLE
