from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gatewayd.console.view import Filter
from gatewayd.console.watch import Form, watch
from gatewayd.mqtt.settings import MqttSettings
from tests.brokers import Mosquitto
from tests.cli.gateway import NOW, VALUES, ScriptedGateway, record, scripted_gateway

EVERYTHING = Filter()


async def once(
    settings: MqttSettings, wanted: Filter = EVERYTHING, form: Form = Form.TABLE, wait_s: float = 5.0
) -> int:
    return await watch(settings, wanted, once=True, form=form, wait_s=wait_s)


async def test_once_prints_the_station_and_ends(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    await gateway.link("MTR3", "down", "connection refused")
    assert await once(settings) == 0
    out = capsys.readouterr().out
    assert "gw/test  online" in out
    assert "FDR12 up" in out
    assert "MTR3 down (connection refused)" in out
    lines = {line.split()[0]: line for line in out.splitlines() if "/" in line.split(" ")[0]}
    assert {"FDR12/CB/POS", "MTR3/WH"} <= set(lines)
    assert "closed" in lines["FDR12/CB/POS"]
    assert "good" in lines["FDR12/CB/POS"]
    assert "questionable: link-down" in lines["MTR3/WH"]
    assert "01:02:03.004" in lines["MTR3/WH"]


async def test_tags_stand_beside_the_points_they_concern(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    await once(settings)
    assert "tags" not in capsys.readouterr().out
    for on, kind in (("device/FDR12", "caution"), ("point/FDR12/CB/POS", "personal-lock")):
        await gateway.put(f"tag/{on}", {"on": on, "tags": [{"id": "a", "kind": kind, "on": on, "owner": "bob"}]})
    await once(settings)
    lines = {line.split(" ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["FDR12/CB/POS"].rstrip().endswith("caution, personal-lock")
    assert lines["FDR12/I"].rstrip().endswith("caution")
    assert "caution" not in lines["MTR3/WH"]


async def test_once_as_json_is_one_point_a_line(
    gateway: ScriptedGateway, settings: MqttSettings, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert await once(settings, Filter(patterns=("FDR12/*",)), Form.JSON) == 0
    found = {one["point"]: one["value"] for one in map(json.loads, capsysbinary.readouterr().out.splitlines())}
    assert found == {name: value for name, value in VALUES.items() if name.startswith("FDR12/")}


async def test_once_says_what_is_missing(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    await gateway.put("device/GHOST", {"link": "connecting", "since": NOW, "cause": "", "protocol": "modbus"})
    assert await once(settings, wait_s=0.5) == 1
    assert "not everything had come after 0.5 s" in capsys.readouterr().err


async def test_nobody_there_is_status_3(
    broker: Mosquitto, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await once(settings, wait_s=0.3) == 3
    assert "no gateway has reported" in capsys.readouterr().err
    assert await once(MqttSettings(url=broker.url, base="gw/elsewhere"), wait_s=0.3) == 3
    assert "nothing is stored under gw/elsewhere/" in capsys.readouterr().err


async def test_an_offline_gateway_is_said_and_nothing_is_good(
    gateway: ScriptedGateway, settings: MqttSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    await gateway.status("offline")
    assert await once(settings) == 0
    out = capsys.readouterr().out
    assert "gateway OFFLINE" in out
    assert " good " not in out


async def lines(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    while line := await asyncio.wait_for(process.stdout.readline(), 15):
        yield json.loads(line)


async def test_changes_stream_as_json_and_a_lost_broker_is_no_longer_good(
    gateway: ScriptedGateway, broker: Mosquitto
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gatewayd", "watch", "--json", "--url", broker.url, "FDR12/I"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        stream = lines(process)
        first = await anext(stream)
        assert (first["point"], first["value"], first["quality"]) == ("FDR12/I", 41.5, "good")
        await gateway.put("state/FDR12", {"t_recv": NOW, "points": [record("FDR12/I", 0.0)]}, retain=False)
        assert (await anext(stream))["value"] == 0.0
        await broker.kill()
        lost = await anext(stream)
        assert (lost["quality"], lost["flags"]) == ("questionable", ["broker-lost"])
        await broker.start()
        async with scripted_gateway(broker.url):
            async with asyncio.timeout(15):
                while True:
                    again = await anext(stream)
                    if again["quality"] == "good" and again["value"] == 41.5:
                        break
    finally:
        process.terminate()
        await process.wait()
