"""TLS to an outstation: with the right certificates it works, and every wrong one ends with its cause."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from gatewayd.control.types import Verdict
from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.device import Device, Tls
from gatewayd.protocols.driver import DeviceFault, LinkLost
from tests.protocols.dnp3.outstation import Function, Outstation, indexed, ranged, time48
from tests.protocols.dnp3.support import HUNG_UP, device, driving, point
from tests.protocols.watching import Watch, command, ended, until

POINTS = [
    point(0, Kind.BINARY, "BI:0"),
    point(1, Kind.DOUBLE, "", control=ControlMode.SBO, command="CROB:2 trip-close"),
]
STATIC = ranged(1, 2, 0, [b"\x81"])


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._openssl("req", "-x509", *self._new("ca"), "-days", "2", "-subj", "/CN=test ca", "-out", "ca.pem")

    def _new(self, name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def certify(self, name: str, *, san: str = "DNS:rtu12", days: int = 1) -> None:
        """`name`.pem and `name`.key; days: -1 has expired."""
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={san}\n")
        self._openssl("req", *self._new(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        dates = (
            ["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"] if days < 0 else ["-days", str(days)]
        )
        database = self.folder / f"{name}.db"
        database.mkdir()
        (database / "index.txt").write_text("")
        (database / "serial").write_text(f"{abs(hash(name)) % 10**6 + 1000:08d}\n")
        (self.folder / f"{name}.cnf").write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={database}/index.txt\nserial={database}/serial\n"
            f"new_certs_dir={database}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        )
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if days < 0 else ["-days", str(days)]
        self._openssl(
            *("ca", "-batch", "-config", f"{name}.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-notext"),
            *("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", f"{name}.ext", *dates),
        )

    def self_signed(self, name: str) -> None:
        """A certificate that nobody vouches for."""
        san = ["-addext", "subjectAltName=DNS:rtu12"]
        self._openssl(
            "req", "-x509", *self._new(name), "-days", "2", "-subj", f"/CN={name}", *san, "-out", f"{name}.pem"
        )

    def server(self, name: str, *, ask_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.pem")
        return context

    def client(self, *, certificate: str = "", name: str = "rtu12") -> Tls:
        files = {"cert_file": f"{self.folder}/{certificate}.pem", "key_file": f"{self.folder}/{certificate}.key"}
        return Tls(ca_file=f"{self.folder}/ca.pem", server_name=name, **(files if certificate else {}))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.certify("rtu")
    made.certify("gateway", san="DNS:gateway")
    made.certify("other", san="DNS:rtu13")
    made.certify("expired", days=-1)
    made.self_signed("self")
    return made


def over_tls(port: int, tls: Tls, **options: object) -> Device:
    return device(port, POINTS, tls=tls, event_poll_s=0.1, **options)


async def outcome(made: Device) -> str:
    watch = Watch()
    async with driving(made, watch, wait=False) as (_, task):
        error = await ended(task)
    assert isinstance(error, LinkLost), repr(error)
    assert watch.ups == 0
    return str(error)


@pytest.mark.parametrize("mutual", [False, True])
async def test_events_and_commands_over_tls(authority: Authority, mutual: bool) -> None:
    watch = Watch()
    rtu = Outstation(static=STATIC)
    await rtu.listen(ssl=authority.server("rtu", ask_client=mutual))
    try:
        made = over_tls(rtu.port, authority.client(certificate="gateway" if mutual else ""))
        async with driving(made, watch) as (driver, task):
            rtu.unsolicited(indexed(2, 2, [(0, b"\x01" + time48(time.time_ns() // 1_000_000))]))
            await until(lambda: False in watch.values(0, reported=True), what="event")
            assert (await driver.operate(command(1, True))).verdict is Verdict.DONE
            rtu.hang_up()
            assert str(await ended(task)) in HUNG_UP
    finally:
        await rtu.stop()


async def test_persist_before_confirm_over_tls(authority: Authority) -> None:
    watch = Watch()
    rtu = Outstation(static=STATIC)
    await rtu.listen(ssl=authority.server("rtu"))
    try:
        async with driving(over_tls(rtu.port, authority.client()), watch) as (_, task):
            watch.disk = asyncio.Event()
            rtu.unsolicited(indexed(2, 1, [(0, b"\x01")]))
            await until(lambda: watch.waiting, what="the event at the disk")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: not rtu.connected, what="the connection closed")
        assert rtu.count(Function.CONFIRM) == 0
    finally:
        await rtu.stop()


@pytest.mark.parametrize(
    ("certificate", "cause"),
    [
        ("expired", "certificate has expired"),
        ("other", "Hostname mismatch, certificate is not valid for 'rtu12'."),
        ("self", "self-signed certificate"),
    ],
)
async def test_certificates_that_are_not_accepted(authority: Authority, certificate: str, cause: str) -> None:
    rtu = Outstation(static=STATIC)
    await rtu.listen(ssl=authority.server(certificate))
    try:
        text = await outcome(over_tls(rtu.port, authority.client()))
    finally:
        await rtu.stop()
    expected = f"no connection to 127.0.0.1 port {rtu.port}: TLS: the device's certificate is not accepted: {cause}"
    assert text.replace("self signed", "self-signed") == expected
    assert rtu.requests == []


async def test_a_device_that_wants_a_certificate_we_do_not_have(authority: Authority) -> None:
    """asyncio's server closes without a word; other stacks send an alert."""
    rtu = Outstation(static=STATIC)
    await rtu.listen(ssl=authority.server("rtu", ask_client=True))
    try:
        text = await outcome(over_tls(rtu.port, authority.client()))
    finally:
        await rtu.stop()
    assert text == "the device closed the connection after the TLS handshake: it may not accept our certificate"
    assert rtu.requests == []


