"""The unit's system call filters, built with libseccomp as systemd builds them (its src/shared/seccomp-util.c)."""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tests.systemd.sandbox import Sandbox

ALLOW = 0x7FFF0000
NE, LT, EQ, GT, MASKED = 1, 2, 4, 6, 7
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
S_ISUID, S_ISGID, O_CREAT = 0o4000, 0o2000, 0o100
NAMESPACES = (0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x00000080)
"""CLONE_NEWCGROUP, UTS, IPC, USER, PID, NET, NS, TIME"""
REALTIME = (1, 2, 6)
"""SCHED_FIFO, SCHED_RR, SCHED_DEADLINE"""
BY_SWITCH = {
    "ProtectHostname": ("sethostname", "setdomainname"),
    "ProtectKernelModules": ("init_module", "finit_module", "delete_module"),
    "ProtectKernelLogs": ("syslog",),
    "ProtectKernelTunables": ("_sysctl",),
    "ProtectClock": ("adjtimex", "clock_adjtime", "clock_settime", "settimeofday"),
}
"""Calls that a switch forbids by name (besides what it hides)."""


def refuse(number: int) -> int:
    """SCMP_ACT_ERRNO."""
    return 0x00050000 | number


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """One seccomp filter; loaded at the end of a with block."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(default)))
        assert self._context, "seccomp_init failed"

    def rule(self, action: int, call: str, *compares: tuple[int, int, int, int]) -> None:
        """One rule; compares: (argument, operator, a, b). A call this machine does not have is passed over."""
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (_Compare * len(compares))(*compares)
        result = self._lib.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, ctypes.c_uint(len(compares)), array
        )
        assert result == 0, f"seccomp rule for {call}: {errno.errorcode.get(-result, result)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, a: type[BaseException] | None, b: BaseException | None, c: TracebackType | None) -> None:
        if a is None:
            result = self._lib.seccomp_load(self._context)
            assert result == 0, f"seccomp_load: {errno.errorcode.get(-result, result)}"


def load(sandbox: Sandbox) -> None:
    """All filters; the list of allowed calls comes last, since it forbids much of what setting up needs."""
    switches = sandbox.switches
    if "RestrictNamespaces" in switches:
        _namespaces()
    if "RestrictSUIDSGID" in switches:
        _suid()
    if "MemoryDenyWriteExecute" in switches:
        memory_deny_write_execute()
    _families(sandbox.families)
    with Filter(ALLOW) as rules:
        if "RestrictRealtime" in switches:
            for policy in REALTIME:
                rules.rule(refuse(errno.EPERM), "sched_setscheduler", (1, EQ, policy, 0))
        if "LockPersonality" in switches:
            rules.rule(refuse(errno.EPERM), "personality", (0, NE, 0, 0))
        for switch, calls in BY_SWITCH.items():
            if switch in switches:
                for call in calls:
                    rules.rule(refuse(errno.EPERM), call)
    # systemd answers ENOSYS to calls it does not know, so that programs fall back to older ones.
    with Filter(refuse(errno.ENOSYS)) as rules:
        for call in sandbox.syscalls:
            rules.rule(ALLOW, call)
        for call in sandbox.refused:
            rules.rule(refuse(sandbox.errno), call)


def memory_deny_write_execute() -> None:
    """As systemd does it without PR_SET_MDWE: no memory is ever writable and executable, at once or in turn."""
    with Filter(ALLOW) as rules:
        both = PROT_EXEC | PROT_WRITE
        rules.rule(refuse(errno.EPERM), "mmap", (2, MASKED, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            rules.rule(refuse(errno.EPERM), call, (2, MASKED, PROT_EXEC, PROT_EXEC))
        rules.rule(refuse(errno.EPERM), "shmat", (2, MASKED, SHM_EXEC, SHM_EXEC))


def _namespaces() -> None:
    with Filter(ALLOW) as rules:
        rules.rule(refuse(errno.ENOSYS), "clone3")  # its flags cannot be seen by a filter
        rules.rule(refuse(errno.EPERM), "setns", (1, EQ, 0, 0))
        for flag in NAMESPACES:
            for call, argument in (("unshare", 0), ("clone", 0), ("setns", 1)):
                rules.rule(refuse(errno.EPERM), call, (argument, MASKED, flag, flag))


def _suid() -> None:
    with Filter(ALLOW) as rules:
        rules.rule(refuse(errno.ENOSYS), "openat2")
        for bit in (S_ISUID, S_ISGID):
            for call, argument in (
                *(("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mknod", 1), ("mknodat", 2)),
                *(("mkdir", 1), ("mkdirat", 2), ("creat", 1)),
            ):
                rules.rule(refuse(errno.EPERM), call, (argument, MASKED, bit, bit))
            for call, flags in (("open", 1), ("openat", 2)):
                rules.rule(refuse(errno.EPERM), call, (flags, MASKED, O_CREAT, O_CREAT), (flags + 1, MASKED, bit, bit))


def _families(names: Iterable[str]) -> None:
    allowed = sorted(int(getattr(socket, name)) for name in names)
    with Filter(ALLOW) as rules:
        refused = refuse(errno.EAFNOSUPPORT)
        rules.rule(refused, "socket", (0, LT, allowed[0], 0))
        rules.rule(refused, "socket", (0, GT, allowed[-1], 0))
        for number in range(allowed[0] + 1, allowed[-1]):
            if number not in allowed:
                rules.rule(refused, "socket", (0, EQ, number, 0))
