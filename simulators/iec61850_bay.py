"""A simulated bay IED: serves bay1.cid over MMS with open61850, a stack that is not the gateway's.

    python -m simulators.iec61850_bay --port 10102 --seed 1

Breaker (XCBR1, CSWI1) and disconnector (XSWI1, CSWI2) with sbo-with-enhanced-security, measurements, protection,
SPCSO1 to SPCSO4 with the four control models, one BRCB and one URCB of three instances each. In tests:

    async with Iec61850Bay() as sim:
        sim.refuse_select["CSWI1.Pos"] = 10         # AddCause of a negative SBOw or SBO
        ...
        assert [write.service for write in sim.writes] == ["SBOw", "Oper"]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from open61850.data import (
    BitStringData,
    BoolData,
    IECData,
    IntData,
    OctetStringData,
    StructureData,
    TimestampData,
    UIntData,
    VisibleStringData,
)
from open61850.mms.pdu import ObjectName
from open61850.server.control import IN_EXECUTION, Command
from open61850.server.model import IedModel
from open61850.server.server import MmsServer

from simulators import alone
from simulators.model import CLOSED, INTERMEDIATE, OPEN, Feeder

SCL = Path(__file__).with_name("bay1.cid")
LD = "BAY1LD0"
SWITCHES = {"CSWI1.Pos": "XCBR1.Pos", "CSWI2.Pos": "XSWI1.Pos"}
OUTPUTS = ("GGIO1.SPCSO1", "GGIO1.SPCSO2", "GGIO1.SPCSO3", "GGIO1.SPCSO4")
VALUES = ("GGIO1.ISCSO1", "GGIO1.AnOut1", "ATCC1.TapChg")
IN_STEP = 0x0A
"""TimeQuality of the IED's clock: synchronised, a millisecond."""
BLOCKED_BY_HIERARCHY, BLOCKED_BY_INTERLOCKING, POSITION_REACHED = 2, 10, 5
STEP_S = 0.2


@dataclass(frozen=True)
class Write:
    """One control service as it came in. check: bits, 1 synchro, 2 interlock; T as sent."""

    service: str
    object: str
    ctl_val: Any = None
    or_cat: int = 0
    or_ident: bytes = b""
    ctl_num: int = 0
    test: bool = False
    check: int = 0
    t: datetime | None = None
    at: float = 0.0


