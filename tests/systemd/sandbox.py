"""What the unit's lines mean: from the text of the unit to plain values, as systemd 252 understands them. Pure.

Every line of [Service] is known here, as a restriction that `confine.py` sets or as one that needs an init; a line that
is not known is an error. So the unit cannot gain a line that the proof does not have.
"""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NEEDS_INIT = {
    "Type": "the protocol between service and systemd: test_service.py",
    "NotifyAccess": "as Type",
    "WatchdogSec": "as Type",
    "ExecReload": "as Type",
    "TimeoutStartSec": "as Type",
    "TimeoutStopSec": "as Type",
    "Restart": "as Type",
    "RestartSec": "as Type",
    "KillMode": "as Type",
    "OOMPolicy": "what systemd does when a process was killed",
    "MemoryMax": "control groups: bounded by measuring, test_native_stacks.py",
    "TasksMax": "as MemoryMax",
    "IPAddressDeny": "control groups and BPF: tests/packaging/test_boot.py, under systemd itself",
    "IPAddressAllow": "as IPAddressDeny",
    "DevicePolicy": "control groups and BPF; without devices in /dev nothing is left to deny",
    "DeviceAllow": "as DevicePolicy",
    "LoadCredential": "systemd hands them over",
    "LoadCredentialEncrypted": "systemd hands them over",
    "RemoveIPC": "after the end of the service",
}
"""Lines that no process can put upon itself, and who shows them instead."""
SWITCHES = (
    "NoNewPrivileges",
    "ProtectHome",
    "PrivateTmp",
    "PrivateUsers",
    "PrivateMounts",
    "PrivateDevices",
    "ProtectHostname",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectClock",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "MemoryDenyWriteExecute",
)
VALUES = {
    "ProtectSystem": "strict",
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "KeyringMode": "private",
    "SystemCallArchitectures": "native",
}
"""Lines of which the proof knows one value."""
LISTS = (
    "ExecStart",
    "Environment",
    "User",
    "Group",
    "UMask",
    "StateDirectory",
    "StateDirectoryMode",
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
    "LimitNOFILE",
    "LimitCORE",
    "OOMScoreAdjust",
    "CapabilityBoundingSet",
    "AmbientCapabilities",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "RestrictAddressFamilies",
)


@dataclass(frozen=True)
class Sandbox:
    """What `confine.py` sets."""

    command: list[str]
    environment: dict[str, str]
    switches: frozenset[str]
    """the lines that say yes, of SWITCHES"""
    state: str
    """below /var/lib"""
    umask: int
    limits: dict[str, int]
    """NOFILE, CORE"""
    oom_score_adjust: int
    families: frozenset[str]
    syscalls: frozenset[str]
    """allowed"""
    refused: frozenset[str]
    """known to systemd and not allowed"""
    errno: int
    """what a refused call answers"""
    extra: dict[str, str] = field(default_factory=dict)
    """lines that need an init, with who shows them"""


def sandbox(service: Mapping[str, Sequence[str]], sets: Mapping[str, Sequence[str]]) -> Sandbox:
    """The values of a [Service] section. sets: from `syscall_sets`. Raises ValueError for a line that is not known."""
    known = {*NEEDS_INIT, *SWITCHES, *VALUES, *LISTS}
    if strangers := sorted(set(service) - known):
        raise ValueError(f"tests/systemd/sandbox.py does not know what these lines of the unit mean: {strangers}")
    for key in SWITCHES:
        if service.get(key, ["no"])[-1] not in ("yes", "no"):
            raise ValueError(f"{key}={service[key][-1]}: the proof knows yes and no")
    for key, value in VALUES.items():
        if service.get(key) != [value]:
            raise ValueError(f"{key}={service.get(key)}: the proof knows {value}")
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        if service.get(key) != []:
            raise ValueError(f"{key}={service.get(key)}: the proof knows the empty set")
    allowed = allowed_syscalls(service["SystemCallFilter"], sets)
    return Sandbox(
        command=shlex.split(service["ExecStart"][-1]),
        environment=dict(word.split("=", 1) for line in service.get("Environment", []) for word in shlex.split(line)),
        switches=frozenset(key for key in SWITCHES if service.get(key, ["no"])[-1] == "yes"),
        state=service["StateDirectory"][-1],
        umask=int(service["UMask"][-1], 8),
        limits={key: int(service[f"Limit{key}"][-1]) for key in ("NOFILE", "CORE")},
        oom_score_adjust=int(service["OOMScoreAdjust"][-1]),
        families=frozenset(word for line in service["RestrictAddressFamilies"] for word in line.split()),
        syscalls=allowed,
        refused=frozenset(members("@known", sets)) - allowed,
        errno=getattr(errno, service["SystemCallErrorNumber"][-1]),
        extra={key: NEEDS_INIT[key] for key in service if key in NEEDS_INIT},
    )


def syscall_sets(text: str) -> dict[str, list[str]]:
    """The named sets, from the words of `systemd-analyze syscall-filter`, without its part about the running kernel."""
    found: dict[str, list[str]] = {}
    members: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("@"):
            members = found[line.strip()] = []
        elif not line.startswith(" "):
            members = None
        elif members is not None and (name := re.fullmatch(r" +(@?[a-z0-9_-]+)", line)):
            members.append(name[1])
    return found


def members(name: str, sets: Mapping[str, Sequence[str]]) -> set[str]:
    """A set with the sets inside it, or a call by itself."""
    if not name.startswith("@"):
        return {name}
    return {call for inner in sets[name] for call in members(inner, sets)}


def allowed_syscalls(lines: Sequence[str], sets: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """SystemCallFilter= as an allow list (systemd.exec(5)): the first line decides, ~ takes away, @default is in it."""
    if not lines or lines[0].startswith("~"):
        raise ValueError("SystemCallFilter must begin as an allow list")
    allowed = members("@default", sets)
    for line in lines:
        calls = {call for name in line.removeprefix("~").split() for call in members(name, sets)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return frozenset(allowed)
