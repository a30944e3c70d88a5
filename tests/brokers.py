"""Real brokers for tests: mosquitto (or iotcore) on a free loopback port, to be stopped, killed and started again.

async with Mosquitto(tmp_path) as broker:
    ... broker.url ...
    await broker.kill()       # SIGKILL: what it kept in memory is lost
    await broker.start()      # the same port and folder
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

DEADLINE_S = 15.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def killed(process: asyncio.subprocess.Process | None) -> None:
    """End a process of ours with -9, where it has not ended yet."""
    if process is not None:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(condition: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition; fail with its name after the deadline."""
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what or condition}") from None


def find_mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise RuntimeError("mosquitto is not installed; `make test` installs it: apt install mosquitto")
    return found


class Broker:
    """A broker as a child process."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.process: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(), stdout=log, stderr=log, cwd=self.folder, stdin=asyncio.subprocess.DEVNULL
            )
        await until(self._listens, f"a broker on port {self.port}: {self.folder / 'broker.log'}")

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(f"the broker ended: {(self.folder / 'broker.log').read_text()[-2000:]}")
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    async def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            if process.returncode is None:
                process.send_signal(number)
            await process.wait()

    async def stop(self) -> None:
        """SIGTERM: it saves what it keeps."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing is read any more."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        await self.kill()


class Mosquitto(Broker):
    """mosquitto. acl: lines of an ACL file; users: name -> password; tls: (ca, cert, key) of the listener."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        acl: Sequence[str] = (),
        users: dict[str, str] | None = None,
        persistence: bool = False,
        max_inflight: int = 1000,
        tls: tuple[Path, Path, Path] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, port)
        self.acl = list(acl)
        self._lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if users else 'true'}",
            f"persistence {'true' if persistence else 'false'}",
            f"persistence_location {self.folder}/",
            f"max_inflight_messages {max_inflight}",
            "max_queued_messages 200000",
            "set_tcp_nodelay true",
        ]
        if os.geteuid() == 0:
            self._lines.append("user root")
        if acl:
            self.set_acl(acl)
            self._lines.append(f"acl_file {self.folder / 'acl'}")
        if users:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(f"{name}:{_hash(password)}\n" for name, password in users.items()))
            passwords.chmod(0o600)
            self._lines.append(f"password_file {passwords}")
        if tls:
            self._lines += [f"cafile {tls[0]}", f"certfile {tls[1]}", f"keyfile {tls[2]}"]
        self._lines += options

    def set_acl(self, lines: Sequence[str]) -> None:
        """Write the ACL file; `reload_acl` makes a running broker read it."""
        path = self.folder / "acl"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def reload_acl(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def command(self) -> list[str]:
        path = self.folder / "mosquitto.conf"
        path.write_text("\n".join(self._lines) + "\n")
        return [find_mosquitto(), "-c", str(path)]


def _hash(password: str) -> str:
    """mosquitto's own form of a password: $7$ iterations $ salt $ PBKDF2-HMAC-SHA512."""
    import base64
    import hashlib

    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


class Iotcore(Broker):
    """iotcore (rumqttd in a wheel). mqtt5=False listens for MQTT 3.1.1 only."""

    def __init__(self, folder: Path, *, port: int = 0, mqtt5: bool = True) -> None:
        super().__init__(folder, port)
        self._mqtt5 = mqtt5

    def command(self) -> list[str]:
        path = self.folder / "iotcore.toml"
        sections = [("v5.1", self.port), ("v4.1", free_port())] if self._mqtt5 else [("v4.1", self.port)]
        path.write_text(
            "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 2000\n"
            "max_segment_size = 104857600\nmax_segment_count = 10\n"
            + "".join(
                f'[{name}]\nname = "{name}"\nlisten = "127.0.0.1:{port}"\nnext_connection_delay_ms = 1\n'
                f"[{name}.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 262144\n"
                "max_inflight_count = 1000\ndynamic_filters = true\n"
                for name, port in sections
            )
        )
        code = (
            "import sys, threading; from iotcore import Broker; Broker(config_path=sys.argv[1]).start(); "
            "threading.Event().wait()"
        )
        return [sys.executable, "-c", code, str(path)]
