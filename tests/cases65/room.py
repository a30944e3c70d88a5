"""A control room over real sockets: mosquitto, `gatewayd run` as a process, six devices on other stacks behind wires.

FDR12 (py1815), BAY1 and BAY2 (one open61850 server, the second time with a constant T), MTR3 (pyModbusTCP); SCR12 and
SCR3 say exactly the octets a test wants said. The gateway's wall clock is the test's (clock.c): synchronised, and
moved where a case wants it moved. Every limit of time is as short as the configuration allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shlex
import struct
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt

from gatewayd.store import audit
from simulators.dnp3_feeder import Dnp3Feeder
from simulators.iec61850_bay import Iec61850Bay
from simulators.modbus_meter import ModbusMeter
from simulators.model import CLOSED, Feeder
from simulators.station import station as devices
from tests.brokers import Mosquitto, until
from tests.cases65.wire import Wire
from tests.e2e.station import Gateway
from tests.mqtt.support import Console, console
from tests.protocols.dnp3.outstation import Outstation, indexed, ranged, time48
from tests.protocols.modbus.peers import Peer

HERE = Path(__file__).parent
SWITCH = "FDR12/CB/POS,double,BI:3|BI:4,sbo,CROB:2 trip-close,FDR12/CB/POS,1.5,2,,,F12,bay,"
RECIPE = "recipe=select HR:200=0x5A5A > verify HR:201=1 within_ms=300 > operate CO:3 > release HR:200=0"
HEADER = (
    "point,kind,address,control,command,feedback,feedback_timeout_s,select_timeout_s,tolerance,states,bay,lock_scope,"
    "local,interlock,area,settle_ms"
)
POINTS: dict[str, list[str]] = {
    "FDR12": [
        SWITCH + "on('FDR12/LOCAL'),,riverside,50",
        "FDR12/LOCAL,binary,BI:0,,,,,,,,,,,,",
        "FDR12/AR,binary,BI:6,sbo,CROB:4 latch,FDR12/AR,1,2,,,F12,,,on('BAY1/OK'),riverside",
        "FDR12/RESET,binary,BI:1,sbo,CROB:5 pulse,none,,30,,,,,,,riverside",
        "FDR12/SET16,analog,AI:4,sbo,AO:1 i16,FDR12/SET16,1,2,0.5,,,,,,riverside",
        "FDR12/SET32,analog,AI:0,sbo,AO:1 i32,FDR12/SET16,1,2,0.5,,,,,,riverside",
        "FDR12/SETF,analog,AI:1,sbo,AO:1 f32,FDR12/SET16,1,2,0.5,,,,,,riverside",
        "FDR12/SETD,analog,AI:2,direct,AO:1 f64,FDR12/SET16,1,2,0.5,,,,,,riverside",
        "FDR12/TAP,analog,AI:5,sbo,CROB:6 raise-lower,FDR12/TAP,1,30,,,,,,,riverside",
    ],
    "BAY1": [
        "BAY1/CB/POS,double,BAY1LD0/CSWI1.Pos,sbo,BAY1LD0/CSWI1.Pos,BAY1/CB/POS,1,2,,,B1,bay,,,hill",
        "BAY1/DS/POS,double,BAY1LD0/CSWI2.Pos,sbo,BAY1LD0/CSWI2.Pos,BAY1/DS/POS,1,2,,,B1,bay,,,hill",
        "BAY1/OK,binary,BAY1LD0/GGIO1.Ind1,,,,,,,,,,,,",
        "BAY1/DN,binary,BAY1LD0/GGIO1.SPCSO1,sbo,BAY1LD0/GGIO1.SPCSO1,BAY1/DN,1,2,,,,,,,hill",
        "BAY1/SN,binary,BAY1LD0/GGIO1.SPCSO2,sbo,BAY1LD0/GGIO1.SPCSO2,BAY1/SN,1,2,,,,,,,hill",
        "BAY1/DE,binary,BAY1LD0/GGIO1.SPCSO3,sbo,BAY1LD0/GGIO1.SPCSO3,BAY1/DE,1,2,,,,,,,hill",
        "BAY1/SE,binary,BAY1LD0/GGIO1.SPCSO4,sbo,BAY1LD0/GGIO1.SPCSO4,BAY1/SE,1,2,,,,,,,hill",
    ],
    "BAY2": ["BAY2/SE,binary,BAY1LD0/GGIO1.SPCSO4,sbo,BAY1LD0/GGIO1.SPCSO4,BAY2/SE,1,2,,,,,,,hill"],
    "MTR3": [
        "MTR3/CB/POS,binary,DI:0,sbo,CO:0,MTR3/CB/POS,1,2,,0=open;1=closed,,,,,",
        "MTR3/LAMP,binary,DI:5,sbo,CO:1 fc=15,MTR3/LAMP,1,2,,,,,,,",
        "MTR3/TARIFF,enum,HR:10,sbo,HR:10,MTR3/TARIFF,1,2,,1=day;2=night,,,,,",
        "MTR3/DEMAND,analog,HR:120:u16,sbo,HR:120:u16 fc=16,MTR3/DEMAND,1,2,,,,,,,",
        f"MTR3/RECIPE,binary,DI:6,sbo,{RECIPE},MTR3/RECIPE,1,2,,,,,,,",
        "MTR3/HORN,binary,CO:8,sbo,CO:7,none,,2,,,,,,,",
    ],
    "SCR12": ["SCR12/SW,binary,BI:0,sbo,CROB:2 trip-close,SCR12/SW,1,2,,,,,,,"],
    "SCR3": [
        "SCR3/SW,binary,DI:0,sbo,CO:0,SCR3/SW,1,2,,,,,,,",
        "SCR3/PULSE,binary,CO:8,sbo,CO:7 pulse_ms=50,SCR3/SW,8,2,,,,,,,",
    ],
}
OPTIONS = {
    "FDR12": ("dnp3", "remote_address = 10\nevent_poll_s = 0.5\nresponse_timeout_s = 0.5\nconnect_timeout_s = 1"),
    "BAY1": (
        "iec61850",
        'reports = ["BAY1LD0/LLN0.BR.brcbST", "BAY1LD0/LLN0.RP.urcbMX"]\npoll_s = 0.2\ntimeout_s = 0.6',
    ),
    "BAY2": ("iec61850", "constant_t = true\npoll_s = 0.2\ntimeout_s = 0.6\nconnect_timeout_s = 1"),
    "MTR3": ("modbus", "unit = 1\npoll_s = 0.1\ntimeout_s = 0.4\nconnect_timeout_s = 1"),
    "SCR12": ("dnp3", "remote_address = 10\nevent_poll_s = 0.2\nresponse_timeout_s = 0.4\nconnect_timeout_s = 1"),
    "SCR3": ("modbus", "unit = 1\npoll_s = 0.1\ntimeout_s = 0.3\nconnect_timeout_s = 1"),
}
CONTROL: dict[str, object] = {
    "device_timeout_s": 1.5,
    "termination_timeout_s": 1,
    "feedback_timeout_s": 1,
    "hold_s": 0.3,
    "stop_budget_s": 2,
    "rate_per_s": 20,
    "rate_burst": 40,
}
AT_REST = {
    "FDR12/CB/POS": "closed", "FDR12/LOCAL": False, "FDR12/AR": False, "FDR12/SET16": 4000, "FDR12/TAP": 10,
    "BAY1/CB/POS": "closed", "BAY1/DS/POS": "closed", "BAY1/OK": True,
    "BAY1/DN": False, "BAY1/SN": False, "BAY1/DE": False, "BAY1/SE": False, "BAY2/SE": False,
    "MTR3/CB/POS": True, "MTR3/TARIFF": "day", "MTR3/DEMAND": 15, "MTR3/LAMP": False, "MTR3/RECIPE": False,
    "SCR12/SW": False, "SCR3/SW": False,
}  # fmt: skip


@functools.cache
def clock_library() -> Path:
    """clock.c, built once a run."""
    library = Path(tempfile.mkdtemp(prefix="gatewayd-clock-")) / "clock.so"
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    subprocess.run([*compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "clock.c", "-ldl"], check=True)
    return library


class Operator:
    """Someone at a console: asks, and gathers the answers."""

    def __init__(self, room: Room, name: str) -> None:
        self.room = room
        self.name = name

    async def ask(self, stage: str, *, retain: bool = False, expires_s: float = 30, **body: Any) -> str:
        tx = str(body.setdefault("tx", str(uuid.uuid4())))
        if stage != "cancel":
            body.setdefault("expires_at", stamp(expires_s))
        await self.room.console.publish(f"cmd/{self.name}/{stage}", body, retain=retain)
        return tx

    def answers(self, tx: str) -> list[dict[str, Any]]:
        self.room.look()
        return self.room.replies.get((self.name, tx), [])

    async def first(self, tx: str) -> dict[str, Any]:
        await until(lambda: self.answers(tx), f"an answer to {tx}", 5)
        return self.answers(tx)[0]

    async def end(self, tx: str) -> dict[str, Any]:
        """The outcome; that there is exactly one."""
        await until(lambda: self.ends(tx), f"the end of {tx}: {self.answers(tx)}\n{self.room.gateway.log[-1500:]}", 8)
        [one] = self.ends(tx)
        return one

    def ends(self, tx: str) -> list[dict[str, Any]]:
        dones = [one for one in self.answers(tx) if one["result"] == "done"]
        return [one for one in dones if not one.get("late") and not one["duplicate"]]

    async def select(self, point: str, value: Any, **more: Any) -> dict[str, Any]:
        """Select, which must succeed."""
        selected = await self.first(await self.ask("select", point=point, value=value, **more))
        assert selected["result"] == "selected", selected
        self.room.selects.append((self, selected["select_id"]))
        return selected

    async def operate(self, selected: dict[str, Any], **more: Any) -> str:
        given = {key: selected[key] for key in ("point", "value", "select_id")}
        return await self.ask("operate", **given | more)

    async def sbo(self, point: str, value: Any) -> str:
        """Select and operate; the tx of the operate."""
        return await self.operate(await self.select(point, value))

    async def refused(self, stage: str, **body: Any) -> str:
        """Ask for something that must be refused with nothing moved; the reason."""
        done = await self.end(await self.ask(stage, **body))
        assert done["effect"] == "none", done
        return str(done["reason"])


def stamp(ahead_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Room:
    """Everything together. `console` hears all of `gw/test/#`; `wires` by device."""

    def __init__(
        self,
        folder: Path,
        broker: Mosquitto,
        listener: Console,
        plant: tuple[Feeder, Dnp3Feeder, Iec61850Bay, ModbusMeter],
        scripted: tuple[Outstation, Peer],
        wires: dict[str, Wire],
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.console = listener
        self.feeder, self.rtu, self.bay, self.meter = plant
        self.outstation, self.peer = scripted
        self.wires = wires
        self.state = folder / "state"
        self.control = CONTROL
        self.mqtt = ""
        """More lines of `[mqtt]`."""
        self.login: dict[str, str] = {}
        self.selects: list[tuple[Operator, str]] = []
        self.points: dict[str, dict[str, Any]] = {}
        self.gateway = Gateway(folder, folder / "gatewayd.toml")
        self._again: contextlib.AbstractAsyncContextManager[Console] | None = None
        self._heard = 0
        self._said: dict[str, list[dict[str, Any]]] = {}
        self.replies: dict[tuple[str, str], list[dict[str, Any]]] = {}
        """By operator and tx."""
        self._by_tx: dict[str, list[dict[str, Any]]] = {}
        self._trail: list[dict[str, Any]] = []
        self._marks: dict[str, int] = {}

    # --- the gateway

    def write_config(self, *, without: Sequence[str] = ()) -> None:
        """without: points that are left out."""
        parts = [
            f'[gateway]\nname = "test"\nstate_dir = "{self.state}"',
            f'[mqtt]\nurl = "{self.broker.url}"\nreconnect_max_s = 0.2\n{self.mqtt}',
            '[journal]\nmax_size = "64MB"',
            "[control]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in self.control.items()),
        ]
        for name, (protocol, options) in OPTIONS.items():
            parts.append(
                f'[[device]]\nname = "{name}"\nprotocol = "{protocol}"\nhost = "127.0.0.1"\n'
                f'port = {self.wires[name].port}\npoints = "{name}.csv"\n'
                f"[device.{protocol}]\n{options}"
            )
            rows = [row for row in POINTS[name] if row.partition(",")[0] not in without]
            (self.folder / f"{name}.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        self.gateway.config.write_text("\n".join(parts) + "\n")

    async def start(self, **environment: str) -> None:
        """Start `gatewayd run`; what was published before is forgotten."""
        self.look()
        self.points.clear()
        offset = self.folder / "clock"
        offset.write_bytes(struct.pack("<q", 0))
        self.gateway.environment = {
            "LD_PRELOAD": str(clock_library()), "GATEWAYD_TEST_CLOCK": str(offset), **environment
        }  # fmt: skip
        await self.gateway.start()

    def step_clock(self, seconds: float) -> None:
        """The gateway's wall clock is so far off the true one from now on."""
        with (self.folder / "clock").open("r+b") as file:
            file.write(struct.pack("<q", int(seconds * 1e9)))

    async def good(self) -> None:
        """Until every point is read, and good."""
        wanted = {row.partition(",")[0] for rows in POINTS.values() for row in rows}

        def all_good() -> bool:
            self.look()
            return wanted <= {name for name, record in self.points.items() if record["quality"] == "good"}

        await until(all_good, f"all good: {self.points}\n{self.gateway.log[-3000:]}", 30)

    def look(self) -> None:
        """Take in what was published."""
        heard = self.console.heard
        while self._heard < len(heard):
            message = heard[self._heard]
            self._heard += 1
            if message.topic.startswith("gw/test/state/"):
                for record in message.body["points"]:
                    self.points[record["point"]] = record
            elif message.payload and not message.topic.startswith(("gw/test/cmd/", "gw/test/point/")):
                topic, body = message.topic.removeprefix("gw/test/"), message.body
                self._said.setdefault(topic, []).append(body)
                if topic.startswith("reply/"):
                    self.replies.setdefault((topic.removeprefix("reply/"), body["tx"]), []).append(body)

    def said(self, topic: str) -> list[dict[str, Any]]:
        """What was heard on `gw/test/<topic>`, oldest first."""
        self.look()
        return self._said.get(topic, [])

    async def shows(self, point: str, value: Any) -> None:
        def there() -> bool:
            self.look()
            record = self.points.get(point, {})
            return record.get("value") == value and record.get("quality") == "good"

        await until(there, f"{point} shows {value}", 5)

    async def control_now(self) -> list[dict[str, Any]]:
        """What is selected, under way and held, from `ask health`."""
        before = len(self.said("answered/janitor"))
        await self.console.publish("ask/janitor", {"ask": "health"})
        await until(lambda: len(self.said("answered/janitor")) > before, "health", 5)
        control = self.said("answered/janitor")[-1]["control"]
        return [one for kind in ("selects", "operations", "holds") for one in control[kind]]

    async def listen_again(self) -> None:
        """A new console, after the broker was away."""
        await self.console_closed()
        self._again = console(self.broker.url, **self.login)
        self.look()
        self.console = await self._again.__aenter__()
        self._heard = 0

    async def reached(self) -> None:
        """Until the gateway takes requests."""
        before = len(self.said("answered/janitor"))
        for _ in range(100):
            await self.console.publish("ask/janitor", {"ask": "health"})
            with contextlib.suppress(AssertionError):
                await until(lambda: len(self.said("answered/janitor")) > before, "", 0.2)
                return
        raise AssertionError(f"the gateway takes no requests: {self.gateway.log[-2000:]}")

    async def console_closed(self) -> None:
        again, self._again = self._again, None
        if again is not None:
            with contextlib.suppress(aiomqtt.MqttError):
                await again.__aexit__(None, None, None)

    # --- people

    def operator(self, name: str = "alice") -> Operator:
        return Operator(self, name)

    # --- the simulators' own record

    def _record(self, device: str) -> list[str]:
        match device:
            case "FDR12":
                return [f"{w.function} {w.point} {w.value:g}" for w in self.rtu.writes]
            case "BAY1":
                return [f"{w.service} {w.object}" for w in self.bay.writes]
            case "MTR3":
                return [f"{w.function} {w.address} {w.values}" for w in self.meter.writes]
            case "SCR12":
                names = {3: "SELECT", 4: "OPERATE", 5: "DIRECT_OPERATE"}
                return [names[r.function] for r in self.outstation.requests if r.function in names]
            case _:
                return self.peer.writes

    def mark(self) -> None:
        """From here on `wrote` counts."""
        self._marks = {device: len(self._record(device)) for device in OPTIONS}

    def wrote(self, device: str) -> list[str]:
        """What the simulator says was written to it since the last mark."""
        return self._record(device)[self._marks.get(device, 0) :]

    def nothing_written(self) -> bool:
        return not any(self.wrote(device) for device in OPTIONS)

    # --- the audit trail

    def trail(self, tx: str) -> list[dict[str, Any]]:
        """What the audit trail says of a request so far."""
        self.whole_trail()
        return self._by_tx.get(tx, [])

    def whole_trail(self) -> list[dict[str, Any]]:
        """All of the audit trail so far."""
        # By number, not by count: the oldest records go when there are too many.
        new = audit.entries(self.state, self._trail[-1]["n"] + 1 if self._trail else 1)
        for entry in new:
            record = json.loads(entry.record)
            self._trail.append(record)
            self._by_tx.setdefault(str(record.get("tx")), []).append(record)
        return self._trail

    def read_again(self) -> None:
        """The trail on disk is not the one that was read."""
        self._trail.clear()
        self._by_tx.clear()

    async def proof(
        self, operator: Operator, tx: str, reason: str, effect: str, words: str, *, native: str = ""
    ) -> dict[str, Any]:
        """Outcome, effect, the public word, and the audit trail of a request. words: what the trail says, in order."""
        done = await operator.end(tx)
        assert (done["reason"], done["effect"]) == (reason, effect), done
        if native:
            assert done["native"]["name"] == native, done

        def public() -> list[dict[str, Any]]:
            return [one for one in self.said(f"control/{done['point']}") if one["tx"] == tx]

        await until(lambda: not done["point"] or any(one["result"] == "done" for one in public()), "told to all", 5)
        await until(
            lambda: words.split() == [one for one in self.words(tx) if one != "late"],
            f"the trail {words}: {self.trail(tx)}",
            5,
        )
        [outcome] = [one for one in self.trail(tx) if one["what"] in ("outcome", "refused", "cancel") and
                     "late" not in one]  # fmt: skip
        assert (outcome["who"], outcome["reason"], outcome["effect"]) == (operator.name, reason, effect)
        assert {one["operator"] for one in public()} <= {operator.name}
        assert not any("select_id" in one for one in public())
        return done

    def words(self, tx: str) -> list[str]:
        return [one["what"] for one in self.trail(tx)]

    # --- between two cases

    async def put_right(self) -> None:
        """Everything as at the beginning: wires, hooks, plant; nothing selected, under way or held."""
        self.step_clock(0)
        for wire in self.wires.values():
            wire.heal()
        rtu, bay, meter = self.rtu, self.bay, self.meter
        for hooks in (rtu.refuse_select, rtu.refuse_operate, rtu.ignore, rtu.lose, bay.refuse_select,
                      bay.refuse_operate, bay.fail_operate, bay.stuck, meter.refuse, meter.slow, meter.silent,
                      self.outstation.answers):  # fmt: skip
            hooks.clear()
        self.outstation.deaf = rtu.dumb = False
        self.peer.script = lambda asked: [asked.good]
        plant = self.feeder
        plant.local = plant.lockout = plant.stuck = False
        plant.breaker = plant.disconnector = CLOSED
        rtu.reclosing, rtu.setpoint, rtu.tap = False, 4000, 10
        bay.travel_s, bay.shows_selects = 0.05, False
        for number in (1, 2, 3, 4):
            bay.set(f"GGIO1.SPCSO{number}.stVal[ST]", False, q=0)
        bay.set("GGIO1.Ind1.stVal[ST]", True, q=0)
        meter.bank.set_holding_registers(10, [1])
        meter.bank.set_holding_registers(120, [15])
        meter.bank.set_holding_registers(201, [1])
        meter.bank.set_discrete_inputs(5, [False, False])
        self.peer.bits.clear()
        self.switch(on=False)
        await self.good()
        for point, value in AT_REST.items():
            await self.shows(point, value)
        janitor = self.operator("janitor")
        selects, self.selects = self.selects, []
        if await self.control_now():
            for whose, select_id in selects:
                await whose.end(await whose.ask("cancel", select_id=select_id))
        while left := await self.control_now():
            for one in left:
                if one["state"] == "hold":
                    await janitor.end(await janitor.ask("clear", point=one["point"]))
            await asyncio.sleep(0.02)
        self.mark()

    def switch(self, *, on: bool, quality: int = 0x01) -> None:
        """The switch of SCR12, reported by itself; quality: the flags without the state."""
        flags = bytes((quality | (0x80 if on else 0),))
        self.outstation.static = ranged(1, 2, 0, [flags])
        ms = int(datetime.now(UTC).timestamp() * 1000)
        self.outstation.unsolicited(indexed(2, 2, [(0, flags + time48(ms))]))


