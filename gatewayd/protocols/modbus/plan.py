"""Which requests read a device, planned at load, and how each answer becomes the values of its points. Pure.

A block is one request. Its decoder is compiled once: one `struct` for all its registers, no look-ups by point.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from gatewayd.points import quality as q
from gatewayd.points.types import Value
from gatewayd.protocols.modbus.address import Address, Table
from gatewayd.protocols.modbus.pdu import Request, read
from gatewayd.protocols.modbus.values import BIG_ENDIAN, NOT_IMPLEMENTED, Order, Type, positions, text

BITS_PER_REGISTER = 16
"""A gap of coils or discrete inputs costs a sixteenth of one of registers."""

ABSENT = q.INVALID | q.OUT_OF_RANGE
"""A NaN, or a value that means "I have none"."""
BEYOND = q.QUESTIONABLE | q.OUT_OF_RANGE
"""A value the measurement cannot have."""


class Field(NamedTuple):
    """One point in a block."""

    row: int
    address: Address


class Limits(NamedTuple):
    """What one request may read. max_gap: registers between two points that may be read in vain."""

    max_gap: int
    max_registers: int
    max_bits: int

    def of(self, table: Table) -> tuple[int, int]:
        """(gap, most) in coils or registers."""
        if table.of_bits:
            return self.max_gap * BITS_PER_REGISTER, self.max_bits
        return self.max_gap, self.max_registers


class Block(NamedTuple):
    """One request: `size` coils or registers from `start`, and the points in it by their place."""

    table: Table
    start: int
    size: int
    fields: tuple[Field, ...]

    def request(self) -> Request:
        """What asks for it."""
        return read(self.table, self.start, self.size)

    def __str__(self) -> str:
        return f"{self.table}:{self.start}" + (f" to {self.start + self.size - 1}" if self.size > 1 else "")


def plan(fields: Iterable[Field], limits: Limits) -> list[Block]:
    """As few requests as the limits allow; every point lies whole in one of them."""
    blocks: list[Block] = []
    by_place = sorted(fields, key=lambda f: (f.address.table, f.address.start, f.address.size, f.row))
    for field in by_place:
        address = field.address
        if blocks and (last := blocks[-1]).table is address.table:
            gap, most = limits.of(address.table)
            end = max(last.start + last.size, address.end)
            if address.start - (last.start + last.size) <= gap and end - last.start <= most:
                blocks[-1] = Block(last.table, last.start, end - last.start, (*last.fields, field))
                continue
        blocks.append(Block(address.table, address.start, address.size, (field,)))
    return blocks


def split(block: Block) -> list[Block]:
    """The block in parts, to find what the device refuses: first without its gaps, then in halves; [] if it is one."""
    runs: list[list[Field]] = []
    end = -1
    for field in block.fields:
        if field.address.start > end or not runs:
            runs.append([])
        runs[-1].append(field)
        end = max(end, field.address.end)
    if len(runs) > 1:
        return [_block(run) for run in runs]
    cuts = _cuts(block.fields)
    if not cuts:
        return []
    middle = block.start + block.size / 2
    cut = min(cuts, key=lambda at: abs(block.fields[at].address.start - middle))
    return [_block(block.fields[:cut]), _block(block.fields[cut:])]


def _cuts(fields: Sequence[Field]) -> list[int]:
    """Where a cut goes through no point: indexes of the first field behind it."""
    cuts, end = [], fields[0].address.end
    for at, field in enumerate(fields[1:], start=1):
        if field.address.start >= end:
            cuts.append(at)
        end = max(end, field.address.end)
    return cuts


def _block(fields: Sequence[Field]) -> Block:
    first = fields[0].address
    end = max(field.address.end for field in fields)
    return Block(first.table, first.start, end - first.start, tuple(fields))


Faults = dict[int, int]
"""By index of the point within its block: quality bits that the value itself earned."""

Decoder = Callable[[bytes], tuple[Sequence[Value], Faults]]
"""Octets of an answer to the values of the block's points, in the order of its fields."""

_NONE: Faults = {}
_BITS = [tuple(octet >> at & 1 == 1 for at in range(8)) for octet in range(256)]


