"""One connection to one outstation: takes what comes, asks what is due, carries out commands. Ends by raising."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from gatewayd.clock import ClockState
from gatewayd.control.types import Control, Reply
from gatewayd.points.types import Batch, Cursor, Link
from gatewayd.protocols.dnp3 import repeats
from gatewayd.protocols.dnp3.agenda import Agenda, Job
from gatewayd.protocols.dnp3.commanding import Commanding
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import Function, Iin
from gatewayd.protocols.dnp3.line import Line
from gatewayd.protocols.dnp3.master import Broke, Closed, Finished, Indications, Master
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.reading import Reading
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.dnp3.soe import Fragment, Part
from gatewayd.protocols.dnp3.status import Ended, Task
from gatewayd.protocols.dnp3.timesync import set_time
from gatewayd.protocols.driver import LinkLost, Sink

log = structlog.get_logger("dnp3")

COMMIT_LIMIT_S = 30.0
"""The disk takes events within this time, or the connection is cut before their fragment is let go of."""
SILENT, UNRESPONSIVE = 2, 4
"""Requests in a row without an answer that end the connection: where nothing at all was heard; where something was."""
HUNG_UP = 3
"""Connections in a row that end when a function is asked for, after which it is not asked for any more."""
MOST_STORED = 4096
"""Events known one by one while an outstation sends again what it was not confirmed."""
LONGEST_JOB_S = 900.0
"""An answer that goes on for longer never ends."""
CLASSES = ((60, 2), (60, 3), (60, 4))
CLEAR_RESTART = bytes((80, 1, 0, 7, 7, 0))
TROUBLES = {
    Iin.DEVICE_TROUBLE: "the device reports trouble (IIN1.6)",
    Iin.CONFIG_CORRUPT: "the device reports a corrupt configuration (IIN2.5)",
}


class Session:
    """See the module. `run` once."""

    def __init__(
        self,
        name: str,
        options: Options,
        points: PointTable,
        memory: Memory,
        sink: Sink,
        line: Line,
        route: Route,
        clock_state: Callable[[], ClockState],
    ) -> None:
        self._name = name
        self._options = options
        self._points = points
        self._memory = memory
        self._sink = sink
        self._line = line
        self._route = route
        self._clock_state = clock_state
        self._master = Master(name, options, points, line, route, memory)
        self._agenda = Agenda(options, memory, time.monotonic())
        self._reading = Reading(name, points, memory, self._master)
        self._commanding = Commanding(name, options, points, memory, line, route, self._master)
        self._wake = asyncio.Event()
        self._iin = 0
        self._fresh = True
        self._at_disk_since = math.inf
        self._events = 0
        self._silent = 0
        self._unanswered: set[Function] = set()

    async def run(self) -> None:
        """Serve until the connection ends. Raises LinkLost, DeviceFault."""
        try:
            await first_of(self._watch(), self._serve())
        finally:
            self._commanding.ready = False
            self._route.gate.close()
            await asyncio.shield(self._stop())

    async def _stop(self) -> None:
        if not await self._master.stop():
            log.error("opendnp3 did not shut a master down in time", device=self._name)
        await self._commanding.end()

    async def _watch(self) -> None:
        raise LinkLost(await asyncio.shield(self._line.lost))

    async def _serve(self) -> None:
        self._learn_from_the_last_end()
        await self._master.start()
        self._memory.counts["connections"] += 1
        await first_of(self._watch_disk(), self._take_all(), self._ask_all())

    def _learn_from_the_last_end(self) -> None:
        """A device that hangs up whenever it is asked for a function it does not have must be spared it."""
        memory, name = self._memory, self._name
        function, memory.asking = memory.asking, None
        if function is None:
            return
        memory.hung_up += 1
        if memory.hung_up >= HUNG_UP:
            memory.ignored.add(function)
            memory.hung_up = 0
            log.info("the device hangs up when it is asked for a function", device=name, function=function.name)

    # ---- what comes
    async def _take_all(self) -> None:
        master = self._master
        while True:
            match await master.inbox.get():
                case Fragment() as fragment:
                    await self._take(fragment)
                    master.taken(fragment)
                case Indications(iin):
                    self._indicated(iin)
                case Finished(ended):
                    master.resolve(ended)
                case Closed():
                    raise LinkLost("the connection was closed")
                case Broke(error):
                    raise RuntimeError(f"a callback failed: {error!r}") from error

    async def _take(self, fragment: Fragment) -> None:
        """Give one fragment to the core; returns when all of it that matters is on disk."""
        if fragment.error is not None:
            raise RuntimeError(f"a fragment could not be decoded: {fragment.error!r}") from fragment.error
        counts = self._memory.counts
        counts["fragments"] += 1
        counts["unsolicited"] += fragment.unsolicited
        if fragment.lost is not None:
            counts["not_understood"] += 1
            self._memory.say_once(
                f"not understood {fragment.lost.what}", "not understood", device=self._name, what=fragment.lost.what
            )
            if fragment.lost.events:
                self._gap(f"not understood, events may be lost: {fragment.lost.what}")
        if self._options.event_times and not fragment.unsolicited:
            self._memory.wanted_times |= fragment.untimed
        for part in fragment.parts:
            counts["values"] += len(part.samples)
            if part.reported:
                self._events += len(part.samples)
                counts["events"] += len(part.samples)
            if part.reported and part.eventful:
                await self._reported(fragment, part)
                continue
            batch = Batch(
                self._name, part.samples, fragment.at.utc_ns, reported=part.reported, mono_ns=fragment.at.mono_ns
            )
            if part.eventful:
                await self._commit(batch, None)
            else:
                self._sink.state(batch)

    async def _reported(self, fragment: Fragment, part: Part) -> None:
        """Events for the disk, with the mark they are known by; those that were there before are not given twice."""
        memory, samples, codes = self._memory, part.samples, self._points.codes
        fresh, self._fresh = self._fresh, False
        facts = repeats.facts(samples, codes)
        mark = repeats.mark_of(facts)
        unsure = repeats.known(samples, mark, memory.unsure, codes, fresh=fresh)
        known = repeats.known(samples, mark, memory.last, codes, fresh=fresh)
        old = max(unsure, known)
        again, new = samples[:old], samples[old:]
        if old == known and repeats.timed(again):
            memory.counts["repeats_dropped"] += old
            again = []
        recalled, memory.recalled = ([] if old else memory.recalled), []
        sifted = repeats.sift(new, facts[old:], memory.stored, memory.perhaps, recalled)
        stored = facts
        if sifted is not None:  # what was not in this fragment may come in the next
            memory.recalled = sifted.recalled
            memory.counts["repeats_dropped"] += len(new) - len(sifted.samples)
            again, new = again + sifted.samples[: sifted.doubtful], sifted.samples[sifted.doubtful :]
            stored = (memory.stored + sifted.left)[-MOST_STORED:]
        memory.counts["repeats_marked"] += len(again)
        kept = repeats.encode(mark, stored)
        memory.counts["repeats_not_kept"] += kept.left_out
        cursor = Cursor(repeats.SOURCE, kept.data)
        utc_ns, mono_ns = fragment.at
        memory.unsure, memory.perhaps = mark, facts
        if again:
            batch = Batch(self._name, again, utc_ns, reported=True, repeat=True, mono_ns=mono_ns)
            await self._commit(batch, None if new else cursor)
        if new or (sifted is not None and not again):
            await self._commit(Batch(self._name, new, utc_ns, reported=True, mono_ns=mono_ns), cursor)
        memory.last, memory.unsure = mark, None
        memory.stored, memory.perhaps = stored, []

    async def _commit(self, batch: Batch, cursor: Cursor | None) -> None:
        self._memory.counts["waits_for_disk"] += 1
        self._at_disk_since = time.monotonic()
        await self._sink.events(batch, cursor)
        self._at_disk_since = math.inf

    async def _watch_disk(self) -> None:
        """End the connection where the disk takes too long; a timer for each batch would cost more than the rest."""
        while True:
            await asyncio.sleep(COMMIT_LIMIT_S / 10)
            if time.monotonic() - self._at_disk_since > COMMIT_LIMIT_S:
                raise LinkLost(f"the journal did not take events within {COMMIT_LIMIT_S:g} s; nothing was confirmed")

    def _indicated(self, iin: int) -> None:
        for cause in self._agenda.indications(iin):
            self._gap(cause)
        for bit, text in TROUBLES.items():
            if iin & bit & ~self._iin:
                self._memory.say_again(text, text, device=self._name)
        self._iin = iin
        self._wake.set()

    def _gap(self, cause: str) -> None:
        self._memory.counts["gaps"] += 1
        self._sink.gap(self._name, cause)

    # ---- what is asked
    async def _ask_all(self) -> None:
        agenda = self._agenda
        while True:
            now = time.monotonic()
            heard = self._route.heard / 1e9
            in_step = agenda.wants_time and bool(self._clock_state().synchronised)
            job = agenda.next(now, heard, clock_in_step=in_step)
            if job is not None:
                await self._do(job)
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(agenda.wait_s(now, heard)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _do(self, job: Job) -> None:
        await self._line.turn.take()
        began = time.monotonic()
        self._agenda.begun(job, began)
        events = self._events
        try:
            async with asyncio.timeout(LONGEST_JOB_S):
                ended = await self._request(job)
        except TimeoutError:
            raise LinkLost(f"the answer to {job} did not end within {LONGEST_JOB_S:g} s") from None
        finally:
            self._line.turn.give()
        now = time.monotonic()
        if ended.task in (Task.NO_COMMS, Task.LOST):
            raise LinkLost("the connection was closed")
        if ended.task in (Task.RESPONSE_TIMEOUT, Task.START_TIMEOUT):
            self._agenda.failed(job, now)
            if ended.task == Task.RESPONSE_TIMEOUT:
                self._no_answer(job, began)
            return
        self._answered(job)
        self._agenda.done(job, now, brought_events=self._events > events)
        if job is Job.INTEGRITY and not self._commanding.ready:
            self._commanding.ready = True
            self._sink.device(self._name, Link.UP)

    async def _request(self, job: Job) -> Ended:
        master = self._master
        match job:
            case Job.DISABLE:
                return await self._unsolicited(Function.DISABLE_UNSOLICITED)
            case Job.ENABLE:
                return await self._unsolicited(Function.ENABLE_UNSOLICITED)
            case Job.CLEAR_RESTART:
                ended = await master.perform(Function.WRITE, [CLEAR_RESTART])
                if ended.iin & Iin.DEVICE_RESTART:
                    self._memory.say_once("restart", "the device does not clear IIN1.7", device=self._name)
                return ended
            case Job.INTEGRITY:
                self._memory.counts["integrity_polls"] += 1
                return await self._reading.everything()
            case Job.EVENTS:
                self._memory.counts["event_polls"] += 1
                return await self._reading.events()
            case Job.TIME:
                return await set_time(self._name, self._options, self._memory, self._route, master)
            case Job.LINK_STATUS:
                return await master.link_status()

    async def _unsolicited(self, function: Function) -> Ended:
        memory = self._memory
        memory.asking = function
        ended = await self._master.perform(function, CLASSES)
        if ended.task not in (Task.NO_COMMS, Task.LOST):
            memory.asking, memory.hung_up = None, 0
        if ended.task == Task.BAD_RESPONSE:
            memory.ignored.add(function)
            log.info("the device refuses a function", device=self._name, function=function.name)
        elif ended.task == Task.RESPONSE_TIMEOUT:
            self._unanswered.add(function)
        return ended

    def _answered(self, job: Job) -> None:
        self._silent = 0
        if self._unanswered and job is not Job.LINK_STATUS:
            # it answers, but not to these: they are not asked again, each would cost a timeout at every connection
            self._memory.ignored |= self._unanswered
            names = ", ".join(function.name for function in self._unanswered)
            log.info("the device does not answer a function", device=self._name, function=names)
            self._unanswered.clear()

    def _no_answer(self, job: Job, began: float) -> None:
        self._memory.counts["response_timeouts"] += 1
        self._silent += 1
        heard = self._route.heard / 1e9 >= began
        if self._silent < (UNRESPONSIVE if heard else SILENT):
            return
        strangers = self._line.strangers - {route.remote for route in self._line.routes}
        others = f"; frames came from address {', '.join(map(str, sorted(strangers)))}" if strangers else ""
        raise LinkLost(
            f"outstation {self._options.remote_address} did not answer {self._silent} requests in a row,"
            f" the last {job}{others}"
        )

    # ---- what the core wants
    async def operate(self, cmd: Control) -> Reply:
        """One command, once."""
        return await self._commanding.operate(cmd)

    @property
    def ready(self) -> bool:
        """Everything has been read: commands are taken."""
        return self._commanding.ready

    def interrogate(self) -> None:
        """An integrity poll, as soon as may be."""
        self._agenda.demand_integrity()
        self._wake.set()


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run together; when the first ends, or this is cancelled, cancel the others, wait for them, and end as it did."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