class Iec61850Bay:
    """The IED. Hooks by object (`CSWI1.Pos`): see the attributes. Values move by themselves unless `still`.

    refuse_select, refuse_operate: AddCause of a negative answer
    fail_operate:  AddCause of a negative CommandTermination
    travel_s:      how long a switch takes
    stuck:         objects whose switch does not move though the command is accepted
    shows_selects: stSeld follows what is selected; else it stays false, as in IEDs that do not maintain it
    looks:         how often an stSeld was read
    writes:        every SBO, SBOw, Oper, Cancel in order
    """

    def __init__(
        self,
        feeder: Feeder | None = None,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        seed: int = 1,
        still: bool = False,
        scl: Path = SCL,
        report_buffer_bytes: int = 256 * 1024,
    ) -> None:
        self.feeder = feeder if feeder is not None else Feeder(seed)
        self._owns_feeder = feeder is None
        self._host, self._port, self._still = host, port, still
        self._report_buffer_bytes = report_buffer_bytes
        self.model = IedModel.from_scl(scl)
        self.writes: list[Write] = []
        self.refuse_select: dict[str, int] = {}
        self.refuse_operate: dict[str, int] = {}
        self.fail_operate: dict[str, int] = {}
        self.stuck: set[str] = set()
        self.travel_s = 0.15
        self.shows_selects = False
        self.looks = 0
        self._server: MmsServer | None = None
        self._service = threading.local()
        self._lock = threading.Lock()
        self._timers: list[threading.Timer] = []
        self._task: asyncio.Task[None] | None = None

    # life
    async def __aenter__(self) -> Self:
        self.start()
        if not self._still:
            self._task = asyncio.create_task(self._live(), name="bay1")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Listen; after a stop on the same port again, with the values but not the report buffers of before."""
        server = MmsServer(
            self.model,
            self._host,
            self._port,
            model_name="bay simulator",
            report_buffer_bytes=self._report_buffer_bytes,
        )
        self._forget_reports()
        self._date_everything()
        self._show(datetime.now(UTC))
        server.start()
        assert server.controls is not None
        server.write_hooks.insert(0, self._on_write)
        server.read_hooks.insert(0, self._on_read)
        for name in (*SWITCHES, *OUTPUTS, *VALUES):
            server.controls.set_check(f"{LD}/{name}", self._check)
            server.controls.set_handler(f"{LD}/{name}", self._execute)
        self._server = server
        self._port = server.port

    def _forget_reports(self) -> None:
        """A restarted IED has empty buffers, and says so."""
        for number in (1, 2, 3):
            block = f"LLN0$BR$brcbST{number:02d}"
            self.model.set(ObjectName(f"{block}$EntryID", LD), OctetStringData(bytes(8)))
            self.model.set(ObjectName(f"{block}$ResvTms", LD), IntData(0))

    def _date_everything(self) -> None:
        """What never changes has been as it is since the start; a t of 1970 would say it was never set."""
        now = TimestampData(datetime.now(UTC), IN_STEP)
        for name in self.model.names(LD):
            if name.endswith("$t") and self._never(ObjectName(name, LD)):
                self.model.set(ObjectName(name, LD), now)

    def stop(self) -> None:
        """Close every association and the port."""
        for timer in self._timers:
            timer.cancel()
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            if server.reports is not None:
                self.model._listeners.clear()  # noqa: SLF001  # the next server has report blocks of its own

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def server(self) -> MmsServer:
        """The running server."""
        assert self._server is not None
        return self._server

    def kill(self) -> None:
        """Close every association, as a lost network does; the port stays open."""
        for connection in list(self.server.connections):
            connection.close()

    def silence(self) -> None:
        """Present associations get no answer any more; nothing is closed."""
        for connection in list(self.server.connections):
            connection.send = lambda _pdu: None  # type: ignore[method-assign]

    # values
    def set(self, reference: str, value: object, **more: object) -> None:
        """Set an attribute below the logical device and its t (now): `GGIO1.Ind1.stVal[ST]`; more: q, t."""
        path, _, fc = reference.partition("[")
        parent = path.rpartition(".")[0]
        while self.model.node(f"{LD}/{parent}.t[{fc}") is None and "." in parent:
            parent = parent.rpartition(".")[0]
        stamp = more.get("t", TimestampData(datetime.now(UTC), IN_STEP))
        with self.model.batch():
            if self.model.node(f"{LD}/{parent}.t[{fc}") is not None:
                self.model.set(f"{LD}/{parent}.t[{fc}", stamp)
            if "q" in more:
                self.model.set(f"{LD}/{parent}.q[{fc}", quality(int(str(more["q"]))))
            self.model.set(f"{LD}/{reference}", value)

    def value(self, reference: str) -> Any:
        """The present value of an attribute: `XCBR1.Pos.stVal[ST]`."""
        data = self.model.get(f"{LD}/{reference}")
        if isinstance(data, BitStringData):
            return int.from_bytes(data.value, "big") >> data.unused_bits
        return getattr(data, "value", data)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            if self._owns_feeder:
                self.feeder.step(STEP_S)
            self._show(datetime.now(UTC))

    def _show(self, now: datetime) -> None:
        """The feeder's state into the model; what did not change makes no report."""
        plant = self.feeder
        status: dict[str, object] = {
            "LLN0.Loc.stVal": plant.local,
            "PTOC1.Op.general": plant.tripped,
            "PTRC1.Op.general": plant.tripped,
            "PTRC1.Tr.general": plant.tripped,
        }
        for control, switch in SWITCHES.items():
            position = plant.breaker if control == "CSWI1.Pos" else plant.disconnector
            status |= {f"{control}.stVal": position, f"{switch}.stVal": position}
        phases = {f"A.phs{p}.cVal.mag.f": plant.current_a for p in "ABC"}
        phases |= {f"PhV.phs{p}.cVal.mag.f": plant.voltage_kv / 1.732 for p in "ABC"}
        apparent = (plant.power_kw**2 + plant.reactive_kvar**2) ** 0.5
        measured: dict[str, float] = {
            "TotW.mag.f": plant.power_kw,
            "TotVAr.mag.f": plant.reactive_kvar,
            "TotPF.mag.f": plant.power_kw / apparent if apparent else 1.0,
            "Hz.mag.f": plant.frequency_hz,
            **phases,
        }
        with self._lock, self.model.batch():
            for name, value in status.items():
                self._put(name, "ST", value, now)
            for name, number in measured.items():
                self._put(f"MMXU1.{name}", "MX", round(number, 4), now)
            self._put("MMTR1.SupWh.actVal", "ST", int(plant.energy_wh), now)

    def _put(self, name: str, fc: str, value: object, now: datetime) -> None:
        reference = f"{LD}/{name}[{fc}]"
        before = self.model.get(reference)
        self.model.set(reference, value)
        parent = ".".join(name.split(".")[: 3 if ".cVal." in name else 2])
        stamp = f"{LD}/{parent}.t[{fc}]"
        if self.model.get(reference) != before:
            self.model.set(stamp, TimestampData(now, IN_STEP))

    def _never(self, stamp: str | ObjectName) -> bool:
        """True where the attribute has never had a time: it would read as 1970."""
        held = self.model.get(stamp)
        return isinstance(held, TimestampData) and held.value.year == 1970

    def drop_select(self, name: str) -> None:
        """Forget who selected an object (`CSWI1.Pos`), as an IED does whose operator takes over."""
        controls = self.server.controls
        assert controls is not None
        domain, ln, do = LD, *name.split(".")
        controls._selections.pop((domain, f"{ln}$CO${do}"), None)  # noqa: SLF001  # open61850 has no other way
        self._seld(name, shown=False)

    def _seld(self, name: str, *, shown: bool) -> None:
        if self.shows_selects and self.model.node(f"{LD}/{name}.stSeld[ST]") is not None:
            self.model.set(f"{LD}/{name}.stSeld[ST]", shown)

    # controls: on the server's threads
    def _on_read(self, _connection: object, name: ObjectName) -> IECData | None:
        parts = name.item.split("$")
        self.looks += parts[-1] == "stSeld"
        if parts[-1] != "SBO" or len(parts) != 4:
            return None
        name_of = f"{parts[0]}.{parts[2]}"
        self.writes.append(Write("SBO", name_of, at=time.time()))
        if name_of in self.refuse_select:
            return VisibleStringData("")
        self._seld(name_of, shown=True)
        return None

    def _on_write(self, _connection: object, name: ObjectName, value: IECData) -> None:
        parts = name.item.split("$")
        if len(parts) != 4 or parts[1] != "CO":
            return
        self._service.name = parts[3]
        node = self.model.node(name)
        if node is None or not isinstance(value, StructureData):
            return
        given = dict(zip(node.children, value.members))  # noqa: B905  # a wrong length is the server's to refuse
        self.writes.append(_written(parts[3], f"{parts[0]}.{parts[2]}", given))
        if parts[3] == "Cancel":
            self._seld(f"{parts[0]}.{parts[2]}", shown=False)

    def _check(self, command: Command) -> int | None:
        refused = self._refusal(command)
        if refused is None:
            self._seld(_name(command), shown=self._service.name == "SBOw")
        return refused

    def _refusal(self, command: Command) -> int | None:
        name = _name(command)
        if self._service.name == "SBOw":
            if name in self.refuse_select:
                return self.refuse_select[name]
        elif name in self.refuse_operate:
            return self.refuse_operate[name]
        if name not in SWITCHES:
            return None
        if self.feeder.local:
            return BLOCKED_BY_HIERARCHY
        if name == "CSWI2.Pos" and self.feeder.breaker != OPEN and command.interlock_check:
            return BLOCKED_BY_INTERLOCKING
        return None

    def _execute(self, command: Command) -> int | None:
        name = _name(command)
        if name in SWITCHES:
            return self._move(name, command)
        if name in self.fail_operate:
            return self.fail_operate[name]
        if name in OUTPUTS:
            self._stamp(name, command)
            self.set(f"{name}.stVal[ST]", bool(getattr(command.ctl_val, "value", False)))
        elif name == "GGIO1.ISCSO1":
            self.set(f"{name}.stVal[ST]", command.ctl_val)
        elif name == "GGIO1.AnOut1" and isinstance(command.ctl_val, StructureData):
            self.set(f"{name}.mxVal.f[MX]", command.ctl_val.members[0])
        elif name == "ATCC1.TapChg" and isinstance(command.ctl_val, BitStringData):
            up = command.ctl_val.value[0] >> 6 == 0b10
            self.set(f"{name}.valWTr.posVal[ST]", self.value(f"{name}.valWTr.posVal[ST]") + (1 if up else -1))
        return None

    def _move(self, name: str, command: Command) -> int:
        """A switch leaves its position, and reaches the other one later."""
        if command.test:
            return POSITION_REACHED
        target = CLOSED if getattr(command.ctl_val, "value", False) else OPEN
        self._stamp(name, command)
        attribute = "breaker" if name == "CSWI1.Pos" else "disconnector"
        stays = name in self.stuck or name in self.fail_operate
        if not stays:
            setattr(self.feeder, attribute, INTERMEDIATE)
            self._show(datetime.now(UTC))

        def arrive() -> None:
            if not stays:
                setattr(self.feeder, attribute, target)
                self._show(datetime.now(UTC))
            if self._server is not None and self._server.controls is not None:
                self._server.controls.finish(f"{LD}/{name}", self.fail_operate.get(name))

        timer = threading.Timer(self.travel_s, arrive)
        timer.daemon = True
        self._timers = [running for running in self._timers if running.is_alive()] + [timer]
        timer.start()
        return IN_EXECUTION

    def _stamp(self, name: str, command: Command) -> None:
        with self.model.batch():
            if command.origin is not None:
                self.model.set(f"{LD}/{name}.origin[ST]", command.origin)
            self.model.set(f"{LD}/{name}.ctlNum[ST]", UIntData(command.ctl_num))


