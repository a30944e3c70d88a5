"""How the daemon is: counters for `<base>/health`, words to systemd, and the watchdog.

The watchdog is fed only while the loop turns in time, on which the database takes values, every task of the daemon runs
and the journal's thread is there. Trouble with the disk or the broker never withholds it: a restart would not mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

log = structlog.get_logger("health")

HEALTH_S = 10.0
LAG_EVERY_S = 0.5
WINDOW_S = 30.0
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

    trouble: asked before each feeding: what a restart would mend, "" where all is well
    """

    def __init__(self, trouble: Callable[[], str], period_s: float | None = None) -> None:
        self._trouble = trouble
        self._period_s = watchdog_period_s() if period_s is None else period_s
        self.lag_s = 0.0
        self._worst_s = [0.0, 0.0]
        """The largest lag of this window and of the one before."""
        self._window_ends = 0.0
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
            if loop.time() >= self._window_ends:
                self._window_ends = loop.time() + WINDOW_S
                self._worst_s = [0.0, self._worst_s[0]]
            self._worst_s[0] = max(self._worst_s[0], self.lag_s)
            if self._period_s is not None and loop.time() >= feed_at:
                feed_at = loop.time() + self._period_s / 3
                self._feed()

    def _feed(self) -> None:
        late = f"the loop is late by {self.lag_s:.1f} s" if self.lag_s >= LAG_LIMIT_S else ""
        cause = late or self._trouble()
        if not cause:
            self.fed += 1
            notify("WATCHDOG=1")
        else:
            self.withheld += 1
            log.error("the watchdog is not fed", cause=cause)

    @property
    def lag_max_s(self) -> float:
        """The worst of the last 30 to 60 s; reading it changes nothing, so everybody sees the same."""
        return max(self._worst_s)

    def counters(self) -> dict[str, float]:
        """Lag in ms: now and the worst of the last 30 to 60 s; how often the watchdog was not fed."""
        return {
            "lag_ms": round(self.lag_s * 1000, 1),
            "lag_max_ms": round(self.lag_max_s * 1000, 1),
            "watchdog_withheld": self.withheld,
        }


def disk_counters(directory: Path) -> dict[str, int]:
    """Room on the journal's disk in octets, for us; nothing where it cannot be asked."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return {}
    return {"free_bytes": found.f_bavail * found.f_frsize}


def process_counters(
    pids: Mapping[str, int], own: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, dict[str, float]]:
    """CPU s, resident MiB, threads and descriptors of the core and its workers, from /proc; who has ended is left out.

    own: what each of them counts of itself
    """
    found: dict[str, dict[str, float]] = {}
    for name, pid in {"core": os.getpid(), **pids}.items():
        with contextlib.suppress(OSError, IndexError, ValueError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()
            found[name] = {
                "cpu_s": round((int(fields[11]) + int(fields[12])) / CLOCK_TICKS, 2),
                "rss_mib": round(int(fields[21]) * PAGE / 2**20, 1),
                "threads": int(fields[17]),
                "descriptors": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
                **(own or {}).get(name, {}),
            }
    if "core" in found:
        found["core"]["max_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return found
