"""The installed package under systemd itself, with the real unit: from the first start to the purge. Takes minutes.

systemd is PID 1 of a container in a fresh root; the broker and three simulated devices are outside, on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gatewayd import __version__
from simulators.model import CLOSED, OPEN
from simulators.station import station as devices
from tests.brokers import Mosquitto, until
from tests.e2e.station import BREAKERS, Gateway, Station
from tests.mqtt.support import console
from tests.packaging.container import Container, root_with
from tests.packaging.support import LONG, ROOT, built, scratch, second_version
from tests.systemd.support import demo_config

pytestmark = pytest.mark.skipif(not LONG, reason="takes minutes: make package")

CONFIG = "/etc/gatewayd/gatewayd.toml"
DROPINS = "/etc/systemd/system/gatewayd.service.d"
USER, PASSWORD = "gw-test", "correct horse"


class Booted(Gateway):
    """A gateway that systemd runs; what failing tests show of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Path(CONFIG))

    @property
    def log(self) -> str:
        return ""  # in the container: Site.good shows it


class Site:
    """A container with the package, described as the demo station, and what stands around it."""

    def __init__(self, box: Container, station: Station, text: str) -> None:
        self.box = box
        self.station = station
        self.text = text

    async def start(self) -> None:
        """As an engineer does, with the password as a credential and the shipped drop-in."""
        await self.box.write("/etc/gatewayd/credentials/mqtt-password", PASSWORD, "0600")
        await self.box.write(CONFIG, self.text)
        for path in (ROOT / "etc/demo/points").iterdir():
            await self.box.write(f"/etc/gatewayd/points/{path.name}", path.read_text())
        dropin = (await self.box.run("cat", "/usr/share/gatewayd/site.conf")).replace(
            "#LoadCredential=mqtt-p", "LoadCredential=mqtt-p"
        )
        await self.box.write(f"{DROPINS}/site.conf", dropin)
        await self.box.run("systemctl", "daemon-reload")
        await self.box.run("systemctl", "enable", "--now", "gatewayd")
        await self.good()

    async def good(self) -> None:
        try:
            await self.station.all_good(deadline_s=40)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.box.journal('--lines=60')}") from None

    async def restarted(self, restarts: int) -> None:
        """Wait until systemd has started it again so often and everything is well."""
        await self.box.waits("NRestarts", str(restarts))
        await self.box.waits("ActiveState", "active")
        self.station.console.heard.clear()
        await self.good()

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.station.console.last("status")
        return found


@contextlib.asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    root, packages = root_with(built()), scratch("packages")  # first: minutes in which no loop would turn
    for build in (built(), second_version()):
        os.link(build.deb, packages / build.deb.name)
    async with (
        Mosquitto(folder / "broker", users={USER: PASSWORD, "watcher": "w"}) as broker,
        devices() as (feeder, rtu, bay, meter),
        console(broker.url, username="watcher", password="w") as listener,
        Container(root, packages) as box,
    ):
        ports = {"dnp3": rtu.port, "iec61850": bay.port, "modbus": meter.port}
        text = demo_config(broker.url, ports).replace('name = "demo"', 'name = "test"')
        login = f'[mqtt]\nusername = "{USER}"\npassword_file = "mqtt-password"\n'
        station = Station(folder, broker, Booted(folder), listener, feeder, rtu, bay, meter)
        yield Site(box, station, text.replace("[mqtt]\n", login))