def quality(bits: int) -> BitStringData:
    """A quality of 13 bits; bit 0 of the wire is bit 0."""
    wire = 0
    for position in range(13):
        wire |= (bits >> position & 1) << (15 - position)
    return BitStringData(wire.to_bytes(2, "big"), 3)


def _name(command: Command) -> str:
    return command.object_item.replace("$CO$", ".")


def _written(service: str, name: str, given: dict[str, IECData]) -> Write:
    origin, check, stamp = given.get("origin"), given.get("Check"), given.get("T")
    category, ident = 0, b""
    if isinstance(origin, StructureData):
        first, second = origin.members
        category = first.value if isinstance(first, IntData) else -1
        ident = second.value if isinstance(second, OctetStringData) else b""
    bits = 0
    if isinstance(check, BitStringData) and check.value:
        bits = (check.value[0] >> 7 & 1) | (check.value[0] >> 6 & 1) << 1
    test = given.get("Test")
    return Write(
        service,
        name,
        ctl_val=_plain(given.get("ctlVal")),
        or_cat=category,
        or_ident=ident,
        ctl_num=getattr(given.get("ctlNum"), "value", 0),
        test=isinstance(test, BoolData) and test.value,
        check=bits,
        t=stamp.value if isinstance(stamp, TimestampData) else None,
        at=time.time(),
    )


def _plain(value: IECData | None) -> Any:
    if isinstance(value, StructureData):
        return [_plain(member) for member in value.members]
    if isinstance(value, BitStringData):
        return int.from_bytes(value.value, "big") >> value.unused_bits
    return getattr(value, "value", None)


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Iec61850Bay]:
    """The IED without an event loop; nothing moves by itself."""
    sim = Iec61850Bay(still=True, **options)
    sim.start()
    try:
        yield sim
    finally:
        sim.stop()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return alone.run(arguments, "iec61850_bay", "BAY1 (IEC 61850)", Iec61850Bay, port=10102)


if __name__ == "__main__":
    sys.exit(main())
