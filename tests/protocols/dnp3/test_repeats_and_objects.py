from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py1815 import objects as reference

from gatewayd.points import quality as q
from gatewayd.points.types import Sample
from gatewayd.protocols.dnp3 import repeats
from gatewayd.protocols.dnp3.objects import TIMED, not_understood, walk, without_common_time
from tests.protocols.dnp3.outstation import indexed, packed, ranged, time48

CODES = {row: 100 + row for row in range(10)}


def event(row: int, value: float | bool, time_ns: int = 5, quality: int = 0) -> Sample:
    return Sample(row, value, quality, 1, time_ns)


OLD = [event(0, True, 1), event(1, 2.5, 2)]


def known(samples: list[Sample], last: repeats.Mark | None, codes: dict[int, int], *, fresh: bool) -> int:
    return repeats.known(samples, repeats.mark(samples, codes), last, codes, fresh=fresh)


def test_a_mark_goes_through_a_cursor() -> None:
    mark = repeats.mark(OLD, CODES)
    assert mark.events == 2
    facts = repeats.facts([*OLD, event(2, "text", 9, q.RECEIPT), event(3, None, 7)], CODES)  # type: ignore[arg-type]
    assert repeats.decode(repeats.encode(mark, facts).data) == (mark, facts)
    assert repeats.encode(mark, facts).left_out == 0
    assert repeats.decode(repeats.encode(mark, facts).data[:20]) == (mark, [])  # of a version before


def test_a_cursor_is_bounded_and_says_what_it_leaves_out() -> None:
    mark = repeats.mark(OLD, CODES)
    many = [(7, True, 1, at) for at in range(repeats.MOST_KEPT + 3)]
    kept = repeats.encode(mark, many)
    assert kept.left_out == 3
    assert repeats.decode(kept.data) == (mark, many[3:])
    assert len(kept.data) <= repeats.MOST_KEPT_OCTETS
    long = repeats.encode(mark, [(7, "x" * 1000, 1, at) for at in range(40)])
    assert long.left_out == 40
    assert repeats.decode(long.data) == (mark, [])


@pytest.mark.parametrize("data", [b"", b"x" * 19, b"x" * 21, b"x" * 60])
def test_a_cursor_that_is_none_of_ours(data: bytes) -> None:
    assert repeats.decode(data) == (None, [])


def test_the_same_events_again() -> None:
    mark = repeats.mark(OLD, CODES)
    assert known(OLD, mark, CODES, fresh=False) == 2
    assert known(OLD, mark, CODES, fresh=True) == 2


def test_after_a_reconnect_new_events_may_follow_the_old_ones() -> None:
    mark = repeats.mark(OLD, CODES)
    more = [*OLD, event(0, False, 3)]
    assert known(more, mark, CODES, fresh=True) == 2
    assert known(more, mark, CODES, fresh=False) == 0


@pytest.mark.parametrize(
    "others",
    [
        [event(0, True, 1)],
        [event(0, False, 1), event(1, 2.5, 2)],
        [event(0, True, 1), event(1, 2.5, 3)],
        [event(2, True, 1), event(1, 2.5, 2)],
        [event(1, 2.5, 2), event(0, True, 1)],
        [Sample(0, True, 0, 3, 1), event(1, 2.5, 2)],
        [],
    ],
)
def test_other_events_are_others(others: list[Sample]) -> None:
    assert known(others, repeats.mark(OLD, CODES), CODES, fresh=True) == 0


def test_nothing_is_known_without_a_mark() -> None:
    assert known(OLD, None, CODES, fresh=True) == 0
    assert known(OLD, repeats.mark([], CODES), CODES, fresh=True) == 0


def test_the_time_of_receipt_and_what_is_thought_of_a_time_make_no_difference() -> None:
    first = [event(0, True, 111, q.RECEIPT), event(1, 5.0, 2)]
    again = [event(0, True, 222, q.RECEIPT), event(1, 5.0, 2, q.SYNC_NO | q.SUSPECT)]
    assert repeats.mark(first, CODES) == repeats.mark(again, CODES)


def test_a_new_numbering_of_the_points_makes_no_difference() -> None:
    moved = [sample._replace(point=sample.point + 5) for sample in OLD]
    assert repeats.mark(moved, {row + 5: code for row, code in CODES.items()}) == repeats.mark(OLD, CODES)


def test_timed() -> None:
    assert repeats.timed(OLD)
    assert repeats.timed([])
    assert not repeats.timed([*OLD, event(0, True, 1, q.RECEIPT)])


def sift(
    samples: list[Sample], stored: list[Sample], perhaps: list[Sample] | None = None, *, anywhere: bool = False
) -> tuple[list[Sample], int] | None:
    facts = [repeats.facts(some, CODES) for some in (samples, stored, perhaps or [])]
    sifted = repeats.sift(samples, *facts, facts[1] if anywhere else ())
    if sifted is None:
        return None
    assert sifted.left == repeats.facts(sifted.samples, CODES)
    return sifted.samples, sifted.doubtful


A, B, C, D = event(0, True, 1), event(1, 2.5, 2), event(0, False, 3), event(1, 3.5, 4)


def test_events_packed_otherwise_are_known_one_by_one() -> None:
    assert sift([A, B, C], [A, B]) == ([C], 0)  # newer ones behind them
    assert sift([B, C, D], [A, B]) == ([C, D], 0)  # the oldest lost in an overflow
    assert sift([A], [A, B]) == ([], 0)  # a smaller fragment
    assert sift([A, C, B], [A, B]) == ([C], 0)  # by classes
    assert sift([C, D], [A, B]) is None
    assert sift([], [A, B]) is None


