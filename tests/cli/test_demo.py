from __future__ import annotations

import asyncio
import os
import signal
import sys
import tomllib
from pathlib import Path

import pytest

from gatewayd.console import demo as demonstration
from gatewayd.console import processes
from gatewayd.console.demo import configured, summary, write_config
from gatewayd.console.processes import DemoFailed, Processes, start_broker
from tests.brokers import free_port, until
from tests.cli.gateway import NOW
from tests.cli.test_view import put, station
from tests.mqtt.support import console

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"dnp3": 40001, "iec61850": 40002, "modbus": 40003}


def test_the_demo_station_gets_our_broker_ports_and_state(tmp_path: Path) -> None:
    text = (ROOT / "etc" / "demo" / "gatewayd.toml").read_text()
    table = tomllib.loads(configured(text, "mqtt://127.0.0.1:7", "/s", PORTS))
    assert table["mqtt"]["url"] == "mqtt://127.0.0.1:7"
    assert table["gateway"]["state_dir"] == "/s"
    assert {device["protocol"]: device["port"] for device in table["device"]} == PORTS


def test_the_copied_demo_station_is_clean(tmp_path: Path) -> None:
    path = write_config(ROOT / "etc" / "demo", tmp_path, "mqtt://127.0.0.1:7", PORTS)
    assert path.parent == tmp_path
    assert str(tmp_path) in path.read_text()


def test_the_demo_knows_its_breaker_and_its_measurements() -> None:
    names = "".join(path.read_text() for path in (ROOT / "etc" / "demo" / "points").glob("*.csv"))
    for point in (demonstration.BREAKER, *demonstration.FLOWS):
        assert f"\n{point}," in names


@pytest.mark.parametrize("kind", ["mosquitto", "iotcore"])
async def test_the_demo_broker_speaks_mqtt_5_and_keeps_a_large_message(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "iotcore":
        monkeypatch.setattr(processes.shutil, "which", lambda *_, **__: None)
    async with Processes(tmp_path) as running:
        port = free_port()
        assert await start_broker(running, tmp_path, port) == kind
        async with console(f"mqtt://127.0.0.1:{port}", "gw/test/x") as first:
            await first.publish("x", b"#" * 65_536, retain=True)
            await until(lambda: first.heard)
        async with console(f"mqtt://127.0.0.1:{port}", "gw/test/x") as late:
            await until(lambda: late.heard)
            assert len(late.heard[0].payload) == 65_536
    assert not processes.accepts(port)


async def test_a_port_in_use_is_said_with_the_way_out(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Processes(tmp_path) as running:
        with pytest.raises(DemoFailed, match=f"port {port} is in use.*DEMO_MQTT_PORT={port + 1}"):
            await start_broker(running, tmp_path, port)


async def test_processes_are_gone_afterwards_also_those_that_do_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "END_S", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    pids: list[int] = []

    async def break_down() -> None:
        async with Processes(tmp_path) as running:
            for name, code in (("obedient", "import time; print(1, flush=True); time.sleep(600)"), ("deaf", deaf)):
                process = await running.start(name, [sys.executable, "-c", code], read=True)
                assert process.stdout is not None
                await process.stdout.readline()
                pids.append(process.pid)
            raise KeyError("something of the demo broke")

    with pytest.raises(KeyError):
        await break_down()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_process_that_ends_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    async with Processes(tmp_path) as running:
        process = await running.start("devices", [sys.executable, "-c", "raise SystemExit('no such feeder')"])
        await process.wait()
        with pytest.raises(DemoFailed, match="the devices ended by itself \\(status 1\\):\n  no such feeder"):
            running.check()


def test_the_summary_counts_per_device_and_finds_nothing_wrong() -> None:
    view = station()
    put(view, "state/FDR12", {"t_recv": NOW, "points": []})
    put(view, "event", {"epoch": "e", "first": 1, "events": [{"seq": 1}]})
    said = summary(view, connected=True, all_good=True, command=[])
    assert said.mistakes == []
    assert "FDR12      4 of 4 points good" in said.lines
    assert "MTR3       1 of 1 points good" in said.lines
    assert "published  1 events, 1 state messages" in said.lines


def test_the_summary_finds_what_is_wrong() -> None:
    view = station()
    put(view, "device/MTR3", {"link": "down", "since": NOW, "cause": "", "protocol": "modbus"})
    said = summary(view, connected=True, all_good=False, command=["the command ended refused"])
    assert "MTR3       0 of 1 points good" in said.lines
    text = "\n".join(said.mistakes)
    for mistake in ("MTR3/WH is questionable link-down", "no events", "no state messages", "the command ended refused"):
        assert mistake in text
    assert "not all points were good" in text


async def test_without_the_checkout_the_demo_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demonstration, "ROOT", tmp_path)
    assert await demonstration.demo(port=free_port(), seconds=1) == 3
    assert "make demo" in capsys.readouterr().err


async def run_demo(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewayd", "demo", "--port", str(free_port()), *words),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


async def test_the_demo_does_the_main_job_and_ends_by_itself() -> None:
    process = await run_demo("--seconds", "8")
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    text = out.decode()
    assert process.returncode == 0, text
    for line in ("FDR12      10 of 10 points good", "BAY1       6 of 6 points good", "MTR3       8 of 8 points good"):
        assert line in text
    assert "command    FDR12/CB/POS open: ok, proved by the feedback" in text
    assert "select_id" in text


async def test_ctrl_c_ends_the_demo_and_everything_it_started() -> None:
    process = await run_demo()
    assert process.stdout is not None
    started: list[int] = []
    async with asyncio.timeout(60):
        while b"gatewayd watch" not in (line := await process.stdout.readline()):
            assert line, "the demo ended early"
        started = children(process.pid)
        assert len(started) == 3
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 0
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
