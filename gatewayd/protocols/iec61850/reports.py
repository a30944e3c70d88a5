"""Report control blocks: reading a report, and turning it into samples.

The report is decoded here from the access results as they came (8-1 table "report format"), not by the library's
report client: that one keeps the old value of a member where a new one does not fit, and cannot tell.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any, NamedTuple

from gatewayd.points.types import Sample
from gatewayd.protocols.iec61850 import mapping, quick, values
from gatewayd.protocols.iec61850.address import BlockName
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.mapping import DataSetMap, Part, Split
from gatewayd.protocols.iec61850.quick import Octets

LONGEST_ENTRY_ID = 64
_element = native.MmsValue_getElement


class OptFlds(IntFlag):
    """What a report says of itself; bit 0 of the wire is bit 0 (reserved)."""

    SEQUENCE = 1 << 1
    TIME = 1 << 2
    REASON = 1 << 3
    DATA_SET = 1 << 4
    DATA_REFERENCE = 1 << 5
    OVERFLOW = 1 << 6
    ENTRY_ID = 1 << 7
    CONF_REV = 1 << 8
    SEGMENTATION = 1 << 9


class Trigger(IntFlag):
    """TrgOps and reasons for inclusion; bit 0 of the wire is bit 0 (reserved)."""

    DATA_CHANGE = 1 << 1
    QUALITY_CHANGE = 1 << 2
    DATA_UPDATE = 1 << 3
    INTEGRITY = 1 << 4
    INTERROGATION = 1 << 5


REASON_BITS = 6
_INTERROGATION = int(Trigger.INTERROGATION)
CHANGED = int(Trigger.DATA_CHANGE | Trigger.QUALITY_CHANGE | Trigger.DATA_UPDATE)


class MalformedReportError(Exception):
    """A report that is not what 8-1 says."""


class Report(NamedTuple):
    """One report, or one segment.

    elements: of each member that is there its index, where it stands in `octets`, and the reason (0: none given)
    first:    position of the first member's value among the report's fields, for its MmsValue*
    """

    rpt_id: str
    sequence: int | None
    sub_sequence: int
    more: bool
    entry_id: bytes
    overflow: bool
    conf_rev: int | None
    data_set: str
    size: int
    elements: list[tuple[int, int, int]]
    octets: Octets
    values: int
    first: int

    def pointer(self, position: int) -> int | None:
        """The MmsValue* of the element at a position of `elements`."""
        found = _element(self.values, self.first + position)
        return int(found) if found else None


def rpt_id_of(report: int) -> str:
    """The RptID, to find the block by. Raises MalformedReportError."""
    first = _element(report, 0)
    if not first or native.MmsValue_getType(first) != values.VISIBLE_STRING:
        raise MalformedReportError("no RptID")
    return str(values.leaf(first))


def parse(report: int, size: int) -> Report:
    """Read a report of a data set of `size` members. Raises MalformedReportError."""
    fields = _Fields(report)
    rpt_id = fields.take(str, "RptID")
    flags = fields.take(values.Bits, "OptFlds").value
    sequence = fields.take(int, "SqNum") if flags & OptFlds.SEQUENCE else None
    if flags & OptFlds.TIME:
        fields.skip()
    data_set = fields.take(str, "DatSet") if flags & OptFlds.DATA_SET else ""
    overflow = fields.take(bool, "BufOvfl") if flags & OptFlds.OVERFLOW else False
    entry_id = fields.take(bytes, "EntryID") if flags & OptFlds.ENTRY_ID else b""
    conf_rev = fields.take(int, "ConfRev") if flags & OptFlds.CONF_REV else None
    sub_sequence, more = 0, False
    if flags & OptFlds.SEGMENTATION:
        sub_sequence, more = fields.take(int, "SubSqNum"), fields.take(bool, "MoreSegmentsFollow")
    if len(entry_id) > LONGEST_ENTRY_ID:
        raise MalformedReportError(f"EntryID of {len(entry_id)} octets")
    included = fields.inclusion(size)
    if flags & OptFlds.DATA_REFERENCE:
        fields.skip(len(included))
    first = fields.at
    octets = _encoded(report)
    try:
        places, at = _places(octets, first, len(included))
        reasons = _reasons(octets, at, len(included)) if flags & OptFlds.REASON else [0] * len(included)
    except IndexError:
        raise MalformedReportError("values or reasons are missing") from None
    elements = list(zip(included, places, reasons, strict=True))
    return Report(
        rpt_id,
        sequence,
        sub_sequence,
        more,
        entry_id,
        overflow,
        conf_rev,
        data_set,
        size,
        elements,
        octets,
        report,
        first,
    )


def _encoded(value: int) -> Octets:
    """All elements of a report or data set, encoded.

    Raises MalformedReportError where the library could not decode one of them: it leaves a hole there, and its own
    encoder would crash the process on that (1.6.1).
    """
    if not quick.complete(value):
        raise MalformedReportError("an element could not be decoded")
    return quick.encode(value)


def _places(octets: Octets, first: int, count: int) -> tuple[list[int], int]:
    """Where each value begins, and where the reasons do."""
    at = octets.inside(0)
    for _ in range(first):
        at = _next(octets, at)
    places = []
    for _ in range(count):
        places.append(at)
        at = _next(octets, at)
    return places, at


def _next(octets: Octets, at: int) -> int:
    if at >= octets.size:
        raise IndexError(at)
    return octets.next(at)


def _reasons(octets: Octets, at: int, count: int) -> list[int]:
    reasons = []
    for _ in range(count):
        reason = octets.bit_string(at, REASON_BITS) if at < octets.size else None
        if reason is None:
            reason = _long_reason(octets, at)
        reasons.append(reason)
        at = _next(octets, at)
    return reasons


def _long_reason(octets: Octets, at: int) -> int:
    """A reason of another size than 8-1 gives it (edition 1 and others): up to 7 bits in one octet."""
    for size in range(1, 9):
        if at < octets.size and (reason := octets.bit_string(at, size)) is not None:
            return reason
    raise MalformedReportError("no reason for inclusion")


class _Fields:
    """The access results of a report, one after the other."""

    def __init__(self, report: int) -> None:
        self._report = report
        self.at = 0

    def skip(self, count: int = 1) -> None:
        self.at += count

    def pointer(self, what: str) -> int:
        element = _element(self._report, self.at)
        if not element:
            raise MalformedReportError(f"{what} is missing")
        self.at += 1
        return int(element)

    def take(self, kind: type[Any], what: str) -> Any:
        value = values.whole(self.pointer(what))
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MalformedReportError(f"{what} is {value!r}")
        return value

    def inclusion(self, size: int) -> list[int]:
        pointer = self.pointer("the inclusion bit string")
        if native.MmsValue_getType(pointer) != values.BIT_STRING:
            raise MalformedReportError("no inclusion bit string")
        found = native.MmsValue_getBitStringSize(pointer)
        if found != size:
            raise MalformedReportError(f"a data set of {found} members; its directory has {size}")
        if native.MmsValue_getNumberOfSetBits(pointer) == size:
            return list(range(size))
        is_set = native.MmsValue_getBitStringBit
        return [index for index in range(size) if is_set(pointer, index)]


class Assembled(NamedTuple):
    """A whole report as samples: what the IED reported as changes, and what it only repeats (GI, integrity)."""

    changed: list[Sample]
    static: list[Sample]
    entry_id: bytes
    overflow: bool
    interrogated: bool
    conf_rev: int | None
    segments: int


class Assembler:
    """Puts the segments of a block's reports together and remembers the parts of points spread over members."""

    def __init__(self, name: BlockName, map_: DataSetMap) -> None:
        self.name = name
        self.map = map_
        self.broken_segments = 0
        self._changed: list[Sample] = []
        self._static: list[Sample] = []
        self._next: tuple[int | None, int] | None = None
        self._members = 0
        self._interrogated = self._overflow = False
        self._values: dict[Part, Any] = {}
        self._qualities: dict[Part, int | None] = {}

    def add(self, report: Report, received_ns: int) -> Assembled | None:
        """The whole report once its last segment is here, else None.

        Raises MalformedReportError where its segments bring more members than the data set has: one that never ended
        would be gathered for ever.
        """
        here = (report.sequence, report.sub_sequence)
        if report.sub_sequence == 0 or here != self._next:
            if self._next is not None or report.sub_sequence:
                self.broken_segments += 1
            self._begin()
        self._members += len(report.elements)
        if self._members > self.map.size:
            self._begin()
            raise MalformedReportError(f"segments with more than the {self.map.size} members of the data set")
        self._take(report, received_ns)
        self._overflow = self._overflow or report.overflow
        if report.more:
            self._next = (report.sequence, report.sub_sequence + 1)
            return None
        whole = Assembled(
            self._changed, self._static, report.entry_id, self._overflow, self._interrogated,
            report.conf_rev, report.sub_sequence + 1,
        )  # fmt: skip
        self._begin()
        return whole

    def _begin(self) -> None:
        self._changed, self._static, self._next = [], [], None
        self._members = 0
        self._interrogated = self._overflow = False

    def _take(self, report: Report, received_ns: int) -> None:
        members = self.map.whole
        octets = report.octets
        here: dict[int, tuple[int | None, int]] = {}
        for position, (index, place, reason) in enumerate(report.elements):
            if reason & _INTERROGATION:
                self._interrogated = True
            into = self._changed if reason & CHANGED else self._static
            for extract in members[index]:
                short = extract.quick
                made = short.at(octets, place, received_ns) if short is not None else None
                into.append(made or mapping.take_long(extract, report.pointer(position), received_ns))
            if self.map.split:
                here[index] = (report.pointer(position), reason)
        for spread in self.map.split:
            self._take_split(spread, here, received_ns)

    def _take_split(self, spread: Split, here: dict[int, tuple[int | None, int]], received_ns: int) -> None:
        """A point whose parts are members of their own: what did not come with it is as it was, except the time."""
        value, mark, stamp = spread.value, spread.quality, spread.stamp
        reasons = 0
        if value.member in here:
            pointer, reason = here[value.member]
            reasons |= reason or int(Trigger.INTEGRITY)
            self._values[value] = values.leaf(values.follow(pointer, value.path))
        if mark is not None and mark.member in here:
            pointer, reason = here[mark.member]
            reasons |= reason or int(Trigger.INTEGRITY)
            self._qualities[mark] = values.quality_bits(values.follow(pointer, mark.path))
        if not reasons or value not in self._values:
            return
        octets = None
        if stamp is not None and stamp.member in here:
            octets = values.utc_time(values.follow(here[stamp.member][0], stamp.path))
        bits = self._qualities.get(mark) if mark is not None else None
        made = mapping.sample(spread.row, self._values[value], bits, octets, received_ns)
        (self._changed if reasons & CHANGED else self._static).append(made)

    def read(self, data_set: int, received_ns: int) -> list[Sample]:
        """The samples of a data set that was read (an array of its members' values)."""
        count = native.MmsValue_getArraySize(data_set)
        if count != self.map.size:
            raise MalformedReportError(f"a data set of {count} members; its directory has {self.map.size}")
        octets = _encoded(data_set)
        places, _ = _places(octets, 0, count)
        elements = [(i, place, int(Trigger.INTEGRITY)) for i, place in enumerate(places)]
        read = Report("", None, 0, False, b"", False, None, "", count, elements, octets, data_set, 0)
        self._take(read, received_ns)
        static, self._static = self._static, []
        return static
