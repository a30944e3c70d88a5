"""How fast a command is: from the operator's PUBLISH through broker, gates, journal and worker to the device's socket.

    python -m benchmarks.control [idle] [loaded] [at-once] [--rounds 200]

`idle`: one command after the other to each of three devices; `loaded`: the same while an IED reports 10,000 values a
second; `at-once`: 200 operates for 200 points of 20 devices in one burst. The time on the wire is taken by the
simulators, which share this process: what is printed is an upper bound. It asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.endtoend import Load, percentile
from simulators.station import station as devices
from tests.brokers import Mosquitto
from tests.protocols.modbus.peers import Peer

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 30.0
CONTROL = """
[control]
hold_s = 0
selects_per_operator = 1000
rate_per_s = 10000
rate_burst = 10000
refusals_per_s = 10000
refusals_burst = 10000
"""
HEADER = "point,kind,address,control,command,feedback\n"
LOADED = 'reports = ["LOADLD0/LLN0.RP.urcbMX", "LOADLD0/LLN0.BR.brcbST"]\n'
MEMBERS, RATE = 100, 100


class Answer(NamedTuple):
    body: dict[str, Any]
    mono_ns: int


class Console:
    """An operator's client in a thread of its own (paho)."""

    def __init__(self, port: int) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.good: set[str] = set()
        self.values = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.on_message = self._message
        # Otherwise the PUBACK of the last answer holds the next request back for 40 ms (Nagle and delayed ACK).
        self._client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        topics = [("gw/bench/reply/alice", 1), ("gw/bench/state/#", 0)]
        self._client.on_connect = lambda client, *_: client.subscribe(topics)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _message(self, _: object, __: object, message: paho.MQTTMessage) -> None:
        body = json.loads(message.payload)
        if message.topic.endswith("/reply/alice"):
            self.answers.setdefault(body["tx"], []).append(Answer(body, time.monotonic_ns()))
            return
        self.values += len(body["points"])
        for record in body["points"]:
            if record["quality"] == "good":
                self.good.add(record["point"])

    def ask(self, stage: str, **body: Any) -> tuple[str, int]:
        """The transaction id, and when it was published."""
        expires = datetime.now(UTC) + timedelta(seconds=30)
        given = {"tx": str(uuid.uuid4()), "expires_at": expires.isoformat(timespec="milliseconds")} | body
        payload = json.dumps(given)
        now = time.monotonic_ns()
        self._client.publish(f"gw/bench/cmd/alice/{stage}", payload, qos=1)
        return str(given["tx"]), now

    def first(self, tx: str) -> Answer | None:
        return next(iter(self.answers.get(tx, [])), None)

    def end(self, tx: str) -> Answer | None:
        return next((one for one in self.answers.get(tx, []) if one.body["result"] == "done"), None)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


async def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"not within {PATIENCE_S:g} s: {what}")
        await asyncio.sleep(0.0005)
    return found


@contextlib.asynccontextmanager
async def gateway(folder: Path, tables: str, lists: dict[str, str], points: int) -> AsyncIterator[Console]:
    """mosquitto, the daemon and an operator, once every point is good."""
    async with Mosquitto(folder / "broker") as broker:
        config = folder / "gatewayd.toml"
        config.write_text(
            f'[gateway]\nname = "bench"\nstate_dir = "state"\n[mqtt]\nurl = "{broker.url}"\n{CONTROL}{tables}'
        )
        for name, rows in lists.items():
            (folder / name).write_text(HEADER + rows)
        console = Console(broker.port)
        with (folder / "gateway.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gatewayd", "run", "-c", str(config), "--log-level", "error"),
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        try:
            await until(lambda: len(console.good) >= points, f"{points} points good: {len(console.good)}")
            yield console
        finally:
            console.close()
            process.terminate()
            await process.wait()
            if text := (folder / "gateway.log").read_text():
                print(f"  the gateway's log:\n{text[-1500:]}")


def table(name: str, protocol: str, port: int, options: str = "") -> str:
    return (
        f'[[device]]\nname = "{name}"\nprotocol = "{protocol}"\nhost = "127.0.0.1"\nport = {port}\n'
        f'points = "{name}.csv"\n[device.{protocol}]\n{options}'
    )


def shown(times_ms: Sequence[float]) -> str:
    return (
        f"p50 {percentile(times_ms, 0.5):6.2f}  p99 {percentile(times_ms, 0.99):6.2f}  "
        f"max {max(times_ms, default=float('nan')):6.2f} ms"
    )


