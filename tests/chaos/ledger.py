"""The books of a simulator: an append-only file of what it offered, written before it is offered. One line each:

o N MS  event N was made at MS (Unix time)       c N  the gateway confirmed it
d N     its own full buffer dropped it           b MS a new life began

Lines are written by one write(2), so a kill -9 loses none of them and tears none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


class Ledger:
    """The writing side, in the simulator."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _write(self, text: str) -> None:
        data = text.encode()
        if os.write(self._fd, data) != len(data):
            raise OSError("a line of the ledger was cut")

    def born(self, ms: int) -> None:
        self._write(f"b {ms}\n")

    def offered(self, n: int, ms: int) -> None:
        self._write(f"o {n} {ms}\n")

    def confirmed(self, numbers: list[int]) -> None:
        if numbers:
            self._write("".join(f"c {n}\n" for n in numbers))

    def dropped(self, n: int) -> None:
        self._write(f"d {n}\n")


@dataclass
class Books:
    """The reading side: what a ledger says so far; `read` takes in what is new.

    offered: ms by number; confirmed, dropped: numbers; lives: ms at which each began
    """

    path: Path
    offered: dict[int, int] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    lives: list[int] = field(default_factory=list)
    _place: int = 0

    def read(self) -> Books:
        if not self.path.exists():
            return self
        with self.path.open("rb") as file:
            file.seek(self._place)
            data = file.read()
        whole = data.rpartition(b"\n")[0]
        self._place += len(whole) + bool(whole)
        for line in whole.decode().split("\n") if whole else ():
            what, *numbers = line.split()
            match what, [int(number) for number in numbers]:
                case "o", [n, ms]:
                    self.offered[n] = ms
                case "c", [n]:
                    self.confirmed.add(n)
                case "d", [n]:
                    self.dropped.add(n)
                case "b", [ms]:
                    self.lives.append(ms)
        return self

    @property
    def newest(self) -> int:
        return max(self.offered, default=0)

    def unconfirmed(self) -> list[int]:
        """What a device with a buffer that survives has in it."""
        return sorted(self.offered.keys() - self.confirmed - self.dropped)
