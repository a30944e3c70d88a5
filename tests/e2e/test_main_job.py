"""The main job on real protocol traffic: three devices on other stacks, a real mosquitto, the daemon as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from simulators.model import CLOSED, OPEN
from tests.brokers import until
from tests.e2e.station import BREAKERS, DEVICES, PROTOCOLS, alive, children, whole_station
from tests.mqtt.support import Console, console

FLOWS = ("FDR12/MMXU/I", "FDR12/MMXU/P", "BAY1/MMXU/P", "MTR3/I", "MTR3/P")


async def test_every_point_of_three_devices_is_read_and_published(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        listed = {
            line.split(",")[0]
            for path in (tmp_path / "points").iterdir()
            for line in path.read_text().splitlines()
            if line and not line.startswith(("#", "point,"))
        }
        await until(lambda: listed <= set(station.points()))
        assert set(station.points()) == listed
        assert station.point("FDR12/CB/POS")["value"] == "closed"
        assert station.point("BAY1/CB/POS")["value"] == "closed"
        assert station.point("MTR3/CB/POS")["value"] is True
        for name in ("FDR12/MMXU/P", "BAY1/MMXU/P", "MTR3/P"):
            assert station.point(name)["value"] == pytest.approx(station.feeder.power_kw, rel=0.1)
        total = station.point("FDR12/MMXU/P")["value"] + station.point("BAY1/MMXU/P")["value"]
        assert station.point("STATION/P")["value"] == pytest.approx(total, rel=0.05)
        assert station.point("MTR3/U")["t_src"] == "gateway"
        assert "sampled" in station.point("MTR3/U")["flags"]
        assert station.point("BAY1/MMXU/P")["t_src"] == "device"
        status = station.console.last("status")
        assert status["state"] == "online"
        events = station.console.events()
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        for device in DEVICES:
            assert station.console.last(f"catalog/{device}")["points"]
            assert station.console.last(f"device/{device}")["protocol"] == PROTOCOLS[device]
        await until(lambda: station.console.on("health"))
        health = station.console.last("health")
        assert set(health["processes"]) == {"core", "dnp3-0", "iec61850-0", "modbus-0"}
        assert set(health["devices"]) == set(DEVICES)


@pytest.mark.parametrize("device", DEVICES)
async def test_the_breaker_is_tripped_and_closed_by_sbo_over_mqtt(tmp_path: Path, device: str) -> None:
    async with whole_station(tmp_path) as station:
        point = BREAKERS[device]
        opening = "open" if device != "MTR3" else False
        selected = await station.operator.select(point, opening)
        assert (selected["result"], selected["effect"]) == ("selected", "none")
        assert re.fullmatch(r"[0-9a-f]{32}", selected["select_id"])
        assert station.feeder.breaker == CLOSED
        tx = await station.operator.ask("operate", point=point, value=opening, select_id=selected["select_id"])
        done = await station.operator.answer(tx, "done")
        assert (done["reason"], done["effect"], done["stage"]) == ("ok", "confirmed", "operate")
        # the meter has one contact, which is off from the moment the breaker leaves "closed"
        await until(lambda: station.feeder.breaker == OPEN)
        assert len([a for a in station.operator.answers(tx) if a["result"] == "done"]) == 1
        for name in BREAKERS.values():
            await until(lambda name=name: station.point(name)["value"] in ("open", False), name)
        await until(lambda: all(station.point(name)["value"] == 0 for name in FLOWS), "nothing flows")
        energy = station.feeder.energy_wh
        public = [m.body for m in station.console.on(f"control/{point}")]
        assert [answer["result"] for answer in public] == ["selected", "accepted", "done"]
        assert all(answer["operator"] == "alice" and "select_id" not in answer for answer in public)
        outcomes = [event for event in station.console.events() if event.get("type") == "control"]
        assert [(event["point"], event["reason"], event["effect"]) for event in outcomes] == [
            (point, "ok", "confirmed")
        ]
        closing = {"open": "closed", False: True}[opening]
        done = await station.operator.sbo(point, closing)
        assert (done["reason"], done["effect"]) == ("ok", "confirmed")
        await until(lambda: station.feeder.breaker == CLOSED)
        assert station.feeder.energy_wh == pytest.approx(energy, abs=station.feeder.load_kw)
        await until(lambda: station.point("MTR3/P")["value"] > 0)


async def test_a_device_that_dies_is_told_and_the_others_go_on_until_it_is_back(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        for device, simulator in (("FDR12", station.rtu), ("BAY1", station.bay), ("MTR3", station.meter)):
            others = [name for name in DEVICES if name != device]
            await simulator.__aexit__(None, None, None)
            await until(lambda device=device: station.link(device) == "down", f"{device} is down")
            assert station.console.last(f"device/{device}")["cause"]
            point = BREAKERS[device]
            await until(
                lambda point=point: "comm-lost" in station.point(point).get("flags", []), f"{point} is comm-lost"
            )
            refused = await station.operator.select(point, "open" if device != "MTR3" else False)
            assert (refused["reason"], refused["effect"]) == ("device-offline", "none")
            before = {name: station.samples_of(name) for name in others}
            await until(
                lambda others=others, before=before: all(station.samples_of(n) > before[n] for n in others),
                "the others go on",
            )
            assert all(station.link(name) == "up" for name in others)
            await simulator.__aenter__()
            await station.all_good(device, deadline_s=60)

        def links(device: str) -> list[str]:
            found = [e for e in station.console.events() if e.get("type") == "device" and e["device"] == device]
            return [event["link"] for event in found]

        for device in DEVICES:
            await until(lambda device=device: links(device) == ["up", "down", "up"], f"links of {device}")


@pytest.mark.parametrize("protocol", ["dnp3", "iec61850", "modbus"])
async def test_a_worker_killed_is_started_again_while_the_others_go_on(tmp_path: Path, protocol: str) -> None:
    async with whole_station(tmp_path) as station:
        device = next(name for name, its in PROTOCOLS.items() if its == protocol)
        others = [name for name in DEVICES if name != device]
        workers = station.gateway.workers()
        assert set(workers) == {"dnp3", "iec61850", "modbus"}
        before = {name: station.samples_of(name) for name in others}
        os.kill(workers[protocol], signal.SIGKILL)
        await until(lambda: station.link(device) == "down")
        assert "its worker process ended: killed by SIGKILL" in station.console.last(f"device/{device}")["cause"]
        await station.all_good(device)
        await until(lambda: all(station.samples_of(name) > before[name] for name in others))
        links = [e["device"] for e in station.console.events() if e.get("type") == "device" and e["link"] == "down"]
        assert links == [device]
        done = await station.operator.sbo(BREAKERS[device], "open" if device != "MTR3" else False)
        assert (done["reason"], done["effect"]) == ("ok", "confirmed")


async def test_a_daemon_killed_leaves_no_worker_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        before = station.console.events()
        epoch = station.console.on("event")[0].body["epoch"]
        workers = children(station.gateway.pid)
        assert len(workers) == 3
        await station.gateway.kill()
        await until(lambda: not any(alive(pid) for pid in workers), "no worker is left")
        await until(lambda: station.console.last("status")["state"] == "offline", "the will")
        station.feeder.command_breaker(closed=False)
        await until(lambda: station.feeder.breaker == OPEN)
        station.console.heard.clear()
        await station.gateway.start()
        await until(station.console.events, "events after the restart")
        await station.all_good()
        await until(lambda: {e["point"] for e in station.console.events() if "point" in e} >= {"BAY1/CB/POS"})
        events = station.console.events()
        assert all(message.body["epoch"] == epoch for message in station.console.on("event"))
        numbers = [event["seq"] for event in events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] <= before[-1]["seq"] + 1
        found = [e["value"] for e in events if e.get("point") == "BAY1/CB/POS" and e["seq"] > before[-1]["seq"]]
        assert found[-1] == "open"
        assert station.point("FDR12/CB/POS")["value"] == "open"


async def answering(one: Console) -> None:
    """Wait until the gateway hears requests again: they have a connection of their own."""
    while not one.on("answered/late"):
        await one.publish("ask/late", {"ask": "health"})
        with contextlib.suppress(AssertionError):
            await until(lambda: one.on("answered/late"), "an answer", 1.0)


async def test_the_broker_comes_back_without_loss_and_without_a_storm(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        await station.broker.kill()
        for closed in (False, True, False):
            station.feeder.command_breaker(closed=closed)
            position = CLOSED if closed else OPEN
            await until(lambda position=position: station.feeder.breaker == position)
            await asyncio.sleep(0.4)  # the devices show it to the gateway
        await station.broker.start()
        async with console(station.broker.url) as late:
            await until(lambda: (late.last("status") or {}).get("state") == "online", "status again")
            await until(lambda: late.last("point/BAY1/CB/POS"), "retained points again")
            await until(
                lambda: [e["value"] for e in late.events() if e.get("point") == "BAY1/CB/POS"][-1:] == ["open"],
                "the events of the outage",
            )
            heard = [event["seq"] for event in late.events()]
            assert heard == list(range(heard[0], heard[0] + len(heard)))
            # What went out before `late` had subscribed it asks for, as any consumer does.
            await answering(late)
            epoch = (late.last("status") or {})["epoch"]
            await late.publish("replay/late", {"epoch": epoch, "from": 1, "to": heard[-1]})
            await until(lambda: (late.last("replayed/late") or {}).get("done"), "the replay")
            events = [event for m in late.on("replayed/late") for event in m.body.get("events", [])]
            assert [event["seq"] for event in events] == list(range(1, heard[-1] + 1))
            positions = [e["value"] for e in events if e.get("point") == "BAY1/CB/POS"]
            # Between the ends the bay is seen by chance: it looks at the feeder every 0.2 s.
            assert [one for one in positions if one != "intermediate"][-3:] == ["open", "closed", "open"]
            seen = [m.topic for m in late.heard if m.topic.startswith("gw/test/point/")]
            assert max(seen.count(topic) for topic in set(seen)) < 50


async def test_a_broker_that_comes_later_is_found(tmp_path: Path) -> None:
    async with whole_station(tmp_path, start=False) as station:
        await station.broker.kill()
        await station.gateway.start()
        await until(lambda: "no connection to the broker" in station.gateway.log)
        await until(lambda: station.gateway.log.count("device is up") == 3, station.gateway.log)
        await station.broker.start()
        async with console(station.broker.url) as late:
            await until(lambda: (late.last("status") or {}).get("state") == "online")
            await until(lambda: (late.last("point/MTR3/P") or {}).get("quality") == "good")
            assert [e["seq"] for e in late.events()][:1] in ([], [1])


async def test_sigterm_ends_in_order_with_status_0(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        workers = children(station.gateway.pid)
        selected = await station.operator.select(BREAKERS["FDR12"], "open")
        assert selected["result"] == "selected"
        assert await station.gateway.stop() == 0
        assert not any(alive(pid) for pid in workers)
        await until(lambda: station.console.last("status")["state"] == "offline")
        done = await station.operator.answer(selected["tx"], "done")
        assert (done["reason"], done["effect"]) == ("aborted-shutdown", "none")
        assert station.feeder.breaker == CLOSED


async def test_a_reload_takes_what_changed_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        ups = lambda: [e for e in station.console.events() if e.get("type") == "device" and e["link"] == "up"]  # noqa: E731
        await until(lambda: len(ups()) == len(DEVICES), "every device's event")
        links = len([e for e in station.console.events() if e.get("type") == "device"])
        opened = len([m for m in station.console.heard if m.topic == "gw/test/device/FDR12"])
        meter = tmp_path / "points" / "mtr3.csv"
        meter.write_text(meter.read_text().replace("MTR3/PF,", "MTR3/COSPHI,"))
        station.gateway.signal(signal.SIGHUP)
        await until(lambda: station.point("MTR3/COSPHI").get("quality") == "good", "the new point")
        await until(lambda: [m.payload for m in station.console.on("point/MTR3/PF")][-1:] == [b""], "cleared")
        await station.all_good("FDR12", "BAY1")
        assert len([m for m in station.console.heard if m.topic == "gw/test/device/FDR12"]) <= opened + 1
        assert [e for e in station.console.events() if e.get("type") == "device"][links:] in (
            [],
            [e for e in station.console.events() if e.get("type") == "device" and e["device"] == "MTR3"][1:],
        )
        done = await station.operator.sbo(BREAKERS["BAY1"], "open")
        assert (done["reason"], done["effect"]) == ("ok", "confirmed")
        meter.write_text("nonsense\n")
        before = station.gateway.log
        station.gateway.signal(signal.SIGHUP)
        await until(lambda: "the old one stays in force" in station.gateway.log[len(before) :])
        count = station.samples_of("MTR3")
        await until(lambda: station.samples_of("MTR3") > count)


async def test_interrogation_sends_everything_again(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        station.console.heard.clear()
        await station.console.publish("interrogate/scada", {"device": "MTR3"})
        await until(lambda: any(m.body["points"][0]["point"] == "MTR3/U" and len(m.body["points"]) > 5
                                for m in station.console.on("state/MTR3")))  # fmt: skip
        await until(lambda: station.console.on("point/MTR3/WH_IMP"))


class Systemd:
    """The side of sd_notify that systemd has."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.said: list[str] = []

    def hear(self) -> list[str]:
        while True:
            try:
                self.said += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.said


