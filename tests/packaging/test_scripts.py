"""The maintainer scripts, step by step as dpkg calls them, with stand-ins that write down what they are told."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.support import PACKAGING

SCRIPTS = ("postinst", "prerm", "postrm")
TOOLS = ("systemd-sysusers", "systemd-tmpfiles", "py3compile", "py3clean", "systemctl", "deb-systemd-invoke")
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>{log}
case "$(basename "$0") $1" in
"systemctl show") echo {state} ;;
"systemctl --quiet") exit {disabled} ;;
"deb-systemd-invoke start") exit {start} ;;
esac
"""


class System:
    """Paths of the scripts turned into a folder, their tools into stand-ins."""

    def __init__(
        self, folder: Path, *, state: str = "inactive", systemd: bool = True, start: int = 0, disabled: int = 0
    ) -> None:
        self.folder = folder
        self.state = state
        for name in ("run", "etc/gatewayd", "etc/systemd/system/multi-user.target.wants", "var/lib/gatewayd", "bin"):
            (folder / name).mkdir(parents=True)
        if systemd:
            (folder / "run/systemd/system").mkdir(parents=True)
        self.start = start
        self.disabled = disabled
        (folder / "log").touch()

    def dpkg(self, script: str, *words: str) -> list[str]:
        """Run a script; what it told its tools."""
        text = re.sub(r"(?<![\w.])/(run|etc|var)/", rf"{self.folder}/\1/", (PACKAGING / "debian" / script).read_text())
        (self.folder / script).write_text(text)
        for tool in TOOLS:
            path = self.folder / "bin" / tool
            path.write_text(STAND_IN.format(log=self.folder / "log", **vars(self)))
            path.chmod(0o755)
        before = len(self.log)
        environment = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"}
        done = subprocess.run(
            ["sh", self.folder / script, *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return self.log[before:]

    @property
    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


MADE = [
    "systemd-sysusers gatewayd.conf",
    "systemd-tmpfiles --create gatewayd.conf",
    "py3compile -p gatewayd /usr/lib/gatewayd",
]


ENABLED = "systemctl --quiet is-enabled gatewayd.service"


def test_what_runs_without_being_enabled_goes_on_after_an_upgrade(tmp_path: Path) -> None:
    system = System(tmp_path, state="active", disabled=1)
    system.dpkg("prerm", "upgrade", "2.0")
    assert system.dpkg("postinst", "configure", "1.0")[-1] == "systemctl start gatewayd.service"


def test_an_installation_starts_nothing(tmp_path: Path) -> None:
    assert System(tmp_path).dpkg("postinst", "configure", "") == [*MADE, "systemctl daemon-reload"]


def test_a_root_without_a_running_systemd_is_installed_too(tmp_path: Path) -> None:
    system = System(tmp_path, systemd=False)
    assert system.dpkg("postinst", "configure", "") == MADE
    assert system.dpkg("prerm", "upgrade", "2.0") == ["py3clean -p gatewayd"]
    assert system.dpkg("postrm", "purge") == []


@pytest.mark.parametrize("state", ["active", "activating", "reloading"])
def test_an_upgrade_stops_what_runs_before_its_files_go_and_starts_it_again(tmp_path: Path, state: str) -> None:
    system = System(tmp_path, state=state)
    assert system.dpkg("prerm", "upgrade", "2.0")[1:] == [
        "deb-systemd-invoke stop gatewayd.service",
        "py3clean -p gatewayd",
    ]
    system.state = "inactive"
    assert system.dpkg("postrm", "upgrade", "2.0") == ["systemctl daemon-reload"]
    told = system.dpkg("postinst", "configure", "1.0")
    assert told == [*MADE, "systemctl daemon-reload", ENABLED, "deb-systemd-invoke start gatewayd.service"]
    assert "deb-systemd-invoke start gatewayd.service" not in system.dpkg("postinst", "configure", "1.0"), "only once"


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_what_was_stopped_by_hand_stays_stopped_over_an_upgrade(tmp_path: Path, state: str) -> None:
    system = System(tmp_path, state=state)
    system.dpkg("prerm", "upgrade", "2.0")
    assert system.dpkg("postinst", "configure", "1.0") == [*MADE, "systemctl daemon-reload"]


def test_an_upgrade_that_was_broken_off_starts_the_old_one_again(tmp_path: Path) -> None:
    system = System(tmp_path, state="active")
    system.dpkg("prerm", "upgrade", "2.0")
    told = system.dpkg("postinst", "abort-upgrade", "2.0")
    assert told == ["systemctl daemon-reload", ENABLED, "deb-systemd-invoke start gatewayd.service"]


def test_a_start_that_fails_does_not_leave_the_package_half_installed(tmp_path: Path) -> None:
    system = System(tmp_path, state="active", start=1)
    system.dpkg("prerm", "upgrade", "2.0")
    assert system.dpkg("postinst", "configure", "1.0")[-1] == "deb-systemd-invoke start gatewayd.service"


def test_a_removal_keeps_everything_and_a_purge_nothing(tmp_path: Path) -> None:
    system = System(tmp_path, state="active")
    journal = tmp_path / "var/lib/gatewayd/journal.db"
    journal.write_text("events")
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants/gatewayd.service"
    wants.symlink_to("/usr/lib/systemd/system/gatewayd.service")
    assert "deb-systemd-invoke stop gatewayd.service" in system.dpkg("prerm", "remove")
    system.dpkg("postrm", "remove")
    assert journal.exists()
    assert wants.is_symlink()
    for _ in range(2):
        system.dpkg("postrm", "purge")
    assert not (tmp_path / "var/lib/gatewayd").exists()
    assert not (tmp_path / "etc/gatewayd").exists()
    assert not wants.is_symlink()
    assert (tmp_path / "etc/systemd/system").is_dir()


def test_installing_again_after_a_removal_starts_nothing(tmp_path: Path) -> None:
    system = System(tmp_path, state="active")
    system.dpkg("prerm", "remove")
    system.dpkg("postrm", "remove")
    assert system.dpkg("postinst", "configure", "1.0") == [*MADE, "systemctl daemon-reload"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_word_of_dpkg_is_an_error(script: str) -> None:
    done = subprocess.run(["sh", PACKAGING / "debian" / script, "dance"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'dance'" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_posix_shell_that_stops_at_errors(script: str) -> None:
    path = PACKAGING / "debian" / script
    assert path.read_text().startswith("#!/bin/sh\n")
    assert "\nset -e\n" in path.read_text()
    subprocess.run(["sh", "-n", path], check=True)
    if critic := shutil.which("shellcheck"):
        done = subprocess.run([critic, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
