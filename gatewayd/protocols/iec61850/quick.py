"""A short cut for the usual member of a data set: value, quality and time at fixed places of a value of fixed size.

libiec61850 encodes such a member in one call; whether it looks exactly as the IED's own type says is seen by comparing
its tags and lengths, and the rest is one `struct` unpack: 2 us in place of 7. Everything else (integers, texts, access
errors, another type than announced) takes the long way (`mapping.take`), so that nothing depends on this module but
time. Source: ISO 9506-2 (Data), libiec61850's encoding, which is BER with definite lengths.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from gatewayd.points import quality as q
from gatewayd.points.types import Sample
from gatewayd.protocols.iec61850 import quality, values
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.values import Node

Buffer = ctypes.Array[ctypes.c_char]

LONGEST = 127
"""Octets of a member at most: lengths of one octet only."""
LARGEST = 1 << 18
"""Octets of the buffer: more than any value that fits into one MMS PDU (65,000 octets)."""
_LONG_FORM = 0x80
_STRUCTURE, _BOOLEAN, _BIT_STRING, _FLOAT, _UTC_TIME = 0xA2, 0x83, 0x84, 0x87, 0x91
_QUALITY_SIZE, _DBPOS_SIZE = 13, 2

_REVERSED = tuple(int(f"{bits:013b}"[::-1], 2) for bits in range(1 << _QUALITY_SIZE))
"""The 13 bits as they stand on the wire (first bit highest) to bit 0 of the wire as bit 0."""
_REVERSED_OCTET = tuple(int(f"{octet:08b}"[::-1], 2) for octet in range(256))
_COMMON = tuple(quality.COMMON[bits] for bits in _REVERSED)

_encode = native.MmsValue_encodeMmsData
_of_thread = threading.local()


class Octets(NamedTuple):
    """A value as libiec61850 encodes it: the buffer (of this thread, until the next `encode`) and its size."""

    buffer: Buffer
    view: memoryview
    size: int

    def next(self, at: int) -> int:
        """Where the element after the one at `at` begins. Raises IndexError past the end."""
        length = self.view[at + 1]
        if length < _LONG_FORM:
            return at + 2 + length
        count = length & 0x7F
        return at + 2 + count + int.from_bytes(self.view[at + 2 : at + 2 + count], "big")

    def inside(self, at: int) -> int:
        """Where the first element inside the one at `at` begins."""
        length = self.view[at + 1]
        return at + 2 + (0 if length < _LONG_FORM else length & 0x7F)

    def bit_string(self, at: int, size: int) -> int | None:
        """A bit string of `size` bits (at most 8), bit 0 of the wire as bit 0; None where it is something else."""
        view = self.view
        if view[at] != _BIT_STRING or view[at + 1] != 2 or view[at + 2] != 8 - size:
            return None
        return _REVERSED_OCTET[view[at + 3]]


def encode(value: int) -> Octets:
    """Encode a whole value; one at a time in each thread, since an association works on a thread of its own."""
    found: tuple[Buffer, memoryview] | None = getattr(_of_thread, "buffer", None)
    if found is None:
        buffer = ctypes.create_string_buffer(LARGEST)
        found = _of_thread.buffer = buffer, memoryview(buffer).cast("B")
    return Octets(*found, _encode(value, found[0], 0, True))


def _components() -> int | None:
    """Where a value keeps the pointer to its elements; None where the library is built otherwise than is known here.

    MmsValue of 1.6.1: a type, a flag, then an int of how many and the pointer; packed or not. Nothing is followed that
    was not recognised by its number of elements.
    """
    many = 3001
    probe = native.MmsValue_createEmptyStructure(many)
    try:
        for at in (5, 8):
            if ctypes.c_int32.from_address(probe + at).value == many:
                return at + 8
        return None
    finally:
        native.MmsValue_delete(probe)


_COMPONENTS = _components()


_HOLE = bytes(ctypes.sizeof(ctypes.c_void_p))


def complete(value: int) -> bool:
    """Whether no element of a list or structure is missing; without a call for each of them: 1 us in place of 100."""
    count = native.MmsValue_getArraySize(value)
    if _COMPONENTS is not None and count:
        first = ctypes.c_void_p.from_address(value + _COMPONENTS).value
        if first is not None and _HOLE not in ctypes.string_at(first, count * len(_HOLE)):
            return True
    return all(native.MmsValue_getElement(value, at) for at in range(count))


class Leaf(NamedTuple):
    """One leaf of fixed size: tag and length octets, format of its contents."""

    head: bytes
    form: str
    type: int
    size: int


class Quick(NamedTuple):
    """Where a point is in its member, by fields of the unpacked member (every other one is contents)."""

    row: int
    size: int
    unpack: Callable[..., tuple[Any, ...]]
    heads: tuple[bytes, ...]
    decode: Callable[[Any], Any]
    value: int
    quality: int | None
    stamp: int | None

    def take(self, member: int, received_ns: int) -> Sample | None:
        """The sample of a member, None where it does not look as it should."""
        octets = encode(member)
        return self.at(octets, 0, received_ns) if octets.size == self.size else None

    def at(self, octets: Octets, at: int, received_ns: int) -> Sample | None:
        """The sample of the member that is encoded there, None where it does not look as it should."""
        if at + self.size > octets.size:
            return None
        fields = self.unpack(octets.buffer, at)
        if fields[::2] != self.heads:
            return None
        time_ns, time_bits = quality.time(None if self.stamp is None else fields[self.stamp], received_ns)
        value = self.decode(fields[self.value])
        if self.quality is None:
            bits, common = 0, quality.ABSENT
        else:
            wire = fields[self.quality] >> 3
            bits, common = _REVERSED[wire], _COMMON[wire]
        if value is None:
            common = q.worst(common, q.INVALID | q.OUT_OF_RANGE)
        return Sample(self.row, value, common | time_bits, bits, time_ns)


def compile_quick(
    row: int,
    member: Node,
    value: tuple[int, ...],
    mark: tuple[int, ...] | None,
    stamp: tuple[int, ...] | None,
) -> Quick | None:
    """The short cut to a point in a member of this type; None where there is none."""
    leaves = _leaves(member, ())
    if leaves is None:
        return None
    heads: list[bytes] = []
    form = ">"
    where: dict[tuple[int, ...], tuple[int, Leaf]] = {}
    for path, prefix, leaf in leaves:
        heads.append(prefix + leaf.head)
        form += f"{len(heads[-1])}s{leaf.form}"
        where[path] = 2 * len(heads) - 1, leaf
    unpacker = struct.Struct(form)
    found = where.get(value)
    marked, stamped = (where.get(path) if path is not None else None for path in (mark, stamp))
    if found is None or (mark is not None and marked is None) or (stamp is not None and stamped is None):
        return None
    at, leaf = found
    decode = _decoder(leaf)
    if decode is None or (marked is not None and marked[1].form != "H"):
        return None
    if stamped is not None and stamped[1].type != values.UTC_TIME:
        return None
    return Quick(
        row,
        unpacker.size,
        unpacker.unpack_from,
        tuple(heads),
        decode,
        at,
        None if marked is None else marked[0],
        None if stamped is None else stamped[0],
    )


def _leaves(node: Node, path: tuple[int, ...]) -> list[tuple[tuple[int, ...], bytes, Leaf]] | None:
    """Every leaf with its path and the tags of structures that begin before it; None where a size is not fixed."""
    if node.type != values.STRUCTURE:
        leaf = _leaf(node)
        return None if leaf is None else [(path, b"", leaf)]
    parts: list[tuple[tuple[int, ...], bytes, Leaf]] = []
    for position, child in enumerate(node.children):
        inner = _leaves(child, (*path, position))
        if inner is None:
            return None
        parts += inner
    size = sum(len(prefix) + len(leaf.head) + struct.calcsize(">" + leaf.form) for _, prefix, leaf in parts)
    if not parts or size > LONGEST:
        return None
    first, prefix, leaf = parts[0]
    parts[0] = first, bytes((_STRUCTURE, size)) + prefix, leaf
    return parts


def _leaf(node: Node) -> Leaf | None:
    match node.type:
        case values.BOOLEAN:
            return Leaf(bytes((_BOOLEAN, 1)), "B", node.type, 1)
        case values.FLOAT if node.size in (32, 64):
            octets, exponent, form = (4, 8, "f") if node.size == 32 else (8, 11, "d")
            return Leaf(bytes((_FLOAT, octets + 1, exponent)), form, node.type, node.size)
        case values.BIT_STRING if abs(node.size) in (_DBPOS_SIZE, _QUALITY_SIZE):
            # Servers say -13, "at most 13", and send 13; whoever sends less takes the long way.
            size = abs(node.size)
            octets = (size + 7) // 8
            return Leaf(
                bytes((_BIT_STRING, octets + 1, octets * 8 - size)), "B" if octets == 1 else "H", node.type, size
            )
        case values.UTC_TIME:
            return Leaf(bytes((_UTC_TIME, 8)), "8s", node.type, 8)
    return None


def _decoder(leaf: Leaf) -> Callable[[Any], Any] | None:
    if leaf.type == values.FLOAT:
        return lambda number: number if number - number == 0.0 else None
    if leaf.type == values.BOOLEAN:
        return bool
    if (leaf.type, leaf.size) == (values.BIT_STRING, _DBPOS_SIZE):
        return lambda octet: octet >> 6
    return None