@contextlib.asynccontextmanager
async def opened(
    folder: Path,
    *,
    control: Mapping[str, object] | None = None,
    mqtt: str = "",
    login: Mapping[str, str] | None = None,
    **broker: Any,
) -> AsyncIterator[Room]:
    """control: in place of CONTROL's; mqtt: more of its lines; login: of the console; broker: of the Mosquitto."""
    async with contextlib.AsyncExitStack() as stack:
        made = await stack.enter_async_context(Mosquitto(folder / "broker", **broker))
        plant = await stack.enter_async_context(devices())
        outstation = await stack.enter_async_context(Outstation(static=ranged(1, 2, 0, [b"\x01"])))
        peer = await stack.enter_async_context(Peer())
        feeder, rtu, bay, meter = plant
        feeder.travel_s = bay.travel_s = 0.05
        bay.set("GGIO1.Ind1.stVal[ST]", True)
        meter.bank.set_holding_registers(201, [1])
        targets = {"FDR12": rtu.port, "BAY1": bay.port, "BAY2": bay.port, "MTR3": meter.port,
                   "SCR12": outstation.port, "SCR3": peer.port}  # fmt: skip
        wires = {name: await stack.enter_async_context(Wire(port)) for name, port in targets.items()}
        listener = await stack.enter_async_context(console(made.url, **(login or {})))
        room = Room(folder, made, listener, plant, (outstation, peer), wires)
        room.control, room.mqtt, room.login = CONTROL | dict(control or {}), mqtt, dict(login or {})
        room.write_config()
        stack.push_async_callback(room.gateway.kill)
        await room.start()
        await room.good()
        yield room
        await room.console_closed()