async def test_systemd_is_told_ready_reload_watchdog_and_the_end(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path / "notify")
    try:
        async with whole_station(tmp_path, start=False) as station:
            station.gateway.environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1200000"}
            await station.gateway.start()
            await until(lambda: "READY=1" in systemd.hear())
            await until(lambda: systemd.hear().count("WATCHDOG=1") >= 3)
            station.gateway.signal(signal.SIGHUP)
            await until(lambda: systemd.hear().count("READY=1") == 2)
            said = systemd.hear()
            assert said.index("RELOADING=1") < len(said) - 1 - said[::-1].index("READY=1")
            os.kill(station.gateway.pid, signal.SIGSTOP)
            fed = len(systemd.hear())
            await asyncio.sleep(1.3)
            assert systemd.hear()[fed:].count("WATCHDOG=1") <= 1
            os.kill(station.gateway.pid, signal.SIGCONT)
            assert await station.gateway.stop() == 0
            assert "STOPPING=1" in systemd.hear()
    finally:
        systemd.socket.close()


async def test_one_journal_is_used_by_one_gateway(tmp_path: Path) -> None:
    async with whole_station(tmp_path) as station:
        second = type(station.gateway)(tmp_path / "second", station.gateway.config)
        second.folder.mkdir()
        await second.start()
        assert second.process is not None
        assert await asyncio.wait_for(second.process.wait(), 20) == 1
        assert "in use by another gatewayd" in second.log