async def one_by_one(folder: Path, rounds: int, *, loaded: bool) -> None:
    """Select and operate, again and again, on each of three devices."""
    load = await Load.start("load_iec61850", "--members", MEMBERS, "--rate", RATE, "--seconds", 600) if loaded else None
    try:
        async with devices() as (_, rtu, bay, meter):
            tables = table("FDR12", "dnp3", rtu.port, "remote_address = 10\n")
            tables += table("BAY1", "iec61850", bay.port) + table("MTR3", "modbus", meter.port, "unit = 1\n")
            lists = {
                "FDR12.csv": "FDR12/OUT,binary,BI:1,sbo,CROB:5 pulse,none\n",
                "BAY1.csv": "BAY1/OUT,binary,BAY1LD0/GGIO1.SPCSO2,sbo,BAY1LD0/GGIO1.SPCSO2,none\n",
                "MTR3.csv": "MTR3/OUT,binary,DI:0,sbo,CO:7,none\n",
            }
            if load is not None:
                tables += table("L", "iec61850", load.ports[0], LOADED)
                lists["L.csv"] = "".join(f"L/A{n},analog,LOADLD0/GGIO1.AnIn{n + 1},,,\n" for n in range(MEMBERS))
            async with gateway(folder, tables, lists, 3 + (MEMBERS if loaded else 0)) as console:
                if load is not None:
                    load.go()
                    await asyncio.sleep(2.0)
                before, began = console.values, time.monotonic()
                utc_to_mono = time.monotonic() - time.time()
                print(f"\n{'while 10,000 values/s are reported' if loaded else 'idle'}: {rounds} commands each")
                for name, protocol, written in (
                    ("FDR12", "DNP3", lambda: [w.at for w in rtu.writes if w.function == "OPERATE"]),
                    ("BAY1", "IEC 61850", lambda: [w.at + utc_to_mono for w in bay.writes if w.service == "Oper"]),
                    ("MTR3", "Modbus", lambda: [w.at for w in meter.writes]),
                ):
                    await _rounds(console, name, protocol, rounds, written)
                if loaded:
                    rate = (console.values - before) / (time.monotonic() - began)
                    print(f"  values delivered meanwhile: {rate:,.0f}/s")
    finally:
        if load is not None:
            await load.end()


async def _rounds(console: Console, name: str, protocol: str, rounds: int, written: Callable[[], list[float]]) -> None:
    selects, wires, ends = [], [], []
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        point = {"point": f"{name}/OUT", "value": True}
        tx, at = console.ask("select", **point)
        answer = await until(lambda tx=tx: console.first(tx), f"an answer to a select of {name}")
        selects.append((answer.mono_ns - at) / 1e6)
        tx, at = console.ask("operate", select_id=answer.body.get("select_id", "0"), **point)
        end = await until(lambda tx=tx: console.end(tx), f"the end of an operate of {name}")
        outcomes[end.body["reason"]] += 1
        wires.append(written()[-1] * 1e3 - at / 1e6)
        ends.append((end.mono_ns - at) / 1e6)
    print(f"  {protocol:<10} operate to wire    {shown(wires)}   {dict(outcomes)}")
    print(f"  {'':<10} select to answer   {shown(selects)}")
    print(f"  {'':<10} operate to outcome {shown(ends)}   writes {len(written())}", flush=True)


async def at_once(folder: Path, _rounds: int) -> None:
    """200 operates in one burst, for 20 Modbus devices of 10 points each."""
    count, each = 20, 10
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer()) for _ in range(count)]
        tables = "".join(table(f"M{d}", "modbus", peer.port, "unit = 1\n") for d, peer in enumerate(peers))
        lists = {
            f"M{d}.csv": "".join(f"M{d}/P{n},binary,DI:{n},sbo,CO:{n},none\n" for n in range(each))
            for d in range(count)
        }
        console = await stack.enter_async_context(gateway(folder, tables, lists, count * each))
        points = [f"M{d}/P{n}" for d in range(count) for n in range(each)]
        selected: dict[str, str] = {}
        for point in points:
            tx, _ = console.ask("select", point=point, value=True)
            answer = await until(lambda tx=tx: console.first(tx), f"an answer to a select of {point}")
            selected[point] = answer.body["select_id"]
        began = time.monotonic_ns()
        asked = [console.ask("operate", point=point, value=True, select_id=selected[point]) for point in points]
        ends = [await until(lambda tx=tx: console.end(tx), "the end of an operate") for tx, _ in asked]
        wires = [(write.at * 1e9 - began) / 1e6 for peer in peers for write in peer.asked if write.function >= 5]
        print(f"\n{len(points)} operates at once, {count} Modbus devices")
        print(f"  burst to wire      {shown(wires)}   writes {len(wires)}")
        print(
            f"  burst to outcome   {shown([(end.mono_ns - began) / 1e6 for end in ends])}   "
            f"{dict(Counter(end.body['reason'] for end in ends))}",
            flush=True,
        )


async def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control")
    parser.add_argument("scenarios", nargs="*", choices=["idle", "loaded", "at-once", []], default=[])
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args(arguments)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in given.scenarios or ("idle", "loaded", "at-once"):
        with tempfile.TemporaryDirectory(prefix="gatewayd-bench-") as folder:
            if name == "at-once":
                await at_once(Path(folder), given.rounds)
            else:
                await one_by_one(Path(folder), given.rounds, loaded=name == "loaded")


if __name__ == "__main__":
    asyncio.run(main())
