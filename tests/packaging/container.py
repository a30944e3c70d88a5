"""A fresh Debian root, made from the package sources of this machine, and systemd booted in it as PID 1.

Root only; what is missing to do it is named. Nothing of the host's root is changed: containers run on an overlay.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.station import children
from tests.packaging.support import Build, scratch

INCLUDE = "python3,systemd,systemd-sysv,udev,dbus,openssl"
NSPAWN = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit")
AS_OUTSIDE = ("--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf adjtimex clock_adjtime")
"""So that systemd inside can put IPAddressDeny= in force, and the state of the clock can be read."""


def sources() -> list[Path]:
    """Where this machine has its packages from."""
    folder = Path("/etc/apt/sources.list.d")
    own = [folder / f"{name}.sources" for name in ("debian", "ubuntu")]
    found = [path for path in (*own, Path("/etc/apt/sources.list")) if path.is_file() and path.stat().st_size]
    assert found, "this machine has no package sources in /etc/apt: a fresh root cannot be made here"
    return found


@functools.cache
def fresh_root() -> Path:
    """A minimal system of this machine's release, with systemd and Python. Takes half a minute."""
    assert os.geteuid() == 0, "a fresh root is made as root: sudo make package-proof"
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    root = scratch("fresh") / "root"
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=apt",
        f"--include={INCLUDE}",
        release,
        str(root),
        *map(str, sources()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def copy_of_root(root: Path) -> Path:
    """A root of a test's own."""
    copy = scratch("copy") / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", root, copy], check=True)
    return copy


def offline(root: Path, *words: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in the root without any network; `packages` is there as /pkg."""
    name = f"gatewayd-{os.getpid()}"
    bind = [f"--bind-ro={packages}:/pkg"] if packages else []
    command = [*NSPAWN, f"--machine={name}", f"--directory={root}", "--private-network", "--pipe", *bind, "--", *words]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    shutil.rmtree(Path("/run/systemd/nspawn/propagate") / name, ignore_errors=True)
    return done


def apt(root: Path, *words: str, packages: Path | None = None) -> str:
    """apt-get, offline; what it said."""
    done = offline(root, "apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", *words, packages=packages)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def root_with(build: Build) -> Path:
    """A fresh root with this build's package installed, for containers that change nothing in it."""
    root = copy_of_root(fresh_root())
    apt(root, "install", f"/pkg/{build.deb.name}", packages=build.folder)
    return root


class Container:
    """systemd as PID 1 in a root. It shares the network of the host, for brokers and devices of the test.

    root: not changed; what is written inside goes with the container
    packages: a folder that is there as /pkg
    """

    def __init__(self, root: Path, packages: Path) -> None:
        self._root = root
        self._packages = packages
        self._folder = Path(tempfile.mkdtemp(prefix="gatewayd-boot-"))
        self._machine = f"gatewayd-boot-{os.getpid()}"
        self._process: asyncio.subprocess.Process | None = None
        self._leader = 0

    async def __aenter__(self) -> Self:
        try:
            await self._boot()
        except BaseException:
            await self.__aexit__(None, None, None)  # a container that did not come up must not stay either
            raise
        return self

    async def _boot(self) -> None:
        with (self._folder / "console").open("wb") as console:
            self._process = await asyncio.create_subprocess_exec(
                *NSPAWN,
                *(f"--directory={self._root}", f"--machine={self._machine}", "--boot", "--console=pipe"),
                *("--volatile=overlay", f"--bind-ro={self._packages}:/pkg", *AS_OUTSIDE),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        state = ""
        for _ in range(300):
            assert self._process.returncode is None, self._console
            # Its first children are helpers of the start: systemd is the one that answers.
            for child in children(self._process.pid):
                self._leader = child
                _, state = await self.tries("systemctl", "is-system-running")
                if state.strip() in ("running", "degraded"):
                    return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the container did not boot: {state}\n{self._console}")

    @property
    def _console(self) -> str:
        return (self._folder / "console").read_text(errors="replace")[-3000:]

    async def __aexit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.terminate()  # powers the container off
                try:
                    await asyncio.wait_for(self._process.wait(), 60)
                except TimeoutError:  # it was not far enough to be asked
                    for child in children(self._process.pid):
                        os.kill(child, signal.SIGKILL)  # its first process: all others go with it
                    self._process.kill()
            await self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(Path("/run/systemd/nspawn/propagate") / self._machine, ignore_errors=True)

    async def tries(self, *words: str, feed: str = "") -> tuple[int, str]:
        """A command inside, as root there; its exit status and what it said."""
        inside = ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        process = await asyncio.create_subprocess_exec(
            *inside,
            "--",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
        said, _ = await process.communicate(feed.encode())
        return await process.wait(), said.decode(errors="replace")

    async def run(self, *words: str, feed: str = "") -> str:
        """A command inside that has to succeed; what it said."""
        status, said = await self.tries(*words, feed=feed)
        assert status == 0, f"{' '.join(words)}: status {status}\n{said}"
        return said

    async def write(self, path: str, text: str, mode: str = "0644") -> None:
        """A file inside."""
        await self.run("install", "-D", "-m", mode, "/dev/stdin", path, feed=text)

    async def show(self, key: str) -> str:
        """One property of the service."""
        return (await self.run("systemctl", "show", "gatewayd", f"--property={key}", "--value")).strip()

    async def journal(self, *words: str) -> str:
        """The service's log, and what systemd says of it."""
        return await self.run("journalctl", "--unit=gatewayd", "--no-pager", "--output=cat", *words)

    async def waits(self, key: str, value: str, deadline_s: float = 30.0) -> None:
        """Wait until a property of the service has a value."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while (found := await self.show(key)) != value:
            now = asyncio.get_running_loop().time()
            assert now < deadline, f"{key} is {found}, not {value}\n{await self.journal('--lines=40')}"
            await asyncio.sleep(0.1)

    async def log_since_start(self, text: str = "", deadline_s: float = 30.0) -> str:
        """The log since the service was last started, once it has this text."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        while text not in (log := (await self.journal()).rpartition("gatewayd starts")[2]):
            assert asyncio.get_running_loop().time() < deadline, f"{text!r} is not in the log:\n{log}"
            await asyncio.sleep(0.1)
        return log