def test_events_that_may_be_on_disk_are_delivered_and_told() -> None:
    assert sift([A, C, B, D], [], [A, B]) == ([A, C, B, D], 3)
    assert sift([A, B, C], [A], [B]) == ([B, C], 1)


def test_a_contact_that_is_closed_twice_in_one_millisecond_is_no_repeat() -> None:
    opened = event(0, False, 1)
    assert sift([opened, A], [A]) is None
    assert sift([A, opened, A], [A], anywhere=True) == ([opened, A], 0)


def test_after_a_restart_of_ours_they_are_known_wherever_they_stand() -> None:
    assert sift([D, A, C, B], [A, B], anywhere=True) == ([D, C], 0)
    assert sift([C, D], [A, B], anywhere=True) is None
    untimed = event(0, True, 9, q.RECEIPT)
    assert sift([untimed, A, C], [A, untimed], anywhere=True) == ([untimed, C], 1)


def test_what_has_come_again_once_does_not_come_again() -> None:
    """A point without time that toggles must not be taken for a repeat for ever."""
    on, off = event(0, True, 9, q.RECEIPT), event(0, False, 9, q.RECEIPT)
    known = repeats.facts([on, A], CODES)
    marked = []
    recalled = known
    for sample in (off, on, off, on, on):
        sifted = repeats.sift([sample, B], repeats.facts([sample, B], CODES), known, [], recalled)
        marked.append(sifted is not None and sifted.doubtful > 0)
        recalled = [] if sifted is None else sifted.recalled
    assert marked == [False, False, False, False, False]  # the first fragment had none of them: nothing comes again
    sifted = repeats.sift([on], repeats.facts([on], CODES), known, [], known)
    assert sifted is not None
    assert (sifted.doubtful, sifted.recalled) == (1, repeats.facts([A], CODES))
    assert repeats.sift([on], repeats.facts([on], CODES), known, [], sifted.recalled) is None


def test_events_without_time_are_never_left_out() -> None:
    untimed = event(0, True, 9, q.RECEIPT)
    assert sift([untimed, A], [untimed, A]) is None
    assert sift([A, untimed], [untimed, A]) == ([untimed], 0)


# ---- objects

STATIC = ranged(1, 2, 0, [b"\x81"]) + packed(1, 5, [True] * 9) + ranged(30, 5, 0, [bytes(5)] * 3)
EVENTS = indexed(2, 2, [(3, b"\x81" + time48(1))]) + indexed(32, 7, [(1, bytes(11)), (2, bytes(11))])


def test_headers_are_walked() -> None:
    found = [(header.group, header.variation, header.objects) for header in walk(STATIC + EVENTS)]
    assert found == [(1, 2, 1), (1, 1, 9), (30, 5, 3), (2, 2, 1), (32, 7, 2)]
    assert sum(header.size or 0 for header in walk(STATIC + EVENTS)) == len(STATIC + EVENTS)


def test_sizes_agree_with_another_library() -> None:
    point, counter = reference.AnalogPoint(1.0), reference.CounterPoint(1)
    built = [
        reference.analog_range(0, [point] * 3),
        reference.binary_range(2, [reference.BinaryPoint(True)] * 5),
        reference.counter_range(1, [counter] * 4),
    ]
    assert [header.size for data in built for header in walk(data)] == [len(data) for data in built]


@pytest.mark.parametrize(
    ("data", "what", "events"),
    [
        (STATIC + indexed(222, 1, [(0, b"x")]), "object g222v1 (qualifier 0x28)", True),
        (bytes((1, 2, 0x5B, 1, 0)), "object g1v2 (qualifier 0x5B)", True),
        (bytes((30, 5, 0, 9, 3)), "object g30v5 (qualifier 0x00)", True),
        (EVENTS[:-1], "object g32v7 (qualifier 0x28)", True),
        (b"\x02", "object g2v0 (qualifier 0x00)", True),
        (STATIC, "objects g1v2 (qualifier 0x00), g1v1 (qualifier 0x00), g30v5 (qualifier 0x00)", False),
        (STATIC + EVENTS, None, True),
    ],
)
def test_what_was_not_understood(data: bytes, what: str | None, events: bool) -> None:
    lost = not_understood(data)
    assert lost is not None
    assert lost.events is events
    if what is not None:
        assert lost.what == what


def test_times_alone_are_nothing_to_understand() -> None:
    assert not_understood(bytes((51, 1, 7, 1)) + time48(1)) is None
    assert not_understood(bytes((52, 2, 7, 1, 0, 0))) is None


RELATIVE = indexed(2, 3, [(3, b"\x81" + struct.pack("<H", 7))])
COMMON = bytes((51, 1, 7, 1)) + time48(1)


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        (RELATIVE, True),
        (COMMON + RELATIVE, False),
        (COMMON + EVENTS + RELATIVE, False),
        (EVENTS + RELATIVE + COMMON, True),
        (bytes((51, 1, 7, 0)) + RELATIVE, True),
        (EVENTS, False),
        (indexed(4, 3, [(0, bytes(3))]), True),
        (indexed(2, 3, []), False),
    ],
)
def test_relative_times_without_a_common_one(data: bytes, lost: bool) -> None:
    found = without_common_time(data)
    assert (found is not None) is lost
    if found is not None:
        assert found.events


@given(st.binary(max_size=200))
def test_any_octets_are_walked(data: bytes) -> None:
    headers = list(walk(data))
    assert sum(header.size or 0 for header in headers) <= len(data)
    not_understood(data)
    without_common_time(data)


def test_variations_with_time_keep_the_number_format() -> None:
    assert TIMED[2, 1] == (2, 2)
    assert TIMED[32, 1] == (32, 3)
    assert TIMED[32, 5] == (32, 7)
    assert TIMED[22, 2] == (22, 6)
    assert (2, 2) not in TIMED
