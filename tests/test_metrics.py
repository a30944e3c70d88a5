"""Metrics: what health counts, as Prometheus reads it; nothing listens unless configured."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatewayd import metrics
from gatewayd.certificates import Finding
from gatewayd.config import ConfigError, load
from gatewayd.config_tables import listening
from gatewayd.metrics import AT_FIRST_ZERO, LinkNow, Listener, families
from gatewayd.points.types import Link
from tests.brokers import until

PACKAGE = Path(__file__).parents[1] / "gatewayd"
COUNTERS = {
    "loop": {"lag_ms": 1.5},
    "processes": {"core": {"rss_mib": 50.0, "cpu_s": 3.0}, "dnp3-0": {"rss_mib": 40.0, "cpu_s": 1.0}},
    "datapath": {"events": 12},
    "journal": {"backlog": 3, "commits": 7, "broken": 0},
    "devices": {"FDR12": {"fragments": 5, "text": "x"}, "MTR3": {"polls": 9}},
    "clock_offset_s": {"FDR12": -0.25},
    "certificates": [
        Finding(of="mqtt", use="cert", file="c.pem", days=12, trouble="ends in 12 days"),
        Finding(of="mqtt", use="cert", file="c.pem", days=500),
        Finding(of="mqtt", use="key", file="k.pem"),
        Finding(of="M", use="ca", file="gone.pem", trouble="cannot be read"),
    ],
    "consumers": {"behind_historian": 4, "refused": 0},
    "commands": {"requests": 2, "reason_local": 3, "outcome_possible": 1, "now_selected": 1, "now_idle": 7},
    "info": {"version": "1.0", "gateway": "test"},
}
LINKS = {"FDR12": LinkNow("dnp3", Link.UP), "MTR3": LinkNow("modbus", Link.DOWN), "OLD": LinkNow("dnp3", Link.DISABLED)}


def read(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_family_has_a_name_of_its_own_and_says_what_it_is() -> None:
    found = {metric.name: metric for metric in families(COUNTERS, LINKS)}
    assert len(found) == len(list(families(COUNTERS, LINKS)))
    assert found["gatewayd_journal_backlog"].type == "gauge"
    assert found["gatewayd_journal_commits"].type == "counter"
    assert [sample.value for sample in found["gatewayd_certificate_days"].samples] == [12]
    assert [sample.value for sample in found["gatewayd_certificate_trouble"].samples] == [1, 0, 1]


def test_what_comes_by_reason_has_a_label_and_is_there_before_it_happens() -> None:
    """Prometheus sees no increase from nothing to one: the first loss would raise no alarm."""
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in families({**COUNTERS, "datapath": {}}, LINKS)
        for sample in metric.samples
    }
    assert found["gatewayd_commands_answers_total", "local"] == 3
    assert found["gatewayd_commands_answers_total", "interlocked"] == 0
    assert found["gatewayd_commands_outcomes_total", "possible"] == 1
    assert found["gatewayd_commands_now", "selected"] == 1
    assert found["gatewayd_commands_now", "hold"] == 0
    assert found["gatewayd_commands_refusals_total",] == 0
    assert found["gatewayd_datapath_gaps_total",] == 0
    assert not any("reason_" in name or "now_" in name for name, *_ in found)


def test_every_counter_that_begins_with_zero_is_counted_somewhere() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "metrics.py")
    assert [name for names in AT_FIRST_ZERO.values() for name in names if f'"{name}"' not in sources] == []


def test_a_device_that_is_switched_off_is_nobodys_alarm() -> None:
    found = [sample for metric in families({}, LINKS) for sample in metric.samples]
    assert [sample.labels["device"] for sample in found if sample.name == "gatewayd_device_up"] == ["FDR12", "MTR3"]
    assert {sample.labels["device"]: sample.labels["link"] for sample in found if "link" in sample.labels} == {
        "FDR12": "up", "MTR3": "down", "OLD": "disabled",
    }  # fmt: skip


async def test_a_scrape_is_answered_from_the_loop() -> None:
    listener = Listener("127.0.0.1", 0, lambda: (COUNTERS, LINKS))
    try:
        url = f"http://127.0.0.1:{listener.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        found = read(text)
        assert found["gatewayd_device_up[('device', 'FDR12'), ('protocol', 'dnp3')]"] == 1
        assert found["gatewayd_device_up[('device', 'MTR3'), ('protocol', 'modbus')]"] == 0
        assert found["gatewayd_device_fragments_total[('device', 'FDR12')]"] == 5
        assert found["gatewayd_process_rss_mib[('process', 'dnp3-0')]"] == 40
        assert found["gatewayd_device_clock_offset_s[('device', 'FDR12')]"] == -0.25
        assert found["gatewayd_consumer_behind[('consumer', 'historian')]"] == 4
    finally:
        await listener.close()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:9464", None),
        ("10.0.0.1:9464", None),
        ("localhost:9464", None),
        ("127.0.0.1", None),
        ("127.0.0.1:x", None),
        ("127.0.0.1:70000", None),
        ("", None),
    ],
)
def test_only_this_machine_may_ask(text: str, found: tuple[str, int] | None) -> None:
    assert listening(text) == found


def test_another_address_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("point,kind,address\nP,analog,HR:0:u16\n")
    path = tmp_path / "gatewayd.toml"
    device = '[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "h"\npoints = "p.csv"\n'
    path.write_text(f'[gateway]\nname = "x"\n[metrics]\nlisten = "0.0.0.0:9464"\n{device}')
    with pytest.raises(ConfigError, match="an address of this machine alone is allowed"):
        load(path)


async def test_many_clients_and_silent_ones_cost_a_few_threads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SLOW_S", 1.5)
    listener = Listener("127.0.0.1", 0, lambda: (COUNTERS, LINKS))
    clients: list[socket.socket] = []
    try:
        while listener.refused < 3:
            assert len(clients) < 200
            clients.append(await asyncio.to_thread(socket.create_connection, ("127.0.0.1", listener.port), 5))
            assert threads(listener) <= metrics.MOST_CLIENTS
        await until(lambda: threads(listener) == 0, "the silent ones are left")
        assert listener.counters()["left"] >= metrics.MOST_CLIENTS
        assert "gatewayd_journal_backlog" in await asyncio.to_thread(_get, listener.port)
    finally:
        for client in clients:
            client.close()
        await listener.close()


def threads(listener: Listener) -> int:
    """Threads that serve a client now."""
    return metrics.MOST_CLIENTS - listener._places._value


def _get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())
