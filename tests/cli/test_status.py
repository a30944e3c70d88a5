"""`gatewayd status`: the picture and what needs attention, from what a gateway published and answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gatewayd.console.status import FEW, NO_ANSWER, Picture, draw, status
from gatewayd.console.view import StationView
from gatewayd.mqtt.settings import MqttSettings
from tests.cli.gateway import BASE, CATALOG, NOW, VALUES, ScriptedGateway, record

HEALTH: dict[str, Any] = {
    "time": "2026-11-24T01:02:03.004909898Z",
    "oldest": 1,
    "newest": 7,
    "journal": {"backlog": 0, "used_bytes": 1 << 20, "limit_bytes": 1 << 30, "free_bytes": 1 << 32, "gap_records": 0},
    "datapath": {"gaps": 0},
    "workers": {"restarts": 0},
    "loop": {"lag_max_ms": 3.0},
    "processes": {"core": {"rss_mib": 55.0, "threads": 7, "cpu_s": 12.3}},
    "consumers": {"behind_historian": 3, "refused": 0},
}

ONLINE = {"state": "online", "boot": "b", "epoch": "e", "oldest": 1, "newest": 7, "version": "0.1", "time": NOW}


def picture(health: dict[str, Any] | None = None, **puts: dict[str, Any] | None) -> Picture:
    """What is drawn of a station where all is well, but for these; keys of `puts` are topics with __ for /."""
    view = StationView(BASE)
    topics: dict[str, Any] = {"status": ONLINE | {"clock": {"synchronised": True, "est_error_ms": 0.4}}}
    for device, entries in CATALOG.items():
        topics[f"device/{device}"] = {"link": "up", "since": NOW, "cause": "", "protocol": "dnp3"}
        topics[f"catalog/{device}"] = {
            "device": device, "protocol": "dnp3", "part": 0, "parts": 1, "points": entries,
        }  # fmt: skip
        records = [record(str(entry["point"]), VALUES[str(entry["point"])]) for entry in entries]
        topics[f"snapshot/{device}/0"] = {"part": 0, "parts": 1, "points": records}
    topics |= {topic.replace("__", "/"): body for topic, body in puts.items()}
    for topic, body in topics.items():
        view.feed(f"{BASE}/{topic}", json.dumps(body).encode())
    return draw(view, {**HEALTH, **(health or {})}, datetime(2026, 11, 24, 1, 3, tzinfo=UTC))


def test_where_all_is_well_nothing_needs_attention() -> None:
    drawn = picture()
    assert drawn.attention == []
    text = "\n".join(drawn.lines)
    assert f"gateway      {BASE}, version 0.1, online" in text
    assert "synchronised, estimated error 0.4 ms; gateway's time 2026-11-24T01:02:03.004Z" in text
    assert "links        2 of 2 up" in text
    assert "FDR12        up         dnp3      for 57 s" in text
    assert "points       5: 5 good" in text
    assert "consumer     historian: 3 events not acknowledged" in text
    assert all(len(line) < 120 for line in drawn.lines)


@pytest.mark.parametrize(
    ("health", "says"),
    [
        ({"journal": {"broken": 1}}, "cannot write: events wait in the devices, commands are refused"),
        ({"journal": {"full": 1, "backlog": 5000}}, "full of events no broker has taken"),
        ({"journal": {"backlog": 5000}}, "5000 events have not been taken"),
        ({"journal": {"backlog": 5, "used_bytes": 90, "limit_bytes": 100}}, "the journal is 90% full"),
        ({"journal": {"free_bytes": 5 << 20}}, "5 MiB are left on the journal's disk"),
        ({"journal": {"gap_records": 2}, "datapath": {"gaps": 1}}, "lost or held 3 times since the start"),
        ({"workers": {"restarts": 2}}, "workers were restarted 2 times"),
        ({"loop": {"lag_max_ms": 2500.0}}, "2.5 s late at its worst"),
        ({"certificates": [{"file": "c.pem", "trouble": "ends in 6 days"}]}, "certificate c.pem: ends in 6 days"),
        ({"control": {"trouble": "disk"}}, "commands are refused: disk"),
    ],
)
def test_each_trouble_is_said_once_and_alone(health: dict[str, Any], says: str) -> None:
    (attention,) = picture(health).attention
    assert says in attention


def test_trouble_of_links_points_and_clock() -> None:
    down = {"link": "fault", "since": NOW, "cause": "certificate refused", "protocol": "modbus"}
    assert picture(device__MTR3=down).attention == ["MTR3 is fault: certificate refused"], "its points need no line"
    off = picture(device__MTR3={**down, "link": "disabled"})
    assert off.attention == []
    assert "links        1 of 2 up, 1 disabled" in off.lines
    bad = record("FDR12/I", None) | {"quality": "invalid"}
    forced = record("FDR12/CB/POS", "open", flags=["substituted"])
    drawn = picture(state__FDR12={"t_recv": NOW, "points": [bad, forced]})
    assert "1 point is invalid although the device is up: FDR12/I; why: gatewayd explain FDR12/I" in drawn.attention
    unsure = ONLINE | {"clock": {"synchronised": False, "est_error_ms": 16000.0}}
    drawn = picture(status=unsure)
    assert "the gateway's clock is not synchronised" in drawn.attention[0]
    assert "16000" not in "".join(drawn.lines), "an error of a clock that is not kept says nothing"


def test_of_many_links_only_those_in_trouble_are_lines() -> None:
    links = {
        f"device__D{at}": {"link": "down" if at == 3 else "up", "since": NOW, "cause": "x", "protocol": "dnp3"}
        for at in range(200)
    }
    drawn = picture(**links)
    assert len([line for line in drawn.lines if line.startswith("link  ")]) == 1
    assert "links        201 of 202 up" in drawn.lines
    assert len(drawn.lines) < FEW


async def test_without_a_gateway_it_says_so(gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = MqttSettings(url="mqtt://127.0.0.1:1")
    assert await status(nobody, as_json=False, wait_s=0.5) == NO_ANSWER
    assert "gatewayd status: " in capsys.readouterr().err
