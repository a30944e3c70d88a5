"""One poll: every block asked once, values and qualities of its points handed on. For one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import partial
from itertools import compress, repeat
from operator import ne

from gatewayd import clock
from gatewayd.points import quality as q
from gatewayd.points.types import Batch, Sample, Value
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import LinkLost, Sink
from gatewayd.protocols.modbus import outcome
from gatewayd.protocols.modbus.config import Options
from gatewayd.protocols.modbus.lane import Lane
from gatewayd.protocols.modbus.memory import Memory, log
from gatewayd.protocols.modbus.pdu import BadAnswer, ConnectionLost, ExceptionAnswer, NoAnswer, NotSentError
from gatewayd.protocols.modbus.plan import Block, Faults, decoder, split
from gatewayd.protocols.modbus.session import Session
from gatewayd.protocols.modbus.turns import Urgency

TOGETHER_NS = 20_000_000
"""What was asked for within 20 ms is one batch: a poll on a fast line. On slow ones each block goes out at once.

A batch has the time of its first request, so a longer one would make what was read after a command, here or at another
device, look as if it had been read before: the command's feedback would not be believed.
"""
REFUSED_AGAIN_S = 60.0
"""What the device refuses for good (exceptions 01 to 03) is asked again so often."""

_sample = partial(tuple.__new__, Sample)
"""A Sample from any five in order: half the time of calling Sample."""


class Heard(Enum):
    """What came of one request."""

    ANSWER = 1
    RUBBISH = 2
    NOTHING = 3


class Reading:
    """One block of this connection: what was read last, and how it stands.

    sent_good: the values below are what the core has, as good ones
    refused:   the exception that was last told of, 0 for none
    """

    def __init__(self, block: Block, events: frozenset[int], *, sentinels: bool) -> None:
        self.block = block
        self.request = block.request()
        self.decode = decoder(block, sentinels=sentinels)
        self.rows = tuple(field.row for field in block.fields)
        self.event_rows = events & set(self.rows)
        self.octets = b""
        self.values: Sequence[Value] | None = None
        self.faults: Faults = {}
        self.time_ns = 0
        self.sent_good = False
        self.missed = 0
        self.refused = 0
        self.rests_until = 0.0


class Poller:
    """Reads one unit over a line and hands its samples on."""

    def __init__(
        self, device: Device, options: Options, session: Session, sink: Sink, lane: Lane, memory: Memory
    ) -> None:
        self._name = device.name
        self._options = options
        self._session = session
        self._line = session.line
        self._sink = sink
        self._lane = lane
        self._memory = memory
        self._event_points = frozenset(point.row for point in device.points if point.event)
        self._readings = [self._reading(block) for block in memory.blocks]
        self._silent_polls = 0
        self._trouble = ""
        self._complete = False
        self._owed = False
        self._state: list[Sample] = []
        self._events: list[Sample] = []
        self._sent = clock.Moment(0, 0)
        self._first_mono_ns = 0
        self._writes_before = 0

    def _reading(self, block: Block) -> Reading:
        return Reading(block, self._event_points, sentinels=self._options.sentinels)

    def wake(self) -> None:
        """Ask at the next poll for what is refused, too."""
        for reading in self._readings:
            reading.rests_until = 0.0

    async def poll(self, *, everything: bool) -> None:
        """Read all blocks. Raises LinkLost when the line ended, or nothing was answered too often.

        everything: hand on what did not change, too
        """
        if self._owed and not self._lane.behind:
            everything, self._owed = True, False
        self._memory.counts["polls"] += 1
        try:
            answered = await self._round(everything=everything)
        finally:
            self._flush()  # also what came before the link was lost
        self._judge(answered=answered)

    async def _round(self, *, everything: bool) -> bool:
        """Ask every block that is due; True where the device answered anything."""
        now = asyncio.get_running_loop().time()
        due = deque(reading for reading in self._readings if reading.rests_until <= now)
        answered = not due
        while due:
            reading = due.popleft()
            heard = await self._read(reading, due, now, everything=everything)
            answered = answered or heard is Heard.ANSWER
            if heard is Heard.NOTHING:
                self._readings.remove(reading)  # next time the others come first
                self._readings.append(reading)
                if not answered:  # nobody is there: the rest would only take as long
                    for other in due:
                        self._missed(other)
                    break
            self._flush_in_time()
        return answered

    async def _read(self, reading: Reading, due: deque[Reading], now: float, *, everything: bool) -> Heard:
        """One block. due: where its parts go to be asked, if it is refused as a whole."""
        try:
            octets = await self._ask(reading)
        except ExceptionAnswer as error:
            self._memory.counts["exceptions"] += 1
            self._trouble = str(error)
            if parts := self._apart(reading, error.code):
                due.extendleft(reversed(parts))
            else:
                self._refused(reading, error.code, now)
            return Heard.NOTHING if error.code in outcome.UNREACHABLE else Heard.ANSWER
        except (NoAnswer, BadAnswer) as error:
            self._trouble = str(error)
            self._missed(reading)
            return Heard.NOTHING if isinstance(error, NoAnswer) else Heard.RUBBISH
        self._take(reading, octets, everything=everything)
        return Heard.ANSWER

    def _judge(self, *, answered: bool) -> None:
        if answered:
            self._silent_polls = 0
            self._complete = True
            return
        self._silent_polls += 1
        if not self._complete:
            raise LinkLost(f"unit {self._options.unit}: {self._trouble}")
        if self._silent_polls >= self._options.missed_polls:
            polls = f"{self._silent_polls} poll{'s'[: self._silent_polls > 1]} without an answer"
            raise LinkLost(f"unit {self._options.unit}: {polls} ({self._trouble})")

    async def _ask(self, reading: Reading) -> bytes:
        """The octets of a block, in as many tries as the options give. Raises as Line.ask, and LinkLost."""
        options, counts, line = self._options, self._memory.counts, self._line
        tries = 1 + options.read_retries
        while True:
            tries -= 1
            counts["requests"] += 1
            try:
                async with line.turn(Urgency.POLL):
                    self._session.check()
                    try:
                        return await line.ask(
                            options.unit, reading.request, timeout_s=options.timeout_s, pause_s=options.pause_ms / 1000
                        )
                    finally:
                        self._sent = line.sent
            except (NotSentError, ConnectionLost) as error:
                raise LinkLost(str(error)) from None
            except (NoAnswer, BadAnswer) as error:
                counts["timeouts" if isinstance(error, NoAnswer) else "bad_answers"] += 1
                if not tries:
                    raise

    # ---- what came of a request

    def _take(self, reading: Reading, octets: bytes, *, everything: bool) -> None:
        known = reading.sent_good and not everything
        if known and octets == reading.octets:
            return
        time_ns = self._sent.utc_ns + (clock.mono_ns() - self._sent.mono_ns) // 2
        values, faults = reading.decode(octets)
        rows: Iterable[int] = reading.rows
        told: Iterable[Value] = values
        qualities: Iterable[int] = repeat(outcome.GOOD)
        if faults:
            qualities = [q.worst(outcome.GOOD, faults.get(at, 0)) for at in range(len(values))]
        if known and reading.values is not None:
            differs = _differs(values, faults, reading.values, reading.faults)
            rows, told = compress(rows, differs), compress(told, differs)
            if faults:
                qualities = compress(qualities, differs)
        self._gather(reading, list(map(_sample, zip(rows, told, qualities, repeat(0), repeat(time_ns)))))
        self._heal(reading)
        reading.octets, reading.values, reading.faults, reading.time_ns = octets, values, faults, time_ns

    def _heal(self, reading: Reading) -> None:
        if reading.refused or reading.missed >= self._options.missed_polls:
            self._memory.trouble.healed(f"{reading.block}", "registers are read again", **self._where(reading))
        reading.missed = reading.refused = 0
        reading.sent_good = True

    def _missed(self, reading: Reading) -> None:
        """A poll without an answer: old-data at first, comm-lost after some; nothing where nothing was read yet."""
        reading.missed += 1
        self._memory.counts["missed_blocks"] += 1
        if reading.missed == self._options.missed_polls:
            self._memory.trouble.broke(
                f"{reading.block}", "registers do not answer", cause=self._trouble, **self._where(reading)
            )
            self._old(reading, outcome.LOST)
        elif reading.missed == 1 and not reading.refused:
            self._old(reading, outcome.MISSED)

    def _refused(self, reading: Reading, code: int, now: float) -> None:
        """What the exception means for the points, told once."""
        if code in outcome.AS_MISSED:
            self._missed(reading)
            return
        if code in outcome.REFUSED_FOR_GOOD:
            reading.rests_until = now + REFUSED_AGAIN_S
        if code == reading.refused:
            return
        self._memory.counts["refused_points"] += len(reading.rows)
        self._memory.trouble.broke(
            f"{reading.block}", "the device refuses registers", cause=self._trouble, **self._where(reading)
        )
        quality = outcome.read_quality(code)
        if code in outcome.UNREACHABLE:
            self._old(reading, quality, code)
        else:
            now_ns = clock.now_ns()
            samples = [Sample(row, None, quality, code, now_ns) for row in reading.rows]
            self._gather(reading, samples)
            reading.sent_good = False
            reading.values = None
        reading.refused = code

    def _old(self, reading: Reading, quality: int, native: int = 0) -> None:
        """The values read last, in their time, with a quality that says so."""
        reading.sent_good = False
        if reading.values is None:
            return
        samples = [
            Sample(row, value, q.worst(quality, reading.faults.get(at, 0)), native, reading.time_ns)
            for at, (row, value) in enumerate(zip(reading.rows, reading.values, strict=True))
        ]
        self._gather(reading, samples)

    def _apart(self, reading: Reading, code: int) -> list[Reading]:
        """The parts of a block that was refused; remembered, so that it happens once."""
        parts = split(reading.block) if code in outcome.TRIED_APART else []
        if parts:
            self._memory.counts["split_blocks"] += 1
            log.info(
                "registers refused together, asked apart from now on",
                code=code,
                parts=", ".join(str(part) for part in parts),
                **self._where(reading),
            )
        made = [self._reading(part) for part in parts]
        if made:
            at = self._readings.index(reading)
            self._readings[at : at + 1] = made
            self._memory.blocks[:] = [each.block for each in self._readings]
        return made

    def _where(self, reading: Reading) -> dict[str, object]:
        return {"device": self._name, "registers": str(reading.block), "points": len(reading.rows)}

    # ---- handing on

    def _gather(self, reading: Reading, samples: list[Sample]) -> None:
        if not samples:
            return
        if self._line.writes != self._writes_before or self._sent.mono_ns - self._first_mono_ns > TOGETHER_NS:
            self._flush()
        if not (self._state or self._events):
            self._first_mono_ns = self._sent.mono_ns
            self._writes_before = self._line.writes
        events = reading.event_rows
        if not events:
            self._state += samples
        elif len(events) == len(reading.rows):
            self._events += samples
        else:
            for sample in samples:
                (self._events if sample.point in events else self._state).append(sample)

    def _flush_in_time(self) -> None:
        if (self._state or self._events) and clock.mono_ns() - self._first_mono_ns > TOGETHER_NS:
            self._flush()

    def _flush(self) -> None:
        now_ns = clock.now_ns()
        state, events = self._state, self._events
        self._state, self._events = [], []
        self._memory.counts["samples"] += len(state) + len(events)
        if state:
            self._sink.state(Batch(self._name, state, now_ns, mono_ns=self._first_mono_ns))
        if events and not self._lane.put(Batch(self._name, events, now_ns, mono_ns=self._first_mono_ns)):
            self._owed = True


def _differs(values: Sequence[Value], faults: Faults, before: Sequence[Value], faults_before: Faults) -> list[bool]:
    """For each point whether its value or fault is another one."""
    differs = list(map(ne, values, before))
    if faults != faults_before:
        for at in faults.keys() | faults_before.keys():
            differs[at] = differs[at] or faults.get(at) != faults_before.get(at)
    return differs
