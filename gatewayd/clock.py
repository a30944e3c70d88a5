"""Time and its trust: UTC nanoseconds for stamps, the monotonic clock for deadlines, and whether the kernel trusts UTC.

Pure code gets `now` as an argument; only shells call this module.
"""

from __future__ import annotations

import ctypes
import time
from typing import NamedTuple

now_ns = time.time_ns
mono_ns = time.monotonic_ns


class Moment(NamedTuple):
    """One moment by both clocks: UTC ns for stamps, CLOCK_MONOTONIC ns (the same in all processes) for order."""

    utc_ns: int
    mono_ns: int


def moment() -> Moment:
    """Now."""
    return Moment(time.time_ns(), time.monotonic_ns())


_TIME_ERROR = 5
_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h> on 64-bit Linux; only the first fields are read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("padding", ctypes.c_byte * 256),
    )


class ClockState(NamedTuple):
    """What the kernel says of the gateway's own clock.

    synchronised: None where it cannot be asked
    max_error_ms, est_error_ms: as adjtimex(2) reports them (microseconds there)
    """

    synchronised: bool | None
    max_error_ms: float | None = None
    est_error_ms: float | None = None


def state() -> ClockState:
    """The state of the gateway's clock from adjtimex(2); reads only (modes = 0)."""
    timex = _Timex()
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (AttributeError, OSError):
        return ClockState(None)
    if answer < 0:
        return ClockState(None)
    synchronised = answer != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return ClockState(synchronised, timex.maxerror / 1000, timex.esterror / 1000)


EARLIEST_NS = 1_735_689_600_000_000_000
"""2025-01-01: before this program existed no clock of it can have been right."""


def trouble(now: ClockState, utc_ns: int) -> str:
    """What is wrong with the gateway's clock, and what follows from it; "" where nothing is."""
    follows = "direct commands are refused and devices get no time"
    if utc_ns < EARLIEST_NS:
        day = time.strftime("%Y-%m-%d", time.gmtime(utc_ns // 1_000_000_000))
        return f"the clock of this machine says {day}, which cannot be: {follows}, certificates may seem not valid yet"
    if now.synchronised is None:
        return f"the kernel does not say whether the clock of this machine is in step: {follows}"
    return "" if now.synchronised else f"the clock of this machine is not in step with any other: {follows}"


def counters() -> dict[str, float]:
    """The state as numbers, for health and metrics: synchronised is 1 only where the kernel says so."""
    now = state()
    found = {"synchronised": float(now.synchronised is True)}
    if now.max_error_ms is not None and now.est_error_ms is not None:
        found |= {"max_error_ms": now.max_error_ms, "est_error_ms": now.est_error_ms}
    return found


class StepWatch:
    """Notices steps of UTC against the monotonic clock.

    `check` returns the step in ns since the last call when it is larger than the limit, else 0: slewing and drift
    (at most 500 ppm) stay far below it when called every second or so.
    """

    def __init__(self, limit_ns: int = 500_000_000) -> None:
        self._limit_ns = limit_ns
        self._offset_ns: int | None = None

    def check(self, utc_ns: int, monotonic_ns: int) -> int:
        """The step, + forward and - back, in ns; 0 where there was none."""
        offset = utc_ns - monotonic_ns
        before, self._offset_ns = self._offset_ns, offset
        if before is None or abs(offset - before) <= self._limit_ns:
            return 0
        return offset - before
