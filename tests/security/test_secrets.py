"""Passwords, keys and logins never reach a log, a command's output or a topic, wherever they stand."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatewayd import labca
from gatewayd.config import load
from gatewayd.control import identity
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.mqtt.sockets import password
from gatewayd.problems import ConfigError
from simulators.modbus_meter import ModbusMeter
from tests.brokers import Mosquitto, until
from tests.e2e.station import Gateway

SECRET = "hunter2-correct-horse"
HEAD = '[gateway]\nname = "test"\nstate_dir = "state"\n'
DEVICE = '[[device]]\nname = "M"\nprotocol = "modbus"\nhost = "127.0.0.1"\npoints = "m.csv"\n'


def gatewayd(*words: str, folder: Path) -> str:
    """All a command says."""
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", *words],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "mqtt",
    [
        f'url = "mqtt://alice:{SECRET}@host:1883"',
        f'url = "mqtts://alice:{SECRET}@host:port"',
        f'url = "http://alice:{SECRET}@host"',
        f'url = "{SECRET}@host"',
        f'url = "http://{SECRET}@host"\nca_file = "m.csv"',
        f'password = "{SECRET}"',
        f"password = {SECRET}",
        f'password_file = "{SECRET}',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path: Path, mqtt: str) -> None:
    (tmp_path / "m.csv").write_text("point,kind,address\nP,analog,HR:0:u16\n")
    (tmp_path / "gatewayd.toml").write_text(f"{HEAD}[mqtt]\n{mqtt}\n{DEVICE}")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "gatewayd.toml")
    assert "gatewayd.toml:5:" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_private_key_in_the_rights_file_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "rights.toml"
    path.write_text(f'[operator.alice]\nroles = ["OPERATOR"]\nkeys = ["-----BEGIN PRIVATE KEY----- {SECRET}"]\n')
    with pytest.raises(ConfigError) as caught:
        identity.load(path)
    assert "keys: found" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_password_that_is_no_text_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(ValueError, match="is not text in UTF-8") as caught:
        password(MqttSettings(username="a", password_file=str(path)))
    assert "0xff" not in str(caught.value)


async def test_a_gateway_at_work_says_no_secret_anywhere(tmp_path: Path) -> None:
    labca.make(tmp_path / "lab", ["gateway", "127.0.0.1"])
    lab = tmp_path / "lab"
    secrets = [line for path in lab.glob("*-key.pem") for line in path.read_text().splitlines() if "-----" not in line]
    secrets.append(SECRET)
    (tmp_path / "m.csv").write_text("point,kind,address\nM/U,analog,IR:0:f32\nM/CB,binary,DI:0\n")
    secret = tmp_path / "password"
    secret.write_text(f"wrong {SECRET}\n")
    secret.chmod(0o600)
    server = (lab / "ca.pem", lab / "127.0.0.1.pem", lab / "127.0.0.1-key.pem")
    tls = 'tls = { ca_file = "lab/ca.pem", cert_file = "lab/gateway.pem", key_file = "lab/gateway-key.pem" }'
    async with (
        Mosquitto(
            tmp_path / "broker", users={"gw": SECRET}, tls=server, options=["require_certificate true"]
        ) as broker,
        ModbusMeter() as meter,
    ):
        port = broker.url.rpartition(":")[2]
        mqtt = (
            f'[mqtt]\nurl = "mqtts://127.0.0.1:{port}"\nusername = "gw"\npassword_file = "./password"\n'
            'ca_file = "lab/ca.pem"\ncert_file = "lab/gateway.pem"\nkey_file = "lab/gateway-key.pem"\n'
            "reconnect_max_s = 0.5\n"
        )
        plain = DEVICE.replace("[[device]]\n", f"[[device]]\nport = {meter.port}\n")
        closed = plain.replace('"M"', '"N"').replace("m.csv", "n.csv") + tls + "\n"
        (tmp_path / "n.csv").write_text("point,kind,address\nN/U,analog,IR:0:f32\n")
        (tmp_path / "gatewayd.toml").write_text(HEAD + mqtt + plain + closed)
        gateway = Gateway(tmp_path, tmp_path / "gatewayd.toml")
        options = [
            *("--url", f"mqtts://127.0.0.1:{port}", "--username", "gw", "--password-file", str(secret)),
            *("--ca-file", str(lab / "ca.pem"), "--cert-file", str(lab / "gateway.pem")),
            *("--key-file", str(lab / "gateway-key.pem"), "--base", "gw/test"),
        ]
        await gateway.start("--log-level", "debug")
        try:
            await until(lambda: "no connection to the broker" in gateway.log, "the wrong password is refused")
            secret.write_text(f"{SECRET}\n")
            await until(lambda: "connected to the broker" in gateway.log, gateway.log)
            await until(lambda: "device is up" in gateway.log, "M is up")
            await until(lambda: "device is down" in gateway.log, "N speaks no TLS")
            through_the_broker = (["status"], ["status", "--json"], ["explain", "M/U"], ["watch", "--once", "--json"])
            here = (["check"], ["check", "--json"], ["points", "--json"], ["certs", "--json"])
            lines = [[*words, *options] for words in through_the_broker]
            lines += [[*words, "-c", "gatewayd.toml"] for words in here]
            outputs = [await asyncio.to_thread(gatewayd, *line, folder=tmp_path) for line in lines]
            assert '"certificates"' in outputs[1], outputs[1]
            assert await gateway.stop() == 0
        finally:
            await gateway.kill()
        outputs.append(gateway.log)
        everything = "\n".join(outputs)
        assert "gateway-key.pem" in everything, "names of files are shown"
        assert [one for one in secrets if one in everything] == []
        for path in (tmp_path / "state").iterdir():
            data = path.read_bytes()
            assert [one for one in secrets if one.encode() in data] == [], f"{path} has a secret"