async def test_it_is_installed_described_started_and_does_the_main_job(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert await here.box.show("ActiveState") == "inactive", "an installation starts nothing"
        await here.start()
        assert here.status["version"] == __version__
        assert await here.box.show("StatusText") == "test: 3 devices, 28 points"
        pid = await here.box.show("MainPID")
        status = await here.box.run("cat", f"/proc/{pid}/status")
        assert re.search(r"^Uid:\t([1-9]\d*)\t\1\t\1\t\1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        for position, value in ((OPEN, "open"), (CLOSED, "closed")):
            answer = await here.station.operator.sbo(BREAKERS["BAY1"], value)
            assert answer["reason"] == "ok", answer
            assert here.station.feeder.breaker == position
        log = await here.box.journal()
        of_device = await here.box.run("journalctl", "GATEWAYD_DEVICE=BAY1", "--output=json", "--no-pager")
        said = [json.loads(line) for line in of_device.splitlines()]
        assert any(one["MESSAGE"] == "device is up device=BAY1" and one["PRIORITY"] == "6" for one in said), said
        assert all(one["_SYSTEMD_UNIT"] == "gatewayd.service" for one in said)
        of_command = await here.box.run("journalctl", f"GATEWAYD_TX={answer['tx']}", "--output=cat", "--no-pager")
        assert "a command ended" in of_command
        assert PASSWORD not in log
        assert "Traceback" not in log
        assert "not permitted" not in log.lower()
        assert "the clock of this machine was moved" not in log
        assert "the kernel does not say" not in log, "adjtimex can be read"
        assert here.status["clock"]["synchronised"] is not None, "adjtimex can be read"
        exposure = await here.box.run("systemd-analyze", "security", "--threshold=15", "gatewayd")
        assert "OK" in exposure
        await here.box.run("systemctl", "stop", "gatewayd")
        await until(lambda: here.status["state"] == "offline", "its last words")
        assert await here.box.show("Result") == "success"


async def test_a_reload_ends_when_it_is_in_force_and_fails_with_a_mistake(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await here.start()
        pid = await here.box.show("MainPID")
        await here.box.write(CONFIG, here.text.replace("poll_s = 0.5", 'poll_s = "fast"'))
        status, said = await here.box.tries("systemctl", "reload", "gatewayd")
        assert status != 0
        assert "failed" in said
        assert f'{CONFIG}:59:10: poll_s: found "fast"' in await here.box.journal(), "the journal says what and where"
        assert await here.box.show("ActiveState") == "active"
        assert here.station.link("MTR3") == "up"

        smaller = re.sub(r'\[\[device\]\]\nname = "MTR3"\n(?:.+\n)+', "", here.text)
        for text, points in ((smaller, "2 devices, 20 points"), (here.text, "3 devices, 28 points")) * 2:
            await here.box.write(CONFIG, text)
            await here.box.run("systemctl", "reload", "gatewayd")
            assert await here.box.show("StatusText") == f"test: {points}"
        assert await here.box.show("MainPID") == pid
        await here.good()


async def test_it_comes_back_from_a_kill_from_a_hang_and_from_a_mistake(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        (packages,) = (await here.box.run("sh", "-c", "echo /usr/lib/gatewayd/lib/python3.*/site-packages")).split()
        await here.box.write(
            f"{packages}/hang.py",
            "import signal, time\n\ndef hang_on_purpose(*_):\n    time.sleep(3600)\n\n"
            "signal.signal(signal.SIGUSR1, hang_on_purpose)\n",
        )
        await here.box.write(f"{packages}/hang.pth", "import hang\n")
        await here.box.write(f"{DROPINS}/watchdog.conf", "[Service]\nWatchdogSec=3s\n")
        await here.start()
        epoch = here.status["epoch"]

        await here.box.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "gatewayd")
        await here.restarted(1)
        await here.box.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGUSR1", "gatewayd")
        await here.restarted(2)
        log = await here.box.journal()
        assert "Watchdog timeout" in log
        assert "hang_on_purpose" in log, "the journal says where it hung"

        await here.box.write(CONFIG, here.text.replace('protocol = "modbus"', 'protocol = "modbas"'))
        await here.box.tries("systemctl", "restart", "gatewayd")
        assert await here.box.show("SubState") == "auto-restart"
        assert 'found "modbas"' in await here.box.journal()
        await here.box.write(CONFIG, here.text)
        await here.box.waits("ActiveState", "active")
        await here.good()
        assert here.status["epoch"] == epoch, "the journal is the same through all of it"


async def test_it_talks_only_to_the_networks_that_were_named(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await here.start()
        await here.box.write(f"{DROPINS}/zz.conf", "[Service]\nIPAddressAllow=\nIPAddressAllow=127.0.0.2\n")
        await here.box.run("systemctl", "daemon-reload")
        here.station.console.heard.clear()
        await here.box.run("systemctl", "restart", "gatewayd")
        # Nothing can be reached, the broker neither: there is nothing to hear, and no connection in the log.
        await here.box.waits("ActiveState", "active")

        log = await here.box.log_since_start("no connection to the broker")
        assert "connected to the broker" not in log
        assert "device is up" not in log
        await here.box.run("rm", f"{DROPINS}/zz.conf")
        await here.box.run("systemctl", "daemon-reload")
        await here.box.run("systemctl", "restart", "gatewayd")
        await here.good()


async def test_upgrade_and_roll_back_of_a_running_gateway_and_its_end(tmp_path: Path) -> None:
    apt = ("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold")
    async with site(tmp_path) as here:
        await here.start()
        before = here.status
        for build, options in ((second_version(), ()), (built(), ("--allow-downgrades",))):
            here.station.console.heard.clear()
            await here.box.run(*apt, *options, "install", f"/pkg/{build.deb.name}")
            await here.good()
            await until(lambda b=build: here.status["version"] == b.version, "the new version is in force")  # type: ignore[misc]
            assert here.status["epoch"] == before["epoch"]
            assert here.status["newest"] >= before["newest"], "no number is used twice"
            assert await here.box.show("ActiveState") == "active"
            await here.box.run("systemctl", "disable", "gatewayd")  # running, it goes on all the same
        assert PASSWORD in await here.box.run("cat", "/etc/gatewayd/credentials/mqtt-password")

        await here.box.run("systemctl", "stop", "gatewayd")
        await here.box.run(*apt, "install", f"/pkg/{second_version().deb.name}")
        assert await here.box.show("ActiveState") == "inactive", "what was stopped by hand stays stopped"
        await here.box.run("systemctl", "start", "gatewayd")
        await here.good()

        await here.box.run(*apt, "remove", "gatewayd")
        await until(lambda: here.status["state"] == "offline", "its last words")
        await here.box.run("test", "-s", "/var/lib/gatewayd/journal.db")
        await here.box.run(*apt, "purge", "gatewayd")
        for path in ("/var/lib/gatewayd", "/etc/gatewayd", "/usr/lib/gatewayd"):
            assert (await here.box.tries("test", "-e", path))[0] == 1


def handbook(words: str) -> str:
    """The commands of docs/operations.md that contain these words."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if words in block]
    return str(found)


async def test_backup_and_restore_as_the_handbook_says(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await here.start()
        before = here.status
        await here.box.run("sh", "-euc", handbook("journal.backup("))
        assert (await here.box.run("stat", "-c", "%U %a", "/var/backups/gatewayd")).strip() == "gatewayd 700"
        assert await here.box.show("NRestarts") == "0"
        assert (await here.station.operator.sbo(BREAKERS["FDR12"], "open"))["reason"] == "ok", "after the backup"

        await here.box.write(CONFIG, "lost\n")
        here.station.console.heard.clear()
        await here.box.run("sh", "-euc", handbook("rm -f /var/lib/gatewayd/journal"))
        await here.good()
        assert here.status["epoch"] != before["epoch"], "no number is ever used for two events"
        gaps = [event for event in here.station.console.events() if event.get("type") == "gap"]
        assert [gap["cause"] for gap in gaps] == ["journal-restored"]
        assert gaps[0]["previous_epoch"] == before["epoch"]
