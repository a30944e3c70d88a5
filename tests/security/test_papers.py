"""docs/security.md says nothing that is not so: its tests, alarms, commands and figures exist."""

from __future__ import annotations

import re
from pathlib import Path

from gatewayd.certificates import WARN_DAYS
from gatewayd.cli import cli
from gatewayd.config import MOST_OCTETS
from gatewayd.control.settings import ControlSettings
from gatewayd.mqtt.commands import REQUESTS_AT_ONCE
from gatewayd.mqtt.requests import MAX_DEPTH, MAX_PAYLOAD

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text()


def written_tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }


def rows() -> list[list[str]]:
    """The cells of the table of IEC 62443-4-2."""
    table = PAGE.split("## IEC 62443-4-2")[1]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return found[2:]


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"\btest_\w+", PAGE))
    assert len(named) > 60
    assert sorted(named - written_tests()) == []


def test_every_requirement_is_met_and_shown_or_says_why_not() -> None:
    assert len(rows()) > 35
    for requirement, verdict, how, shown in rows():
        assert re.match(r"(CR|EDR) \d\.\d+", requirement), requirement
        assert verdict in ("met", "with", "no"), requirement
        assert how, requirement
        assert bool(re.findall(r"`test_\w+`", shown)) is (verdict != "no"), (
            f"{requirement}: {verdict}, shown by {shown}"
        )


def test_every_command_and_alarm_that_is_named_exists() -> None:
    commands = set(re.findall(r"`gatewayd ([a-z]+)", PAGE))
    assert commands >= {"doctor", "certs", "audit", "keys", "inhibit"}
    assert commands - set(cli.commands) == set()
    alarms = set(re.findall(r"alert: (\w+)", (ROOT / "etc/prometheus/alerts.yml").read_text()))
    watched = re.search(r"the alarms (.*?);", PAGE, re.DOTALL)
    assert watched is not None
    assert set(re.findall(r"`(\w+)`", watched[1])) - alarms == set()


def test_the_figures_are_those_of_the_program() -> None:
    settings = ControlSettings()
    assert f"{settings.audit_records:,} records" in PAGE
    assert f"{settings.selects_per_operator} selects" in PAGE
    assert f"at most {MOST_OCTETS // 2**20} MiB" in PAGE
    assert "{}, {} and {} days before an end".format(*WARN_DAYS) in PAGE
    assert f"JSON of at most {MAX_PAYLOAD // 1024} KiB, {MAX_DEPTH} deep" in PAGE
    assert f"{REQUESTS_AT_ONCE} requests waiting" in PAGE


def test_reports_of_weaknesses_have_a_page() -> None:
    assert "docs/security.md" in (ROOT / "SECURITY.md").read_text()
    assert "SECURITY.md" in PAGE
