"""Reading an outstation: events by class, everything by class 0, and what is not in it by type."""

from __future__ import annotations

import structlog

from gatewayd.protocols.dnp3.address import TYPES
from gatewayd.protocols.dnp3.frames import REQUEST_ERROR
from gatewayd.protocols.dnp3.master import Master, ObjectHeader
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.objects import TIMED
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.status import Ended, Task
from gatewayd.protocols.driver import LinkLost

log = structlog.get_logger("dnp3")

CLASS_0 = (60, 1)
EVENT_CLASSES: tuple[ObjectHeader, ...] = ((60, 2), (60, 3), (60, 4))
MOST_NAMED = 20
"""Points the device does not have that are named in the log at most."""
UNANSWERED = (Task.RESPONSE_TIMEOUT, Task.START_TIMEOUT, Task.NO_COMMS, Task.LOST)


class Reading:
    """The reads of one connection. The caller has the line's turn."""

    def __init__(self, name: str, points: PointTable, memory: Memory, master: Master) -> None:
        self._name = name
        self._points = points
        self._memory = memory
        self._master = master
        self._searched = False

    async def events(self) -> Ended:
        """Classes 1, 2 and 3; before them, by variation, events that otherwise would come without time."""
        return await self._events(())

    async def everything(self) -> Ended:
        """Classes 1, 2, 3 and 0, then the types that are not in class 0. Raises LinkLost where nothing can be read."""
        seen = self._master.soe.seen = set()
        try:
            ended = await self._classes()
            if ended.task in UNANSWERED:
                return ended
            by_type = set(self._memory.extra_types)
            if not self._searched or self._memory.class_0_refused:
                by_type |= set(self._points.missing(seen))
            for kind in sorted(by_type):
                before = len(seen)
                ended = await self._type(kind)
                if ended.task in UNANSWERED:
                    return ended
                if len(seen) > before:
                    self._memory.extra_types.add(kind)
        finally:
            self._master.soe.seen = None
        self._searched = True
        self._tell_missing(seen)
        return Ended(Task.SUCCESS, iin=ended.iin)

    async def _classes(self) -> Ended:
        """The integrity poll proper. A refused one is tried once more: its events have been taken meanwhile."""
        for _ in range(2):
            if self._memory.class_0_refused:
                break
            ended = await self._events((CLASS_0,))
            if ended.task in UNANSWERED:
                return ended
            seen = self._master.soe.seen
            if ended.task == Task.SUCCESS and (seen or not ended.iin & REQUEST_ERROR):
                return ended
        else:
            self._memory.class_0_refused = True
            log.warning("class 0 cannot be read, each type is read by itself", device=self._name)
        return await self._events(())

    async def _events(self, more: tuple[ObjectHeader, ...]) -> Ended:
        memory = self._memory
        timed = [] if memory.times_refused else [TIMED[plain] for plain in sorted(memory.wanted_times)]
        ended = await self._master.read([*timed, *EVENT_CLASSES, *more])
        if timed and ended.task == Task.SUCCESS and ended.iin & REQUEST_ERROR:
            memory.times_refused = True
            log.info("the device has no event variations with time", device=self._name)
            ended = await self._master.read([*EVENT_CLASSES, *more])
        if ended.task == Task.BAD_RESPONSE:
            memory.counts["failed_requests"] += 1
        return ended

    async def _type(self, kind: str) -> Ended:
        ended = await self._master.read([(TYPES[kind].static, 0)])
        if ended.task == Task.BAD_RESPONSE or ended.iin & REQUEST_ERROR:
            self._memory.counts["failed_requests"] += 1
        return ended

    def _tell_missing(self, seen: set[int]) -> None:
        missing = [row for rows in self._points.missing(seen).values() for row in rows]
        if self._points.codes and len(missing) == len(self._points.codes):
            names = ", ".join(self._points.describe(row) for row in missing[:3])
            raise LinkLost(f"the outstation has none of the points of the list, such as {names}")
        for row in missing[:MOST_NAMED]:
            self._memory.say_once(
                f"missing {row}",
                "the device does not have this point",
                device=self._name,
                point=self._points.describe(row),
            )
