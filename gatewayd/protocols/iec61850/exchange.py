"""What crosses between the event loop and the thread of an association, and what outlives associations."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
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
    """What outlives an association: waiting for an instance, what has been said to people already, which objects show
    by stSeld that they are selected (domain and item each).
    """

    def __init__(self) -> None:
        self.waited: dict[str, int] = {}
        self.said: set[str] = set()
        self.shows_selects: set[tuple[str, str]] = set()
        self.counts: dict[str, int] = dict.fromkeys(
            (
                "associations", "reports", "segments", "broken_segments", "malformed_reports", "unknown_reports",
                "unknown_members", "unknown_points", "polled_points", "reads", "failed_reads", "timeouts", "gaps",
                "resumed", "commands", "selects_dropped", "callback_errors", "waited_for_disk",
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

MOST_WAITING = 64
"""Batches that may wait for the disk before the thread stops reading the IED."""


class Exchange:
    """The two queues between the loop and one association's thread. Made on the loop.

    ready: everything was read once and the core has it: commands are taken
    ended: the thread's last word, from when it serves no more
    alive: monotonic s at which the thread was last between two native calls
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._wake = asyncio.Event()
        self._outbox: deque[Item] = deque()
        self._asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self.ready = False
        self.ended: Ended | None = None
        self.alive = time.monotonic()

    # the loop's side
    async def next(self) -> Item:
        """The oldest item; it stays in the queue, and counts as waiting, until `taken`."""
        while not self._outbox:
            self._wake.clear()
            if not self._outbox:
                await self._wake.wait()
        return self._outbox[0]

    def taken(self) -> None:
        """The core has the oldest item."""
        self._outbox.popleft()

    def stop(self) -> None:
        """End soon: within a tick."""
        self._stop.set()

    def ask(self, verb: Verb, command: Control | None) -> asyncio.Future[Reply]:
        """Have the thread do it; refused at once where there is no complete association."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if self.ended is not None or not self.ready:
            answer.set_result(OFFLINE)
        else:
            self._asked.put(Ask(verb, command, answer))
        return answer

    def _refuse_asked(self) -> None:
        while (ask := self.asked()) is not None:
            _set(ask.answer, OFFLINE)

    # the thread's side
    @property
    def stopping(self) -> bool:
        """The loop wants the thread to end. Asked between any two native calls, so it also tells that none is stuck."""
        self.alive = time.monotonic()
        return self._stop.is_set()

    @property
    def held_back(self) -> bool:
        """The disk is behind: the IED is not read meanwhile."""
        return len(self._outbox) > MOST_WAITING

    def pause(self) -> None:
        """Wait a moment for the disk."""
        self._stop.wait(0.01)

    def put(self, item: Item) -> None:
        """The next item for the loop."""
        self._outbox.append(item)
        self.soon(self._wake.set)

    def asked(self) -> Ask | None:
        """The oldest request, None where there is none."""
        try:
            return self._asked.get_nowait()
        except queue.Empty:
            return None

    def answer(self, ask: Ask, reply: Reply) -> None:
        """The one answer to a request."""
        self.soon(_set, ask.answer, reply)

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Call on the loop, in order."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._stop.set()

    def close(self, ended: Ended) -> None:
        """The thread's last word; whatever was asked and not begun is refused."""
        self.ended = ended
        self.put(ended)
        self.soon(self._refuse_asked)


def _set(answer: asyncio.Future[Reply], reply: Reply) -> None:
    if not answer.done():
        answer.set_result(reply)
