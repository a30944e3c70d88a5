"""TLS to an IED: open61850 behind a TLS terminator. Wrong certificates of any kind: tests/security/test_peers.py."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from gatewayd.control.types import Verdict
from gatewayd.points.types import Kind
from gatewayd.protocols import loopback
from gatewayd.protocols.device import Device, Tls
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.iec61850.driver import Iec61850Driver, create
from simulators.iec61850_bay import Iec61850Bay
from tests.protocols.iec61850.support import LD, commanded, device, driving, point
from tests.protocols.watching import Watch, command, until
from tests.security.authority import Authority, every_kind
from tests.security.terminator import Terminator

POINTS = [
    commanded(0, Kind.DOUBLE, "CSWI1.Pos"),
    point(1, Kind.BINARY, f"{LD}/GGIO1.Ind1"),
    point(2, Kind.ANALOG, f"{LD}/MMXU1.TotW"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return every_kind(tmp_path_factory.mktemp("authority"), tmp_path_factory.mktemp("stranger"))


def over_tls(port: int, authority: Authority, *, own: bool = False, **options: object) -> Device:
    made = device(port, POINTS, **options)
    files = {"cert_file": f"{authority.folder}/gateway.pem", "key_file": f"{authority.folder}/gateway.key"}
    tls = Tls(ca_file=f"{authority.folder}/ca.pem", server_name="localhost", **(files if own else {}))
    return made.__class__(**{**{name: getattr(made, name) for name in made.__struct_fields__}, "tls": tls})


@pytest.mark.parametrize("mutual", [False, True])
async def test_reports_and_commands_over_tls(authority: Authority, mutual: bool) -> None:
    watch = Watch()
    async with (
        Iec61850Bay(still=True) as sim,
        Terminator(authority, "good", behind=sim.port, ask_client=mutual) as peer,
        driving(over_tls(peer.port, authority, own=mutual), watch) as (driver, _),
    ):
        assert peer.clients == (["gateway"] if mutual else [])
        sim.set("GGIO1.Ind1.stVal[ST]", True)
        await until(lambda: any(sample.value is True for sample in watch.samples(1, reported=True)), what="the event")
        selected = await driver.select(command(0, 1))
        assert selected.verdict is Verdict.DONE
        assert (await driver.operate(command(0, 1))).verdict is Verdict.DONE


async def test_an_ied_that_wants_a_certificate_we_do_not_have(authority: Authority) -> None:
    async with Terminator(authority, "good", ask_client=True) as peer:
        with pytest.raises(LinkLost, match=r"it may not accept our certificate|certificate required"):
            await create(over_tls(peer.port, authority)).run(Watch(), {})


@pytest.mark.parametrize(
    ("which", "cause"),
    [
        ("the session", r"the device closed the connection|the connection broke"),
        ("the IED", "the device closed the connection"),
    ],
)
async def test_the_end_of_a_session_is_a_lost_link_with_its_cause(authority: Authority, which: str, cause: str) -> None:
    async with (
        Iec61850Bay(still=True) as sim,
        Terminator(authority, "good", behind=sim.port) as peer,
        driving(over_tls(peer.port, authority), Watch()) as (_, task),
    ):
        if which == "the IED":
            sim.kill()
        else:
            peer.hang_up()
        with pytest.raises(LinkLost, match=cause):
            await asyncio.wait_for(task, 5)


async def test_an_ied_without_an_association_behind_its_tls_costs_the_connect_timeout(authority: Authority) -> None:
    async with Terminator(authority, "good") as peer:
        made = over_tls(peer.port, authority, connect_timeout_s=0.5)
        with pytest.raises(LinkLost, match=f"no association with 127.0.0.1 port {peer.port}"):
            await asyncio.wait_for(create(made).run(Watch(), {}), 5)


@pytest.mark.parametrize("wrong", ["missing", "no certificate"])
async def test_files_that_cannot_be_used_are_a_fault(authority: Authority, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "no certificate.pem").write_text("nothing")
    made = over_tls(1, Authority(tmp_path))
    (tmp_path / "ca.pem").unlink()
    if wrong != "missing":
        (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(DeviceFault, match="tls: a file cannot be used"):
        await create(made).run(Watch(), {})


async def test_nobody_else_gets_to_the_ied(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not of this process is closed, and the library's is taken all the same."""
    strangers: list[socket.socket] = []
    really, doorway = loopback.is_ours, loopback.Doorway.__init__

    def after_a_stranger(self: loopback.Doorway) -> None:
        doorway(self)
        strangers.append(socket.create_connection((loopback.HOST, self.port)))

    monkeypatch.setattr(loopback.Doorway, "__init__", after_a_stranger)
    # the stranger is this very process here: what tells it apart must be said for the test
    monkeypatch.setattr(
        loopback, "is_ours", lambda sock: sock.getpeername() != strangers[0].getsockname() and really(sock)
    )
    async with (
        Iec61850Bay(still=True) as sim,
        Terminator(authority, "good", behind=sim.port) as peer,
        driving(over_tls(peer.port, authority), Watch()),
    ):
        strangers[0].settimeout(5)
        assert await asyncio.to_thread(strangers[0].recv, 1) == b""
    strangers[0].close()


async def test_nothing_is_left_behind_by_many_sessions(authority: Authority) -> None:
    async with Iec61850Bay(still=True) as sim, Terminator(authority, "good", behind=sim.port) as peer:
        driver = Iec61850Driver(over_tls(peer.port, authority))
        counts = []
        for round_ in range(8):
            async with driving(driver, Watch()) as (_, task):
                if round_ % 2:
                    peer.hang_up()
                    await asyncio.gather(task, return_exceptions=True)
            await until(lambda: peer.open == 0, what="the session closed")
            await until(lambda: not any(t.name.startswith("iec61850-") for t in threading.enumerate()))
            counts.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        assert counts[-1] <= counts[2] + 1, counts
