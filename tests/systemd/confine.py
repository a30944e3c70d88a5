"""Runs a command under the restrictions of the unit, as far as they can be set without an init. Root only.

    python -m tests.systemd.confine --root FOLDER --state FOLDER [--dropin NAME]... [--report FILE] -- COMMAND...

--root: a folder laid over the system, as an installed package would be: its `usr`, `etc` and `var`
--state: becomes /var/lib/<StateDirectory>
--report: what was set and what was not, as JSON
Without a command: the unit's own ExecStart. The command replaces this process, so its pid is ours.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

from tests.systemd import seccomp, unit
from tests.systemd.sandbox import Sandbox, sandbox, syscall_sets

UID = 60_998
"""Nobody's: the user `gatewayd` of the package does not exist here."""
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x10000000, 0x08000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, PR_SET_MDWE = 38, 24, 65
MDWE_REFUSE_EXEC_GAIN = 1
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY = 442, -100, 0x8000, 1
KEYCTL, KEYCTL_JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine, -1), 1

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """Raises OSError for a call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [word.encode() if word else None for word in (source, target, kind)]
    checked(libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {source} on {target}")


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("fd", ctypes.c_uint64),
    )


def read_only(path: str, *, whole_tree: bool = False, undo: bool = False) -> None:
    """Make a mount read-only, or writable again."""
    wanted = _Attributes(0 if undo else ATTR_RDONLY, ATTR_RDONLY if undo else 0, 0, 0)
    flags = AT_RECURSIVE if whole_tree else 0
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    result = libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(wanted), size)
    checked(result, f"mount_setattr {path}")


# --- what the process sees ------------------------------------------------------------------------------------------


def private_view(wanted: Sandbox, root: Path, state: Path) -> None:
    """The package laid over the system, the system read-only, no homes, no devices, no processes of others."""
    checked(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    (root / "var/lib" / wanted.state).mkdir(parents=True, exist_ok=True)
    for name in ("usr", "etc", "var"):
        mount("overlay", f"/{name}", "overlay", MS_RDONLY, f"lowerdir={root / name}:/{name}")
    own = f"/var/lib/{wanted.state}"
    mount(str(state), own, None, MS_BIND)
    os.chown(own, UID, UID)
    Path(own).chmod(0o700)
    if "ProtectHome" in wanted.switches:
        for home in ("/home", "/root", "/run/user"):
            if Path(home).is_dir():
                mount("tmpfs", home, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=000")
    if "PrivateDevices" in wanted.switches:
        _devices()
    read_only("/", whole_tree=True)
    read_only(own, undo=True)
    for place in ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"):  # ProtectSystem=strict leaves /dev out
        if os.path.ismount(place):
            read_only(place, undo=True)
    if "PrivateTmp" in wanted.switches:
        for place in ("/tmp", "/var/tmp"):
            mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    # ProtectProc=invisible, ProcSubset=pid
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=invisible,subset=pid")


def _devices() -> None:
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755")
    for name, minor in {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(1, minor))
        Path(f"/dev/{name}").chmod(0o666)
    Path("/dev/shm").mkdir()
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    Path("/dev/fd").symlink_to("/proc/self/fd")


# --- what the process is --------------------------------------------------------------------------------------------


def private_users() -> None:
    """PrivateUsers: only root and the service's own user exist. Somebody outside has to write the map."""
    ready_to, ready_from = os.pipe()[::-1]
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.read(ready_from, 1)
            for kind in ("uid", "gid"):
                Path(f"/proc/{parent}/{kind}_map").write_text(f"0 0 1\n{UID} {UID} 1\n")
            status = 0
        finally:
            os._exit(status)
    checked(libc.unshare(CLONE_NEWUSER), "unshare CLONE_NEWUSER")
    os.write(ready_to, b"x")
    _, status = os.waitpid(child, 0)
    assert status == 0, "the map of users was not written"
    os.close(ready_to)
    os.close(ready_from)


def become_nobody(wanted: Sandbox) -> list[str]:
    """Limits, then no capability in any set, then the service's user."""
    notes = []
    for name, limit in wanted.limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    try:
        Path("/proc/self/oom_score_adj").write_text(str(wanted.oom_score_adjust))
    except PermissionError:  # systemd passes over it too
        notes.append("OOMScoreAdjust: root has no CAP_SYS_RESOURCE here")
    os.umask(wanted.umask)
    if KEYCTL > 0:
        checked(libc.syscall(KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")  # KeyringMode=private
    if "PrivateUsers" in wanted.switches:
        private_users()
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    assert capability > 30, "the bounding set was not emptied"
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    return notes


def confine(wanted: Sandbox, root: Path, state: Path) -> list[str]:
    """All of it, in the order that leaves every step possible. Returns what this kernel or container refused to set."""
    private_view(wanted, root, state)
    notes = become_nobody(wanted)
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    # systemd 252 has the filter, 253 and later the kernel's own switch: the program must bear both.
    deny = "MemoryDenyWriteExecute" in wanted.switches
    if deny and libc.prctl(PR_SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) < 0:
        notes.append("PR_SET_MDWE: this kernel does not know it")
    seccomp.load(wanted)
    return notes


def main() -> int:
    """The command line; does not return where all went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.systemd.confine")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--dropin", action="append", default=[])
    parser.add_argument("--report", type=Path)
    parser.add_argument("command", nargs="*")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("tests.systemd.confine needs root: it makes namespaces and gives up every right", file=sys.stderr)
        return 1
    said = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    wanted = sandbox(unit.service(*given.dropin), syscall_sets(said))
    report = os.open(given.report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC) if given.report else -1
    os.chdir("/")
    notes = confine(wanted, given.root.resolve(), given.state.resolve())
    if report >= 0:
        os.write(
            report, json.dumps({"switches": sorted(wanted.switches), "init": wanted.extra, "notes": notes}).encode()
        )
    command = given.command or wanted.command
    passed = {
        key: value for key, value in os.environ.items() if key.startswith(("NOTIFY_", "WATCHDOG_", "CREDENTIALS_"))
    }
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": f"/var/lib/{wanted.state}",
        "STATE_DIRECTORY": f"/var/lib/{wanted.state}",
        "LANG": "C.UTF-8",
    }
    os.execve(command[0], command, {**environment, **wanted.environment, **passed})
    raise AssertionError("execve returned")


if __name__ == "__main__":
    sys.exit(main())
