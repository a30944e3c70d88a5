"""What is wrong with a certificate is said before a peer says it, and the one TLS policy refuses what it must."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gatewayd import labca, tls
from gatewayd.certificates import Finding, Named, due, examine
from gatewayd.config import load, named_files
from gatewayd.engineering import certs
from tests.security.authority import Authority, every_kind

NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    labca.make(folder, ["127.0.0.1", "gateway", "other"])
    return folder


def findings(folder: Path, name: str = "gateway", now: datetime | None = None) -> list[Finding]:
    named = [
        Named("mqtt", "ca", folder / "ca.pem"),
        Named("mqtt", "cert", folder / f"{name}.pem"),
        Named("mqtt", "key", folder / f"{name}-key.pem"),
        Named("mqtt", "crl", folder / "ca-crl.pem"),
    ]
    return examine(named, now)


def trouble(found: list[Finding]) -> list[str]:
    return [one.trouble for one in found if one.trouble]


def test_a_lab_authority_is_all_right_and_says_whom_it_is_for(lab: Path) -> None:
    found = findings(lab, "127.0.0.1")
    assert trouble(found) == []
    assert found[1].names == ("127.0.0.1",)
    assert found[1].subject == "CN=127.0.0.1"
    assert found[1].days is not None
    assert 360 <= found[1].days <= 365


@pytest.mark.parametrize(
    ("later", "says"),
    [
        (timedelta(days=364, hours=20), "ends in"),
        (timedelta(days=310), "ends in"),
        (timedelta(days=400), "ended on"),
        (timedelta(days=-2), "not valid before"),
    ],
)
def test_the_end_and_the_beginning_are_said(lab: Path, later: timedelta, says: str) -> None:
    found = findings(lab, now=datetime.now(UTC) + later)
    assert says in found[1].trouble


def test_a_list_past_its_date_refuses_everything_and_says_so(lab: Path) -> None:
    found = findings(lab, now=datetime.now(UTC) + timedelta(days=400))
    assert "the list is old" in found[3].trouble


def test_a_key_of_another_certificate_and_one_for_everybody_are_found(lab: Path, tmp_path: Path) -> None:
    for name in ("ca.pem", "ca-crl.pem", "gateway.pem"):
        (tmp_path / name).write_bytes((lab / name).read_bytes())
    key = tmp_path / "gateway-key.pem"
    key.write_bytes((lab / "other-key.pem").read_bytes())
    key.chmod(0o644)
    said = trouble(findings(tmp_path))
    assert said[0].startswith("mode 0644 lets everybody")
    assert said[1] == f"does not belong to {tmp_path / 'gateway.pem'}"


@pytest.mark.parametrize(
    ("data", "says"), [(b"", "not understood"), (b"rubbish", "not understood"), (None, "cannot be read")]
)
@pytest.mark.parametrize("use", ["ca", "cert", "key", "crl"])
def test_any_file_is_a_finding_never_an_exception(tmp_path: Path, use: str, data: bytes | None, says: str) -> None:
    path = tmp_path / "file.pem"
    if data is not None:
        path.write_bytes(data)
    (found,) = examine([Named("mqtt", use, path)])
    assert says in found.trouble


def test_warnings_come_once_at_each_step() -> None:
    warned: dict[str, int] = {}
    said = []
    for days in (90, 61, 59, 58, 29, 28, 6, 5, -1, -2):
        said += [one.days for one in due([Finding(of="m", use="cert", file="f", days=days)], warned)]
    assert said == [59, 29, 6, -1]


def test_a_certificate_that_is_renewed_is_warned_of_anew() -> None:
    warned: dict[str, int] = {}
    for days, expected in ((20, 1), (365, 0), (20, 1)):
        assert len(due([Finding(of="m", use="cert", file="f", days=days)], warned)) == expected


STATION = """
[gateway]
name = "x"
[mqtt]
url = "mqtts://127.0.0.1:8883"
ca_file = "lab/ca.pem"
cert_file = "lab/gateway.pem"
key_file = "lab/gateway-key.pem"
[[device]]
name = "M"
protocol = "modbus"
host = "127.0.0.1"
points = "m.csv"
tls = { ca_file = "lab/ca.pem", crl_file = "lab/ca-crl.pem" }
"""


def station(folder: Path) -> Path:
    labca.make(folder / "lab", ["gateway"])
    (folder / "m.csv").write_text("point,kind,address\nP,analog,HR:0:u16\n")
    path = folder / "gatewayd.toml"
    path.write_text(STATION)
    return path


def test_the_command_shows_every_file_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = station(tmp_path)
    assert [(of, use) for of, use, _ in named_files(load(path))] == [
        ("mqtt", "ca"), ("mqtt", "cert"), ("mqtt", "key"), ("M", "ca"), ("M", "crl"),
    ]  # fmt: skip
    assert certs.show(path, as_json=False) == 0
    out = capsys.readouterr().out
    assert "CN=gateway for gateway, until" in out
    assert out.count("\n") == 5
    (tmp_path / "lab" / "gateway.pem").write_text("rubbish")
    assert certs.show(path, as_json=True) == 1
    assert '"trouble":"not understood' in capsys.readouterr().out


def test_a_secret_that_everybody_can_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    path = station(tmp_path)
    (tmp_path / "lab" / "gateway-key.pem").chmod(0o604)
    with pytest.raises(Exception, match=r"key_file: found .* mode 0604 lets everybody on this machine at it"):
        load(path)


def test_a_lab_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert certs.new_lab(tmp_path / "lab", ["gateway"]) == 0
    before = (tmp_path / "lab" / "ca-key.pem").read_bytes()
    assert certs.new_lab(tmp_path / "lab", ["gateway"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "lab" / "ca-key.pem").read_bytes() == before
    assert (tmp_path / "lab" / "gateway-key.pem").stat().st_mode & 0o777 == 0o600


# ---- the policy, against a real TLS server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return every_kind(tmp_path_factory.mktemp("authority"), tmp_path_factory.mktemp("stranger"))


async def handshake(authority: Authority, file: str, crl: str = "", maximum: ssl.TLSVersion | None = None) -> str:
    """Connect by the policy to a server with this certificate; why it was refused, "" where it was not."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(authority.folder / f"{file}.pem", authority.folder / f"{file}.key")
    if maximum is not None:
        server_side.minimum_version = ssl.TLSVersion.TLSv1
        server_side.set_ciphers("ALL:@SECLEVEL=0")
        server_side.maximum_version = maximum

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    crl_file = str(authority.folder / crl) if crl else ""
    context = tls.client_context(str(authority.folder / "ca.pem"), crl_file=crl_file)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        return ""
    except ssl.SSLError as error:
        return tls.reason(error)
    except ConnectionError as error:  # the server ends it where no version fits
        return repr(error)
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("file", "crl", "says"),
    [
        ("good", "", ""),
        ("good", "ca.crl", ""),
        ("revoked", "", ""),
        ("revoked", "ca.crl", "revoked"),
        ("good", "old.crl", "expired"),
        ("wrong-name", "", "Hostname mismatch"),
        ("ended", "", "certificate has expired"),
        ("not-yet", "", "certificate is not yet valid"),
        ("self-signed", "", "self-signed certificate"),
        ("stranger", "", "unable to get local issuer certificate"),
        ("for-clients", "", "unsuitable certificate purpose"),
    ],
)
async def test_the_policy_refuses_what_it_must_and_says_why(
    authority: Authority, file: str, crl: str, says: str
) -> None:
    found = await handshake(authority, file, crl)
    found = found.replace("self signed", "self-signed")  # OpenSSL 1.1 and 3
    assert (says in found) if says else found == "", found


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_refused(authority: Authority) -> None:
    assert await handshake(authority, "good", maximum=ssl.TLSVersion.TLSv1_2) == ""
    assert await handshake(authority, "good", maximum=ssl.TLSVersion.TLSv1_1) != ""


def test_only_ciphers_with_forward_secrecy_and_aead() -> None:
    context = tls.client_context()
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    assert all(name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "CHACHA20" in name) for name in names)


def test_a_bare_name_is_a_systemd_credential_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mqtt-password").write_text("s")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert tls.credential("mqtt-password") == tmp_path / "mqtt-password"
    assert str(tls.credential("other")) == "other"
    assert str(tls.credential("/etc/x")) == "/etc/x"
