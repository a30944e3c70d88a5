"""A machine that is not as it should be: a start says what is wrong, where, and what is allowed; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gatewayd import clock, labca
from gatewayd.control import identity
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.mqtt.sockets import password
from gatewayd.store.types import JournalError
from gatewayd.tls import client_context
from tests.brokers import until
from tests.e2e.station import ROOT, Gateway
from tests.store.support import event, opened
from tests.store.test_recovery import mounted

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others and mounting needs root")
NOBODY = 60_998
STATION = (
    '[gateway]\nname = "test"\nstate_dir = "{state}"\n[mqtt]\nurl = "mqtt://127.0.0.1:1"\n'
    '[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "127.0.0.1"\nport = 1\npoints = "m.csv"\n'
)
WITHOUT_ROOTS_RIGHTS = (
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner,-chown"),
    *("--inh-caps", "-dac_override,-dac_read_search,-fowner,-chown"),
)


def configured(folder: Path, state: Path) -> Path:
    (folder / "m.csv").write_text("point,kind,address\nM/U,analog,IR:0:f32\n")
    path = folder / "gatewayd.toml"
    path.write_text(STATION.format(state=state))
    return path


def fill(place: Path) -> Path:
    """A file that takes all the room there is."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


async def started(config: Path, *before: str) -> tuple[int, str]:
    """Run until it ends by itself; its status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-m", "gatewayd", "run", "-c", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()


@needs_root
@pytest.mark.parametrize("theirs", ["", "journal.db", "journal.lock"])
async def test_a_state_directory_of_another_user_is_refused_by_name(tmp_path: Path, theirs: str) -> None:
    state = tmp_path / "state"
    journal = opened(state)
    await journal.append([event(1)])
    await journal.close()
    before = (state / "journal.db").read_bytes()
    foreign = state / theirs
    os.chown(foreign, NOBODY, NOBODY)
    foreign.chmod(0o755 if foreign.is_dir() else 0o644)
    status, said = await started(configured(tmp_path, state), *WITHOUT_ROOTS_RIGHTS)
    assert status == 1
    assert said.count("\n") == 1, said
    assert f"{foreign} belongs to {NOBODY}" in said.replace("/'", "'")
    assert f"chown -R root: {state}" in said
    assert (state / "journal.db").read_bytes() == before
    os.chown(foreign, 0, 0)
    journal = opened(state)
    assert journal.newest == 1, "nothing is lost"
    await journal.close()


@needs_root
async def test_a_disk_that_is_full_at_the_first_start_is_a_clear_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as place:
        filler = fill(place)
        status, said = await started(configured(tmp_path, place / "state"))
        assert status == 1
        assert "the journal cannot be opened" in said
        assert "disk is full" in said or "No space left" in said
        assert str(place / "state") in said
        assert "Traceback" not in said
        filler.unlink()
        gateway = Gateway(tmp_path, tmp_path / "gatewayd.toml")
        await gateway.start()
        await until(lambda: "gatewayd starts" in gateway.log, "it starts when there is room")
        assert await gateway.stop() == 0


@needs_root
async def test_a_disk_that_became_full_before_a_start_stops_no_start(tmp_path: Path) -> None:
    """The journal's reserve is for this: what is there can be handed over, and commands refused are on record."""
    with mounted(tmp_path / "disk", "8m") as place:
        state = place / "state"
        journal = opened(state)
        await journal.append([event(at) for at in range(1, 11)])
        await journal.close()
        filler = fill(place)
        gateway = Gateway(tmp_path, configured(tmp_path, state))
        await gateway.start()
        await until(lambda: "gatewayd starts" in gateway.log, gateway.log)
        assert await gateway.stop() == 0
        assert "Traceback" not in gateway.log
        filler.unlink()
        journal = opened(state)
        assert journal.newest >= 10
        await journal.close()


@pytest.mark.parametrize("use", ["key_file", "cert_file", "ca_file", "crl_file", "password_file"])
async def test_a_file_that_is_not_there_or_not_for_us_is_named(tmp_path: Path, use: str) -> None:
    """ssl itself says "[Errno 13] Permission denied" and no more."""
    labca.make(tmp_path / "lab", ["gateway"])
    (tmp_path / "password").write_text("secret")
    files = {
        "ca_file": tmp_path / "lab/ca.pem",
        "cert_file": tmp_path / "lab/gateway.pem",
        "key_file": tmp_path / "lab/gateway-key.pem",
        "crl_file": tmp_path / "lab/ca-crl.pem",
        "password_file": tmp_path / "password",
    }
    settings = MqttSettings(url="mqtts://127.0.0.1:1", username="gw", **{key: str(path) for key, path in files.items()})

    def why(changed: MqttSettings) -> str:
        try:
            password(changed)
            client_context(changed.ca_file, changed.cert_file, changed.key_file, changed.crl_file)
        except OSError as error:
            return str(error)
        return ""

    assert why(settings) == ""

    files[use].rename(tmp_path / "away")
    assert why(settings).startswith(f"{files[use]}: No such file or directory; ")
    bare = msgspec.structs.replace(settings, **{use: "station-secret"})
    assert "LoadCredential=station-secret:/path, or write a path with a /" in why(bare)
    files[use].mkdir()
    assert why(settings).startswith(f"{files[use]}: Is a directory; ")


@needs_root
def test_a_key_of_another_user_is_named_with_who_must_read_it(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch(0o600)
    os.chown(key, NOBODY, NOBODY)
    code = f"from gatewayd.tls import readable; readable({str(key)!r})"
    done = subprocess.run(
        [*WITHOUT_ROOTS_RIGHTS, sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert f"{key}: Permission denied; root must be able to read it" in done.stderr


async def test_a_file_in_the_place_of_the_state_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(JournalError, match=r"state: .*exists.*the journal must be able to write there"):
        opened(tmp_path / "state")


def test_a_rights_file_that_everybody_can_write_lets_nobody_command(tmp_path: Path) -> None:
    path = tmp_path / "rights.toml"
    path.write_text('[operator.alice]\nroles = ["OPERATOR"]\nareas = ["*"]\n')
    for mode in (0o644, 0o640, 0o600, 0o660):
        path.chmod(mode)
        assert identity.load_or_refuse(str(path))[0].operators
    path.chmod(0o646)
    rights, (mistake,) = identity.load_or_refuse(str(path))
    assert not rights.operators
    assert "mode 0646 lets everybody on this machine say who may command" in str(mistake)


GOOD = clock.ClockState(True, 1.0, 0.5)


@pytest.mark.parametrize(
    ("state", "utc_ns", "says"),
    [
        (GOOD, 1_790_000_000 * 10**9, ""),
        (clock.ClockState(False, 16e3, 16e3), 1_790_000_000 * 10**9, "is not in step with any other"),
        (clock.ClockState(None), 1_790_000_000 * 10**9, "the kernel does not say"),
        (GOOD, 3600 * 10**9, "says 1970-01-01, which cannot be"),
        (clock.ClockState(False), 1_000_000_000 * 10**9, "says 2001-09-09, which cannot be"),
    ],
)
def test_a_clock_that_is_far_off_is_said_with_what_follows(state: clock.ClockState, utc_ns: int, says: str) -> None:
    found = clock.trouble(state, utc_ns)
    assert says in found
    assert bool(found) is bool(says)
    if says:
        assert "direct commands are refused and devices get no time" in found