def decoder(block: Block, *, sentinels: bool = False) -> Decoder:
    """Compile a block's decoder. sentinels: SunSpec's values for "not implemented" count as absent."""
    if block.table.of_bits:
        return _bits_decoder(block)
    cells: dict[tuple[int, Type, Order], int] = {}
    for field in block.fields:
        cells.setdefault(_cell(block, field.address), len(cells))
    unpack = _unpacker(list(cells), block.size)
    steps = [(cells[_cell(block, field.address)], _part(field.address)) for field in block.fields]
    judge = _judge(block, sentinels=sentinels)
    if len(cells) == len(steps) and not any(part for _, part in steps):

        def plain(data: bytes) -> tuple[Sequence[Value], Faults]:
            values = unpack(data)
            return judge(values) if judge else (values, _NONE)

        return plain

    def composed(data: bytes) -> tuple[Sequence[Value], Faults]:
        raw = unpack(data)
        values = [part(raw[cell]) if part else raw[cell] for cell, part in steps]
        return judge(values) if judge else (values, _NONE)

    return composed


def _bits_decoder(block: Block) -> Decoder:
    offsets = [field.address.start - block.start for field in block.fields]
    pick = _getter(offsets)

    def bits(data: bytes) -> tuple[Sequence[Value], Faults]:
        return pick(tuple(chain.from_iterable(map(_BITS.__getitem__, data)))), _NONE

    return bits


def _getter(indexes: Sequence[int]) -> Callable[[Any], tuple[Any, ...]]:
    """`itemgetter` that gives a tuple for a single index too."""
    if len(indexes) == 1:
        only = indexes[0]
        return lambda items: (items[only],)
    return itemgetter(*indexes)


def _cell(block: Block, address: Address) -> tuple[int, Type, Order]:
    assert address.type is not None
    return address.start - block.start, address.type, address.order


def _unpacker(cells: Sequence[tuple[int, Type, Order]], registers: int) -> Callable[[bytes], tuple[Any, ...]]:
    """All cells by one struct; octets are brought into order first only where some cell needs it."""
    form, at = ">", 0
    for start, kind, order in cells:
        if order != BIG_ENDIAN or 2 * start < at:
            break
        form += "x" * (2 * start - at) + (kind.format or f"{kind.octets}s")
        at = 2 * start + kind.octets
    else:
        return struct.Struct(form + "x" * (2 * registers - at)).unpack
    places = [2 * start + place for start, kind, order in cells for place in positions(kind, order)]
    pick = _getter(places)
    unpack = struct.Struct(">" + "".join(kind.format or f"{kind.octets}s" for _, kind, _ in cells)).unpack
    return lambda data: unpack(bytes(pick(data)))


def _part(address: Address) -> Callable[[Any], Value] | None:
    """What makes the point's value of its cell; None where it is the value."""
    assert address.type is not None
    if address.type.is_text:
        return text
    if address.bits is None:
        return None
    low, high = address.bits
    if low == high:
        return lambda register: register >> low & 1 == 1
    mask = (1 << high - low + 1) - 1
    return lambda register: register >> low & mask


Judge = Callable[[Sequence[Value]], tuple[Sequence[Value], Faults]]


def _judge(block: Block, *, sentinels: bool) -> Judge | None:
    """What finds NaN, sentinels and impossible values; None where no point of the block can have any."""
    floats: list[int] = []
    limited: list[tuple[int, frozenset[float], float, float]] = []
    for at, (_, address) in enumerate(block.fields):
        assert address.type is not None
        if address.type.is_text or address.bits:
            continue
        if address.type.is_float:
            floats.append(at)
        absent = address.not_available
        if sentinels and address.type.name in NOT_IMPLEMENTED:
            absent |= {NOT_IMPLEMENTED[address.type.name]}
        low = -math.inf if address.low is None else address.low
        high = math.inf if address.high is None else address.high
        if absent or low != -math.inf or high != math.inf:
            limited.append((at, absent, low, high))
    if not floats and not limited:
        return None
    pick = _getter(floats) if floats else None

    def judge(values: Sequence[Value]) -> tuple[Sequence[Value], Faults]:
        faults: Faults = {}
        if pick and not math.isfinite(sum(pick(values))):  # one sum instead of a look at each
            faults.update((at, ABSENT) for at in floats if not math.isfinite(values[at]))  # type: ignore[arg-type]
        for at, absent, low, high in limited:
            value = values[at]
            if value in absent:
                faults[at] = ABSENT
            elif at not in faults and not low <= value <= high:  # type: ignore[operator]
                faults[at] = BEYOND
        if ABSENT in faults.values():
            values = [None if faults.get(at) == ABSENT else value for at, value in enumerate(values)]
        return values, faults

    return judge
