"""kill -9 at every fail point of the command path: one write at most, one outcome within 5 s of the restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gatewayd import failpoint
from gatewayd.store import audit, inspect, schema

POINTS = (
    "control-after-select", "control-after-intent", "control-after-write", "control-before-outcome",
    "control-after-outcome",
)  # fmt: skip
JOURNAL = ("journal-before-commit", "journal-after-commit")


class Gateway:
    """The desk as a process of its own (gateway.py beside this file); its field appends each write to a file."""

    def __init__(self, folder: Path, point: str) -> None:
        self.folder, self.point = folder, point
        self.writes = folder / "writes"
        self.said = folder / "answers"

    def run(self, what: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.control.gateway", str(self.folder), self.point, what]
        return subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def written(self) -> list[str]:
        return self.writes.read_text().split() if self.writes.exists() else []

    def answers(self) -> list[dict[str, Any]]:
        text = self.said.read_text() if self.said.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def check(gateway: Gateway, *, killed: bool) -> None:
    """What holds wherever it was killed."""
    answers = gateway.answers()
    assert float((gateway.folder / "took").read_text().split()[-1]) < 5, "from the start of the desk to the outcomes"
    for verb in ("select", "operate"):
        assert gateway.written().count(f"{verb}:op") <= 1
    asked = set((gateway.folder / "asked").read_text().split())
    dones = [one for one in answers if one["result"] == "done" and not one["late"]]
    for tx in asked:
        mine = [one for one in dones if one["tx"] == tx]
        fresh = [one for one in mine if not one["duplicate"]]
        assert len(fresh) <= 1
        assert len({(one["reason"], one["effect"]) for one in mine}) <= 1, mine
        if "sel" in tx and any(one["tx"] == "op" for one in dones):
            continue  # it ended with its operate
        known = any(one["tx"] == tx for one in answers) or tx in on_disk(gateway.folder)
        assert mine or not known, f"{tx} has no outcome: {answers}"
    if gateway.written().count("operate:op"):
        [outcome] = {(one["reason"], one["effect"]) for one in dones if one["tx"] == "op"}
        assert outcome[1] != "none", "it moved"
    assert inspect.verify(gateway.folder) == []
    assert audit.verify(gateway.folder).wrong == []
    words = [json.loads(entry.record)["what"] for entry in audit.entries(gateway.folder)]
    assert ("crash" in words) is killed


def on_disk(folder: Path) -> set[str]:
    db = schema.connect_readonly(folder / schema.FILE)
    try:
        return {tx for (tx,) in db.execute("SELECT tx FROM requests")}
    finally:
        db.close()


@pytest.mark.parametrize("held", ["FDR12/CB/POS", "BAY1/CB/POS"], ids=["held by the gateway", "held by the device"])
@pytest.mark.parametrize("point", POINTS)
def test_kill_9_at_each_fail_point(tmp_path: Path, point: str, held: str) -> None:
    gateway = Gateway(tmp_path, held)
    process = gateway.run("command", **{failpoint.VARIABLE: point})
    _, error = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, error
    writes = gateway.written().count("operate:op")
    assert writes == (point in POINTS[2:])
    again = gateway.run("restart")
    _, error = again.communicate(timeout=30)
    assert again.returncode == 0, error
    assert gateway.written().count("operate:op") == writes, "sent again"
    check(gateway, killed=True)
    [reason] = {one["reason"] for one in gateway.answers() if one["result"] == "done" and not one["late"]}
    expected = {"control-after-select": "aborted-restart", "control-after-outcome": "ok"}
    assert reason == expected.get(point, "unknown")


@pytest.mark.parametrize("passes", range(1, 9))
@pytest.mark.parametrize("point", JOURNAL)
def test_kill_9_at_each_commit(tmp_path: Path, point: str, passes: int) -> None:
    gateway = Gateway(tmp_path, "BAY1/CB/POS")
    process = gateway.run("command", **{failpoint.VARIABLE: f"{point}:{passes}"})
    _, error = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGKILL, 0), error
    writes = gateway.written().count("operate:op")
    for _ in range(2):  # the second one finds nothing left to do
        again = gateway.run("restart")
        _, error = again.communicate(timeout=30)
        assert again.returncode == 0, error
    assert gateway.written().count("operate:op") == writes, "sent again"
    assert (tmp_path / "journal.db").exists()
    if (tmp_path / "asked").exists():
        check(gateway, killed=process.returncode != 0 and on_disk_audit(tmp_path))


def on_disk_audit(folder: Path) -> bool:
    """Whether the run that was killed had got as far as its `start` record."""
    words = [json.loads(entry.record)["what"] for entry in audit.entries(folder)]
    return words.count("start") == 3


def test_kill_9_during_the_restart_itself(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "FDR12/CB/POS")
    process = gateway.run("command", **{failpoint.VARIABLE: "control-after-write"})
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    process = gateway.run("restart", **{failpoint.VARIABLE: "control-after-restart"})
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    process = gateway.run("restart")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    check(gateway, killed=True)
    done = [one for one in gateway.answers() if one["tx"] == "op" and one["result"] == "done"]
    assert [(one["reason"], one["effect"], one["restart"]) for one in done] == [("unknown", "possible", True)]
    assert gateway.written().count("operate:op") == 1
