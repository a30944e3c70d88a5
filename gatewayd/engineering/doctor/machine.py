"""The machine: clock, disk, the state folder, serial ports, native packages, memory. Reads only, but for one fsync."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import stat
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from gatewayd import clock
from gatewayd.config import Config
from gatewayd.engineering.doctor.finding import Finding, broken, ok, warning
from gatewayd.protocols.device import Device

NO_DISK = {"tmpfs", "ramfs", "overlay", "squashfs", "iso9660"}
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs"}
SIMPLE = {"vfat", "exfat", "msdos", "ntfs", "ntfs3", "fuseblk"}
NO_BARRIER = {"nobarrier", "barrier=0"}
LEAST_FREE = 64 * 1024 * 1024
SLOW_FSYNC_MS = 50.0
LEAST_MEMORY = 200 * 1024 * 1024
MIB = 1024 * 1024


def clock_state() -> Finding:
    found = clock.state()
    if found.synchronised is None:
        return warning("clock", "the kernel does not say whether the clock is synchronised", "run chrony or timesyncd")
    if not found.synchronised:
        return warning(
            "clock",
            "not synchronised: times are marked so, DNP3 devices get no time, and direct commands are refused",
            "run chrony or systemd-timesyncd, and look at `timedatectl`",
        )
    return ok("clock", f"synchronised, error at most {found.max_error_ms or 0:.0f} ms")


def processors() -> Finding:
    count = os.cpu_count() or 1
    if count < 2:
        return warning("processors", "one core: the protocol workers and the core share it", "two cores or more")
    return ok("processors", f"{count} cores, {platform.machine()}")


def memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return warning("memory", "cannot be told", "look at `free -m`")
    if free < LEAST_MEMORY:
        return warning("memory", f"{free // MIB} MiB available", f"{LEAST_MEMORY // MIB} MiB or more")
    return ok("memory", f"{free // MIB} MiB available")


# --- the disk -------------------------------------------------------------------------------------------------------


def existing(directory: Path) -> Path:
    """The folder, or the first of those above it that is there."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory


def file_system(directory: Path, mounts: Path = Path("/proc/self/mounts")) -> Finding:
    """What the journal lies on: whether it outlives the power, and whether SQLite's WAL works there."""
    check = "disk: file system"
    kind, options, point = _mount(existing(directory).resolve(), mounts)
    if kind in NO_DISK:
        do = "choose a state_dir on a disk (in a container: a volume)"
        return broken(check, f"{directory} is on {kind} ({point}): the journal does not outlive a restart", do)
    if kind in NETWORK:
        do = "choose a state_dir on a disk of this machine"
        return broken(check, f"{directory} is on {kind} ({point}): the journal's locks and WAL do not work there", do)
    if NO_BARRIER & options:
        do = "mount it with barriers"
        return broken(check, f"{point} is mounted without barriers: what was confirmed is lost with the power", do)
    if "ro" in options:
        return broken(check, f"{point} is mounted read-only", "look at `dmesg`: a failing disk is mounted so")
    if kind in SIMPLE:
        return warning(check, f"{directory} is on {kind} ({point}), which has no journal of its own", "ext4 or xfs")
    return ok(check, f"{kind} at {point}" if kind else "unknown")


def _mount(path: Path, mounts: Path) -> tuple[str, set[str], str]:
    best: tuple[str, set[str], str] = ("", set(), "")
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return best
    for line in lines:
        _, point, kind, options, *_ = line.split()
        point = point.replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best[2]):
            best = kind, set(options.split(",")), point
    return best


def room(directory: Path, max_size: int) -> Finding:
    """Whether what the journal may take is there."""
    check = "disk: room"
    place = existing(directory)
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    used = sum(path.stat().st_size for path in directory.glob("journal.*")) if directory.is_dir() else 0
    if free < LEAST_FREE:
        return broken(check, f"{free // MIB} MiB free at {place}: the journal stops taking events", "make room")
    if free + used < max_size:
        return warning(
            check,
            f"{free // MIB} MiB free at {place}; the journal may grow to {max_size // MIB} MiB (it has {used // MIB})",
            "make room, or lower max_size in [journal]",
        )
    return ok(check, f"{free // MIB} MiB free at {place}, max_size is {max_size // MIB} MiB")


