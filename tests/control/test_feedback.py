from __future__ import annotations

import pytest

from gatewayd.control.feedback import Finding, Goal, Mode, Sighting, Watch, at, goal, known, look
from gatewayd.points import quality as q
from gatewayd.points.types import Kind, PointSpec, Value

S = 1_000_000_000


def spec(kind: Kind, **more: object) -> PointSpec:
    return PointSpec(row=0, name="P", kind=kind, device="D", address="", feedback="P", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("commanded", "shown", "raw", "value", "mode", "target"),
    [
        (Kind.DOUBLE, Kind.DOUBLE, True, "closed", Mode.POSITION, "closed"),
        (Kind.DOUBLE, Kind.BINARY, False, "open", Mode.POSITION, False),
        (Kind.BINARY, Kind.DOUBLE, True, True, Mode.POSITION, "closed"),
        (Kind.BINARY, Kind.ENUM, True, True, Mode.POSITION, "night"),
        (Kind.BINARY, Kind.ANALOG, False, False, Mode.POSITION, 0),
        (Kind.ANALOG, Kind.ANALOG, 1234, 12.34, Mode.VALUE, 12.34),
        (Kind.COUNTER, Kind.COUNTER, 5, 5, Mode.VALUE, 5),
        (Kind.ENUM, Kind.ENUM, 1, "day?", Mode.VALUE, "night"),
        (Kind.ENUM, Kind.ANALOG, 1, "day?", Mode.VALUE, 1),
        (Kind.STRING, Kind.STRING, "x", "x", Mode.VALUE, "x"),
        (Kind.COUNTER, Kind.COUNTER, True, "raise", Mode.STEP, True),
        (Kind.ANALOG, Kind.ANALOG, False, "lower", Mode.STEP, False),
    ],
)
def test_what_proves_a_command(
    commanded: Kind, shown: Kind, raw: Value, value: Value, mode: Mode, target: Value
) -> None:
    found = goal(spec(commanded), spec(shown, states={0: "day", 1: "night"}), raw, value)
    assert found is not None
    assert (found.mode, found.target) == (mode, target)
    assert type(found.target) is type(target)
    assert goal(spec(commanded), None, raw, value) is None


def test_a_target_is_met_within_its_tolerance_and_never_by_another_type() -> None:
    near = Goal(feedback="P", mode=Mode.VALUE, target=100.0, tolerance=0.5)
    assert [at(near, value) for value in (99.5, 100.5, 99.4, 100)] == [True, True, False, True]
    exact = Goal(feedback="P", mode=Mode.VALUE, target=12.3)
    assert at(exact, 12.300000190734863)  # as a 32-bit float gives it back
    assert not at(exact, 12.31)
    on = Goal(feedback="P", mode=Mode.POSITION, target=True)
    assert [at(on, value) for value in (True, 1, "closed", None)] == [True, False, False, False]


def watch(target: Value = "open", before: Value = "closed", mode: Mode = Mode.POSITION, **more: float) -> Watch:
    made = Goal(feedback="P", mode=mode, target=target, **more)  # type: ignore[arg-type]
    return Watch(goal=made, before=before, began_ns=10 * S, began_utc_ns=1000 * S)


def seen(value: Value, quality: int = 0, *, mono: int = 11 * S, utc: int = 1000 * S) -> Sighting:
    return Sighting(value, quality, utc, mono)


BAD = [q.QUESTIONABLE, q.INVALID, q.SUBSTITUTED, q.TEST, q.BLOCKED, q.QUESTIONABLE | q.Q_ABSENT]


@pytest.mark.parametrize("quality", BAD)
def test_only_good_values_from_the_process_count(quality: int) -> None:
    before = watch()
    assert look(before, seen("open", quality)) == (before, Finding.NOTHING)
    assert look(before, seen("intermediate", quality)) == (before, Finding.NOTHING)
    assert not known("open", quality)


def test_it_must_have_been_received_after_the_write_began() -> None:
    changed, finding = look(watch(), seen("open", mono=10 * S))
    assert finding is Finding.NOTHING
    assert changed.before == "open"  # it was there already: nothing can prove the command now
    assert look(changed, seen("open")) == (changed, Finding.NOTHING)


@pytest.mark.parametrize(
    ("quality", "utc", "finding"),
    [
        (0, 999 * S, Finding.REACHED),
        (0, 999 * S - 1, Finding.NOTHING),
        (q.RECEIPT, 0, Finding.REACHED),
        (q.SYNC_NO, 0, Finding.REACHED),
        (q.SYNC_UNKNOWN, 0, Finding.REACHED),
        (q.SUSPECT, 0, Finding.REACHED),
        (q.SAMPLED | q.RECEIPT, 0, Finding.REACHED),
    ],
)
def test_the_stamp_counts_where_the_clock_is_in_step(quality: int, utc: int, finding: Finding) -> None:
    assert look(watch(), seen("open", quality, utc=utc))[1] is finding


def test_it_must_not_have_been_there_before() -> None:
    for before in ("open", None):
        assert look(watch(before=before), seen("open"))[1] is Finding.NOTHING
        assert not watch(before=before).provable
    assert look(watch(before="intermediate"), seen("open"))[1] is Finding.REACHED


def test_positions_on_the_way() -> None:
    one = watch()
    for value in ("closed", "intermediate", "bad"):
        one, finding = look(one, seen(value))
        assert finding is Finding.NOTHING
    assert one.moved
    assert look(one, seen("closed"))[1] is Finding.WRONG
    assert look(one, seen("open"))[0].reached


@pytest.mark.parametrize(
    ("up", "before", "value", "tolerance", "finding"),
    [
        (True, 7, 8, 0.0, Finding.REACHED),
        (True, 7, 7, 0.0, Finding.NOTHING),
        (True, 7, 6, 0.0, Finding.WRONG),
        (False, 7, 6, 0.0, Finding.REACHED),
        (False, 7.0, 6.6, 0.5, Finding.NOTHING),
        (False, 7.0, 6.4, 0.5, Finding.REACHED),
        (True, "day", "night", 0.0, Finding.NOTHING),
        (True, None, 8, 0.0, Finding.NOTHING),
    ],
)
def test_steps(*, up: bool, before: Value, value: Value, tolerance: float, finding: Finding) -> None:
    assert look(watch(up, before, Mode.STEP, tolerance=tolerance), seen(value))[1] is finding


def test_setpoints() -> None:
    one = watch(100.0, 50.0, Mode.VALUE, tolerance=1.0)
    assert look(one, seen(70.0)) == (one, Finding.NOTHING)
    assert look(one, seen(99.5))[1] is Finding.REACHED
