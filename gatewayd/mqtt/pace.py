"""Small helpers of the senders: how fast, how long to pause, and who refused what."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger("mqtt")


class Pace:
    """A token bucket: `rate` a second, at most `burst` at once (a tenth of a second's worth when left out)."""

    def __init__(self, rate: float, burst: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst if burst is not None else max(rate / 10, 1.0)
        self._tokens = self._burst
        self._now = now
        self._at = now()

    def _fill(self) -> None:
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def take(self, count: int) -> bool:
        """Take so many if there are as many."""
        self._fill()
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def owe(self, count: int) -> float:
        """Take so many in any case. Returns the seconds to wait until the debt is paid (0 when there is none)."""
        self._fill()
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate)

    def wait_s(self, count: int) -> float:
        """Seconds until so many are there."""
        self._fill()
        return max(0.0, (count - self._tokens) / self._rate)


class Backoff:
    """Pauses that double from 1 s to 30 s."""

    def __init__(self, first_s: float = 1.0, most_s: float = 30.0) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._next_s = first_s

    def next(self) -> float:
        """The next pause in seconds."""
        pause, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        return pause

    def reset(self) -> None:
        """It worked: begin again with the shortest."""
        self._next_s = self._first_s


class Refusals:
    """Counts what the broker refused (PUBACK reason 0x80 and above); logs each kind of topic once, and its healing."""

    def __init__(self, base: str) -> None:
        self.count = 0
        self._base = base + "/"
        self._broken: dict[str, set[str]] = {}

    def _kind(self, topic: str) -> str:
        return topic.removeprefix(self._base).partition("/")[0]

    def refused(self, topic: str, code: int) -> None:
        """The broker did not take a message."""
        self.count += 1
        kind = self._kind(topic)
        if kind not in self._broken:
            log.warning("the broker refuses messages; check its ACL and quotas", topic=topic, reason=f"0x{code:02x}")
        self._broken.setdefault(kind, set()).add(topic)

    def taken(self, topic: str) -> None:
        """The broker took one."""
        if not self._broken:
            return
        kind = self._kind(topic)
        if kind in self._broken:
            self._broken[kind].discard(topic)
            if not self._broken[kind]:
                del self._broken[kind]
                log.info("the broker takes messages again", topic=topic)