def sync_time(directory: Path, rounds: int = 10) -> Finding:
    """How long the disk takes to make something durable; every commit waits for it."""
    check = "disk: fsync"
    if not os.access(directory, os.W_OK):
        return ok(check, "not measured: the state folder is not there yet, or we may not write to it")
    path = directory / f".doctor-{os.getpid()}"
    took = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(rounds):
                file.write(b"x" * 4096)
                begun = time.perf_counter()
                os.fsync(file.fileno())
                took.append((time.perf_counter() - begun) * 1000)
    except OSError as error:
        return broken(check, f"{directory}: {error.strerror or error}", "look at the disk: nothing can be stored on it")
    finally:
        path.unlink(missing_ok=True)
    middle, longest = sorted(took)[len(took) // 2], max(took)
    text = f"{middle:.1f} ms, {longest:.1f} ms at most"
    if middle > SLOW_FSYNC_MS:
        return warning(
            check, f"{text}: every confirm to a device waits for it", "a faster disk; look for a failing one"
        )
    return ok(check, text)


# --- rights of files ------------------------------------------------------------------------------------------------


def state_folder(directory: Path) -> Finding:
    """Whether the service can write there, and nobody else."""
    check = "state folder"
    try:
        found = directory.stat()
    except FileNotFoundError:
        parent = existing(directory)
        if os.access(parent, os.W_OK):
            return ok(check, f"{directory} is not there yet and will be made")
        return broken(check, f"{directory} is not there, and we may not make it in {parent}", "make it for the service")
    except OSError as error:
        return warning(check, f"{directory}: {error.strerror}", "run the doctor as root or as the service's user")
    if not directory.is_dir():
        return broken(check, f"{directory} is no folder", "choose another state_dir")
    owner = _user(found.st_uid)
    foreign = sorted(
        path.name for path in directory.glob("journal.*") if path.exists() and path.stat().st_uid != found.st_uid
    )
    if foreign:
        return broken(
            check,
            f"{directory} belongs to {owner}, but {', '.join(foreign)} in it to somebody else: left by a run as "
            "another user, and the service cannot write it",
            f"chown {owner}: {directory}/*",
        )
    if os.geteuid() not in (0, found.st_uid) and not os.access(directory, os.W_OK):
        return warning(check, f"{directory} belongs to {owner}; we are {_user(os.geteuid())}", f"run as {owner}")
    if found.st_mode & stat.S_IRWXO:
        mode = stat.S_IMODE(found.st_mode)
        return warning(check, f"{directory} has mode {mode:04o}: everybody here may look into it", "chmod 0750")
    return ok(check, f"{directory} belongs to {owner}, mode {stat.S_IMODE(found.st_mode):04o}")


def serial_port(device: Device) -> Finding:
    """Whether the port is there and may be used."""
    assert device.serial is not None
    check = f"serial port of {device.name}"
    path = Path(device.serial.port)
    try:
        found = path.stat()
    except OSError as error:
        return broken(check, f"{path}: {error.strerror}", "look at the cable and the name; /dev/serial/by-id is stable")
    if not stat.S_ISCHR(found.st_mode):
        return broken(check, f"{path} is no serial port", "look at the name")
    group = _group(found.st_gid)
    if not os.access(path, os.R_OK | os.W_OK):
        do = f"be in the group {group}, and see systemd/README.md for the unit's DeviceAllow"
        return broken(check, f"{path} may not be used by {_user(os.geteuid())}", do)
    if not found.st_mode & stat.S_IWGRP:
        mode = stat.S_IMODE(found.st_mode)
        return warning(check, f"{path} has mode {mode:04o}: its group {group} may not write", "a udev rule, mode 0660")
    return ok(check, f"{path}, group {group}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# --- native packages ------------------------------------------------------------------------------------------------


def dnp3_package(config: Config | None) -> Finding:
    """yadnp3 exists for x86_64 only. Looked for, never loaded: that is for a worker."""
    check = "DNP3 package"
    if find_spec("opendnp3") is not None:
        return ok(check, "yadnp3 is installed")
    needing = [device.name for device in config.devices if device.protocol == "dnp3"] if config else []
    if needing:
        return broken(
            check,
            f"yadnp3 is not installed, which {', '.join(needing)} needs (this machine is {platform.machine()})",
            "install it; it exists for x86_64 only",
        )
    return ok(check, "yadnp3 is not installed; no device needs it")


def iec61850_package(config: Config | None) -> Finding:
    check = "IEC 61850 package"
    try:
        return ok(check, f"libiec61850 of pyiec61850-ng {version('pyiec61850-ng')}")
    except PackageNotFoundError:
        needing = [device.name for device in config.devices if device.protocol == "iec61850"] if config else []
    if needing:
        return broken(check, f"pyiec61850-ng is not installed, which {', '.join(needing)} needs", "install it")
    return ok(check, "pyiec61850-ng is not installed; no device needs it")
