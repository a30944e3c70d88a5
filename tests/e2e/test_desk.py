"""The daemon's side of control: tags and audit heads out, rights read while it runs, starts and ends on record."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from gatewayd.console.ask import ask
from gatewayd.console.operator import Exit, Place
from gatewayd.console.sweep import sweep
from gatewayd.console.tagging import Which, hang, take
from gatewayd.engineering import audit
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.store.audit import entries
from tests.brokers import until
from tests.e2e.station import BREAKERS, Station, whole_station

BREAKER = BREAKERS["FDR12"]
RIGHTS = '[operator.alice]\nroles = ["OPERATOR"]\nareas = ["*"]\n'


def trail(station: Station) -> list[dict[str, Any]]:
    return [json.loads(one.record) for one in entries(station.folder / "state")]


async def test_tags_rights_and_the_audit_trail_of_a_whole_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rights = tmp_path / "rights.toml"
    rights.write_text(RIGHTS)

    def with_rights(text: str) -> str:
        return text + f'\n[control]\nrights_file = "{rights}"\n'

    async with whole_station(tmp_path, change=with_rights) as station:
        settings = MqttSettings(url=station.broker.url, base="gw/test")
        alice = Place(settings, "alice")

        # a lock forbids, is retained, and outlives kill -9
        assert await hang(alice, Which.TAG, "personal-lock", BREAKER, "at work", as_json=False) is Exit.OK
        await until(lambda: station.console.last(f"tag/point/{BREAKER}"), "the tag is shown")
        refused = await station.operator.select(BREAKER, "open")
        assert (refused["reason"], "at work" in refused["detail"]) == ("tagged", True)
        _, health = await ask(settings, {"ask": "health"}, 5.0)
        assert [one["note"] for one in health["control"]["tags"]] == ["at work"]
        assert health["control"]["trouble"] == ""
        await station.gateway.kill()
        heard = len(station.console.on(f"tag/point/{BREAKER}"))
        await station.gateway.start()
        await until(lambda: len(station.console.on(f"tag/point/{BREAKER}")) > heard, "the tag is shown again", 20)
        await until(lambda: station.link("FDR12") == "up", "up", 20)
        assert (await station.operator.select(BREAKER, "open"))["reason"] == "tagged"
        assert await take(alice, Which.TAG, BREAKER, force=False, as_json=False) is Exit.OK
        await until(lambda: station.console.on(f"tag/point/{BREAKER}")[-1].payload == b"", "it is cleared")

        # a rights file with a mistake: nobody commands, data goes on
        rights.write_text(RIGHTS.replace("OPERATOR", "OPERATER"))
        await until(lambda: "nobody may command" in station.gateway.log, "it is said")
        said = await station.operator.select(BREAKER, "open")
        assert (said["reason"], "rights.toml:2:10" in said["detail"]) == ("not-authorised", True)
        before = station.samples_of("MTR3")
        await until(lambda: station.samples_of("MTR3") > before, "data goes on")
        rights.write_text(RIGHTS)
        await until(lambda: "rights are in force" in station.gateway.log.rpartition("nobody may command")[2], "again")
        assert station.gateway.log.count("the rights file has a mistake") == 1
        await station.all_good()
        capsys.readouterr()
        assert await sweep(alice, (), yes=True, test=False, as_json=False) is Exit.REFUSED
        swept = capsys.readouterr().out
        assert "4 points: 1 proved at the device, 2 gates passed only, 1 interlocked" in swept
        assert "BAY1/CB/POS is closed" in swept  # why the disconnector may not

        # a new configuration is on record, and so is the end
        config = station.gateway.config
        config.write_text(config.read_text() + "select_timeout_s = 20\n")
        station.gateway.signal(signal.SIGHUP)
        await until(lambda: "the new configuration is in force" in station.gateway.log, "reload", 20)
        assert (await station.operator.sbo(BREAKER, "open"))["reason"] == "ok"
        assert await station.gateway.stop() == 0
        head = station.console.last("audit")
        words = [one["what"] for one in trail(station)]
        assert words[0] == "start"
        assert words[-1] == "stop"
        assert words.count("start") == 2
        assert words.count("crash") == 1
        assert words.index("crash") < len(words) - words[::-1].index("start")
        [changed] = [one for one in trail(station) if one["what"] == "configuration"]
        assert changed["before"] != changed["after"]
        broken = [one for one in trail(station) if one["what"] == "rights" and "unusable" in str(one)]
        assert len(broken) == 1
        assert {"tag-set", "tag-removed", "refused", "intent", "outcome"} <= set(words)
        seen = audit.heads([f"{head['n']}:{head['hash']}"], None)
        assert head["n"] == len(words)  # the last head is that of the end
        assert audit.verify(config, None, seen, None) == 0
