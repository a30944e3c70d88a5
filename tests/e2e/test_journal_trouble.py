"""The daemon with a journal that is not as it should be, and after a restart: what people read, what consumers see."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gatewayd.store.schema import FILE, VERSION
from simulators.modbus_meter import ModbusMeter
from tests.brokers import Mosquitto, until
from tests.e2e.station import Gateway
from tests.mqtt.support import Console, console
from tests.store.support import event, opened
from tests.store.test_recovery import mounted, remount_read_only

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
POINTS = {"M/U": "IR:0:f32", "M/I": "IR:2:f32", "M/CB": "DI:0", "M/WH": "IR:30:u64"}


class Small(NamedTuple):
    """A broker, one meter, the daemon (not started yet), and a console that hears everything."""

    broker: Mosquitto
    meter: ModbusMeter
    gateway: Gateway
    console: Console
    state: Path


@contextlib.asynccontextmanager
async def small(folder: Path, state: Path | None = None) -> AsyncIterator[Small]:
    state = state or folder / "state"
    async with Mosquitto(folder / "broker") as broker, ModbusMeter() as meter, console(broker.url) as listener:
        (folder / "m.csv").write_text(
            "point,kind,address\n"
            + "".join(
                f"{name},{'binary' if address == 'DI:0' else 'counter' if 'u64' in address else 'analog'},{address}\n"
                for name, address in POINTS.items()
            )
        )
        config = folder / "gatewayd.toml"
        config.write_text(
            f'[gateway]\nname = "test"\nstate_dir = "{state}"\n[mqtt]\nurl = "{broker.url}"\n[[device]]\nname = "M"\n'
            f'protocol = "modbus"\nhost = "127.0.0.1"\nport = {meter.port}\npoints = "m.csv"\n'
            "[device.modbus]\nunit = 1\npoll_s = 0.2\n"
        )
        gateway = Gateway(folder, config)
        try:
            yield Small(broker, meter, gateway, listener, state)
        finally:
            await gateway.kill()


def records(one: Console, since: int = 0) -> dict[str, dict[str, Any]]:
    """The newest record of each point in state messages."""
    return {
        record["point"]: record
        for message in one.heard[since:]
        if message.topic == "gw/test/state/M"
        for record in message.body["points"]
    }


def all_are(one: Console, quality: str, since: int = 0) -> bool:
    found = records(one, since)
    return found.keys() == POINTS.keys() and {record["quality"] for record in found.values()} == {quality}


def invalid(one: Console) -> bool:
    """Whether the newest snapshot and the newest retained points are all there and all invalid."""
    newest = {m.topic: m.body for m in [*one.on("snapshot/M/"), *one.on("point/")]}
    found = [record for body in newest.values() for record in body.get("points", [body])]
    return len(found) == 2 * len(POINTS) and {record["quality"] for record in found} == {"invalid"}


async def written(state: Path, count: int = 2000) -> str:
    """A closed journal; its epoch."""
    journal = opened(state)
    await journal.append([event(n, 200) for n in range(1, count + 1)])
    await journal.close()
    return journal.epoch


# --- a journal that is refused --------------------------------------------------------------------------------------


def change(pragma: str) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA {pragma}")

    return do


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (change("user_version = 7"), f"schema version 7; this gatewayd reads and writes version {VERSION}"),
        (change("application_id = 5"), "is an SQLite file of another program"),
    ],
)
async def test_a_journal_that_is_not_ours_is_left_alone_and_said(
    tmp_path: Path, spoil: Callable[[Path], None], text: str
) -> None:
    async with small(tmp_path) as station:
        await written(station.state, 5)
        spoil(station.state / FILE)
        before = (station.state / FILE).read_bytes()
        await station.gateway.start()
        assert station.gateway.process is not None
        assert await asyncio.wait_for(station.gateway.process.wait(), 30) == 1
        [line] = [line for line in station.gateway.log.splitlines() if "journal" in line]
        assert "the journal cannot be opened" in line
        assert text in line
        assert (station.state / FILE).read_bytes() == before
        assert not station.console.on("status")


@root
async def test_a_read_only_disk_at_the_start(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "8m") as disk:
        async with small(tmp_path, disk / "state") as station:
            await written(station.state, 5)
            remount_read_only(disk)
            await station.gateway.start()
            assert station.gateway.process is not None
            assert await asyncio.wait_for(station.gateway.process.wait(), 30) == 1
            assert "Read-only file system; the journal must be able to write there" in station.gateway.log


# --- a journal that is mended ---------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_root(path: Path) -> None:
    octets = bytearray(path.read_bytes())
    octets[4096:8192] = bytes(octet ^ 0x55 for octet in octets[4096:8192])
    path.write_bytes(octets)


@pytest.mark.parametrize("spoil", [cut, flip_root])
async def test_a_damaged_journal_is_kept_aside_and_consumers_are_told(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    async with small(tmp_path) as station:
        epoch = await written(station.state)
        spoil(station.state / FILE)
        damaged = (station.state / FILE).read_bytes()
        await station.gateway.start()
        await until(lambda: all_are(station.console, "good"), station.gateway.log)
        await until(lambda: station.console.on("gap"), "the gap record")
        [gap] = [message.body for message in station.console.on("gap")]
        assert (gap["cause"], gap["previous_epoch"], gap["seq"]) == ("journal-unreadable", epoch, 1)
        assert gap["epoch"] == station.console.last("status")["epoch"] != epoch
        assert station.console.events()[0]["cause"] == "journal-unreadable"
        [aside] = station.state.glob("journal-unreadable-*.db")
        assert aside.read_bytes() == damaged
        [line] = [line for line in station.gateway.log.splitlines() if "it was moved aside" in line]
        assert aside.name in line


@root
async def test_a_full_disk_at_the_start_is_said_state_goes_on_and_it_heals(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "6m") as disk:
        async with small(tmp_path, disk / "state") as station:
            await written(station.state, 10)
            for path in station.state.iterdir():
                path.chmod(0o640)
            (station.state / "journal.reserve").unlink()
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(b"x" * 4096)
                    file.flush()
            await station.gateway.start()
            assert station.gateway.process is not None
            ended = asyncio.ensure_future(station.gateway.process.wait())
            await until(
                lambda: ended.done() or all_are(station.console, "good"),
                "an end or values in spite of the full disk",
                30,
            )
            log = station.gateway.log
            assert "No space left" in log or "disk is full" in log or "disk I/O error" in log, log
            if ended.done():  # refused: said, and the next start is fine
                assert await ended == 1
                filler.unlink()
                await station.gateway.start()
            else:
                filler.unlink()
                ended.cancel()
            await until(lambda: len(station.console.events()) >= 10, station.gateway.log, 30)
            numbers = [found["seq"] for found in station.console.events()]
            assert numbers[:10] == list(range(1, 11))


# --- after a restart ------------------------------------------------------------------------------------------------


async def test_after_a_restart_every_point_is_invalid_until_read_and_consumers_see_it_at_once(tmp_path: Path) -> None:
    async with small(tmp_path) as station:
        await station.gateway.start()
        await until(lambda: all_are(station.console, "good"), station.gateway.log)
        await until(lambda: len(station.console.on("point/")) >= len(POINTS), "retained points")
        await station.gateway.kill()
        await until(lambda: station.console.last("status")["state"] == "offline", "the will")
        since = len(station.console.heard)
        station.meter.silent |= {1, 2, 3, 4}  # it takes connections and does not answer: nothing can be read
        await station.gateway.start()
        await until(lambda: all_are(station.console, "invalid", since), station.gateway.log, 10)
        for record in records(station.console, since).values():
            assert record["value"] is None
            assert {"restart", "not-initialised"} <= set(record["flags"])
        heard = [m for m in station.console.heard[since:] if m.topic != "gw/test/event"]  # those tell of the past
        assert not [m for m in heard if b'"quality":"good"' in m.payload]
        await until(lambda: station.console.last("status")["state"] == "online", "online")
        # in the order in which they came: never online with a link or a value of the run before
        topics = [m.topic for m in station.console.heard[since:] if m.topic in ("gw/test/status", "gw/test/device/M")]
        assert topics[:2] == ["gw/test/device/M", "gw/test/status"]
        assert station.console.last("device/M")["link"] != "up"
        # and whoever comes later: no good value of the run before is left on the broker
        async with console(station.broker.url) as late:
            await until(lambda: invalid(late), "all that is stored", 10)
        station.meter.silent.clear()
        await until(lambda: all_are(station.console, "good", since), station.gateway.log, 30)
