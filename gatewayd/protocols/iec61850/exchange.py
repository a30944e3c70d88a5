"""What crosses between the event loop and the thread of an association, and what outlives associations."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import NamedTuple

import structlog

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Reply, Verdict
from gatewayd.points.types import Batch, Cursor

log = structlog.get_logger("iec61850")


class Verb(StrEnum):
    """What the loop asks of the thread."""

    SELECT = "select"
    OPERATE = "operate"
    CANCEL = "cancel"
    INTERROGATE = "interrogate"


class Ask(NamedTuple):
    """One request to the thread; its answer goes into `answer` on the loop."""

    verb: Verb
    command: Control | None
    answer: asyncio.Future[Reply]


class Deliver(NamedTuple):
    """A batch for the core. events: wait until it is on disk."""

    batch: Batch
    events: bool
    cursor: Cursor | None = None


class Gap(NamedTuple):
    """The IED lost events."""

    cause: str


class Complete(NamedTuple):
    """Everything has been read once."""


class Ended(NamedTuple):
    """The association is over; nothing comes after this. fault: an error of ours, not of the link."""

    why: str
    fault: BaseException | None = None


Item = Deliver | Gap | Complete | Ended


class Memory:
    """What outlives an association: waiting for an instance, and what has been said to people already."""

    def __init__(self) -> None:
        self.waited: dict[str, int] = {}
        self.said: set[str] = set()
        self.counts: dict[str, int] = dict.fromkeys(
            (
                "associations", "reports", "segments", "broken_segments", "malformed_reports", "unknown_reports",
                "unknown_members", "unknown_points", "polled_points", "reads", "failed_reads", "timeouts", "gaps",
                "resumed", "commands", "callback_errors", "waited_for_disk",
            ),
            0,
        )  # fmt: skip

    def say_once(self, key: str, event: str, **what: object) -> None:
        """A warning, the first time only."""
        if key not in self.said:
            self.said.add(key)
            log.warning(event, **what)


OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
"""There is no complete association: nothing was sent."""
UNSURE = Reply(Verdict.UNKNOWN, Reason.UNKNOWN)
"""Sent, and no answer."""
