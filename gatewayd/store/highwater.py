"""The highest number ever handed out, in a small file of its own: a number is never used for two events.

Lines of text. The file is written anew (fsync, rename, fsync of the directory) before a number above `reserved` is
used; `floor` is what was committed then. `committed` is overwritten in place after every commit without fsync, so it
survives a kill -9 exactly and a power cut approximately; its checksum tells a torn line. A journal whose newest
number is below what this file says was committed is torn or was restored from a backup.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

STEP = 100_000
NAME = "journal.highwater"
_HEAD = "gatewayd high-water 1"


class Mark(NamedTuple):
    """What the file says: the epoch, and the highest number that was certainly committed in it."""

    epoch: str
    committed: int


def read(directory: Path) -> Mark | None:
    """The mark; None where there is no file or nothing in it can be believed."""
    try:
        lines = (directory / NAME).read_text("ascii").splitlines()
        head, epoch, floor = lines[0], lines[1].removeprefix("epoch "), int(lines[3].removeprefix("floor "))
    except (OSError, ValueError, IndexError):
        return None
    if head != _HEAD or not epoch:
        return None
    return Mark(epoch, max(floor, _exact(lines[4] if len(lines) > 4 else "", epoch)))


def _exact(line: str, epoch: str) -> int:
    parts = line.split()
    if len(parts) != 3 or parts[0] != "committed" or not parts[1].isdecimal():
        return 0
    return int(parts[1]) if parts[2] == _checksum(epoch, parts[1]) else 0


def _checksum(epoch: str, number: str) -> str:
    return f"{zlib.crc32(f'{epoch} {number}'.encode()):08x}"


def _line(epoch: str, number: int) -> str:
    text = f"{number:020}"
    return f"committed {text} {_checksum(epoch, text)}\n"


def fsync_directory(directory: Path) -> None:
    """Make a created or renamed name durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class HighWater:
    """The file while the journal is open. Errors of the disk pass as OSError."""

    def __init__(self, directory: Path, epoch: str, committed: int) -> None:
        self._directory = directory
        self._epoch = epoch
        self._fd = -1
        self._at = 0
        self._reserved = 0
        self.committed = committed
        self._write(committed + STEP)

    def reserve(self, seq: int) -> None:
        """Return when numbers up to `seq` may be used."""
        if seq > self._reserved:
            self._write(seq + STEP)

    def commit(self, seq: int) -> None:
        """`seq` is committed; cheap, not fsynced."""
        self.committed = seq
        os.pwrite(self._fd, _line(self._epoch, seq).encode(), self._at)

    def close(self) -> None:
        """Close the file; what it says stays right."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, reserved: int) -> None:
        head = f"{_HEAD}\nepoch {self._epoch}\nreserved {reserved:020}\nfloor {self.committed:020}\n"
        fresh = self._directory / (NAME + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            os.write(fd, (head + _line(self._epoch, self.committed)).encode())
            os.fsync(fd)
            fresh.replace(self._directory / NAME)
            fsync_directory(self._directory)
        except OSError:
            os.close(fd)
            raise
        self.close()
        self._fd, self._at, self._reserved = fd, len(head), reserved
