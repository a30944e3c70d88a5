"""What an outstation sends, octet by octet, as samples: types, flags, times, what is not in the list."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatewayd.points import quality as q
from gatewayd.points.types import Kind, PointSpec, Value
from gatewayd.protocols.dnp3 import quality
from gatewayd.protocols.driver import LinkLost
from tests.protocols.dnp3.outstation import (
    BAD_PARAMETER,
    NEED_TIME,
    NO_OBJECT,
    Answer,
    Function,
    Outstation,
    Request,
    indexed,
    packed,
    ranged,
    time48,
)
from tests.protocols.dnp3.support import clock_adrift, device, driving, point
from tests.protocols.watching import Watch, ended, until

NOW_MS = int(time.time() * 1000)
F32, F64 = struct.Struct("<f"), struct.Struct("<d")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def read(static: bytes | list[bytes], points: list[PointSpec], **more: Any) -> Watch:
    watch = Watch()
    async with Outstation(static=static, **more) as rtu, driving(device(rtu.port, points), watch):
        pass
    return watch


STATIC: list[tuple[str, Kind, str, Callable[[int], bytes], Value]] = [
    ("g1v2", Kind.BINARY, "BI:0", lambda f: ranged(1, 2, 0, [bytes((f,))]), None),
    ("g3v2", Kind.DOUBLE, "DBI:0", lambda f: ranged(3, 2, 0, [bytes((f,))]), None),
    ("g10v2", Kind.BINARY, "BO:0", lambda f: ranged(10, 2, 0, [bytes((f,))]), None),
    ("g20v1", Kind.COUNTER, "CT:0", lambda f: ranged(20, 1, 0, [struct.pack("<BI", f, 2**32 - 1)]), 2**32 - 1),
    ("g20v2", Kind.COUNTER, "CT:0", lambda f: ranged(20, 2, 0, [struct.pack("<BH", f, 65535)]), 65535),
    ("g21v1", Kind.COUNTER, "FC:0", lambda f: ranged(21, 1, 0, [struct.pack("<BI", f, 7)]), 7),
    ("g21v2", Kind.COUNTER, "FC:0", lambda f: ranged(21, 2, 0, [struct.pack("<BH", f, 7)]), 7),
    ("g30v1", Kind.ANALOG, "AI:0", lambda f: ranged(30, 1, 0, [struct.pack("<Bi", f, -(2**31))]), -(2.0**31)),
    ("g30v2", Kind.ANALOG, "AI:0", lambda f: ranged(30, 2, 0, [struct.pack("<Bh", f, -5)]), -5.0),
    ("g30v5", Kind.ANALOG, "AI:0", lambda f: ranged(30, 5, 0, [struct.pack("<Bf", f, 1.5)]), 1.5),
    ("g30v6", Kind.ANALOG, "AI:0", lambda f: ranged(30, 6, 0, [struct.pack("<Bd", f, 1e300)]), 1e300),
    ("g40v1", Kind.ANALOG, "AO:0", lambda f: ranged(40, 1, 0, [struct.pack("<Bi", f, 9)]), 9.0),
    ("g40v2", Kind.ANALOG, "AO:0", lambda f: ranged(40, 2, 0, [struct.pack("<Bh", f, 9)]), 9.0),
    ("g40v3", Kind.ANALOG, "AO:0", lambda f: ranged(40, 3, 0, [struct.pack("<Bf", f, 9.5)]), 9.5),
    ("g40v4", Kind.ANALOG, "AO:0", lambda f: ranged(40, 4, 0, [struct.pack("<Bd", f, 9.5)]), 9.5),
]


async def test_every_static_object_with_every_flag_octet_on_the_wire() -> None:
    """All variations in one fragment an octet; the octets go round while the driver polls."""
    types = {name: (kind, address, make, value) for name, kind, address, make, value in STATIC}
    one_of_each = {"g1v2", "g3v2", "g10v2", "g20v1", "g21v1", "g30v5", "g40v3"}
    points = [point(row, types[name][0], types[name][1]) for row, name in enumerate(sorted(one_of_each))]
    by_name = dict(zip(sorted(one_of_each), range(len(points)), strict=True))
    octets = iter(range(256))
    watch = Watch()

    def answer(request: Request) -> Answer:
        flags = next(octets, 255)
        return Answer(b"".join(types[name][2](flags) for name in sorted(one_of_each)))

    async with (
        Outstation(answers={Function.READ: answer}) as rtu,
        driving(device(rtu.port, points, event_poll_s=0.05, unsolicited=False), watch) as (driver, _),
    ):
        for _ in range(256):
            before = len(watch.samples(0))
            await driver.interrogate()
            await until(lambda: len(watch.samples(0)) > before, what="poll")  # noqa: B023
    for name, row in by_name.items():
        kind = types[name][1].partition(":")[0]
        samples = {sample.native: sample for sample in watch.samples(row)}
        assert set(samples) == set(range(256)), name
        for flags, sample in samples.items():
            assert sample.quality == quality.COMMON[kind][flags] | q.RECEIPT
            if name == "g3v2":
                assert sample.value == flags >> 6
            elif name in ("g1v2", "g10v2"):
                assert sample.value is (flags >= 0x80)
            else:
                assert sample.value == types[name][3]


@pytest.mark.parametrize("name", [name for name, *_ in STATIC])
async def test_each_static_variation(name: str) -> None:
    _, kind, address, make, value = next(one for one in STATIC if one[0] == name)
    watch = await read(make(0x81 if kind in (Kind.BINARY, Kind.DOUBLE) else 0x01), [point(0, kind, address)])
    (sample,) = watch.samples(0)
    assert sample.value == (value if value is not None else 2 if kind is Kind.DOUBLE else True)
    assert sample.quality == q.GOOD | q.RECEIPT


WITHOUT_FLAGS = [
    (Kind.DOUBLE, "DBI:1", bytes((3, 1, 0, 0, 3, 0b11_10_01_00)), 1),
    (Kind.COUNTER, "CT:0", ranged(20, 5, 0, [struct.pack("<I", 5)]), 5),
    (Kind.COUNTER, "CT:0", ranged(20, 6, 0, [struct.pack("<H", 5)]), 5),
    (Kind.COUNTER, "FC:0", ranged(21, 9, 0, [struct.pack("<I", 5)]), 5),
    (Kind.COUNTER, "FC:0", ranged(21, 10, 0, [struct.pack("<H", 5)]), 5),
    (Kind.ANALOG, "AI:0", ranged(30, 3, 0, [struct.pack("<i", -5)]), -5.0),
    (Kind.ANALOG, "AI:0", ranged(30, 4, 0, [struct.pack("<h", -5)]), -5.0),
]


@pytest.mark.parametrize(("kind", "address", "objects", "value"), WITHOUT_FLAGS)
async def test_objects_without_flags_are_questionable(kind: Kind, address: str, objects: bytes, value: Value) -> None:
    (sample,) = (await read(objects, [point(0, kind, address)])).samples(0)
    assert sample.value == value
    assert sample.quality == q.QUESTIONABLE | q.Q_ABSENT | q.RECEIPT


@pytest.mark.parametrize(("group", "address"), [(1, "BI:{}"), (10, "BO:{}")])
async def test_packed_binaries_are_good(group: int, address: str) -> None:
    states = [True, False, True, True, False, False, True, False, True]
    points = [point(row, Kind.BINARY, address.format(row + 3)) for row in range(9)]
    watch = await read(packed(group, 3, states), points)
    assert [watch.last(row).value for row in range(9)] == states  # type: ignore[union-attr]
    assert {sample.quality for row in range(9) for sample in watch.samples(row)} == {q.GOOD | q.RECEIPT}


async def test_numbers_that_are_none_and_numbers_for_whole_points() -> None:
    values = [math.nan, math.inf, -math.inf, 1e308, 7.0, 7.5, 12.0, 1e308]  # the last: no octets could carry it as int
    kinds = [Kind.ANALOG] * 4 + [Kind.ENUM, Kind.ENUM, Kind.COUNTER, Kind.COUNTER]
    points = [point(row, kind, f"AI:{row}") for row, kind in enumerate(kinds)]
    watch = await read(ranged(30, 6, 0, [struct.pack("<Bd", 1, value) for value in values]), points)
    found = [watch.last(row).value for row in range(len(values))]  # type: ignore[union-attr]
    assert isinstance(found[0], float)
    assert math.isnan(found[0])
    assert found[1:] == values[1:]
    assert [type(value) for value in found] == [float, float, float, float, int, float, int, float]


@pytest.mark.parametrize(
    ("data", "value", "more"),
    [
        (b"feeder 12", "feeder 12", 0),
        ("Kühlung\0\0".encode(), "Kühlung", 0),
        (b"\0\0", "", 0),
        (b"\xff\x01A", "\\xff\x01A", q.INCONSISTENT),
        (b"a\nb", "a\nb", q.INCONSISTENT),
    ],
)
async def test_octet_strings(data: bytes, value: str, more: int) -> None:
    objects = bytes((110, len(data), 0, 4, 4)) + data
    (sample,) = (await read(objects, [point(0, Kind.STRING, "OS:4")])).samples(0)
    assert (sample.value, sample.quality) == (value, q.QUESTIONABLE | q.Q_ABSENT | q.RECEIPT | more)


async def test_a_read_in_many_fragments_is_complete_before_up() -> None:
    static = [ranged(30, 5, at, [struct.pack("<Bf", 1, at + n) for n in range(50)]) for at in range(0, 250, 50)]
    points = [point(row, Kind.ANALOG, f"AI:{row}") for row in range(250)]
    watch = Watch()
    async with Outstation(static=static) as rtu, driving(device(rtu.port, points), watch):
        seen_before_up = {
            sample.point
            for call in watch.calls[: watch.calls.index(watch.of("device")[0])]
            for sample in call[1].samples  # type: ignore[attr-defined]
        }
    assert seen_before_up == set(range(250))
    assert all(call[0] == "state" for call in watch.calls[:5])  # no point makes events: newest wins is enough


# ---- events and their time

EVENTS: list[tuple[str, Kind, str, int, int, Callable[[bytes], bytes], Value]] = [
    ("g2v2", Kind.BINARY, "BI:3", 2, 2, lambda t: b"\x81" + t, True),
    ("g4v2", Kind.DOUBLE, "DBI:3", 4, 2, lambda t: b"\x41" + t, 1),
    ("g11v2", Kind.BINARY, "BO:3", 11, 2, lambda t: b"\x01" + t, False),
    ("g22v5", Kind.COUNTER, "CT:3", 22, 5, lambda t: struct.pack("<BI", 1, 9) + t, 9),
    ("g22v6", Kind.COUNTER, "CT:3", 22, 6, lambda t: struct.pack("<BH", 1, 9) + t, 9),
    ("g23v5", Kind.COUNTER, "FC:3", 23, 5, lambda t: struct.pack("<BI", 1, 9) + t, 9),
    ("g32v3", Kind.ANALOG, "AI:3", 32, 3, lambda t: struct.pack("<Bi", 1, -9) + t, -9.0),
    ("g32v4", Kind.ANALOG, "AI:3", 32, 4, lambda t: struct.pack("<Bh", 1, -9) + t, -9.0),
    ("g32v7", Kind.ANALOG, "AI:3", 32, 7, lambda t: struct.pack("<Bf", 1, 1.5) + t, 1.5),
    ("g32v8", Kind.ANALOG, "AI:3", 32, 8, lambda t: struct.pack("<Bd", 1, 1e300) + t, 1e300),
    ("g42v3", Kind.ANALOG, "AO:3", 42, 3, lambda t: struct.pack("<Bi", 1, -9) + t, -9.0),
    ("g42v7", Kind.ANALOG, "AO:3", 42, 7, lambda t: struct.pack("<Bf", 1, 1.5) + t, 1.5),
]
PLACE = {"BI": ranged(1, 2, 3, [b"\x01"]), "DBI": ranged(3, 2, 3, [b"\x81"]), "BO": ranged(10, 2, 3, [b"\x81"])}
PLACE |= {"CT": ranged(20, 1, 3, [bytes(5)]), "FC": ranged(21, 1, 3, [bytes(5)]), "AI": ranged(30, 1, 3, [bytes(5)])}
PLACE |= {"AO": ranged(40, 1, 3, [bytes(5)]), "OS": bytes((110, 1, 0, 3, 3)) + b"x"}


@pytest.mark.parametrize("name", [name for name, *_ in EVENTS])
async def test_each_event_with_its_own_time(name: str) -> None:
    _, kind, address, group, variation, make, value = next(one for one in EVENTS if one[0] == name)
    watch, ms = Watch(), now_ms() - 5000
    async with Outstation(static=PLACE[address.partition(":")[0]]) as rtu:
        rtu.events = [indexed(group, variation, [(3, make(time48(ms)))])]
        async with driving(device(rtu.port, [point(0, kind, address, event=True)]), watch):
            pass
    (sample,) = watch.samples(0, reported=True)
    assert (sample.value, sample.time_ns, sample.quality) == (value, ms * 1_000_000, q.GOOD)


async def test_events_come_before_the_present_values_they_came_with() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=PLACE["BI"]) as rtu:
        rtu.events = [indexed(2, 2, [(3, b"\x81" + time48(ms)), (3, b"\x01" + time48(ms + 1))])]
        async with driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")]), watch):
            assert rtu.events == []
    assert [(call[0], call[1].reported) for call in watch.calls[:2]] == [("events", True), ("events", False)]  # type: ignore[attr-defined]
    assert watch.values(0) == [True, False, False]


async def test_events_without_time_get_the_time_of_receipt() -> None:
    watch = Watch()
    async with Outstation(static=PLACE["BI"]) as rtu:
        rtu.events = [indexed(2, 1, [(3, b"\x81")])]
        began = time.time_ns()
        async with driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")]), watch):
            pass
    (sample,) = watch.samples(0, reported=True)
    assert sample.quality == q.GOOD | q.RECEIPT
    assert began <= sample.time_ns <= time.time_ns()


@pytest.mark.parametrize(("cto", "quality_bits"), [(1, 0), (2, q.SYNC_NO | q.UNSYNCHRONISED)])
async def test_relative_times_with_a_common_time(cto: int, quality_bits: int) -> None:
    watch, ms = Watch(), now_ms()
    static = PLACE["BI"] + PLACE["DBI"]
    async with Outstation(static=static) as rtu:
        rtu.events = [
            bytes((51, cto, 7, 1))
            + time48(ms)
            + indexed(2, 3, [(3, b"\x81" + struct.pack("<H", 250))])
            + indexed(4, 3, [(3, b"\x41" + struct.pack("<H", 500))])
        ]
        points = [point(0, Kind.BINARY, "BI:3"), point(1, Kind.DOUBLE, "DBI:3")]
        async with driving(device(rtu.port, points), watch):
            pass
    for row, value, later in ((0, True, 250), (1, 1, 500)):
        (sample,) = watch.samples(row, reported=True)
        assert (sample.value, sample.time_ns) == (value, (ms + later) * 1_000_000)
        assert sample.quality == q.GOOD | quality_bits


async def test_a_time_is_not_trusted_while_the_device_asks_for_one_in_that_very_response() -> None:
    """opendnp3 tells the indications after the values; the driver knows them before."""
    watch, ms = Watch(), now_ms()
    points = [point(0, Kind.BINARY, "BI:3")]
    async with Outstation(static=PLACE["BI"]) as rtu, driving(device(rtu.port, points), watch, clock=clock_adrift):
        for iin, at in ((0, ms), (NEED_TIME, ms + 1)):
            rtu.unsolicited(indexed(2, 2, [(3, b"\x81" + time48(at))]), iin=iin)
            await until(lambda: any(one.time_ns == at * 1_000_000 for one in watch.samples(0)), what="event")  # noqa: B023
    by_time = {sample.time_ns: sample.quality for sample in watch.samples(0, reported=True)}
    assert by_time == {ms * 1_000_000: q.GOOD, (ms + 1) * 1_000_000: q.GOOD | q.SYNC_NO | q.UNSYNCHRONISED}


async def test_suspect_times() -> None:
    watch, ms = Watch(), now_ms()
    times = {ms + 60_000: True, ms: False, ms - 60_000: True, 0: True, 2**48 - 1: True}
    async with Outstation(static=PLACE["BI"]) as rtu, driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")]), watch):
        for at in times:
            rtu.unsolicited(indexed(2, 2, [(3, b"\x81" + time48(at))]))
        await until(lambda: len(watch.samples(0, reported=True)) == len(times), what="events")
    for (at, suspect), sample in zip(times.items(), watch.samples(0, reported=True), strict=True):
        assert bool(sample.quality & q.SUSPECT) is suspect, at
        assert not sample.quality & q.VALIDITY_MASK
        if at == 2**48 - 1:  # more ns than 64 bits can hold
            assert sample.quality & q.RECEIPT
        else:
            assert sample.time_ns == at * 1_000_000


async def test_what_gathered_while_the_device_was_away_is_not_suspect() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=PLACE["BI"]) as rtu:
        made = device(rtu.port, [point(0, Kind.BINARY, "BI:3")])
        async with driving(made, watch) as (driver, task):
            await until(lambda: driver._memory.calm_ns, what="contact")
            rtu.hang_up()
            await ended(task)
        driver._memory.calm_ns = (ms - 3_600_000) * 1_000_000  # it was away for an hour
        rtu.events = [indexed(2, 2, [(3, b"\x81" + time48(ms - 1_800_000))]) for _ in range(1)]
        rtu.events += [indexed(2, 2, [(3, b"\x01" + time48(ms - 1_700_000))])]
        async with driving(driver, watch):
            await until(lambda: not rtu.events, what="backlog")
    assert [sample.quality & q.SUSPECT for sample in watch.samples(0, reported=True)] == [0, 0]


# ---- asking for event times


async def test_events_without_time_are_asked_for_with_time() -> None:
    watch, ms = Watch(), now_ms()
    async with Outstation(static=PLACE["BI"]) as rtu:
        rtu.events = [indexed(2, 1, [(3, b"\x81")])]

        def answer(request: Request) -> Any:
            if request.objects.startswith(bytes((2, 2, 6))) and len(rtu.events) == 0:
                return rtu.read(request)
            return rtu.read(request)

        rtu.answers[Function.READ] = answer
        async with driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")], unsolicited=False), watch):
            await until(lambda: any(r.objects[:3] == bytes((2, 2, 6)) for r in rtu.requests), what="request")
            rtu.events = [indexed(2, 2, [(3, b"\x01" + time48(ms))])]
            await until(lambda: len(watch.samples(0, reported=True)) == 2, what="event")
        asked = next(r for r in rtu.requests if r.objects[:3] == bytes((2, 2, 6)))
        assert asked.objects == bytes((2, 2, 6, 60, 2, 6, 60, 3, 6, 60, 4, 6))  # nothing is left out
    assert watch.samples(0, reported=True)[1].time_ns == ms * 1_000_000


async def test_a_device_without_such_variations_is_read_by_class() -> None:
    watch = Watch()
    async with Outstation(static=PLACE["BI"]) as rtu:
        rtu.events = [indexed(2, 1, [(3, b"\x81")])]

        def answer(request: Request) -> Any:
            if request.objects[:3] == bytes((2, 2, 6)):
                return Answer(iin=NO_OBJECT)
            return rtu.read(request)

        rtu.answers[Function.READ] = answer
        async with driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")], unsolicited=False), watch):
            await until(lambda: any(r.objects[:3] == bytes((2, 2, 6)) for r in rtu.requests), what="request")
            rtu.events = [indexed(2, 1, [(3, b"\x01")])]
            await until(lambda: len(watch.samples(0, reported=True)) == 2, what="event")
        assert sum(r.objects[:3] == bytes((2, 2, 6)) for r in rtu.requests) == 1


async def test_the_option_can_be_switched_off() -> None:
    watch = Watch()
    async with Outstation(static=PLACE["BI"]) as rtu:
        rtu.events = [indexed(2, 1, [(3, b"\x81")])]
        options = {"unsolicited": False, "event_times": False, "event_poll_s": 0.05}
        async with driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")], **options), watch):
            await until(lambda: rtu.count(Function.READ) > 4, what="polls")
        assert not any(r.objects[:3] == bytes((2, 2, 6)) for r in rtu.requests)


# ---- what is not in the list, not in class 0, not there at all


async def test_points_that_are_not_in_the_list_are_counted() -> None:
    watch = Watch()
    async with (
        Outstation(static=ranged(1, 2, 0, [b"\x81"] * 5) + ranged(30, 5, 9, [bytes(5)])) as rtu,
        driving(device(rtu.port, [point(0, Kind.BINARY, "BI:2")]), watch) as (driver, _),
    ):
        assert driver.counters()["unknown_indexes"] == 5
        assert driver.counters()["values"] == 1
    assert [sample.point for batch in watch.batches for sample in batch.samples] == [0]


async def test_types_that_are_not_in_class_0_are_read_by_type() -> None:
    watch = Watch()
    points = [point(0, Kind.BINARY, "BI:3"), point(1, Kind.STRING, "OS:3"), point(2, Kind.COUNTER, "FC:3")]
    async with Outstation(static=PLACE["BI"]) as rtu:
        rtu.extra = {bytes((110, 0, 6)): PLACE["OS"], bytes((21, 0, 6)): PLACE["FC"]}
        async with driving(device(rtu.port, points, unsolicited=False), watch) as (driver, _):
            assert {sample.point for batch in watch.batches for sample in batch.samples} == {0, 1, 2}
            rtu.extra[bytes((110, 0, 6))] = bytes((110, 1, 0, 3, 3)) + b"y"
            await driver.interrogate()
            await until(lambda: watch.values(1) == ["x", "y"], what="the next integrity poll")


async def test_points_the_device_does_not_have_do_not_hold_up_the_others() -> None:
    watch = Watch()
    points = [point(0, Kind.BINARY, "BI:3"), point(1, Kind.BINARY, "BI:77"), point(2, Kind.STRING, "OS:1")]
    async with Outstation(static=PLACE["BI"]) as rtu, driving(device(rtu.port, points), watch) as (driver, _):
        assert driver.counters()["failed_requests"] == 2  # asked for by type, in vain
        assert watch.samples(1) == watch.samples(2) == []


async def test_a_device_with_none_of_the_points_is_not_up() -> None:
    watch = Watch()
    async with (
        Outstation(static=PLACE["BI"]) as rtu,
        driving(device(rtu.port, [point(0, Kind.ANALOG, "AI:0")]), watch, wait=False) as (_, task),
    ):
        error = await ended(task)
    assert isinstance(error, LinkLost)
    assert str(error) == "the outstation has none of the points of the list, such as AI:0 (P0)"
    assert watch.ups == 0


@pytest.mark.parametrize("how", ["refused", "not understood"])
async def test_where_class_0_cannot_be_read_each_type_is(how: str) -> None:
    watch = Watch()
    points = [point(0, Kind.BINARY, "BI:3"), point(1, Kind.ANALOG, "AI:3")]
    async with Outstation() as rtu:
        rtu.extra = {bytes((1, 0, 6)): PLACE["BI"], bytes((30, 0, 6)): PLACE["AI"]}

        def answer(request: Request) -> Any:
            if request.class0:
                return Answer(iin=BAD_PARAMETER) if how == "refused" else Answer(bytes((222, 1, 0, 0, 0, 1)))
            return rtu.read(request)

        rtu.answers[Function.READ] = answer
        async with driving(device(rtu.port, points, unsolicited=False), watch) as (driver, _):
            assert {sample.point for batch in watch.batches for sample in batch.samples} == {0, 1}
            await driver.interrogate()
            await until(lambda: len(watch.samples(0)) > 1, what="the next integrity poll")
            assert sum(r.class0 for r in rtu.requests) == 2  # tried twice, then never again


async def test_other_objects_are_counted_and_do_no_harm() -> None:
    objects = bytes((50, 1, 7, 1)) + time48(5) + indexed(13, 1, [(0, b"\x00")]) + PLACE["BI"]
    watch = Watch()
    async with (
        Outstation(static=objects) as rtu,
        driving(device(rtu.port, [point(0, Kind.BINARY, "BI:3")]), watch) as (driver, _),
    ):
        assert driver.counters()["other_objects"] == 2
    assert watch.values(0) == [False]
