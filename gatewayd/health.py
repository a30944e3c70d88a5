"""How the daemon is: counters for `<base>/health`, words to systemd, and the watchdog.

The watchdog is fed only while the loop turns in time and the database takes values; trouble with the disk or the
broker never withholds it, because a restart would not mend them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger("health")

HEALTH_S = 10.0
LAG_EVERY_S = 0.5
LAG_LIMIT_S = 5.0
"""A loop that is late by more than this is not fed for."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def notify(*lines: str) -> bool:
    """Say something to systemd (`READY=1`, `STOPPING=1`, `WATCHDOG=1`): sd_notify(3). False where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall("\n".join(lines).encode())
    except OSError as error:
        log.warning("systemd cannot be told", cause=str(error))
        return False
    return True


def reloading() -> None:
    """Tell systemd that a reload began; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def ready(status: str) -> None:
    """Tell systemd that the configuration is in force."""
    notify("READY=1", f"STATUS={status}")


def stopping() -> None:
    """Tell systemd that we are ending."""
    notify("STOPPING=1")


def watchdog_period_s() -> float | None:
    """How often systemd wants to be fed (WATCHDOG_USEC), None where it does not."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6 or None


class Watchdog:
    """Measures how late the loop is and feeds systemd's watchdog.

    alive: asked before each feeding: does the database take values
    """

    def __init__(self, alive: Callable[[], bool], period_s: float | None = None) -> None:
        self._alive = alive
        self._period_s = watchdog_period_s() if period_s is None else period_s
        self.lag_s = 0.0
        self.lag_max_s = 0.0
        self.fed = 0
        self.withheld = 0

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        every_s = min(LAG_EVERY_S, (self._period_s or 10.0) / 4)
        feed_at = loop.time()
        while True:
            due = loop.time() + every_s
            await asyncio.sleep(every_s)
            self.lag_s = max(0.0, loop.time() - due)
            self.lag_max_s = max(self.lag_max_s, self.lag_s)
            if self._period_s is not None and loop.time() >= feed_at:
                feed_at = loop.time() + self._period_s / 3
                self._feed()

    def _feed(self) -> None:
        if self.lag_s < LAG_LIMIT_S and self._alive():
            self.fed += 1
            notify("WATCHDOG=1")
        else:
            self.withheld += 1
            log.error("the watchdog is not fed", lag_s=round(self.lag_s, 2))

    def counters(self) -> dict[str, float]:
        """Lag in ms: now and the worst since the last call."""
        worst, self.lag_max_s = self.lag_max_s, 0.0
        return {"lag_ms": round(self.lag_s * 1000, 1), "lag_max_ms": round(worst * 1000, 1)}


def process_counters(pids: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """CPU seconds and resident MiB of the core and its workers, from /proc; what has ended meanwhile is left out."""
    found: dict[str, dict[str, float]] = {}
    for name, pid in {"core": os.getpid(), **pids}.items():
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()
            found[name] = {
                "cpu_s": round((int(fields[11]) + int(fields[12])) / CLOCK_TICKS, 2),
                "rss_mib": round(int(fields[21]) * PAGE / 2**20, 1),
                "threads": int(fields[17]),
            }
    if "core" in found:
        found["core"]["max_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return found
