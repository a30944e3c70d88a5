"""Commands under the unit's restrictions, with the unpacked Debian package laid over the system."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gatewayd.console.demo import configured
from tests.packaging.support import ROOT, scratch, unpacked

INSIDE = Path(__file__).parent / "inside"
PYTHON = "/usr/lib/gatewayd/bin/python3"
PROOF = "/usr/share/gatewayd-proof"
PROTOCOLS = ("dnp3", "iec61850", "modbus")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="making namespaces and giving up rights needs root: sudo make test, as CI does"
)


class Box:
    """A system with the package on it, for one test: its configuration and its state."""

    def __init__(self) -> None:
        self.folder = scratch("box")
        self.root = self.folder / "root"
        self.state = self.folder / "state"
        self.state.mkdir()
        # Links instead of copies: nothing in it is ever changed.
        shutil.copytree(unpacked(), self.root, symlinks=True, copy_function=os.link)
        shutil.copytree(INSIDE, self.root / PROOF.lstrip("/"))

    def configure(self, text: str) -> None:
        """Have this gatewayd.toml, with the point lists of the demo station, in /etc/gatewayd."""
        target = self.root / "etc/gatewayd"
        shutil.rmtree(target)
        shutil.copytree(ROOT / "etc/demo/points", target / "points")
        (target / "gatewayd.toml").write_text(text)

    @property
    def report(self) -> dict[str, Any]:
        """What was set and what was not."""
        found: dict[str, Any] = json.loads((self.folder / "report").read_text())
        return found

    def command(self, *words: str, dropins: tuple[str, ...] = ()) -> list[str]:
        """A command line that confines these words; without words the unit's own."""
        options = ["--root", str(self.root), "--state", str(self.state), "--report", str(self.folder / "report")]
        options += [word for name in dropins for word in ("--dropin", name)]
        return [sys.executable, "-m", "tests.systemd.confine", *options, "--", *words]

    def run(self, *words: str, dropins: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run a program that prints one JSON object."""
        command = self.command(*words, dropins=dropins)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}{done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def demo_config(url: str, ports: Mapping[str, int]) -> str:
    """The demo station with these ports; a device whose protocol has none is left out."""
    text = configured((ROOT / "etc/demo/gatewayd.toml").read_text(), url, "/var/lib/gatewayd", ports)
    head, *devices = re.split(r"^(?=\[\[device\]\])", text, flags=re.MULTILINE)
    kept = [device for device in devices if re.search(r'^protocol = "(\w+)"', device, re.MULTILINE)[1] in ports]  # type: ignore[index]
    if len(kept) < len(devices):  # the derived points need all of them
        head = re.sub(r"^\[station\]\n(?:.*\n)*?\n", "", head, flags=re.MULTILINE)
    return head + "".join(kept)
