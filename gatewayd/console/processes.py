"""The processes of the demo: started one by one, ended by their pid in the opposite order, whatever happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 20.0
END_S = 10.0
TAIL = 12

_IOTCORE = """
import logging, sys
from iotcore import Broker

logging.getLogger("rumqttd").setLevel(logging.CRITICAL)  # it reports every packet as an error
Broker(config_path=sys.argv[1]).run_forever()
"""


class DemoFailed(Exception):
    """Something of the demo could not be started, or ended by itself; the text says what and why."""


class Processes:
    """Child processes with a log file each in one folder. Use `async with`: at its end all of them are gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(
        self, name: str, command: Sequence[str], *, cwd: Path | None = None, read: bool = False
    ) -> asyncio.subprocess.Process:
        """Start one; its output goes to `<name>.log`. read: standard output is for us instead.

        It gets a session of its own, so that Ctrl-C reaches only us and we end them in order. Where setpriv is there
        (util-linux), the kernel ends it when we are killed.
        """
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        with self.log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *guard,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if read else log,
                stderr=log,
                cwd=cwd,
                start_new_session=True,
            )
        self._running[name] = process
        return process

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def check(self) -> None:
        """Raises DemoFailed when one has ended by itself."""
        for name, process in self._running.items():
            if process.returncode is not None:
                raise DemoFailed(f"the {name} ended by itself (status {process.returncode}){self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of a log, to be put behind a message."""
        try:
            lines = self.log(name).read_text(errors="replace").splitlines()[-TAIL:]
        except OSError:
            lines = []
        return ":\n  " + "\n  ".join(lines) if lines else ""

    async def listening(self, name: str, port: int) -> None:
        """Wait until a process of ours accepts connections on a loopback port. Raises DemoFailed."""
        try:
            async with asyncio.timeout(START_S):
                while not accepts(port):
                    self.check()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise DemoFailed(
                f"the {name} does not listen on port {port} after {START_S:g} s{self.last_words(name)}"
            ) from None
        self.check()

    async def end(self, name: str) -> int:
        """SIGTERM, and SIGKILL when that does not help; its status."""
        process = self._running.pop(name)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), END_S)
            except TimeoutError:
                process.kill()
        return await process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        for name in reversed(list(self._running)):
            await self.end(name)


async def start_broker(processes: Processes, folder: Path, port: int) -> str:
    """Start mosquitto where it is installed, else iotcore, on a loopback port; which one it is. Raises DemoFailed."""
    if accepts(port):
        raise DemoFailed(f"port {port} is in use; choose another one: DEMO_MQTT_PORT={port + 1} make demo")
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if mosquitto:
        path = folder / "mosquitto.conf"
        path.write_text(mosquitto_config(port))
        await processes.start("broker", [mosquitto, "-c", str(path)])
    else:
        path = folder / "iotcore.toml"
        path.write_text(iotcore_config(port))
        await processes.start("broker", [sys.executable, "-c", _IOTCORE, str(path)])
    await processes.listening("broker", port)
    return "mosquitto" if mosquitto else "iotcore"


def mosquitto_config(port: int) -> str:
    """Loopback only, nothing stored on disk. As root it would change to a user who cannot read our folder."""
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false", "set_tcp_nodelay true"]
    lines += ["max_inflight_messages 200", "max_queued_messages 100000"]
    if os.geteuid() == 0:
        lines.append("user root")
    return "\n".join(lines) + "\n"


def iotcore_config(port: int) -> str:
    """MQTT 5 needs a section of its own; the default limit of a payload is too small for a catalog."""
    return f"""id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 2000
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 262144
max_inflight_count = 1000
dynamic_filters = true
"""


def accepts(port: int) -> bool:
    """True where something accepts connections on that loopback port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
