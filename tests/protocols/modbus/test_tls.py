"""Modbus/TCP over TLS with certificates of both sides."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from gatewayd.control.types import Verdict
from gatewayd.points.types import Kind
from gatewayd.protocols.device import Tls
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.modbus.driver import create
from tests.protocols.modbus.peers import Peer
from tests.protocols.modbus.support import commanded, device, driving, point
from tests.protocols.watching import Watch, command, until

POINTS = [point(0, Kind.ANALOG, "HR:7"), commanded(1, Kind.BINARY, "CO:7")]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    for authority in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}",
                "-keyout", f"{authority}.key", "-out", f"{authority}.pem")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:meter.test,IP:127.0.0.1\n")
    for name in ("meter", "gateway"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", "request.pem",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-out", f"{name}.pem", "-extfile", "names")  # fmt: skip
    return folder


def server_context(keys: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "meter.pem", keys / "meter.key")
    context.load_verify_locations(keys / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def tls(keys: Path, *, ca: str = "ca", own: bool = True, name: str = "") -> Tls:
    certificate = {"cert_file": str(keys / "gateway.pem"), "key_file": str(keys / "gateway.key")} if own else {}
    return Tls(ca_file=str(keys / f"{ca}.pem"), server_name=name, **certificate)


@pytest.mark.parametrize("name", ["", "meter.test"])
async def test_a_device_is_read_and_commanded_over_tls(keys: Path, name: str):
    watch = Watch()
    async with Peer(tls=server_context(keys)) as peer:
        async with driving(device(peer.port, POINTS, tls=tls(keys, name=name)), watch) as (driver, _):
            assert watch.value(0) == 7
            assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
        assert peer.writes == ["050007ff00"]


async def test_a_certificate_of_another_authority_is_not_accepted(keys: Path):
    async with Peer(tls=server_context(keys)) as peer:
        with pytest.raises(LinkLost, match="TLS: the device's certificate is not accepted: "):
            await create(device(peer.port, POINTS, tls=tls(keys, ca="other"))).run(Watch(), {})


async def test_a_certificate_of_another_name_is_not_accepted(keys: Path):
    async with Peer(tls=server_context(keys)) as peer:
        with pytest.raises(LinkLost, match=r"not accepted: .*other\.test"):
            await create(device(peer.port, POINTS, tls=tls(keys, name="other.test"))).run(Watch(), {})


async def test_a_missing_certificate_of_ours_shows_at_the_first_read_and_is_no_link(keys: Path):
    watch = Watch()
    async with Peer(tls=server_context(keys)) as peer:
        with pytest.raises(LinkLost, match=r"certificate: does it want one of ours"):
            await create(device(peer.port, POINTS, tls=tls(keys, own=False))).run(watch, {})
        assert watch.calls == []
        assert peer.asked == []


async def test_a_device_without_tls_is_no_link(keys: Path):
    async with Peer() as peer:
        with pytest.raises(LinkLost):
            await create(device(peer.port, POINTS, tls=tls(keys), connect_timeout_s=0.5)).run(Watch(), {})
        assert peer.asked == []


async def test_files_that_are_not_there_are_a_fault_someone_must_mend(keys: Path):
    async with Peer(tls=server_context(keys)) as peer:
        missing = Tls(ca_file=str(keys / "nothing.pem"))
        with pytest.raises(DeviceFault, match=r"TLS files: .*No such file"):
            await create(device(peer.port, POINTS, tls=missing)).run(Watch(), {})


async def test_a_device_that_closes_its_tls_connection_is_a_lost_link(keys: Path):
    async with (
        Peer(tls=server_context(keys)) as peer,
        driving(device(peer.port, POINTS, tls=tls(keys)), Watch()) as (_, task),
    ):
        for writer in list(peer._writers):
            writer.transport.abort()
        await until(task.done)
        with pytest.raises(LinkLost):
            task.result()
