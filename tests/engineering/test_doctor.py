"""`gatewayd doctor`: every check against the thing it looks at, the broker a real mosquitto."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from gatewayd import labca
from gatewayd.clock import ClockState
from gatewayd.config import load
from gatewayd.engineering import doctor
from gatewayd.engineering.doctor import broker as broker_checks
from gatewayd.engineering.doctor import credentials, machine, mosquitto, station
from gatewayd.engineering.doctor.finding import Finding, Severity
from gatewayd.mqtt.probe import Broker
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.protocols.device import Device, Serial
from gatewayd.store.schema import FILE
from tests.brokers import Iotcore, Mosquitto, free_port
from tests.cli.test_commands import gatewayd
from tests.store.support import event, opened
from tests.store.test_recovery import mounted, remount_read_only

OK, WARNING, BROKEN = Severity.OK, Severity.WARNING, Severity.BROKEN
root = pytest.mark.skipif(os.geteuid() != 0, reason="root only")


def settings(url: str, **more: Any) -> MqttSettings:
    return MqttSettings(url=url, **more).completed("x")


async def asked(one: Any) -> dict[str, Finding]:
    """Both lists of broker findings by their check."""
    found = await asyncio.to_thread(lambda: broker_checks.look(one) + mosquitto.look(one))
    return {finding.check: finding for finding in found}


def station_folder(folder: Path, url: str, more: str = "", mqtt: str = "") -> Path:
    (folder / "p.csv").write_text("point,kind,address\nM/A,analog,HR:0:u16\n")
    path = folder / "gatewayd.toml"
    path.write_text(
        f'[gateway]\nname = "x"\nstate_dir = "state"\n[mqtt]\nurl = "{url}"\n{mqtt}\n[[device]]\nname = "M"\n'
        f'protocol = "modbus"\nhost = "127.0.0.1"\npoints = "p.csv"\n[device.modbus]\nunit = 1\n{more}'
    )
    return path


# --- the broker -----------------------------------------------------------------------------------------------------


async def test_a_broker_that_is_set_up_well(tmp_path: Path) -> None:
    options = ("autosave_on_changes true", "autosave_interval 1")
    async with Mosquitto(tmp_path, persistence=True, options=options) as one:
        found = await asked(settings(one.url))
    assert {finding.severity for finding in found.values()} == {OK}, found
    assert "speaks MQTT 5, mosquitto version" in found["broker"].found
    assert "1000 messages" in found["broker: Receive Maximum"].found
    assert set(found) == {
        "broker", "broker: Receive Maximum", "broker: packet size", "broker: QoS", "broker: retain", "broker: sessions",
        "broker: rights", "broker: persistence", "broker: queues", "broker: message size", "broker: delay",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "check", "severity", "text"),
    [
        ({"options": ["retain_available false"]}, "broker: retain", BROKEN, "whose will is retained"),
        ({"options": ["max_qos 0"]}, "broker: QoS", BROKEN, "only QoS 0"),
        ({"options": ["max_packet_size 4096"]}, "broker: packet size", BROKEN, "at most 4096 octets"),
        ({"options": ["message_size_limit 4096"]}, "broker: message size", BROKEN, "message_size_limit is 4096"),
        ({"max_inflight": 20}, "broker: Receive Maximum", WARNING, "20 messages may be on their way"),
        ({"options": ["max_queued_messages 1000"]}, "broker: queues", WARNING, "at most 1000 messages"),
        ({"options": ["max_queued_bytes 5000"]}, "broker: queues", WARNING, "at most 5000 octets"),
        ({"options": ["set_tcp_nodelay false"]}, "broker: delay", WARNING, "40 ms"),
        ({"persistence": False}, "broker: persistence", WARNING, "persistence is off"),
        ({"persistence": True}, "broker: persistence", WARNING, "saved every 1800 s"),
        ({"persistence": True, "options": ["autosave_interval 0"]}, "broker: persistence", WARNING, "only when it is"),
        (
            {"acl": ["topic readwrite other/#"]},
            "broker: rights",
            BROKEN,
            "may not publish under gw/x (reason code 0x87)",
        ),
    ],
)
async def test_a_broker_with_a_setting_that_hurts(
    tmp_path: Path, more: dict[str, Any], check: str, severity: Severity, text: str
) -> None:
    async with Mosquitto(tmp_path, **more) as one:
        found = (await asked(settings(one.url)))[check]
    assert (found.severity, text in found.found) == (severity, True), found
    assert found.do


async def test_a_broker_that_is_not_there_does_not_answer_or_refuses_us(tmp_path: Path) -> None:
    found = (await asked(settings(f"mqtt://127.0.0.1:{free_port()}")))["broker"]
    assert (found.severity, "Connection refused" in found.found) == (BROKEN, True)
    async with Mosquitto(tmp_path, users={"gw": "right"}) as one:
        secret = tmp_path / "secret"
        secret.write_text("wrong\n")
        login = settings(one.url, username="gw", password_file=str(secret))
        found = (await asked(login))["broker"]
        assert (found.severity, "not authorized" in found.found) == (BROKEN, True), found
        secret.write_text("right\n")
        assert (await asked(login))["broker: rights"].found == "the login 'gw' may publish and subscribe under gw/x"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes the connection, nobody answers
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        answer = await asyncio.to_thread(broker_checks.ask, settings(url), 0.3)
        assert "does not answer within 0.3 s" in answer.error


async def test_an_old_broker(tmp_path: Path) -> None:
    async with Iotcore(tmp_path, mqtt5=False) as one:
        found = (await asked(settings(one.url)))["broker"]
    assert (found.severity, "not with MQTT 5" in found.found) == (BROKEN, True), found


async def test_the_doctor_takes_nobodys_connection_and_leaves_nothing(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        writer.write(bytes.fromhex("101100044d5154540502003c00000467772d78"))  # CONNECT of the gateway's own id, gw-x
        assert (await reader.readexactly(4))[0] == 0x20
        await asked(settings(one.url))
        writer.write(b"\xc0\x00")
        await reader.readuntil(b"\xd0\x00")  # still served
        writer.close()
        log = (tmp_path / "broker.log").read_text()
    assert "gw-x-doctor-" in log
    assert "already connected" not in log


def test_limits_no_mosquitto_has() -> None:
    assert broker_checks.rights(settings("mqtt://b"), Broker(wildcards=False, publish=0)).severity is BROKEN
    assert broker_checks.rights(settings("mqtt://b"), Broker()).severity is BROKEN
    assert broker_checks.rights(settings("mqtt://b"), Broker(publish=0, subscribe={"gw/x/cmd/+/+": 0x87})) == Finding(
        "broker: rights",
        BROKEN,
        "our connection may not subscribe to gw/x/cmd/+/+: those requests never arrive",
        "mosquitto: `topic readwrite gw/x/#` in the ACL file",
    )
    short = broker_checks.sessions(Broker(session_expiry_s=60))
    assert (short.severity, "after 60 s" in short.found) == (WARNING, True)


def test_a_broker_elsewhere_cannot_be_looked_into() -> None:
    [found] = mosquitto.look(settings("mqtt://192.0.2.1"))
    assert (found.severity, "is not this machine" in found.found) == (WARNING, True)
    [found] = mosquitto.look(settings(f"mqtt://127.0.0.1:{free_port()}"))
    assert (found.severity, "no configuration of a mosquitto" in found.found) == (WARNING, True)


def test_a_mosquitto_conf_with_includes(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text("listener 8883 0.0.0.0\npersistence true\n")
    (tmp_path / "conf.d" / "b.conf").write_text("persistence false\n")
    path = tmp_path / "mosquitto.conf"
    path.write_text(f"# persistence maybe\n\nport 1884\nmax_queued_messages 7\ninclude_dir {tmp_path}/conf.d\n")
    assert mosquitto.read(path) == {"max_queued_messages": "7", "persistence": "false", "listening": "1884 8883"}
    (tmp_path / "conf.d" / "c.conf").write_text(f"include_dir {tmp_path}/conf.d\n")
    assert mosquitto.read(path)["listening"].startswith("1884 ")  # a circle ends
    assert mosquitto.read(tmp_path / "nowhere") == {}


# --- the machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "severity", "text"),
    [
        ("/dev/sda1 / ext4 rw,relatime 0 0", OK, "ext4 at /"),
        ("tmpfs / tmpfs rw 0 0", BROKEN, "does not outlive a restart"),
        ("overlay / overlay rw 0 0", BROKEN, "does not outlive a restart"),
        ("srv:/x / nfs4 rw 0 0", BROKEN, "locks and WAL do not work"),
        ("/dev/sda1 / ext4 rw,nobarrier 0 0", BROKEN, "without barriers"),
        ("/dev/sda1 / ext4 ro 0 0", BROKEN, "read-only"),
        ("/dev/sda1 / vfat rw 0 0", WARNING, "has no journal of its own"),
    ],
)
def test_file_systems(tmp_path: Path, line: str, severity: Severity, text: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sdb1 /nowhere ext4 rw 0 0\n{line}\n")
    found = machine.file_system(tmp_path / "state", mounts)
    assert (found.severity, text in found.found) == (severity, True), found


@root
def test_a_small_and_a_read_only_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "8m") as place:
        found = machine.file_system(place)
        assert (found.severity, "tmpfs" in found.found) == (BROKEN, True)
        assert machine.room(place, 1 << 30).severity is BROKEN
        assert machine.sync_time(place).severity is OK
        remount_read_only(place)
        assert machine.sync_time(place).severity is not OK or not os.access(place, os.W_OK)
        assert machine.file_system(place).severity is BROKEN


def test_room_for_the_journal(tmp_path: Path) -> None:
    assert machine.room(tmp_path, 1 << 20).severity is OK
    found = machine.room(tmp_path, 1 << 60)
    assert (found.severity, "the journal may grow to" in found.found) == (WARNING, True)


def test_fsync_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    found = machine.sync_time(tmp_path)
    assert found.check == "disk: fsync"
    assert "ms at most" in found.found
    assert list(tmp_path.iterdir()) == []


def test_the_state_folder(tmp_path: Path) -> None:
    assert machine.state_folder(tmp_path / "none").severity is OK
    state = tmp_path / "state"
    state.mkdir(mode=0o750)
    assert machine.state_folder(state).severity is OK
    state.chmod(0o755)
    found = machine.state_folder(state)
    assert (found.severity, "mode 0755: everybody" in found.found) == (WARNING, True)
    (tmp_path / "file").touch()
    assert machine.state_folder(tmp_path / "file").severity is BROKEN


@root
def test_files_left_by_a_run_as_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / FILE).touch()
    os.chown(tmp_path, 65534, 65534)
    found = machine.state_folder(tmp_path)
    assert (found.severity, "journal.db in it to somebody else" in found.found) == (BROKEN, True)


def test_serial_ports(tmp_path: Path) -> None:
    def port(path: Path | str) -> Finding:
        return machine.serial_port(Device(name="R", protocol="modbus", serial=Serial(port=str(path)), points=()))

    found = port(tmp_path / "ttyS9")
    assert (found.check, found.severity) == ("serial port of R", BROKEN)
    assert "No such file" in found.found
    (tmp_path / "file").touch()
    assert "is no serial port" in port(tmp_path / "file").found
    ours, theirs = os.openpty()
    try:
        name = os.ttyname(theirs)
        os.fchmod(theirs, 0o660)
        assert port(name).severity is OK
        os.fchmod(theirs, 0o600)
        assert port(name).severity is WARNING
    finally:
        os.close(ours)
        os.close(theirs)


def test_clock_memory_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for synchronised, severity in ((True, OK), (False, WARNING), (None, WARNING)):
        monkeypatch.setattr(machine.clock, "state", lambda s=synchronised: ClockState(s, 1.0))
        assert machine.clock_state().severity is severity
    little = tmp_path / "meminfo"
    little.write_text("MemTotal: 500 kB\nMemAvailable:   51200 kB\n")
    assert "50 MiB available" in machine.memory(little).found
    assert machine.memory(tmp_path / "none").severity is WARNING
    assert machine.memory().severity is OK
    config = load(Path(__file__).parents[2] / "etc" / "demo" / "gatewayd.toml")
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    found = machine.dnp3_package(config)
    assert (found.severity, "FDR12 needs" in found.found) == (BROKEN, True)
    assert machine.dnp3_package(None).severity is OK

    def missing(name: str) -> str:
        raise machine.PackageNotFoundError(name)

    monkeypatch.setattr(machine, "version", missing)
    assert machine.iec61850_package(config).severity is BROKEN


# --- the station ----------------------------------------------------------------------------------------------------


async def test_the_journal(tmp_path: Path) -> None:
    assert station.journal(tmp_path) == Finding("journal", OK, "there is none yet")
    journal = opened(tmp_path)
    await journal.append([event(n) for n in range(5)])
    await journal.close()
    assert station.journal(tmp_path).found == "events 1 to 5, 5 of them wait for the broker"
    (tmp_path / "journal.highwater").unlink()
    assert station.journal(tmp_path).severity is WARNING
    (tmp_path / FILE).write_bytes(b"rubbish, and enough of it")
    assert station.journal(tmp_path).severity is BROKEN


def test_the_rights_file(tmp_path: Path) -> None:
    rights = tmp_path / "rights.toml"
    rights.write_text('[operator.alice]\nroles = ["OPERATOR"]\nareas = ["*"]\n')
    config = load(station_folder(tmp_path, "mqtt://127.0.0.1", '[control]\nrights_file = "./rights.toml"\n'))
    assert station.rights_file(config).found.endswith("rights.toml: 1 operators")
    rights.write_text('[operator.alice]\nroles = ["KING"]\n')
    found = station.rights_file(config)
    assert (found.severity, "rights.toml:2:" in found.found) == (BROKEN, True), found


def test_certificates(tmp_path: Path) -> None:
    labca.make(tmp_path / "lab", ["localhost"])
    files = 'ca_file = "./lab/ca.pem"\ncert_file = "./lab/localhost.pem"\nkey_file = "./lab/localhost-key.pem"\n'
    config = load(station_folder(tmp_path, "mqtts://localhost", mqtt=files))
    found = station.certificate_files(config)
    assert [one.check for one in found] == ["certificate of mqtt", "certificate of mqtt", "key of mqtt"]
    assert {one.severity for one in found} == {OK}
    (tmp_path / "lab" / "localhost-key.pem").chmod(0o644)
    (tmp_path / "lab" / "localhost.pem").write_text("rubbish")
    assert [one.severity for one in station.certificate_files(config)] == [OK, BROKEN, BROKEN]


async def test_credentials_of_the_service_are_looked_at_where_the_unit_says_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    drop_ins = tmp_path / "gatewayd.service.d"
    drop_ins.mkdir()
    monkeypatch.setattr(credentials, "DROP_INS", drop_ins)
    async with Mosquitto(tmp_path / "broker", users={"gw": "right"}) as one:
        path = station_folder(tmp_path, one.url, mqtt='username = "gw"\npassword_file = "mqtt-password"\n')
        found = {one.check: one for one in await asyncio.to_thread(doctor.examine, path)}
        assert found["credential mqtt-password"].severity is WARNING
        assert (found["broker"].severity, found["broker"].found) == (WARNING, "not asked: a credential is missing here")
        (tmp_path / "secret").write_text("right")
        (drop_ins / "site.conf").write_text(
            f"[Service]\n#LoadCredential=x:/y\nLoadCredential=mqtt-password:{tmp_path}/secret\n"
        )
        found = {one.check: one for one in await asyncio.to_thread(doctor.examine, path)}
        assert found["credential mqtt-password"] == Finding("credential mqtt-password", OK, f"{tmp_path}/secret")
        assert found["broker: rights"].found == "the login 'gw' may publish and subscribe under gw/x"
    assert "CREDENTIALS_DIRECTORY" not in os.environ


# --- the whole ------------------------------------------------------------------------------------------------------


async def test_the_command_says_it_all_and_its_status_is_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "clock_state", lambda: Finding("clock", OK, "synchronised"))
    good = ("autosave_on_changes true", "autosave_interval 1")
    for options, status in ((good, 0), ((*good, "set_tcp_nodelay false"), 1), ((*good, "max_packet_size 4096"), 2)):
        async with Mosquitto(tmp_path / "broker", persistence=True, options=options) as one:
            config = station_folder(tmp_path, one.url, '[journal]\nmax_size = "100MiB"\n')
            assert await asyncio.to_thread(gatewayd, monkeypatch, "doctor", "-c", config) == status
            lines = capsys.readouterr().out.splitlines()
            assert lines[-1].startswith(f"{int(status == 2)} break the promise, {int(status == 1)} warnings, "), lines
            assert await asyncio.to_thread(gatewayd, monkeypatch, "doctor", "-c", config, "--json") == status
            body = json.loads(capsys.readouterr().out)
            assert body["status"] == status
            assert {"check", "severity", "found", "do"} == set(body["findings"][0])
    assert not (tmp_path / "state").exists()


def test_mistakes_in_the_configuration_are_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gatewayd.toml"
    path.write_text('[gateway]\nname = "x"\n[mqtt]\nurl = "http://b"\n')
    assert doctor.doctor(path, as_json=False) == 2
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("BROKEN   configuration") for line in lines) == 2
    assert any(line.startswith(("ok       memory", "ok       processors")) for line in lines)
