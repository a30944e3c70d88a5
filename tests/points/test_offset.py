from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points.offset import ENOUGH, WINDOW_NS, ClockOffset

S = 1_000_000_000


@given(st.integers(-3600 * S, 3600 * S), st.lists(st.integers(0, 5 * S), min_size=ENOUGH, max_size=50))
def test_the_estimate_is_the_offset_and_the_fastest_way(offset_ns: int, delays_ns: list[int]) -> None:
    clock = ClockOffset()
    for at, delay_ns in enumerate(delays_ns):
        sent = 1000 * S + at * S
        clock.see(sent + offset_ns + delay_ns, sent, at * S)
    assert clock.offset_ns == offset_ns + min(delays_ns)


def test_a_few_reports_say_nothing_yet() -> None:
    clock = ClockOffset()
    for _ in range(ENOUGH - 1):
        clock.see(S, 0, 0)
    assert clock.offset_ns is None
    assert not clock.crossed(0)


def test_a_clock_that_was_set_is_followed_within_two_windows() -> None:
    clock = ClockOffset()
    for at in range(10):
        clock.see(10 * S, 8 * S, at)
    assert clock.offset_ns == 2 * S
    clock.see(10 * S, 3 * S, WINDOW_NS + 1)
    assert clock.offset_ns == 2 * S
    clock.see(10 * S, 3 * S, 2 * WINDOW_NS + 2)
    assert clock.offset_ns == 7 * S


def test_after_a_long_silence_nothing_old_is_left() -> None:
    clock = ClockOffset()
    for _ in range(10):
        clock.see(10 * S, 9 * S, 0)
    clock.see(10 * S, 3 * S, 100 * WINDOW_NS)
    assert clock.offset_ns == 7 * S


def test_crossing_the_limit_is_told_once_each_way() -> None:
    clock = ClockOffset()
    for _ in range(ENOUGH):
        clock.see(10 * S, 8 * S, 0)
    assert [clock.crossed(S), clock.crossed(S), clock.over] == [True, False, True]
    clock.see(8 * S, 8 * S, 1)
    assert [clock.crossed(S), clock.crossed(S), clock.over] == [True, False, False]
