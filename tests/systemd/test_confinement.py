"""The proof's own proof: under the unit's restrictions what must not work does not, and callbacks of native code do."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest

from tests.systemd import unit
from tests.systemd.sandbox import NEEDS_INIT, allowed_syscalls, sandbox, syscall_sets
from tests.systemd.support import PROOF, PYTHON, Box, needs_root

REFUSED = {
    "write /etc": {"EROFS"},
    "write /usr": {"EROFS"},
    "write /var/lib": {"EROFS", "EACCES"},
    "write /": {"EROFS", "EACCES"},
    "list /home": {"EACCES"},
    "list /root": {"EACCES"},
    "open /dev/ttyS0": {"ENOENT"},
    "open /dev/mem": {"ENOENT"},
    "read /proc/1": {"ENOENT"},
    "read /proc/sys": {"ENOENT"},
    "set /sys": {"EROFS", "EACCES"},
    "memory W and X": {"EPERM", "EACCES"},
    "memory W then X": {"EPERM", "EACCES"},
    "new user namespace": {"EPERM"},
    "new mount namespace": {"EPERM"},
    "mount": {"EPERM"},
    "netlink socket": {"EAFNOSUPPORT"},
    "packet socket": {"EAFNOSUPPORT"},
    "real time": {"EPERM"},
    "affinity": {"EPERM"},
    "nice": {"EPERM"},
    "setuid bit": {"EPERM"},
    "become root": {"EPERM"},
    "chown": {"EPERM"},
    "personality": {"EPERM"},
    "ptrace": {"EPERM"},
    "host name": {"EPERM"},
    "set the clock": {"EPERM"},
    "slew the clock": {"EPERM"},
}
ALLOWED = ("read the clock's state", "write own state", "write /tmp", "inet socket", "unix socket")


@functools.cache
def tried() -> tuple[dict[str, Any], dict[str, Any]]:
    box = Box()
    return box.run(PYTHON, f"{PROOF}/forbidden.py"), box.report


@needs_root
def test_what_the_unit_forbids_is_refused() -> None:
    answers = tried()[0]["tries"]
    assert set(answers) == {*REFUSED, *ALLOWED}
    assert {name: answer for name, answer in answers.items() if answer not in REFUSED.get(name, {"allowed"})} == {}


@needs_root
def test_the_service_is_nobody_and_can_do_nothing() -> None:
    found = tried()[0]
    status = found["status"]
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert len(found["processes"]) == 1, "processes of others are visible"
    assert "Max core file size        0 " in found["limits"]


@needs_root
def test_callbacks_of_libffi_work_where_no_memory_is_writable_and_executable() -> None:
    found, report = tried()
    assert found["executable"] == PYTHON
    assert found["callbacks"]["sorted"] == 3
    assert found["callbacks"]["calls"] > 0
    assert found["callbacks"]["foreign threads"] == 1
    assert not any(note.startswith("PR_SET_MDWE") for note in report["notes"]) or before_mdwe()


@needs_root
def test_every_line_of_the_unit_was_set_or_is_known_to_need_an_init() -> None:
    report = tried()[1]
    service = unit.service()
    assert set(report["switches"]) == {key for key in service if service[key] == ["yes"]} - set(NEEDS_INIT)
    assert set(report["init"]) == set(service) & set(NEEDS_INIT)


# --- what the lines mean --------------------------------------------------------------------------------------------

SETS = syscall_sets(
    "@default\n    # always\n    read\n    exit\n\n@clock\n    adjtimex\n    settimeofday\n\n"
    "@inner\n    open\n\n@service\n    @inner\n    @clock\n    write\n\n@known\n    @service\n    @default\n    kexec\n"
    "\n# Ungrouped System Calls (known but not included):\n#   foo\n"
)


def test_sets_of_calls_are_read_as_systemd_prints_them() -> None:
    assert SETS["@default"] == ["read", "exit"]
    assert set(SETS) == {"@default", "@clock", "@inner", "@service", "@known"}


def test_a_filter_adds_takes_away_and_adds_again() -> None:
    assert allowed_syscalls(["@service", "~@clock", "adjtimex"], SETS) == {"read", "exit", "open", "write", "adjtimex"}
    with pytest.raises(ValueError, match="allow list"):
        allowed_syscalls(["~@clock"], SETS)


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("PrivateNewThing", ["yes"], "PrivateNewThing"),
        ("PrivateTmp", ["disconnected"], "yes and no"),
        ("ProtectSystem", ["full"], "strict"),
        ("CapabilityBoundingSet", ["CAP_NET_RAW"], "empty"),
    ],
)
def test_a_line_the_proof_does_not_know_is_an_error(key: str, values: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sandbox({**unit.service(), key: values}, SETS)


def test_a_drop_in_clears_with_an_empty_value_and_adds_otherwise() -> None:
    opened = unit.service("serial.conf", "site.conf")
    assert opened["PrivateDevices"] == ["yes", "no"]
    assert len(opened["DeviceAllow"]) == 3
    assert len(opened["IPAddressAllow"]) == 2
    assert unit.service("checkout.conf")["ExecStart"] == [
        "/opt/gatewayd/.venv/bin/gatewayd run -c /etc/gatewayd/gatewayd.toml"
    ]


def before_mdwe() -> bool:
    """PR_SET_MDWE came with Linux 6.3; before it the filter is all there is."""
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    return (major, minor) < (6, 3)
