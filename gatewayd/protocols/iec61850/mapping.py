"""Where a point's value, quality and time are in the IED's own structures, found once per association.

The type description of each data object is read from the IED, never assumed. Positions are then fixed, so that a
report or a read is turned into samples by following short lists of indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gatewayd.points import quality as q
from gatewayd.points.types import Kind, PointSpec, Sample
from gatewayd.protocols.iec61850 import quality, values
from gatewayd.protocols.iec61850.address import Address, AddressError, parse, split_item
from gatewayd.protocols.iec61850.quick import Quick, compile_quick
from gatewayd.protocols.iec61850.values import AccessError, Node

LayoutOf = Callable[[str, str], Node | None]
"""Domain and item (`XCBR1$ST$Pos`) to its type; None where the IED has no such thing."""

_MEASURED = ("MX", "ST", "SP", "SV", "CF", "DC", "SG", "OR", "BL", "SR", "SE", "EX")
_STATUS = ("ST", "MX", "SP", "SV", "CF", "DC", "SG", "OR", "BL", "SR", "SE", "EX")

_VALUES = (
    "stVal", "mag", "instMag", "cVal", "instCVal", "mxVal", "actVal", "frVal", "general", "valWTr", "posVal",
    "setVal", "setMag", "f", "i",
)  # fmt: skip
"""The attribute that is meant where an object or structure alone is named, the first that is there (7-3)."""

NON_EXISTENT = 10
"""DataAccessError object-non-existent"""


class NotThereError(Exception):
    """The IED has no such reference; the text says what is missing."""


class Place(NamedTuple):
    """Where a point is. Paths are names below the data object; quality and stamp None where the IED has none."""

    row: int
    ld: str
    ln: str
    fc: str
    do: str
    root: Node
    value: tuple[str, ...]
    quality: tuple[str, ...] | None
    stamp: tuple[str, ...] | None

    def item(self, path: tuple[str, ...]) -> str:
        """The MMS name of a component."""
        return "$".join((self.ln, self.fc, self.do, *path))


class Extract(NamedTuple):
    """A point within one value: positions of value, quality and time; and a short cut where there is one."""

    row: int
    value: tuple[int, ...]
    quality: tuple[int, ...] | None
    stamp: tuple[int, ...] | None
    quick: Quick | None = None


class Part(NamedTuple):
    """One piece of a point: the member it is in, its place there, and which part of the object the member is."""

    member: int
    path: tuple[int, ...]
    base: tuple[str, ...]


class Split(NamedTuple):
    """A point spread over several members of a data set."""

    row: int
    value: Part
    quality: Part | None
    stamp: Part | None


class DataSetMap(NamedTuple):
    """A data set as its points: by member, and those spread over several members; rows is all of them."""

    size: int
    whole: tuple[tuple[Extract, ...], ...]
    split: tuple[Split, ...]
    rows: frozenset[int]
    unknown: int


class Poll(NamedTuple):
    """One read and the points in it."""

    ld: str
    item: str
    extracts: tuple[Extract, ...]


# finding
def locate(point: PointSpec, layout_of: LayoutOf) -> Place:
    """Find a point on the IED. Raises NotThereError."""
    address = parse(point.address)
    order = _MEASURED if point.kind in (Kind.ANALOG, Kind.COUNTER) else _STATUS
    do, *below = address.path
    for fc in (address.fc,) if address.fc else order:
        root = layout_of(address.ld, f"{address.ln}${fc}${do}")
        node = root.walk(tuple(below)) if root is not None else None
        if root is None or node is None:
            continue
        path = _value_path(node, tuple(below))
        if path is not None:
            return _placed(point.row, address, fc, root, path)
    raise NotThereError(f"the IED has no {address}" + _hint(address))


def _hint(address: Address) -> str:
    return "" if address.fc else " with a value of its own"


def _placed(row: int, address: Address, fc: str, root: Node, path: tuple[str, ...]) -> Place:
    holder = next((path[:n] for n in range(len(path) - 1, -1, -1) if _child(root, path[:n], "q")), None)
    stamp = None if holder is None or not _child(root, holder, "t") else (*holder, "t")
    where = (address.ld, address.ln, fc, address.path[0], root)
    return Place(row, *where, path, None if holder is None else (*holder, "q"), stamp)


def _child(root: Node, path: tuple[str, ...], name: str) -> bool:
    node = root.walk(path)
    return node is not None and node.child(name) is not None


def _value_path(node: Node, path: tuple[str, ...]) -> tuple[str, ...] | None:
    while node.children:
        name = next((name for name in _VALUES if node.child(name) is not None), None)
        if name is None:
            return None
        inner = node.child(name)
        assert inner is not None
        node, path = inner, (*path, name)
    return None if node.type == values.ARRAY else path


# compiling
def polls(places: Iterable[Place]) -> list[Poll]:
    """The reads that cover these points: one per data object, or sub-object that has a q of its own."""
    groups: dict[tuple[str, str], list[Extract]] = {}
    for place in places:
        holder = place.quality[:-1] if place.quality is not None else ()
        node = place.root.walk(holder)
        assert node is not None
        extract = _extract(place, holder, node)
        groups.setdefault((place.ld, place.item(holder)), []).append(extract)
    return [Poll(ld, item, tuple(extracts)) for (ld, item), extracts in groups.items()]


def _extract(place: Place, base: tuple[str, ...], node: Node) -> Extract:
    depth = len(base)

    def below(path: tuple[str, ...] | None) -> tuple[int, ...] | None:
        return node.indices(path[depth:]) if path is not None and path[:depth] == base else None

    value = below(place.value)
    assert value is not None
    return _compiled(node, Extract(place.row, value, below(place.quality), below(place.stamp)))


def _compiled(node: Node, extract: Extract) -> Extract:
    """With its short cut; node: the type of the value the extract is in."""
    quick = compile_quick(extract.row, node, extract.value, extract.quality, extract.stamp)
    return extract._replace(quick=quick)


def data_set(members: Sequence[tuple[str, str]], places: Iterable[Place]) -> DataSetMap:
    """Which members hold which points. members: domain and item, in the order of the data set."""
    by_object: dict[tuple[str, str, str, str], list[tuple[int, tuple[str, ...]]]] = {}
    unknown = 0
    for index, (domain, item) in enumerate(members):
        try:
            ln, fc, (do, *path) = split_item(item)
        except AddressError:
            unknown += 1
            continue
        by_object.setdefault((domain, ln, fc, do), []).append((index, tuple(path)))
    whole: list[list[Extract]] = [[] for _ in members]
    split: list[Split] = []
    rows: set[int] = set()
    for place in places:
        candidates = by_object.get((place.ld, place.ln, place.fc, place.do), [])
        value = _part(place, place.value, candidates)
        if value is None:
            continue
        rows.add(place.row)
        stamp, mark = (_part(place, path, candidates) for path in (place.stamp, place.quality))
        if all(part is None or part.member == value.member for part in (stamp, mark)):
            marked, stamped = (part.path if part is not None else None for part in (mark, stamp))
            node = place.root.walk(value.base)
            assert node is not None
            whole[value.member].append(_compiled(node, Extract(place.row, value.path, marked, stamped)))
        else:
            split.append(Split(place.row, value, mark, stamp))
    return DataSetMap(len(members), tuple(map(tuple, whole)), tuple(split), frozenset(rows), unknown)


def _part(place: Place, path: tuple[str, ...] | None, candidates: list[tuple[int, tuple[str, ...]]]) -> Part | None:
    """The member that holds a path: the one that names it most exactly."""
    if path is None:
        return None
    held = [(len(base), index, base) for index, base in candidates if path[: len(base)] == base]
    if not held:
        return None
    depth, index, base = max(held)
    node = place.root.walk(base)
    assert node is not None
    return Part(index, node.indices(path[depth:]), base)


# extracting
def sample(row: int, value: object, bits: int | None, stamp: bytes | None, received_ns: int) -> Sample:
    """A sample of decoded parts. bits None: the IED gave no quality; an access error makes it invalid."""
    time_ns, time_bits = quality.time(stamp, received_ns)
    if isinstance(value, AccessError):
        cause = q.CONFIG_ERROR if value.code == NON_EXISTENT else q.FAILURE
        return Sample(row, None, q.INVALID | cause | q.RECEIPT, 0, received_ns)
    common = quality.ABSENT if bits is None else quality.COMMON[bits]
    if value is None or (isinstance(value, float) and not values.finite(value)):
        return Sample(row, None, q.worst(common, q.INVALID | q.OUT_OF_RANGE) | time_bits, bits or 0, time_ns)
    return Sample(row, value, common | time_bits, bits or 0, time_ns)  # type: ignore[arg-type]


def take(extract: Extract, structure: int | None, received_ns: int) -> Sample:
    """The sample of one point within a value of the IED."""
    quick = extract.quick
    made = quick.take(structure, received_ns) if quick is not None and structure else None
    return made or take_long(extract, structure, received_ns)


def take_long(extract: Extract, structure: int | None, received_ns: int) -> Sample:
    """The same by looking at each part, for values of any form."""
    row, value, mark, stamp, _ = extract
    follow = values.follow
    return sample(
        row,
        values.leaf(follow(structure, value)),
        values.quality_bits(follow(structure, mark)) if mark is not None else None,
        values.utc_time(follow(structure, stamp)) if stamp is not None else None,
        received_ns,
    )


def missing(row: int, received_ns: int) -> Sample:
    """The sample of a point the IED does not have."""
    return Sample(row, None, q.INVALID | q.CONFIG_ERROR | q.RECEIPT, 0, received_ns)
