"""As much of a service manager as the unit asks for: sd_notify, the watchdog's clock, reload, stop, kill."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from types import TracebackType
from typing import Self

from tests.brokers import until
from tests.systemd.support import ROOT, Box


class Manager:
    """Runs the unit's own command in a box, confined, and hears what it says.

    watchdog_s: as WatchdogSec=, shorter for tests
    """

    def __init__(self, box: Box, *, watchdog_s: float) -> None:
        self.box = box
        self.watchdog_s = watchdog_s
        self.said: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._address = f"@gatewayd-test-{uuid.uuid4()}"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._socket.bind("\0" + self._address[1:])
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)
        with (self.box.folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.box.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": self._address,
                    "WATCHDOG_USEC": str(round(self.watchdog_s * 1e6)),
                },
            )
        return self

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return (self.box.folder / "log").read_text(errors="replace")

    def _hear(self) -> None:
        try:
            while True:
                for line in self._socket.recv(4096).decode().splitlines():
                    self.said.append((time.monotonic(), line))
        except BlockingIOError:
            pass

    def times(self, word: str) -> list[float]:
        """When a line that begins so was said, by the monotonic clock."""
        return [at for at, line in self.said if line.startswith(word)]

    async def hears(self, word: str, count: int = 1, deadline_s: float = 20.0) -> float:
        """Wait until a line that begins so was said so often; when the last of them was."""
        await until(
            lambda: len(self.times(word)) >= count or self.process.returncode is not None,
            f"{word} said {count} times; status {self.process.returncode}\n{self.log[-3000:]}",
            deadline_s,
        )
        assert len(self.times(word)) >= count, f"status {self.process.returncode}\n{self.log[-3000:]}"
        return self.times(word)[count - 1]

    async def reload(self) -> list[str]:
        """ExecReload=; what is said from RELOADING=1 to READY=1."""
        before = len(self.said)
        os.kill(self.pid, signal.SIGHUP)
        await self.hears("READY=1", len(self.times("READY=1")) + 1)
        return [line for _, line in self.said[before:] if not line.startswith("WATCHDOG")]

    async def watchdog_fires(self, deadline_s: float) -> int:
        """Wait until nothing was fed for watchdog_s, then do what systemd does. The exit status."""
        await until(
            lambda: time.monotonic() - self.times("WATCHDOG=1")[-1] > self.watchdog_s, "the watchdog fires", deadline_s
        )
        os.kill(self.pid, signal.SIGABRT)
        return await asyncio.wait_for(self.process.wait(), 10)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)


def hang_on_signal(box: Box) -> None:
    """Plant a fault in the box's Python: SIGUSR1 hangs the main thread, and the loop with it."""
    (packages,) = (box.root / "usr/lib/gatewayd/lib").glob("python3.*/site-packages")
    (packages / "hang.py").write_text(
        "import signal, time\n\ndef hang_on_purpose(*_):\n    time.sleep(3600)\n\n"
        "signal.signal(signal.SIGUSR1, hang_on_purpose)\n"
    )
    (packages / "hang.pth").write_text("import hang\n")
