"""Runs inside the sandbox, under the packaged Python, and tries what the unit forbids. One JSON object: what each got.

An answer is the name of an errno, or `allowed`. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000


def answer(call: Callable[[], object]) -> str:
    """How a call of Python ended."""
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "allowed"


def native(result: int | None) -> str:
    """How a call of the C library ended."""
    return "allowed" if result != -1 else errno.errorcode[ctypes.get_errno()]


def anonymous(protection: int) -> int | None:
    """A page of memory."""
    address: int | None = libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    return -1 if address == ctypes.c_void_p(-1).value else address


def timex(modes: int) -> str:
    """adjtimex(2) with these modes."""
    buffer = (ctypes.c_uint * 128)()
    buffer[0] = modes
    return native(libc.adjtimex(buffer))


def tries() -> dict[str, str]:
    """Everything that must not work, and at the end what must."""
    own = Path(os.environ["STATE_DIRECTORY"])
    (own / "file").write_text("x")
    page = anonymous(READ | WRITE)
    assert page not in (None, -1)
    return {
        "write /etc": answer(lambda: Path("/etc/gatewayd/x").write_text("")),
        "write /usr": answer(lambda: Path("/usr/lib/gatewayd/x").write_text("")),
        "write /var/lib": answer(lambda: Path("/var/lib/x").write_text("")),
        "write /": answer(lambda: Path("/x").write_text("")),
        "list /home": answer(lambda: list(Path("/home").iterdir())),
        "list /root": answer(lambda: list(Path("/root").iterdir())),
        "open /dev/ttyS0": answer(lambda: os.close(os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY))),
        "open /dev/mem": answer(lambda: os.close(os.open("/dev/mem", os.O_RDONLY))),
        "read /proc/1": answer(lambda: Path("/proc/1/status").read_text()),
        "read /proc/sys": answer(lambda: list(Path("/proc/sys").iterdir())),
        "set /sys": answer(lambda: Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("never")),
        "memory W and X": native(anonymous(READ | WRITE | EXEC)),
        "memory W then X": native(libc.mprotect(page, mmap.PAGESIZE, READ | EXEC)),
        "new user namespace": native(libc.unshare(CLONE_NEWUSER)),
        "new mount namespace": native(libc.unshare(CLONE_NEWNS)),
        "mount": native(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
        "netlink socket": answer(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
        "packet socket": answer(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()),
        "real time": answer(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
        "affinity": answer(lambda: os.sched_setaffinity(0, {0})),
        "nice": answer(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
        "setuid bit": answer(lambda: (own / "file").chmod(0o4755)),
        "become root": answer(lambda: os.setuid(0)),
        "chown": answer(lambda: os.chown(own / "file", 0, 0)),
        "personality": native(libc.personality(0x0400000)),
        "ptrace": native(libc.ptrace(0, 0, None, None)),
        "host name": native(libc.sethostname(b"x", 1)),
        "set the clock": native(libc.settimeofday(ctypes.byref((ctypes.c_long * 2)()), None)),
        "slew the clock": timex(1),
        "read the clock's state": timex(0),
        "write own state": answer(lambda: (own / "new").write_text("x")),
        "write /tmp": answer(lambda: Path("/tmp/x").write_text("x")),
        "inet socket": answer(lambda: socket.socket(socket.AF_INET).close()),
        "unix socket": answer(lambda: socket.socket(socket.AF_UNIX).close()),
    }


def status() -> dict[str, str]:
    """Lines of /proc/self/status that say who we are."""
    lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    wanted = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh")
    return {key: value.strip() for key, value in lines if key in wanted}


def callbacks() -> dict[str, int]:
    """libffi closures: C calls Python, on this thread, on a foreign one, and through more than a page of closures."""
    compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    calls = [0]

    def compare(a: ctypes._Pointer[ctypes.c_int], b: ctypes._Pointer[ctypes.c_int]) -> int:
        calls[0] += 1
        return a[0] - b[0]

    def sort(function: Callable[..., int]) -> bool:
        numbers = (ctypes.c_int * 64)(*range(64, 0, -1))
        libc.qsort(numbers, 64, ctypes.sizeof(ctypes.c_int), function)
        return list(numbers) == list(range(1, 65))

    many = [compare_type(compare) for _ in range(5000)]
    right = sum(sort(function) for function in (many[0], many[2500], many[-1]))

    start_type = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    foreign: list[str] = []

    def entered(_: int | None) -> None:
        foreign.append(threading.current_thread().name)

    start = start_type(entered)
    thread = ctypes.c_ulong()
    if libc.pthread_create(ctypes.byref(thread), None, start, None) == 0:
        libc.pthread_join(thread, None)
    return {"closures": len(many), "sorted": right, "calls": calls[0], "foreign threads": len(foreign)}


def main() -> int:
    found: dict[str, object] = {"python": sys.version.split()[0], "executable": sys.executable, "status": status()}
    found["callbacks"] = callbacks()
    found["tries"] = tries()
    found["processes"] = sorted(path.name for path in Path("/proc").iterdir() if path.name.isdecimal())
    with contextlib.suppress(OSError):
        found["limits"] = Path("/proc/self/limits").read_text()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
