from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gatewayd import __version__, cli
from gatewayd.config import load
from gatewayd.engineering import report

ROOT = Path(__file__).resolve().parents[2]
GOOD = ROOT / "etc" / "demo" / "gatewayd.toml"


def gatewayd(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit status of one command line."""
    monkeypatch.setattr(sys, "argv", ["gatewayd", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_check_of_a_clean_station(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert gatewayd(monkeypatch, "check", "-c", GOOD) == 0
    assert capsys.readouterr().out.strip() == report.summary_text(load(GOOD))
    assert gatewayd(monkeypatch, "check", "-c", GOOD, "--json") == 0
    assert json.loads(capsys.readouterr().out) == report.summary(load(GOOD))


def test_check_shows_every_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[gateway]\nnmae = "x"\n[mqtt]\nretain_rate = -1\n')
    assert gatewayd(monkeypatch, "check", "-c", bad) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{bad}:2:1: ") for line in lines)
    assert any(line.startswith(f"{bad}:4:") for line in lines)
    assert gatewayd(monkeypatch, "check", "-c", bad, "--json") == 1
    body = json.loads(capsys.readouterr().out)
    assert body["ok"] is False
    assert [f"{one['file']}:{one['line']}:{one['column']}: {one['message']}" for one in body["mistakes"]] == lines
    assert gatewayd(monkeypatch, "points", "-c", bad) == 1
    assert capsys.readouterr().out.splitlines() == lines


def test_points_shows_the_table_and_the_read_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gatewayd(monkeypatch, "points", "-c", GOOD) == 0
    assert "FDR12/CB/POS" in capsys.readouterr().out
    assert gatewayd(monkeypatch, "points", "-c", GOOD, "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["plans"]["MTR3"]
    assert {"FDR12/CB/POS", "BAY1/CB/POS", "MTR3/CB/POS"} <= {one["point"] for one in body["points"]}


def test_run_with_a_mistake_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert gatewayd(monkeypatch, "run", "-c", tmp_path / "missing.toml") == 1
    said = capsys.readouterr()
    assert "missing.toml" in said.out + said.err


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("watch", "--colour"),
        ("control", "FDR12/CB/POS"),
        ("control", "FDR12/CB/POS", "open", "--json"),
        ("control", "FDR12/CB/POS", "open", "--cancel", "--direct"),
        ("control", "FDR12/CB/POS", "open", "--operator", "a/b"),
        ("watch", "--url", "http://broker"),
        ("watch", "--ca-file", "ca.pem"),
        ("demo", "--port", "many"),
    ],
)
def test_what_is_not_understood_is_64_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert gatewayd(monkeypatch, *words) == cli.USAGE
    assert "Error: " in capsys.readouterr().err


def test_help_and_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert gatewayd(monkeypatch, "--version") == 0
    assert __version__ in capsys.readouterr().out
    assert gatewayd(monkeypatch, "-h") == 0
    assert "On the gateway:   check, " in capsys.readouterr().out
