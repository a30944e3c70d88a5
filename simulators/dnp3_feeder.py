"""A simulated feeder RTU: a DNP3 outstation on py1815, a stack that is not the gateway's.

    python -m simulators.dnp3_feeder --port 20000 --seed 1

Outstation 10, master 1. Points:

    BI:0 local   1 lockout   2 spring charged   3 52b (true while open)   4 52a (true while closed)   5 trip
    BI:6 automatic reclosing in service   DBI:0 disconnector (read only, no events)
    AI:0 voltage 0.01 kV   1 current 0.1 A   2 kW   3 kvar   4 pick-up current 0.1 A   5 tap position
    CT:0 operations of the breaker   1 energy, tens of kWh   BO:2 and BO:4, AO:1: what was last commanded
    CROB:2 trip/close   4 latch: reclosing   5 pulse: lockout reset   6 raise/lower: tap   AO:1 pick-up current

Events with time: binaries in class 1, analogs in class 2, counters in class 3; unsolicited responses; SELECT and
OPERATE. In tests:

    async with Dnp3Feeder() as rtu:
        rtu.refuse_select["CROB:2"] = CommandStatus.LOCAL
        ...
        assert [write.function for write in rtu.writes] == ["SELECT", "OPERATE"]
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from py1815 import objects
from py1815.application import ObjectHeader, QualifierCode
from py1815.control import AnalogOutput, CommandStatus, ControlRelayOutputBlock
from py1815.events import EventBuffers, EventClass
from py1815.objects import AnalogPoint, BinaryPoint, CounterPoint
from py1815.server import OutstationServer
from py1815.session import Control, ParameterError, Session, UnknownObject

from simulators import alone
from simulators.model import CLOSED, OPEN, Feeder

OUTSTATION, MASTER = 10, 1
ONLINE, STATE = 0x01, 0x80
STEP_S = 0.05
CLOSE_PULSE, TRIP_PULSE, PULSE, LATCH_ON, LATCH_OFF = 0x41, 0x81, 0x01, 0x03, 0x04
SETPOINT_RANGE = (1000, 6300)
TAPS = (1, 19)
DEADBANDS = {0: 5.0, 1: 10.0, 2: 25.0, 3: 25.0}
COUNTER_EVENT = 22
LARGEST_BLOCK = 64
"""Objects of one block at most, so that any response can be cut into fragments."""


@dataclass(frozen=True)
class Write:
    """One control as it came in. value: the control code of a CROB, the number of an analog output."""

    function: str
    point: str
    value: float
    on_ms: int
    off_ms: int
    status: CommandStatus
    at: float


class FeederSession(Session):
    """A session that can be struck dumb (what comes in is lost, nothing goes out) or lose one answer.

    It has counter events (group 22): py1815 has those of frozen counters only (group 23), which are the same octets.
    """

    dumb = False
    lost_answer = False

    def _event_blocks(self, chosen: Any, headers: Any) -> Any:
        blocks = super()._event_blocks(chosen, headers)
        for block in blocks:
            if block.group == objects.GROUP_FROZEN_COUNTER_EVENT:
                block.group = COUNTER_EVENT
        return blocks

    def receive(self, data: bytes) -> bytes:
        """The octets to send for those that came."""
        if self.dumb:
            return b""
        answer = super().receive(data)
        lost, self.lost_answer = self.lost_answer, False
        return b"" if lost else answer

    def initiate(self) -> bytes:
        """The octets to send unasked."""
        return b"" if self.dumb else super().initiate()


class Dnp3Feeder:
    """The RTU. Hooks by point (`CROB:2`, `AO:1`): see the attributes.

    refuse_select, refuse_operate: the status of the answer
    ignore: points that are accepted and then do nothing
    lose:   points whose OPERATE or DIRECT_OPERATE is carried out and never answered
    dumb:   nothing is answered or sent at all
    writes: every SELECT, OPERATE and DIRECT_OPERATE in order
    times:  what the master wrote as time, in ms, each with what our clock said then
    """

    def __init__(
        self,
        feeder: Feeder | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        seed: int = 1,
        *,
        still: bool = False,
        unsolicited: bool = True,
        event_capacity: int = 1000,
    ) -> None:
        """feeder: shared with others, who let its time pass; none: our own. still: nothing moves by itself."""
        self.feeder = feeder if feeder is not None else Feeder(seed)
        self._owns_feeder = feeder is None
        self._host, self._port, self._still = host, port, still
        self.refuse_select: dict[str, CommandStatus] = {}
        self.refuse_operate: dict[str, CommandStatus] = {}
        self.ignore: set[str] = set()
        self.lose: set[str] = set()
        self.writes: list[Write] = []
        self.times: list[tuple[int, int]] = []
        self.reclosing = False
        self.setpoint = 4000
        self.tap = 10
        self.outputs = {2: False, 4: False}
        self.buffers = EventBuffers(capacity=event_capacity)
        self.session = FeederSession(
            self,
            control_provider=self,
            events=self.buffers,
            outstation_address=OUTSTATION,
            master_address=MASTER,
            need_time=True,
            time_sink=self._take_time,
            unsolicited=unsolicited,
            unsolicited_confirm_timeout=3.0,
        )
        self._server: OutstationServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._prime()

    # life
    async def __aenter__(self) -> Self:
        await self.start()
        if not self._still:
            self._task = asyncio.create_task(self._live(), name="feeder-rtu")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.stop()

    async def start(self) -> None:
        """Listen, after a stop on the same port again; what is in the event buffers stays."""
        self._server = OutstationServer(self.session, bind=f"{self._host}:{self._port}")
        await self._server.start()
        self._port = self._server.port

    async def stop(self) -> None:
        """Close the connection and the port."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def restart(self, *, keep_events: bool = False) -> None:
        """Die and come back: the connection is gone, IIN1.7 stands again, buffered events are lost."""
        await self.stop()
        if not keep_events:
            self.buffers.drop([event for one in EventClass for event in self.buffers.peek(one)])
        self.session.restart()
        await self.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def dumb(self) -> bool:
        """Nothing is answered."""
        return self.session.dumb

    @dumb.setter
    def dumb(self, value: bool) -> None:
        self.session.dumb = value

    # what the feeder does
    def binaries(self) -> list[bool]:
        """BI:0 to BI:6 now."""
        plant = self.feeder
        contacts = [plant.breaker == OPEN, plant.breaker == CLOSED]
        return [plant.local, plant.lockout, plant.spring_charged, *contacts, plant.tripped, self.reclosing]

    def analogs(self) -> list[float]:
        """AI:0 to AI:5 now; whole numbers, as an RTU's converters give them."""
        plant = self.feeder
        values = (plant.voltage_kv * 100, plant.current_a * 10, plant.power_kw, plant.reactive_kvar)
        return [*map(float, map(round, values)), float(self.setpoint), float(self.tap)]

    def counters(self) -> list[int]:
        """CT:0 and CT:1 now."""
        return [self.feeder.operations, int(self.feeder.energy_wh / 10_000)]

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            if self._owns_feeder:
                self.feeder.step(STEP_S)
            self.report()

    def _prime(self) -> None:
        """Where the points stand at the start is no event."""
        for index, state in enumerate(self.binaries()):
            self.buffers.prime_binary(index, BinaryPoint(state))
        for index, value in enumerate(self.analogs()):
            self.buffers.prime_analog(index, AnalogPoint(value))
        self._counted = self.counters()

    def report(self) -> None:
        """Make events of what has changed, with the time of now, and report them."""
        now_ms = time.time_ns() // 1_000_000
        recorded = self.buffers.recorded
        for index, state in enumerate(self.binaries()):
            self.buffers.record_binary(index, BinaryPoint(state), event_class=EventClass.CLASS_1, timestamp_ms=now_ms)
        for index, value in enumerate(self.analogs()):
            self.buffers.record_analog(
                index,
                AnalogPoint(value),
                event_class=EventClass.CLASS_2,
                deadband=DEADBANDS.get(index, 0.0),
                timestamp_ms=now_ms,
            )
        counted, self._counted = self._counted, self.counters()
        for index, (before, count) in enumerate(zip(counted, self._counted, strict=True)):
            if count != before:
                point = CounterPoint(count)
                self.buffers.record_frozen_counter(index, point, event_class=EventClass.CLASS_3, timestamp_ms=now_ms)
        if self._server is not None and self.buffers.recorded != recorded:
            self._server.notify()

    def burst(self, count: int) -> None:
        """A chattering contact: so many events of BI:2 (an even number), a millisecond apart, the last one now."""
        now_ms, state = time.time_ns() // 1_000_000, self.feeder.spring_charged
        for left in range(count, 0, -1):
            point = BinaryPoint(state == bool(left % 2))
            self.buffers.record_binary(2, point, event_class=EventClass.CLASS_1, timestamp_ms=now_ms - left + 1)
        if self._server is not None:
            self._server.notify()

    def _take_time(self, ms: int) -> None:
        self.times.append((ms, time.time_ns() // 1_000_000))

    # reads: the provider of py1815's session
    def read(self, headers: Sequence[ObjectHeader]) -> bytes:
        """The objects asked for, in one piece."""
        return b"".join(self.read_blocks(headers))

    def read_blocks(self, headers: Sequence[ObjectHeader]) -> list[bytes]:
        """The objects asked for, in pieces that fit any fragment. Raises UnknownObject, ParameterError."""
        blocks: list[bytes] = []
        for header in headers:
            if header.event_class == 0:
                for group, variation, encoded in self._static():
                    blocks += _blocks(group, variation, encoded)
                continue
            found = next((one for one in self._static() if one[0] == header.group), None)
            if found is None or header.variation not in (0, found[1]):
                raise UnknownObject(f"g{header.group}v{header.variation}")
            blocks += _blocks(*found[:2], _selected(header, found[2]))
        return blocks

    def _static(self) -> list[tuple[int, int, dict[int, bytes]]]:
        """Group, variation and encoded objects by index."""
        binaries = [objects.encode_binary(BinaryPoint(state)) for state in self.binaries()]
        float32 = objects.AnalogVariation.FLOAT32_WITH_FLAG
        analogs = [objects.encode_analog(AnalogPoint(value), float32) for value in self.analogs()]
        counters = [objects.encode_counter(CounterPoint(value)) for value in self.counters()]
        outputs = {index: bytes([ONLINE | STATE * state]) for index, state in self.outputs.items()}
        return [
            (1, 2, dict(enumerate(binaries))),
            (3, 2, {0: bytes([ONLINE | self.feeder.disconnector << 6])}),
            (10, 2, outputs),
            (20, 1, dict(enumerate(counters))),
            (30, 5, dict(enumerate(analogs))),
            (40, 2, {1: bytes([ONLINE]) + struct.pack("<h", self.setpoint)}),
        ]

    # controls: the control provider of py1815's session
    def select(self, controls: Sequence[Control]) -> list[CommandStatus]:
        """Whether each could be operated; nothing is done."""
        return [self._written(control, "SELECT", self.refuse_select) for control in controls]

    def operate(self, controls: Sequence[Control]) -> list[CommandStatus]:
        """Do it."""
        statuses = []
        for control in controls:
            status = self._written(control, control.function.name, self.refuse_operate)
            statuses.append(status)
            name = _name(control)
            if status is CommandStatus.SUCCESS and name not in self.ignore:
                self._act(name, control.command)
            if name in self.lose:
                self.session.lost_answer = True
        return statuses

    def _written(self, control: Control, function: str, refused: dict[str, CommandStatus]) -> CommandStatus:
        name, command = _name(control), control.command
        status = refused.get(name) or self._judge(name, command)
        if isinstance(command, ControlRelayOutputBlock):
            facts = (float(command.control_code), command.on_time_ms, command.off_time_ms)
        else:
            facts = (command.value, 0, 0)
        self.writes.append(Write(function, name, *facts, status, time.monotonic()))
        return status

    def _judge(self, name: str, command: ControlRelayOutputBlock | AnalogOutput) -> CommandStatus:
        allowed = _ALLOWED.get(name)
        if allowed is None:
            return CommandStatus.NOT_SUPPORTED
        if self.feeder.local:
            return CommandStatus.LOCAL
        if isinstance(command, AnalogOutput):
            inside = SETPOINT_RANGE[0] <= command.value <= SETPOINT_RANGE[1]
            return CommandStatus.SUCCESS if inside else CommandStatus.OUT_OF_RANGE
        if command.control_code not in allowed or command.count != 1:
            return CommandStatus.NOT_SUPPORTED
        if name == "CROB:2" and command.control_code == CLOSE_PULSE and self.feeder.lockout:
            return CommandStatus.AUTOMATION_INHIBIT
        return CommandStatus.SUCCESS

    def _act(self, name: str, command: ControlRelayOutputBlock | AnalogOutput) -> None:
        if isinstance(command, AnalogOutput):
            self.setpoint = int(command.value)
            return
        code = command.control_code
        match name:
            case "CROB:2":
                self.outputs[2] = code == CLOSE_PULSE
                self.feeder.command_breaker(closed=code == CLOSE_PULSE)
            case "CROB:4":
                self.outputs[4] = self.reclosing = code == LATCH_ON
            case "CROB:5":
                self.feeder.lockout = False
            case "CROB:6":
                self.tap = min(TAPS[1], max(TAPS[0], self.tap + (1 if code == CLOSE_PULSE else -1)))


_ALLOWED: dict[str, tuple[int, ...]] = {
    "CROB:2": (CLOSE_PULSE, TRIP_PULSE),
    "CROB:4": (LATCH_ON, LATCH_OFF),
    "CROB:5": (PULSE,),
    "CROB:6": (CLOSE_PULSE, TRIP_PULSE),
    "AO:1": (),
}
"""Control codes each output takes."""


def _name(control: Control) -> str:
    return f"{'CROB' if control.group == 12 else 'AO'}:{control.index}"


def _selected(header: ObjectHeader, encoded: dict[int, bytes]) -> dict[int, bytes]:
    """The objects a header asks for. Raises ParameterError where there are none."""
    if header.qualifier is QualifierCode.ALL_OBJECTS or header.start is None or header.stop is None:
        return encoded
    chosen = {index: data for index, data in encoded.items() if header.start <= index <= header.stop}
    if not chosen:
        raise ParameterError(f"g{header.group} {header.start} to {header.stop}")
    return chosen


def _blocks(group: int, variation: int, encoded: dict[int, bytes]) -> list[bytes]:
    """Objects as ranges of indexes that follow each other, LARGEST_BLOCK at most."""
    blocks: list[bytes] = []
    run: list[int] = []

    def flush() -> None:
        if run:
            body = b"".join(encoded[index] for index in run)
            blocks.append(bytes((group, variation, 1)) + struct.pack("<HH", run[0], run[-1]) + body)
            run.clear()

    for index in sorted(encoded):
        if run and (index != run[-1] + 1 or len(run) >= LARGEST_BLOCK):
            flush()
        run.append(index)
    flush()
    return blocks


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return alone.run(arguments, "dnp3_feeder", "FDR12 (DNP3)", Dnp3Feeder, port=20000)


if __name__ == "__main__":
    sys.exit(main())
