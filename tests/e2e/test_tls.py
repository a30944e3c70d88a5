"""A whole station over TLS: the broker and all three devices, with certificates of both sides and a revocation list."""

from __future__ import annotations

import re
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

from simulators.model import CLOSED, OPEN
from simulators.station import station as devices
from tests.brokers import Mosquitto, free_port, until
from tests.e2e.station import BREAKERS, DEVICES, PROTOCOLS, Gateway, Station, write_config
from tests.mqtt.support import console
from tests.security.authority import every_kind
from tests.security.terminator import Terminator


async def test_everything_is_read_and_commanded_over_tls(tmp_path: Path) -> None:
    folder, strangers = tmp_path / "pki", tmp_path / "strangers"
    folder.mkdir()
    strangers.mkdir()
    authority = every_kind(folder, strangers)
    plain = free_port()  # for the test's own ears
    files = f'ca_file = "{folder}/ca.pem", cert_file = "{folder}/gateway.pem", key_file = "{folder}/gateway.key"'
    (folder / "gateway.key").chmod(0o600)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            Mosquitto(
                tmp_path / "broker",
                tls=(folder / "ca.pem", folder / "good.pem", folder / "good.key"),
                options=["require_certificate true", f"listener {plain} 127.0.0.1"],
            )
        )
        feeder, rtu, bay, meter = await stack.enter_async_context(devices())
        peers = {
            protocol: await stack.enter_async_context(Terminator(authority, "good", behind=port, ask_client=True))
            for protocol, port in (("dnp3", rtu.port), ("iec61850", bay.port), ("modbus", meter.port))
        }
        listener = await stack.enter_async_context(console(f"mqtt://127.0.0.1:{plain}"))

        def over_tls(text: str) -> str:
            tls = f'tls = {{ {files}, crl_file = "{folder}/ca.crl", server_name = "localhost" }}\n'
            text = re.sub(r'(host = "127.0.0.1"\n)', rf"\1{tls}", text)
            own = "\n".join(f"{entry}" for entry in files.split(", "))
            return text.replace("[mqtt]\n", f"[mqtt]\n{own}\n")

        ports = {protocol: peer.port for protocol, peer in peers.items()}
        gateway = Gateway(tmp_path, write_config(tmp_path, f"mqtts://localhost:{broker.port}", ports, over_tls))
        station = Station(tmp_path, broker, gateway, listener, feeder, rtu, bay, meter)
        try:
            await gateway.start()
            await station.all_good()
            for device in DEVICES:
                point, opening = BREAKERS[device], (False if device == "MTR3" else "open")
                assert (await station.operator.sbo(point, opening))["reason"] == "ok"
                await until(lambda: feeder.breaker == OPEN)
                assert (await station.operator.sbo(point, {False: True, "open": "closed"}[opening]))["reason"] == "ok"
                await until(lambda: feeder.breaker == CLOSED)
                await until(
                    lambda: all(station.point(name)["value"] in ("closed", True) for name in BREAKERS.values()),
                    "all see it closed",
                )
            assert all(peer.clients == ["gateway"] for peer in peers.values())
            shutil.copy(folder / "self-signed.pem", folder / "ca.pem")  # nobody is good any more
            for device in DEVICES:
                peers[PROTOCOLS[device]].hang_up()
                await until(lambda device=device: station.link(device) == "down", f"{device} is down")
                await until(
                    lambda device=device: "certificate is not accepted" in str(listener.last(f"device/{device}")),
                    f"the cause at {device}: {listener.last(f'device/{device}')}",
                )
        finally:
            await gateway.kill()
