"""The alarms and the dashboard that are shipped ask for what the running daemon really serves."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatewayd import labca
from tests.brokers import free_port, until
from tests.e2e.station import BREAKERS, ROOT, whole_station

ALERTS = ROOT / "etc/prometheus/alerts.yml"
DASHBOARD = ROOT / "etc/grafana/gatewayd.json"
FROM_PROMETHEUS = {"instance", "job"}
"""Labels that come with the scrape."""
EMPTY_IN_HEALTH = {"time", "epoch", "oldest", "newest", "handed_over"}
"""Where the stream stands is no counter."""

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is in Debian's prometheus")


class Asked:
    """What an expression asks for: metrics, and each label with the values that are wanted of it."""

    def __init__(self, expression: str) -> None:
        self.metrics = set(re.findall(r"\bgatewayd_[a-z0-9_]+", expression))
        self.labels = set()
        self.values: list[tuple[str, str, str]] = []
        for metric, selector in re.findall(r"\b(gatewayd_[a-z0-9_]+)\{([^}]*)\}", expression):
            for label, _, wanted in re.findall(r'([a-z_]+)(=~|=)"([^"]*)"', selector):
                self.labels.add((metric, label))
                if "$" not in wanted:
                    self.values += [(metric, label, value) for value in wanted.split("|")]
        for names in re.findall(r"\b(?:by|without) ?\(([^)]*)\)", expression):
            self.labels |= {(metric, name.strip()) for metric in self.metrics for name in names.split(",")}

    def show(self, template: str) -> Asked:
        """The same with the labels that a text for people shows."""
        shown = re.findall(r"\$labels\.([a-z_]+)|\{\{([a-z_]+)\}\}", template)
        self.labels |= {(metric, first or second) for metric in self.metrics for first, second in shown}
        return self


def alerts() -> dict[str, Asked]:
    """By alarm. The form of the file is ours: one key a line."""
    found = {}
    for rule in re.split(r"^ {6}- alert: ", ALERTS.read_text(), flags=re.MULTILINE)[1:]:
        name, _, body = rule.partition("\n")
        keys = dict(re.findall(r"^ +(expr|for|labels|summary|action): (.+)$", body, re.MULTILINE))
        assert {"expr", "labels", "summary", "action"} <= keys.keys(), name
        assert re.fullmatch(r"\{ severity: (critical|warning|info) \}", keys["labels"]), name
        found[name] = Asked(keys["expr"]).show(keys["summary"] + keys["action"])
    return found


def panels() -> Iterator[tuple[str, Asked]]:
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], Asked(target["expr"]).show(target["legendFormat"])


def numbers(health: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Group and name of every number that health has."""
    for group, found in health.items():
        inner = list(found.values()) if group in ("devices", "processes") else [found]
        for counts in inner:
            if isinstance(counts, dict):
                yield from ((group, name) for name, value in counts.items() if isinstance(value, (int, float)))


def test_there_is_something_to_check() -> None:
    assert len(alerts()) > 30
    assert len(list(panels())) > 25
    text = DASHBOARD.read_text() + ALERTS.read_text()
    assert "://" not in text, "names no host"


