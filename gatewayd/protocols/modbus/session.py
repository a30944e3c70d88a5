"""One connection of one unit while it is used: its line, and why it must not be used any more."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from gatewayd.control.types import Step
from gatewayd.protocols.driver import LinkLost
from gatewayd.protocols.modbus.line import Line

Progress = Callable[[str, Step], None]


class Session:
    """lost: why nothing more is sent here, "" while all is well. A line may live on for its other units."""

    def __init__(self, line: Line, wake: Callable[[], None], progress: Progress) -> None:
        """wake: called when something happened that the driver should see."""
        self.line = line
        self.progress = progress
        self.lost = ""
        self._wake = wake

    def give_up(self, why: str) -> None:
        """End it; the first cause stays."""
        self.lost = self.lost or why
        self._wake()

    def check(self) -> None:
        """Raises LinkLost where it is lost."""
        if self.lost:
            raise LinkLost(self.lost)

    def __enter__(self) -> Self:
        self.line.watch(self._line_ended)
        if self.line.why:
            self._line_ended()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.line.unwatch(self._line_ended)

    def _line_ended(self) -> None:
        self.give_up(self.line.why)
