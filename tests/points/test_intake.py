"""The way into the database: what is published, what is an event, and what a lost link does. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.points import quality as q
from gatewayd.points.contacts import ContactPair
from gatewayd.points.crosscheck import Derived
from gatewayd.points.database import Database
from gatewayd.points.expressions import compile_expression
from gatewayd.points.intake import Applied, Image, Intake
from gatewayd.points.types import Batch, Kind, Link, PointSpec, Sample, Value

MS = 1_000_000
NOW = 1_800_000_000_000 * MS


def spec(row: int, kind: Kind, name: str = "", device: str = "D", **more: Any) -> PointSpec:
    more.setdefault("event", kind not in (Kind.ANALOG, Kind.COUNTER))
    return PointSpec(row=row, name=name or f"P{row}", kind=kind, device=device, address="x", **more)


def sample(row: int, value: Value, quality: int = 0, at_ms: int = 0) -> Sample:
    return Sample(row, value, quality, quality & 0xFF, NOW + at_ms * MS)


def batch(*samples: Sample, reported: bool = False, device: str = "D") -> Batch:
    return Batch(device, list(samples), NOW, reported=reported)


def intake(
    specs: Sequence[PointSpec],
    *,
    pairs: Sequence[ContactPair] = (),
    derived: Sequence[tuple[int, str]] = (),
    image: dict[str, Image] | None = None,
    up: bool = True,
) -> Intake:
    names = {one.name for one in specs}
    compiled = [Derived(row, compile_expression(text, names)) for row, text in derived]
    made = Intake(Database(specs), pairs, compiled, image)
    if up:
        for device in {one.device for one in specs}:
            made.link(device, Link.UP, NOW)
    return made


def events(applied: Applied) -> list[tuple[int, Value, bool]]:
    return [(event.row, event.state.value, event.historical) for event in applied.events]


def test_a_change_is_published_once_and_an_event_of_the_point() -> None:
    points = intake([spec(0, Kind.BINARY), spec(1, Kind.ANALOG)])
    first = points.apply(batch(sample(0, True), sample(1, 5)))
    assert (first.rows, events(first), first.image) == ([0, 1], [(0, True, False)], [0])
    again = points.apply(batch(sample(0, True), sample(1, 5)))
    assert (again.rows, again.touched, again.events) == ([], [0, 1], [])


def test_points_with_events_are_old_while_the_disk_is_held_and_as_they_were_after_it() -> None:
    points = intake(
        [
            *(spec(0, Kind.BINARY), spec(1, Kind.ANALOG), spec(2, Kind.BINARY)),
            spec(3, Kind.BINARY, device="station", derived=True),
        ],
        derived=[(3, "on('P0')")],
    )
    bad = q.INVALID | q.FAILURE
    points.apply(batch(sample(0, True), sample(1, 5), sample(2, True, bad)))
    states = points.database.states
    held = points.hold("D", NOW)
    assert (sorted(held.rows), held.events, held.image) == ([0, 2, 3], [], [])
    old = q.QUESTIONABLE | q.OLD_DATA
    assert [state.quality for state in states] == [old, 0, bad | q.OLD_DATA, old]
    assert points.hold("D", NOW).rows == []
    points.apply(batch(sample(2, False)))  # learned meanwhile: the present
    released = points.release("D", NOW)
    assert (sorted(released.rows), released.events) == ([0, 3], [])
    assert [state.quality for state in states] == [0, 0, 0, 0]
    assert points.release("D", NOW).rows == []


def test_a_link_that_is_lost_while_the_disk_is_held_stays_lost() -> None:
    points = intake([spec(0, Kind.BINARY)])
    points.apply(batch(sample(0, True)))
    points.hold("D", NOW)
    points.link("D", Link.DOWN, NOW)
    assert points.release("D", NOW).rows == []
    assert points.database.states[0].quality == q.QUESTIONABLE | q.OLD_DATA | q.COMM_LOST
    points.apply(batch(sample(0, True)))
    points.link("D", Link.UP, NOW)
    assert points.database.states[0].quality == 0


def test_what_the_device_reported_is_an_event_also_where_nothing_changed() -> None:
    points = intake([spec(0, Kind.BINARY)])
    points.apply(batch(sample(0, True)))
    applied = points.apply(batch(sample(0, True, at_ms=5), sample(0, False, at_ms=6), reported=True))
    assert events(applied) == [(0, True, False), (0, False, False)]
    assert applied.events[0].state.time_ns == NOW + 5 * MS


def test_an_event_that_was_read_before_it_is_reported_is_one_event() -> None:
    points = intake([spec(0, Kind.BINARY)])
    assert events(points.apply(batch(sample(0, True, at_ms=5)))) == [(0, True, False)]
    assert points.apply(batch(sample(0, True, at_ms=5), reported=True)).events == []
    later = points.apply(batch(sample(0, True, at_ms=6), sample(0, True, q.INVALID, at_ms=6), reported=True))
    assert events(later) == [(0, True, False), (0, True, False)]  # another time, another quality
    untimed = points.apply(batch(sample(0, True, q.INVALID | q.RECEIPT, at_ms=6), reported=True))
    assert events(untimed) == [(0, True, False)]  # the gateway's own time says nothing of sameness


def test_analogs_are_state_whether_reported_or_not() -> None:
    points = intake([spec(0, Kind.ANALOG)])
    assert points.apply(batch(sample(0, 1.5), reported=True)).events == []


def test_the_deadband_holds_back_publishing_but_not_the_database() -> None:
    points = intake([spec(0, Kind.ANALOG, deadband=1.0)])
    assert points.apply(batch(sample(0, 10.0))).rows == [0]
    assert points.apply(batch(sample(0, 10.9))).rows == []
    assert points.database.states[0].value == 10.9
    assert points.apply(batch(sample(0, 11.1))).rows == [0]
    assert points.apply(batch(sample(0, 11.1, q.QUESTIONABLE | q.CHATTER))).rows == [0]


def test_a_quality_of_the_device_is_an_event_a_remark_about_the_time_is_not() -> None:
    points = intake([spec(0, Kind.BINARY)])
    points.apply(batch(sample(0, True)))
    assert points.apply(batch(sample(0, True, q.SYNC_NO | q.SUSPECT))).events == []
    assert events(points.apply(batch(sample(0, True, q.QUESTIONABLE | q.CHATTER)))) == [(0, True, False)]


def test_a_time_that_cannot_be_is_suspect_and_stays_as_the_device_said_it() -> None:
    points = intake([spec(0, Kind.BINARY)])
    for at_ms, receipt, suspect in [
        (900, False, False), (1100, False, True), (1100, True, False), (-9900, False, False), (-10_100, False, True),
    ]:  # fmt: skip
        quality = q.RECEIPT if receipt else 0
        applied = points.apply(batch(sample(0, True, quality, at_ms), reported=True))
        state = applied.events[0].state
        assert bool(state.quality & q.SUSPECT) is suspect, at_ms
        assert state.time_ns == NOW + at_ms * MS
        assert not state.quality & q.VALIDITY_MASK


def test_a_backlog_and_a_value_that_was_only_read_are_old_without_being_suspect() -> None:
    points = intake([spec(0, Kind.BINARY)], up=False)
    hour = -3_600_000
    backlog = points.apply(batch(sample(0, True, at_ms=hour), reported=True))
    assert not backlog.events[0].state.quality & q.SUSPECT
    points.link("D", Link.UP, NOW)
    read = points.apply(batch(sample(0, False, at_ms=hour)))
    assert not read.events[0].state.quality & q.SUSPECT


def test_until_the_device_is_up_the_database_keeps_what_it_has_and_the_journal_gets_all() -> None:
    points = intake([spec(0, Kind.BINARY), spec(1, Kind.ANALOG)], up=False)
    backlog = points.apply(batch(sample(0, True), sample(0, False), reported=True))
    assert events(backlog) == [(0, True, False), (0, False, False)]
    static = points.apply(batch(sample(0, True), sample(1, 7)))
    assert events(static) == [(0, True, True)]
    assert (static.rows, static.touched) == ([], [])
    assert points.database.states[0].quality & q.NOT_INITIALISED
    shown = points.link("D", Link.UP, NOW)
    assert sorted(shown.rows) == [0, 1]
    assert [state.value for state in points.database.states] == [True, 7]
    assert shown.events == []


def test_a_lost_link_marks_the_points_and_is_no_event_of_theirs() -> None:
    points = intake([spec(0, Kind.BINARY), spec(1, Kind.ANALOG)])
    points.apply(batch(sample(0, True), sample(1, 7)))
    lost = points.link("D", Link.DOWN, NOW)
    assert (sorted(lost.rows), lost.events) == ([0, 1], [])
    state = points.database.states[0]
    assert (state.value, q.validity(state.quality), q.flags(state.quality)) == (True, "questionable", ["comm-lost"])
    points.link("D", Link.CONNECTING, NOW)
    assert points.apply(batch(sample(0, True), sample(1, 7))).events == []
    assert sorted(points.link("D", Link.UP, NOW).rows) == [0, 1]
    assert state.quality == 0


def test_what_changed_while_nobody_looked_is_found_as_historical() -> None:
    stored = {"P0": Image(True, 0, 0, NOW), "P1": Image(False, 0, 0, NOW)}
    points = intake([spec(0, Kind.BINARY), spec(1, Kind.BINARY)], image=stored, up=False)
    assert events(points.apply(batch(sample(0, True), sample(1, True)))) == [(1, True, True)]


def test_after_a_start_nothing_stored_is_shown() -> None:
    points = intake([spec(0, Kind.BINARY)], image={"P0": Image(True, 0, 0, NOW)}, up=False)
    state = points.database.states[0]
    assert (state.value, state.quality) == (None, q.START)


def test_a_wrong_type_is_invalid_and_nothing_of_it_is_shown() -> None:
    points = intake([spec(0, Kind.ANALOG), spec(1, Kind.BINARY)])
    points.apply(batch(sample(0, "rubbish"), sample(1, float("nan"))))
    for state in points.database.states:
        assert (state.value, q.validity(state.quality)) == (None, "invalid")


def test_rows_of_others_are_dropped_and_counted() -> None:
    points = intake([spec(0, Kind.BINARY), spec(1, Kind.BINARY, device="E")])
    applied = points.apply(batch(sample(1, True), sample(7, True), sample(-1, True)))
    assert (applied.rows, applied.events, points.foreign_rows) == ([], [], 3)
    assert points.apply(batch(sample(0, True), device="nobody")).rows == []


def test_a_shift_serves_a_driver_that_counts_rows_as_they_were() -> None:
    points = intake([spec(0, Kind.ANALOG, device="E"), spec(1, Kind.ANALOG)])
    assert points.apply(batch(sample(0, 5)), shift=1).rows == [1]
    assert points.database.states[1].value == 5


CONTACTS = [
    spec(0, Kind.DOUBLE, "CB"),
    spec(1, Kind.BINARY, "CB#open", contact=True, event=True),
    spec(2, Kind.BINARY, "CB#closed", contact=True, event=True),
]
PAIR = ContactPair(0, 1, 2, 100)


def test_two_contacts_make_one_double_point_and_their_image_is_kept() -> None:
    points = intake(CONTACTS, pairs=[PAIR])
    first = points.apply(batch(sample(1, False), sample(2, True)))
    assert (first.rows, events(first), first.image) == ([0], [(0, "closed", False)], [1, 2, 0])
    moving = points.apply(batch(sample(2, False, at_ms=10), reported=True), mono_ns=10 * MS)
    assert (moving.rows, moving.events, moving.image) == ([], [], [2])
    assert points.deadline_ns == 110 * MS
    there = points.apply(batch(sample(1, True, at_ms=60), reported=True), mono_ns=60 * MS)
    assert events(there) == [(0, "open", False)]
    assert points.deadline_ns is None


@pytest.mark.parametrize("reported", [True, False])
def test_contacts_that_change_in_the_same_moment_show_no_end_on_the_way(reported: bool) -> None:
    """0,0 -> 1,1 at once is a fault of the contacts, and no proof that the switch was open."""
    points = intake(CONTACTS, pairs=[PAIR])
    points.apply(batch(sample(1, False), sample(2, False)))
    points.expire(1000 * MS, NOW)
    both = batch(sample(1, True, at_ms=2000), sample(2, True, at_ms=2000), reported=reported)
    applied = points.apply(both, mono_ns=2000 * MS)
    assert (applied.rows, applied.events) == ([], [])
    assert points.database.states[0].value == "intermediate"
    assert events(points.expire(2100 * MS, NOW)) == [(0, "bad", False)]
    one = batch(sample(1, False, at_ms=3000), reported=reported)
    assert events(points.apply(one, mono_ns=3000 * MS)) == [(0, "closed", False)]


def test_a_switch_between_its_ends_is_told_when_it_has_settled_there() -> None:
    points = intake(CONTACTS, pairs=[PAIR])
    points.apply(batch(sample(1, False), sample(2, True)))
    points.apply(batch(sample(2, False, at_ms=10), reported=True), mono_ns=10 * MS)
    assert points.expire(109 * MS, NOW).events == []
    stays = points.expire(110 * MS, NOW)
    assert (stays.rows, events(stays)) == ([0], [(0, "intermediate", False)])


def test_a_switch_that_settles_between_while_the_link_is_lost_does_not_become_good() -> None:
    points = intake(CONTACTS, pairs=[PAIR])
    points.apply(batch(sample(1, False), sample(2, True)))
    points.apply(batch(sample(2, False, at_ms=10), reported=True), mono_ns=10 * MS)
    points.link("D", Link.DOWN, NOW)
    assert events(points.expire(110 * MS, NOW)) == [(0, "intermediate", True)]
    state = points.database.states[0]
    assert (state.value, q.flags(state.quality)) == ("closed", ["comm-lost"])


def test_a_switch_found_moving_before_a_restart_is_told_after_it() -> None:
    before = intake(CONTACTS, pairs=[PAIR])
    before.apply(batch(sample(1, False), sample(2, True)))
    before.apply(batch(sample(2, False, at_ms=10), reported=True), mono_ns=10 * MS)
    stored = {one.name: image for one, image in zip(CONTACTS, before.image, strict=True) if image is not None}
    after = intake(CONTACTS, pairs=[PAIR], image=stored, up=False)
    found = after.apply(batch(sample(1, True, at_ms=5000), sample(2, False, at_ms=5000)))
    assert events(found) == [(0, "intermediate", True), (0, "open", True)]
    assert found.events[0].state.time_ns == NOW + 10 * MS


def test_derived_points_follow_their_inputs_through_each_other_each_once() -> None:
    specs = [
        spec(0, Kind.ANALOG, "A"),
        spec(1, Kind.ANALOG, "B"),
        spec(2, Kind.ANALOG, "SUM", device="station", derived=True),
        spec(3, Kind.BINARY, "HIGH", device="station", derived=True),
    ]
    points = intake(specs, derived=[(2, "v('A') + v('B')"), (3, "v('SUM') > 10")])
    applied = points.apply(batch(sample(0, 4), sample(1, 5)))
    assert applied.rows == [0, 1, 2, 3]
    assert events(applied) == [(3, False, False)]
    assert events(points.apply(batch(sample(1, 7)))) == [(3, True, False)]
    lost = points.link("D", Link.DOWN, NOW)
    assert (sorted(lost.rows), lost.events) == ([0, 1, 2, 3], [])
    assert q.flags(points.database.states[3].quality) == ["comm-lost"]


def test_a_new_configuration_goes_on_where_the_old_one_stood() -> None:
    old = intake(CONTACTS, pairs=[PAIR])
    old.apply(batch(sample(1, False), sample(2, True)))
    old.apply(batch(sample(2, False, at_ms=10), reported=True), mono_ns=10 * MS)
    moved = [spec(0, Kind.ANALOG, "NEW", device="E"), *(spec(one.row + 1, one.kind, one.name, contact=one.contact,
             event=True) for one in CONTACTS), spec(4, Kind.BINARY, "IN", device="station", derived=True)]  # fmt: skip
    new = intake(moved, pairs=[ContactPair(1, 2, 3, 100)], derived=[(4, "closed('CB')")], up=False)
    applied = new.adopt(old, ["D"], NOW)
    assert (new.database.states[1].value, new.database.states[1].quality) == ("closed", 0)
    assert events(applied) == [(4, True, False)]
    assert new.deadline_ns == 110 * MS
    there = new.apply(batch(sample(1, True, at_ms=60), reported=True), shift=1, mono_ns=60 * MS)
    assert (there.rows, events(there)) == ([1, 4], [(1, "open", False), (4, False, False)])


VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.integers(0, 3)
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 6), VALUES, st.integers(0, (1 << 31) - 1), st.booleans()),
            st.sampled_from([Link.UP, Link.DOWN, Link.CONNECTING]),
        ),
        max_size=40,
    )
)
def test_whatever_comes_nothing_is_better_than_it_is(steps: list[Any]) -> None:
    """Good means: up, and the device said good; and the journal's image is always the last event."""
    specs = [*CONTACTS, *(spec(3 + n, kind) for n, kind in enumerate(
        (Kind.BINARY, Kind.ANALOG, Kind.STRING, Kind.ENUM)))]  # fmt: skip
    points = intake(specs, pairs=[PAIR], up=False)
    said: dict[int, int] = {}
    up = False
    last: dict[int, Value] = {}
    clock = itertools.count(0, 40 * MS)
    for step in steps:
        if isinstance(step, Link):
            applied = points.link("D", step, NOW)
            up = step is Link.UP
        else:
            row, value, quality, reported = step
            applied = points.apply(batch(sample(row, value, quality), reported=reported), mono_ns=next(clock))
            said[row] = quality
        for event in applied.events:
            last[event.row] = event.state.value
        for event_row, value in last.items():
            image = points.image[event_row]
            assert image is not None
            assert image.value == value or image.value != image.value
        for row in (3, 4, 5, 6):
            state = points.database.states[row]
            assert state.quality & q.VALIDITY_MASK or (up and row in said and not said[row] & q.VALIDITY_MASK)
            if state.value is None:
                assert state.quality & q.VALIDITY_MASK