async def test_every_metric_and_label_is_served_by_the_running_daemon(tmp_path: Path) -> None:
    port = free_port()
    labca.make(tmp_path / "lab", ["gateway"])

    def change(text: str) -> str:
        text = text.replace("[journal]\n", '[journal]\nconsumers = ["historian"]\n')
        off = (
            '[[device]]\nname = "OFF"\nprotocol = "modbus"\nhost = "127.0.0.1"\npoints = "off.csv"\nenabled = false\n'
            'tls = { ca_file = "lab/ca.pem" }\n'
        )
        (tmp_path / "off.csv").write_text("point,kind,address\nOFF/U,analog,IR:0:f32\n")
        return f'{text}\n{off}\n[metrics]\nlisten = "127.0.0.1:{port}"\n'

    async with whole_station(tmp_path, change=change) as station:
        answer = await station.operator.sbo(BREAKERS["FDR12"], "open")
        assert answer["reason"] == "ok"
        await until(lambda: station.console.on("health"), "health is published")
        health = station.console.on("health")[-1].body

        def scrape() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answered:
                return str(answered.read().decode())

        text = await asyncio.to_thread(scrape)
    served: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            served.setdefault(sample.name, []).append(dict(sample.labels))

    assert {"device": "FDR12", "protocol": "dnp3"} in served["gatewayd_device_up"]
    assert [one for one in served["gatewayd_device_up"] if one["device"] == "OFF"] == []
    for name, asked in [*alerts().items(), *panels()]:
        assert asked.metrics <= served.keys(), f"{name}: {sorted(asked.metrics - served.keys())} is not served"
        for metric, label in asked.labels:
            having = set().union(*served[metric])
            assert label in having | FROM_PROMETHEUS, f"{name}: {metric} has no label {label}, but {sorted(having)}"
        for metric, label, value in asked.values:
            if label in FROM_PROMETHEUS or (metric, label) == ("gatewayd_device_link", "link"):
                continue  # a link has its present state only
            assert value in {one[label] for one in served[metric]}, f"{name}: {metric} never has {label} {value}"

    singular = {"devices": "device", "processes": "process"}
    for group, name in numbers({key: value for key, value in health.items() if key not in EMPTY_IN_HEALTH}):
        stem = f"gatewayd_{singular.get(group, group)}_{name}"
        if group == "commands" and name.startswith(("reason_", "now_", "outcome_")):
            continue  # by label: test_metrics.py
        if name.startswith("behind_"):
            assert {"consumer": name.removeprefix("behind_")} in served["gatewayd_consumer_behind"]
        elif group == "clock_offset_s":
            assert {"device": name} in served["gatewayd_device_clock_offset_s"]
        else:
            assert {stem, f"{stem}_total"} & served.keys(), f"health has {group}.{name}, the metrics have not"


SCENES = """
rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - { series: 'gatewayd_datapath_gaps_total', values: '0x20 1x20' }
      - { series: 'gatewayd_device_up{device="A",protocol="dnp3"}', values: '1x20 0x20' }
      - { series: 'gatewayd_device_up{device="B",protocol="dnp3"}', values: '1x40' }
      - { series: 'gatewayd_commands_outcomes_total{effect="possible"}', values: '0x20 1x20' }
      - { series: 'gatewayd_commands_outcomes_total{effect="confirmed"}', values: '0+1x40' }
      - { series: 'gatewayd_certificate_days{of="mqtt",use="cert",file="c.pem"}', values: '45x20 6x20' }
      - { series: 'gatewayd_journal_backlog', values: '0+100x40' }
    alert_rule_test:
      - { eval_time: 4m, alertname: EventsLost, exp_alerts: [] }
      - { eval_time: 4m, alertname: DeviceDown, exp_alerts: [] }
      - { eval_time: 4m, alertname: OutcomeNotSure, exp_alerts: [] }
      - { eval_time: 4m, alertname: CertificateEndsNow, exp_alerts: [] }
      - eval_time: 8m
        alertname: EventsLost
        exp_alerts: [{ exp_labels: { severity: critical } }]
      - eval_time: 8m
        alertname: DeviceDown
        exp_alerts: [{ exp_labels: { severity: critical, device: A, protocol: dnp3 } }]
      - eval_time: 8m
        alertname: OutcomeNotSure
        exp_alerts: [{ exp_labels: { severity: critical, effect: possible } }]
      - eval_time: 8m
        alertname: CertificateEndsNow
        exp_alerts: [{ exp_labels: { severity: critical, of: mqtt, use: cert, file: c.pem } }]
      - eval_time: 9m
        alertname: BacklogGrows
        exp_alerts: [{ exp_labels: { severity: warning } }]
"""


@needs_promtool
def test_prometheus_takes_the_rules_and_they_ring_when_they_should(tmp_path: Path) -> None:
    # Texts are for people; whether they are right is seen above. Without them a scene needs none.
    bare = re.sub(r"^ +annotations:\n(?: +(?:summary|action): .*\n)+", "", ALERTS.read_text(), flags=re.MULTILINE)
    (tmp_path / "alerts.yml").write_text(bare)
    (tmp_path / "scenes.yml").write_text(SCENES)
    for words in (["check", "rules", str(ALERTS)], ["test", "rules", str(tmp_path / "scenes.yml")]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
