from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gatewayd.control.reasons import Reason
from gatewayd.control.types import StepKind, Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.device import Tls
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.iec61850.driver import create
from tests.protocols.iec61850.support import LD, REPORTS, commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

SPLIT, WHOLE, POWER, SELECTED, DIRECT = range(5)
POINTS = [
    point(SPLIT, Kind.BINARY, f"{LD}/GGIO1.Ind1"),
    point(WHOLE, Kind.BINARY, f"{LD}/GGIO1.Ind2"),
    point(POWER, Kind.ANALOG, f"{LD}/MMXU1.TotW"),
    commanded(SELECTED, Kind.BINARY, "GGIO1.SPCSO1", check=("interlock",)),
    commanded(DIRECT, Kind.BINARY, "GGIO1.SPCSO2", ControlMode.DIRECT),
]


class Peer:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self.port = process, port

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def done(self) -> None:
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), 10) == b"DONE\n"


@contextlib.asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[Peer]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.protocols.iec61850.libiec61850_server",
        str(port),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 10) == b"READY\n"
        yield Peer(process, port)
    finally:
        process.kill()
        await process.wait()
        process.stdin.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with serving() as made:
        yield made


async def test_data_sets_of_single_attributes_are_put_together(peer: Peer):
    watch = Watch()
    async with driving(device(peer.port, POINTS, reports=REPORTS), watch) as (driver, _):
        peer.say("set 1 1")
        await until(lambda: watch.samples(SPLIT, reported=True))
        peer.say("q 1 64")  # failure
        await until(lambda: len(watch.samples(SPLIT, reported=True)) >= 2)
        first, second = watch.samples(SPLIT, reported=True)[:2]
        assert (first.value, first.quality & ~q.TIME_MASK) == (True, q.GOOD)
        assert (second.value, second.quality) == (True, q.INVALID | q.FAILURE | q.RECEIPT)
        peer.say("mx 7.5")
        await until(lambda: (last := watch.last(POWER)) is not None and last.value == 7.5)
        power = watch.last(POWER)
        assert power is not None
        assert power.quality == q.GOOD | q.RECEIPT
        assert driver.counters()["polled_points"] == 2


async def test_a_buffer_whose_entry_ids_are_times_is_resumed_without_loss(peer: Peer):
    watch = Watch()
    made = create(device(peer.port, POINTS, reports=REPORTS))
    async with driving(made, watch):
        peer.say("set 2 1")
        await until(lambda: watch.samples(WHOLE, reported=True))
    seen = len(watch.samples(WHOLE, reported=True))
    for number in range(10):
        peer.say(f"set 2 {number % 2}")
        await asyncio.sleep(0.02)  # its changes of one lock period make one entry
    async with driving(made, watch):
        await until(lambda: len(watch.samples(WHOLE, reported=True)) >= seen + 10)
        assert [s.value for s in watch.samples(WHOLE, reported=True)[seen:]] == [n % 2 == 1 for n in range(10)]
        assert watch.gaps == []
        assert made.counters()["resumed"] == 1
        peer.say("set 2 0")
        await until(lambda: len(watch.samples(WHOLE, reported=True)) == seen + 11)


async def test_an_entry_id_it_does_not_know_is_a_gap(peer: Peer):
    watch = Watch()
    made = create(device(peer.port, POINTS, reports=REPORTS))
    async with driving(made, watch):
        peer.say("set 2 1")
        await until(lambda: watch.samples(WHOLE, reported=True))
    source = REPORTS[0]
    watch.cursors[source] = watch.cursors[source]._replace(data=b"brcbST01\0\x01\x02\x03\x04\x05\x06\x07\x08")
    async with driving(made, watch):
        assert len(watch.gaps) == 1
        assert "refused" in watch.gaps[0]


async def test_controls_with_oper_tm_and_checks_in_c(peer: Peer):
    watch = Watch()
    async with driving(device(peer.port, POINTS, reports=REPORTS), watch) as (driver, _):
        asked = command(SELECTED, True)
        selected = await driver.select(asked)
        assert selected.verdict is Verdict.DONE
        reply = await driver.operate(asked)
        assert (reply.verdict, reply.termination) == (Verdict.DONE, True)
        await until(lambda: watch.steps)
        assert watch.steps == [(asked.id, (StepKind.TERMINATED, Reason.OK, None))]
        await until(lambda: (last := watch.last(SELECTED)) is not None and last.value is True)
        assert (await driver.operate(command(DIRECT, True, sbo=False))).verdict is Verdict.DONE
        denied = await driver.select(command(SELECTED, False, operator="denied"))
        assert (denied.verdict, denied.reason) == (Verdict.REFUSED, Reason.NOT_AUTHORISED)
        refused = await driver.operate(command(DIRECT, False, sbo=False, operator="denied"))
        assert (refused.verdict, refused.reason) == (Verdict.REFUSED, Reason.NOT_AUTHORISED)
        again = command(SELECTED, False)
        await driver.select(again)
        assert (await driver.cancel(again)).verdict is Verdict.DONE
        failing = command(SELECTED, False, operator="fail")
        assert (await driver.select(failing)).verdict is Verdict.DONE
        await driver.operate(failing)
        await until(lambda: len(watch.steps) == 2)
        assert watch.steps[1][1].kind is StepKind.TERMINATED_NEGATIVE
        assert watch.steps[1][1].reason is Reason.BLOCKED_PROCESS


def certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    for authority in ("ca", "rogue"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}",
                "-keyout", f"{authority}.key", "-out", f"{authority}.pem")  # fmt: skip
    for name in ("", "client-"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}key.pem", "-out", "request.pem",
                "-subj", f"/CN={name}ied", "-addext", f"subjectAltName=DNS:{name}ied")  # fmt: skip
        openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}cert.pem", "-days", "2", "-copy_extensions", "copy")  # fmt: skip


async def test_tls_reads_and_reports_and_a_wrong_authority_or_no_tls_is_refused(tmp_path: Path):
    await asyncio.to_thread(certificates, tmp_path)
    own = {
        "cert_file": str(tmp_path / "client-cert.pem"),
        "key_file": str(tmp_path / "client-key.pem"),
        "server_name": "ied",
    }
    async with serving(str(tmp_path)) as peer:
        plain = device(peer.port, POINTS, reports=REPORTS, connect_timeout_s=2)
        watch = Watch()
        trusted = msgspec.structs.replace(plain, tls=Tls(ca_file=str(tmp_path / "ca.pem"), **own))
        async with driving(trusted, watch):
            peer.say("set 2 1")
            await until(lambda: watch.samples(WHOLE, reported=True))
        wrong = msgspec.structs.replace(plain, tls=Tls(ca_file=str(tmp_path / "rogue.pem"), **own))
        elsewhere = msgspec.structs.replace(
            plain, tls=Tls(ca_file=str(tmp_path / "ca.pem"), **own | {"server_name": "other"})
        )
        missing = msgspec.structs.replace(plain, tls=Tls(ca_file=str(tmp_path / "nothing.pem")))
        for refused, error in ((wrong, LinkLost), (elsewhere, LinkLost), (plain, LinkLost), (missing, DeviceFault)):
            with pytest.raises(error):
                await asyncio.wait_for(create(refused).run(Watch(), {}), 10)
