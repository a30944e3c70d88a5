"""Fragments from opendnp3 to samples: its SOE handler, on opendnp3's threads.

A callback returns when what has to be on disk is there, because opendnp3 confirms the fragment after it. Measurements
alone do not hold it up: of them the newest counts, and to wake two threads costs more than to decode a fragment. One
comprehension an object header; per value only what is needed (each attribute of opendnp3's objects costs 60 to 500 ns).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import opendnp3 as dnp3

from gatewayd import clock
from gatewayd.clock import Moment
from gatewayd.points import quality as q
from gatewayd.points.types import Sample
from gatewayd.protocols.dnp3 import quality
from gatewayd.protocols.dnp3.frames import Iin
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.objects import TIMED, Lost, not_understood, without_common_time
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.route import Route

MOST_AHEAD = 16
"""Fragments of measurements on their way to the loop, past which each waits too: nothing grows without bound."""
WHOLE = float(1 << 63)
"""A float from here on stays one: as a whole number it may not fit into a message to the core."""
MS = 1_000_000
"""Nanoseconds of a millisecond, the unit of DNP3 times."""


class Part(NamedTuple):
    """Samples of one fragment that belong together: event objects, or others. eventful: they go to disk."""

    reported: bool
    samples: list[Sample]
    eventful: bool


class Fragment:
    """One fragment. The callback that made it waits, where it must, until it is let go of.

    lost:    something in it was not understood
    error:   a bug of ours: nothing of it may be confirmed
    untimed: event variations in it that carried no time
    """

    def __init__(self, at: Moment, *, unsolicited: bool) -> None:
        self.at = at
        self.unsolicited = unsolicited
        self.parts: list[Part] = []
        self.lost: Lost | None = None
        self.error: BaseException | None = None
        self.untimed: set[tuple[int, int]] = set()
        self._held = threading.Lock()
        self._held.acquire()

    @property
    def must_wait(self) -> bool:
        """Something in it must be on disk, or be told, before it is confirmed."""
        return self.lost is not None or self.error is not None or any(part.eventful for part in self.parts)

    def wait(self) -> None:
        """Block, without the GIL, until let go of."""
        self._held.acquire()

    def let_go(self) -> None:
        """The callback may return: what it brought is on disk, or the gate is closed. May be called twice."""
        with contextlib.suppress(RuntimeError):  # it was let go of before
            self._held.release()


Values = Sequence[Any]
Decode = Callable[[Values, Mapping[int, int], tuple[int, ...], int, int], list[Sample]]
"""Values of one header, row by index, quality by flag octet, bits of the time, receipt in ns (0: each has its own)."""


def _binaries(values: Values, rows: Mapping[int, int], table: tuple[int, ...], bits: int, at: int) -> list[Sample]:
    if at:
        return [
            Sample(row, (f := x.value.flags.value) > 0x7F, table[f] | bits, f, at)
            for x in values
            if (row := rows.get(x.index)) is not None
        ]
    return [
        Sample(row, (f := (v := x.value).flags.value) > 0x7F, table[f] | bits, f, v.time.value * MS)
        for x in values
        if (row := rows.get(x.index)) is not None
    ]


def _doubles(values: Values, rows: Mapping[int, int], table: tuple[int, ...], bits: int, at: int) -> list[Sample]:
    return [
        Sample(row, (f := (v := x.value).flags.value) >> 6, table[f] | bits, f, at or v.time.value * MS)
        for x in values
        if (row := rows.get(x.index)) is not None
    ]


def _numbers(values: Values, rows: Mapping[int, int], table: tuple[int, ...], bits: int, at: int) -> list[Sample]:
    if at:
        return [
            Sample(row, (v := x.value).value, table[f := v.flags.value] | bits, f, at)
            for x in values
            if (row := rows.get(x.index)) is not None
        ]
    return [
        Sample(row, (v := x.value).value, table[f := v.flags.value] | bits, f, v.time.value * MS)
        for x in values
        if (row := rows.get(x.index)) is not None
    ]


def _texts(values: Values, rows: Mapping[int, int], table: tuple[int, ...], bits: int, at: int) -> list[Sample]:
    del table
    found = [(row, x.value.ToBytes()) for x in values if (row := rows.get(x.index)) is not None]
    return [Sample(row, *text(data, bits), 0, at) for row, data in found]


def text(data: bytes, bits: int) -> tuple[str, int]:
    """An octet string and its quality: text where it is text, else its octets written out, and inconsistent."""
    trimmed = data.rstrip(b"\0")
    try:
        found = trimmed.decode()
        if found.isprintable():
            return found, quality.ABSENT | bits
    except UnicodeDecodeError:
        pass
    return trimmed.decode("ascii", "backslashreplace"), quality.NO_TEXT | bits


_DECODE: dict[type, tuple[str, Decode]] = {
    dnp3.IndexedBinary: ("BI", _binaries),
    dnp3.IndexedDoubleBitBinary: ("DBI", _doubles),
    dnp3.IndexedAnalog: ("AI", _numbers),
    dnp3.IndexedCounter: ("CT", _numbers),
    dnp3.IndexedFrozenCounter: ("FC", _numbers),
    dnp3.IndexedBinaryOutputStatus: ("BO", _binaries),
    dnp3.IndexedAnalogOutputStatus: ("AO", _numbers),
    dnp3.IndexedOctetString: ("OS", _texts),
}


class Soe(dnp3.ISOEHandler):  # type: ignore[misc]
    """The handler of one master. seen: rows that came, while they are counted (during an integrity poll)."""

    def __init__(
        self, name: str, points: PointTable, route: Route, memory: Memory, deliver: Callable[[Fragment], int]
    ) -> None:
        """deliver: hands a fragment over, which must lead to `let_go`; called on opendnp3's thread, returns how many
        have not been taken yet.
        """
        super().__init__()
        self._name = name
        self._points = points
        self._route = route
        self._memory = memory
        self._deliver = deliver
        self._raw = b""
        self._unsolicited = False
        self._fragment: Fragment | None = None
        self._headers: set[tuple[int, int]] = set()
        self.known_iin = 0
        self.seen: set[int] | None = None

    # callbacks, in this order for each fragment; OnRawAPDU even where opendnp3 does not understand it
    def OnRawAPDU(self, info: Any, data: bytes) -> None:  # noqa: N802
        """The object headers, before anything was looked at."""
        self._raw, self._unsolicited = data, info.unsolicited
        self._fragment = None
        self._headers.clear()

    def BeginFragment(self, _info: Any) -> None:  # noqa: N802
        """opendnp3 understands it."""
        self._begin()

    def Process(self, info: Any, values: Values) -> None:  # noqa: N802
        """The values of one object header."""
        fragment = self._fragment
        if fragment is None or not values:
            return
        try:
            self._process(fragment, info, values)
        except BaseException as error:
            fragment.error = error

    def EndFragment(self, _info: Any) -> None:  # noqa: N802
        """All headers have come. Returns when the events in it are on disk."""
        fragment = self._fragment
        if fragment is None:
            return
        try:
            if self._relative_left_out():
                fragment.lost = without_common_time(self._raw)
        except BaseException as error:
            fragment.error = error
        self._raw = b""
        self._hand_over(fragment)

    def rest(self, *, rejected: bool) -> None:
        """After a fragment: octets that never began one were not understood, wholly or in what was to be begun by.

        Called by the application's callbacks. rejected: opendnp3 says so; of an unsolicited response it says nothing.
        """
        raw, self._raw = self._raw, b""
        if not raw or self._fragment is not None:
            return
        fragment = self._begin()
        try:
            fragment.lost = without_common_time(raw)
            if fragment.lost is None and (rejected or self._unsolicited):
                lost = not_understood(raw)
                # an unsolicited response that was rejected is not confirmed: the outstation keeps its events
                fragment.lost = lost._replace(events=False) if lost is not None and self._unsolicited else lost
        except BaseException as error:
            fragment.error = error
        if fragment.lost is not None or fragment.error is not None:
            self._hand_over(fragment)

    # ----
    def _begin(self) -> Fragment:
        self._fragment = fragment = Fragment(clock.moment(), unsolicited=self._unsolicited)
        return fragment

    def _hand_over(self, fragment: Fragment) -> None:
        untaken = self._deliver(fragment)
        if fragment.must_wait or untaken > MOST_AHEAD:
            fragment.wait()

    def _relative_left_out(self) -> bool:
        """Relative times may be in it that opendnp3 did not give to us."""
        return any(
            bytes(header) in self._raw and header not in self._headers for header in ((2, 3), (4, 3))
        )  # rarely true, and then looked at closely

    def _process(self, fragment: Fragment, info: Any, values: Values) -> None:
        number = int(info.gv)
        group, variation = number >> 8, number & 0xFF
        self._headers.add((group, variation))
        found = _DECODE.get(type(values[0]))
        if found is None:
            self._memory.counts["other_objects"] += len(values)
            return
        kind, decode = found
        table = self._points.types[kind]
        ts_quality = int(info.tsquality)
        need_time = bool((self._route.iin | self.known_iin) & Iin.NEED_TIME)
        bits = quality.time_bits(ts_quality, need_time=need_time)
        received = fragment.at.utc_ns
        flags = quality.table(kind, group, variation)
        samples = decode(values, table.rows, flags, bits, 0 if ts_quality else received)
        if len(samples) != len(values):
            self._unknown(kind, values, table.rows)
        if ts_quality:
            samples = self._judge_times(samples, received)
        if table.whole:
            samples = [one._replace(value=whole(one.value)) if one.point in table.whole else one for one in samples]
        if self.seen is not None:
            self.seen.update(sample.point for sample in samples)
        reported = bool(info.isEventVariation)
        if reported and not ts_quality and samples and (group, variation) in TIMED:
            fragment.untimed.add((group, variation))
        if samples:
            self._append(fragment, reported, samples, table.eventful)

    def _append(self, fragment: Fragment, reported: bool, samples: list[Sample], eventful: set[int]) -> None:
        matters = bool(eventful) and any(sample.point in eventful for sample in samples)
        if fragment.parts and fragment.parts[-1].reported == reported:
            last = fragment.parts[-1]
            last.samples.extend(samples)
            fragment.parts[-1] = last._replace(eventful=last.eventful or matters)
        else:
            fragment.parts.append(Part(reported, samples, matters))

    def _judge_times(self, samples: list[Sample], received: int) -> list[Sample]:
        """The same samples; times that cannot be right are flagged, times that do not fit are the receipt's."""
        calm = self._memory.calm_ns
        times = [sample.time_ns for sample in samples]
        if not times or not (
            quality.suspect(max(times), received, calm) or quality.suspect(min(times), received, calm)
        ):
            return samples
        return [_judged(sample, received, calm) for sample in samples]

    def _unknown(self, kind: str, values: Values, rows: Mapping[int, int]) -> None:
        """Indexes that are not in the point list: counted, and said once a type."""
        unknown = [x.index for x in values if x.index not in rows]
        self._memory.counts["unknown_indexes"] += len(unknown)
        shown = ", ".join(f"{kind}:{index}" for index in unknown[:5])
        what = "the device sends points that are not in its list"
        self._memory.say_once(f"unknown {kind}", what, device=self._name, first=shown, type=kind)


def _judged(sample: Sample, received: int, calm: int | None) -> Sample:
    if not 0 <= sample.time_ns <= quality.LATEST_MS * MS:
        return sample._replace(time_ns=received, quality=sample.quality | q.RECEIPT | q.SUSPECT)
    if quality.suspect(sample.time_ns, received, calm):
        return sample._replace(quality=sample.quality | q.SUSPECT)
    return sample


def whole(value: Any) -> Any:
    """A number that an enum or a counter can take; what is none, or too large, stays, and is judged by the mapping."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE else value