async def test_a_device_that_says_that_it_wants_a_certificate(authority: Authority) -> None:
    context = authority.server("rtu", ask_client=True)

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(5)
            with contextlib.suppress(ssl.SSLError), context.wrap_socket(accepted, server_side=True):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        text = await outcome(over_tls(listener.getsockname()[1], authority.client()))
        await serving
    assert "certificate required" in text or "it may not accept our certificate" in text


async def test_a_device_that_speaks_no_tls(authority: Authority) -> None:
    async with Outstation(static=STATIC, deaf=True) as rtu:
        serve = rtu._serve

        async def plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(rtu.frame(b"\xc0\xc0\x82\x00\x00"))
            await serve(reader, writer)

        rtu._serve = plainly  # type: ignore[method-assign]
        await rtu.stop()
        await rtu.listen()
        text = await outcome(over_tls(rtu.port, authority.client()))
    assert "TLS: wrong version number" in text or "TLS: record layer failure" in text


async def test_a_device_that_stops_in_the_handshake(authority: Authority) -> None:
    async with Outstation(static=STATIC, deaf=True) as rtu:
        began = time.monotonic()
        text = await outcome(over_tls(rtu.port, authority.client(), connect_timeout_s=0.5))
        assert time.monotonic() - began < 2
    assert text == f"no connection and TLS handshake with 127.0.0.1 port {rtu.port} within 0.5 s"


async def test_a_device_that_hangs_up_in_the_handshake(authority: Authority) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await outcome(over_tls(port, authority.client()))).startswith(
            f"no connection to 127.0.0.1 port {port}: "
        )


@pytest.mark.parametrize("wrong", ["missing", "no certificate", "key of another"])
async def test_files_that_cannot_be_used_are_a_fault(authority: Authority, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    tls = {
        "missing": Tls(ca_file=f"{tmp_path}/none.pem"),
        "no certificate": Tls(ca_file=f"{tmp_path}/empty.pem"),
        "key of another": Tls(
            ca_file=f"{authority.folder}/ca.pem",
            cert_file=f"{authority.folder}/gateway.pem",
            key_file=f"{authority.folder}/rtu.key",
        ),
    }[wrong]
    async with Outstation(static=STATIC) as rtu:
        async with driving(over_tls(rtu.port, tls), Watch(), wait=False) as (_, task):
            error = await ended(task)
        assert isinstance(error, DeviceFault)
        assert str(error).startswith("tls: a file cannot be used: ")
        assert rtu.connections == 0
