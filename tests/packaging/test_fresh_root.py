"""The package in a fresh root without network: installed, upgraded, removed, purged. Takes some minutes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gatewayd import __version__
from tests.packaging.container import apt, copy_of_root, fresh_root, offline, root_with
from tests.packaging.support import LONG, Build, built, second_version

pytestmark = pytest.mark.skipif(not LONG, reason="takes minutes: make package")

CONFIG = "etc/gatewayd/gatewayd.toml"


@pytest.fixture
def installed() -> Path:
    """A root of the test's own with the package."""
    return copy_of_root(root_with(built()))


def said(root: Path, *words: str) -> str:
    done = offline(root, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def install(root: Path, build: Build, *options: str) -> str:
    return apt(root, *options, "install", f"/pkg/{build.deb.name}", packages=build.folder)


def test_it_installs_offline_and_is_ready_to_be_described(installed: Path) -> None:
    assert said(installed, "gatewayd", "--version") == f"gatewayd, version {__version__}"
    assert "no mistakes" in said(installed, "gatewayd", "check")
    as_itself = ("setpriv", "--reuid=gatewayd", "--regid=gatewayd", "--clear-groups")
    assert "no mistakes" in said(installed, *as_itself, "gatewayd", "check"), "its own user reads the configuration"
    modes = said(
        installed,
        *("stat", "-c", "%n %A %U %G"),
        *("/etc/gatewayd", "/etc/gatewayd/credentials", "/var/lib/gatewayd", "/usr/lib/gatewayd"),
    )
    assert modes.splitlines() == [
        "/etc/gatewayd drwxr-x--- root gatewayd",
        "/etc/gatewayd/credentials drwx------ root root",
        "/var/lib/gatewayd drwx------ gatewayd gatewayd",
        "/usr/lib/gatewayd drwxr-xr-x root root",
    ]
    assert said(installed, "getent", "passwd", "gatewayd").endswith(":/var/lib/gatewayd:/usr/sbin/nologin")
    assert offline(installed, "systemctl", "is-enabled", "gatewayd").stdout.strip() == "disabled"
    assert said(installed, "dpkg", "--verify", "gatewayd") == ""
    assert list((installed / "usr/lib/gatewayd").rglob("*.pyc")), "the byte code is made once, not at every start"


def test_the_main_programs_modules_are_not_seen_by_the_systems_python(installed: Path) -> None:
    assert offline(installed, "python3", "-c", "import gatewayd").returncode != 0


def test_an_upgrade_keeps_configuration_and_journal(installed: Path) -> None:
    mine = (installed / CONFIG).read_text().replace('name = "riverside"', 'name = "mine"')
    (installed / CONFIG).write_text(mine)
    (installed / "etc/gatewayd/points/own.csv").write_text("point,kind,address\n")
    (installed / "etc/gatewayd/points/mtr3.csv").unlink()
    (installed / "var/lib/gatewayd/journal.db").write_text("events")
    newer = second_version()
    # The example changed too: what the administrator wrote wins, the new example lies beside it.
    install(installed, newer, "-o", "Dpkg::Options::=--force-confold")
    assert said(installed, "gatewayd", "--version") == f"gatewayd, version {newer.version}"
    assert (installed / CONFIG).read_text() == mine
    assert "the second version" in (installed / f"{CONFIG}.dpkg-dist").read_text()
    assert (installed / "etc/gatewayd/points/own.csv").exists()
    assert not (installed / "etc/gatewayd/points/mtr3.csv").exists(), "a list that was deleted stays deleted"
    assert (installed / "var/lib/gatewayd/journal.db").read_text() == "events"


def test_an_untouched_example_follows_the_upgrade(installed: Path) -> None:
    install(installed, second_version())
    assert "the second version" in (installed / CONFIG).read_text()
    assert not (installed / f"{CONFIG}.dpkg-dist").exists()


def test_it_goes_back_to_the_version_before(installed: Path) -> None:
    install(installed, second_version())
    (installed / "var/lib/gatewayd/journal.db").write_text("events")
    install(installed, built(), "--allow-downgrades")
    assert said(installed, "gatewayd", "--version") == f"gatewayd, version {__version__}"
    assert (installed / "var/lib/gatewayd/journal.db").read_text() == "events"


def test_a_removal_keeps_what_a_purge_takes(installed: Path) -> None:
    (installed / CONFIG).write_text("# mine\n")
    (installed / "etc/gatewayd/credentials/mqtt-password").write_text("secret")
    (installed / "var/lib/gatewayd/journal.db").write_text("events")
    told = apt(installed, "remove", "gatewayd")
    assert "not empty" not in told
    assert not (installed / "usr/lib/gatewayd").exists(), "no byte code is left behind"
    assert not (installed / "usr/bin/gatewayd").exists()
    assert (installed / CONFIG).read_text() == "# mine\n"
    assert (installed / "etc/gatewayd/credentials/mqtt-password").exists()
    assert (installed / "var/lib/gatewayd/journal.db").exists()

    install(installed, built())
    assert (installed / CONFIG).read_text() == "# mine\n", "installed again, it finds its configuration"

    apt(installed, "purge", "gatewayd")
    left = [path for path in ("etc/gatewayd", "var/lib/gatewayd", "usr/lib/gatewayd") if (installed / path).exists()]
    assert left == []
    assert said(installed, "getent", "passwd", "gatewayd"), "the user stays, so that nobody else gets its number"


def test_installing_twice_is_the_same_as_once(installed: Path) -> None:
    before = {path: path.lstat().st_mode for path in (installed / "usr/lib/gatewayd").rglob("*")}
    install(installed, built(), "--reinstall")
    assert {path: path.lstat().st_mode for path in (installed / "usr/lib/gatewayd").rglob("*")} == before


def test_the_serial_rule_gives_the_port_to_the_group(installed: Path) -> None:
    """The shipped rules, as udev itself evaluates them, for a terminal that every machine has."""
    rules = (installed / "usr/share/gatewayd/70-gatewayd-serial.rules").read_text()
    (installed / "etc/udev/rules.d").mkdir(exist_ok=True)
    (installed / "etc/udev/rules.d/70-gatewayd-serial.rules").write_text(rules.replace('"ttyS1"', '"tty0"'))
    group = said(installed, "getent", "group", "gatewayd").split(":")[2]
    done = offline(installed, "udevadm", "test", "--action=add", "/sys/class/tty/tty0")
    shown = done.stdout + done.stderr
    assert f"70-gatewayd-serial.rules:6 GROUP {group}" in shown, shown[-3000:]
    assert "70-gatewayd-serial.rules:6 MODE 0660" in shown
    assert "Invalid" not in shown


def test_the_fresh_root_brings_nothing_along_that_the_package_should_bring() -> None:
    root = fresh_root()
    assert not (root / "usr/lib/gatewayd").exists()
    assert offline(root, "python3", "-c", "import msgspec").returncode != 0


def test_lintian_has_nothing_to_say() -> None:
    critic = shutil.which("lintian")
    assert critic, "lintian is missing; make package-proof installs it"
    quick = "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"  # of a build for tests only
    options = ["--allow-root", "--tag-display-limit=0", "--fail-on=error,warning", f"--suppress-tags={quick}"]
    command = [critic, *options, str(built().deb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
