"""Object headers of a fragment, walked without opendnp3: to say what it did not understand. Pure.

opendnp3 drops a whole fragment for one object that it does not know, and drops events with relative time that come
without a common time (g51) before them; both without a word to Python, and it confirms them. Here is found out what it
was and whether events went with it. Also here: which event variation has the time that another one lacks.

Source: IEEE 1815, object headers and qualifiers; sizes from the object library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

EVENT_GROUPS = frozenset({2, 4, 11, 13, 22, 23, 32, 33, 42, 43, 88, 111, 113, 115, 122})

_VARIATIONS: dict[tuple[int, ...], dict[int, int]] = {
    (1, 3, 10): {2: 1},
    (2, 4): {1: 1, 2: 7, 3: 3},
    (11, 13): {1: 1, 2: 7},
    (20,): {1: 5, 2: 3, 5: 4, 6: 2},
    (21,): {1: 5, 2: 3, 5: 11, 6: 9, 9: 4, 10: 2},
    (22, 23): {1: 5, 2: 3, 5: 11, 6: 9},
    (30,): {1: 5, 2: 3, 3: 4, 4: 2, 5: 5, 6: 9},
    (32, 42, 43): {1: 5, 2: 3, 3: 11, 4: 9, 5: 5, 6: 9, 7: 11, 8: 15},
    (40,): {1: 5, 2: 3, 3: 5, 4: 9},
    (50,): {1: 6, 3: 6, 4: 11},
    (51,): {1: 6, 2: 6},
    (52,): {1: 2, 2: 2},
}
_SIZES = {
    (group, one): size for groups, sizes in _VARIATIONS.items() for group in groups for one, size in sizes.items()
}
"""Octets of an object by group and variation."""
_PACKED = {(1, 1): 1, (10, 1): 1, (3, 1): 2}
"""Bits of each object where they are packed."""
_RELATIVE = ((2, 3), (4, 3))
_TIMES = (50, 51, 52)

_PLAIN: dict[tuple[int, ...], dict[int, int]] = {
    (2, 4, 11): {1: 2},
    (22, 23): {1: 5, 2: 6},
    (32, 42): {1: 3, 2: 4, 5: 7, 6: 8},
}
TIMED = {
    (group, one): (group, timed) for groups, pairs in _PLAIN.items() for group in groups for one, timed in pairs.items()
}
"""The variation of the same group and number format that carries a time, by the one that does not."""


class Header(NamedTuple):
    """One object header. size: octets of header and objects together, None where it cannot be told."""

    group: int
    variation: int
    qualifier: int
    objects: int
    size: int | None

    def __str__(self) -> str:
        return f"g{self.group}v{self.variation} (qualifier 0x{self.qualifier:02X})"


def walk(data: bytes) -> Iterator[Header]:
    """The object headers; the last one has no size where what follows cannot be found."""
    at = 0
    while at < len(data):
        header = _header(data, at)
        yield header
        if header.size is None:
            return
        at += header.size


def _header(data: bytes, at: int) -> Header:
    if len(data) - at < 3:
        return Header(data[at], data[at + 1] if len(data) - at > 1 else 0, 0, 0, None)
    group, variation, qualifier = data[at : at + 3]
    unknown = Header(group, variation, qualifier, 0, None)
    width = {0x00: 1, 0x01: 2, 0x07: 1, 0x08: 2, 0x17: 1, 0x28: 2}.get(qualifier)
    if qualifier == 0x06:
        return unknown._replace(size=3)
    if width is None:
        return unknown
    ranged = qualifier <= 0x01
    end = at + 3 + width * (2 if ranged else 1)
    if end > len(data):
        return unknown
    first = int.from_bytes(data[at + 3 : at + 3 + width], "little")
    count = int.from_bytes(data[at + 3 + width : end], "little") - first + 1 if ranged else first
    prefix = width if qualifier in (0x17, 0x28) else 0
    octets = _octets(group, variation, count, prefix) if count >= 0 else None
    if octets is None or end + octets > len(data):
        return unknown
    return Header(group, variation, qualifier, count, end + octets - at)


def _octets(group: int, variation: int, count: int, prefix: int) -> int | None:
    if (group, variation) in _PACKED:
        return (count * _PACKED[group, variation] + 7) // 8
    size = variation if group in (110, 111) else _SIZES.get((group, variation))
    return None if size is None else count * (prefix + size)


class Lost(NamedTuple):
    """What of a fragment was not understood. events: whether events were, or may have been, in it."""

    what: str
    events: bool


def not_understood(data: bytes) -> Lost | None:
    """What is to blame where opendnp3 took nothing of a fragment; None where there was nothing to take (only times)."""
    headers = list(walk(data))
    culprit = next((header for header in headers if header.size is None), None)
    if culprit is not None:
        return Lost(f"object {culprit}", events=True)  # what comes after it cannot be seen
    if all(header.group in _TIMES for header in headers):
        return None
    known = ", ".join(str(header) for header in headers[:4])
    return Lost(f"objects {known}", any(header.group in EVENT_GROUPS for header in headers))


def without_common_time(data: bytes) -> Lost | None:
    """Events with relative time that came without a common time before them, None where there are none."""
    common = False
    for header in walk(data):
        if header.group == 51:
            common = header.objects == 1
        elif (header.group, header.variation) in _RELATIVE and header.objects and not common:
            return Lost(f"object {header} without a common time of occurrence (g51)", events=True)
    return None
