"""THE SEAM between the core and a protocol: everything a driver must do and may call.

A driver serves ONE device connection. Its constructor keeps its arguments and does nothing else; configuration
errors have been found before (the protocol's config.py). The same driver runs in a worker process or in the core's
own process (tests, debugging) and does not know which.

`run` connects, scans, reports, and ends only by raising or by being cancelled; it never sleeps to reconnect, that is
`supervise.py`'s. Start with `blueprint.py`, which is a driver to copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from gatewayd.control.types import Control, Reply, Step
from gatewayd.points.types import Batch, Cursor, Link


class LinkLost(Exception):
    """The connection ended or could not be made; worth retrying. The text is the cause people read."""


class DeviceFault(Exception):
    """Someone has to change something, the text says what; tried again now and then."""


class Telling(Protocol):
    """What is told and not waited for. Calls of one device are applied in call order."""

    def state(self, batch: Batch) -> None:
        """Newest value wins; never blocks. Only for batches without a point that has `event = yes`."""

    def device(self, name: str, link: Link, why: str = "") -> None:
        """Tell the link's state. A driver says UP, once all points have been read (integrity poll, GI, read-all)."""

    def gap(self, device: str, cause: str) -> None:
        """The device itself lost events: buffer overflow, restart, EntryID refused."""

    def progress(self, command_id: str, step: Step) -> None:
        """A later word on a command: terminated, late, unselected."""


class Sink(Telling, Protocol):
    """Core -> driver: where a driver puts what it learns. Calls of one device are applied in call order."""

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        """Return when the batch and the source's cursor are on disk: confirm to the device after it, never before.

        Any batch that holds a point with `event = yes` comes here, polled ones too: the core makes events only of
        what changed, or of what the device `reported`. Waits as long as the disk does not take it.
        """


class Driver(Protocol):
    """One device connection."""

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        """Connect, read everything, say UP, report; raise LinkLost or DeviceFault, or be cancelled."""


@runtime_checkable
class Operable(Protocol):
    """A driver that can command its device. Every call returns exactly one Reply and lets CancelledError pass.

    Not connected is REFUSED device-offline; lost after sending is UNKNOWN. Nothing is ever sent twice.
    """

    async def select(self, cmd: Control) -> Reply: ...

    async def operate(self, cmd: Control) -> Reply: ...

    async def cancel(self, cmd: Control) -> Reply: ...


@runtime_checkable
class Interrogable(Protocol):
    """A driver that can read everything again on request: integrity poll, GI, read-all."""

    async def interrogate(self) -> None: ...


@runtime_checkable
class Counting(Protocol):
    """A driver with counters for health: plain integers by name."""

    def counters(self) -> dict[str, int]: ...
