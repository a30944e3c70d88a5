"""A mosquitto on this machine: its configuration says what CONNACK does not, what it keeps when it ends.

Source: mosquitto.conf(5) of 2.0 and 2.1. A PUBACK is not durability: with the default persistence a mosquitto that was
killed lost every acknowledged message of an absent consumer (docs/delivery.md).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from gatewayd.engineering.doctor.broker import LEAST_PACKET
from gatewayd.engineering.doctor.finding import Finding, broken, ok, warning
from gatewayd.mqtt.settings import MqttSettings, endpoint

DEFAULT = Path("/etc/mosquitto/mosquitto.conf")
ENOUGH_QUEUED = 100_000
OFTEN = 60
"""Seconds, or changes where `autosave_on_changes` is on, between two saves at most."""
_DEEP = 5

Options = Mapping[str, str]


def look(settings: MqttSettings) -> list[Finding]:
    """Judge the configuration of the mosquitto behind the url, where it runs on this machine and can be read."""
    where = endpoint(settings.url)
    if not _here(where.host):
        return [
            warning(
                "broker: what it keeps",
                f"{where.host} is not this machine: whether it keeps anything over a restart cannot be told from here",
                "look there: docs/mqtt.md, Setting up the broker",
            )
        ]
    found = find(where.port)
    if found is None:
        return [
            warning(
                "broker: what it keeps",
                f"no configuration of a mosquitto that listens on port {where.port} was found or may be read",
                "for another broker see its manual; otherwise run the doctor as root",
            )
        ]
    path, options = found
    return [persistence(path, options), queued(path, options), size_limit(path, options), delay(path, options)]


def find(port: int, proc: Path = Path("/proc")) -> tuple[Path, Options] | None:
    """The configuration that listens on the port: of a running mosquitto, else the distribution's."""
    for path in [*_running(proc), DEFAULT]:
        options = read(path)
        if options and str(port) in options.get("listening", "1883").split():
            return path, options
    return None


def _running(proc: Path) -> Iterable[Path]:
    for folder in proc.glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name == "mosquitto" and "-c" in words:
                path = Path(words[words.index("-c") + 1])
                yield path if path.is_absolute() else (folder / "cwd").resolve() / path
        except (OSError, IndexError):
            continue


def read(path: Path, deep: int = 0) -> dict[str, str]:
    """The options of a file and of those it includes; the last word counts, ports are gathered in `listening`."""
    options: dict[str, str] = {}
    ports: list[str] = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        key, _, value = line.strip().partition(" ")
        value = value.strip()
        if key.startswith("#") or not key:
            continue
        if key == "include_dir" and deep < _DEEP:
            for part in sorted(Path(value).glob("*.conf")):
                more = read(part, deep + 1)
                ports += more.pop("listening", "").split()
                options |= more
        elif key in ("listener", "port"):
            ports.append(value.split()[0] if value else "")
        else:
            options[key] = value
    if ports:
        options["listening"] = " ".join(ports)
    return options


def _here(host: str) -> bool:
    """Whether a name or address is this machine's own: something can be bound to it."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            if ipaddress.ip_address(address[0]).is_loopback:
                return True
            with socket.socket(family, kind) as sock:
                sock.bind(address)
                return True
    except (OSError, ValueError):
        return False
    return False


# --- the checks -----------------------------------------------------------------------------------------------------


def persistence(path: Path, options: Options) -> Finding:
    check = "broker: persistence"
    if options.get("persistence", "false") != "true":
        return warning(
            check,
            f"{path}: persistence is off: sessions, retained messages and what waits for absent consumers are gone "
            "when the broker ends; only consumers that watch seq and ask again miss nothing",
            "persistence true, autosave_on_changes true, autosave_interval 1",
        )
    on_changes = options.get("autosave_on_changes", "false") == "true"
    interval = _number(options, "autosave_interval", 1800)
    if interval == 0 or interval > OFTEN:
        what = "changes" if on_changes else "s"
        often = f"every {interval} {what}" if interval else "only when it is asked to"
        return warning(
            check,
            f"{path}: what the broker keeps is saved {often}: a crash loses all that was acknowledged since",
            "autosave_on_changes true, autosave_interval 1",
        )
    return ok(check, f"{path}: saved every {interval} {'changes' if on_changes else 's'}")


def queued(path: Path, options: Options) -> Finding:
    check = "broker: queues"
    most = _number(options, "max_queued_messages", 1000)
    octets = _number(options, "max_queued_bytes", 0)
    if 0 < most < ENOUGH_QUEUED or octets:
        limit = f"{most} messages" if not octets else f"{octets} octets"
        return warning(
            check,
            f"{path}: at most {limit} wait for an absent consumer; the rest is dropped without a word to us",
            "max_queued_messages 0 (or what your longest absence needs), max_queued_bytes left out",
        )
    return ok(check, f"{path}: {most or 'any number of'} messages wait for an absent consumer")


def size_limit(path: Path, options: Options) -> Finding:
    check = "broker: message size"
    limit = _number(options, "message_size_limit", 0)
    if 0 < limit < LEAST_PACKET:
        return broken(
            check,
            f"{path}: message_size_limit is {limit}; the gateway's messages have up to {LEAST_PACKET} octets",
            "message_size_limit left out",
        )
    return ok(check, f"{path}: message_size_limit is {limit or 'not set'}")


def delay(path: Path, options: Options) -> Finding:
    check = "broker: delay"
    if options.get("set_tcp_nodelay", "false") != "true":
        return warning(
            check,
            f"{path}: small packets wait for each other (Nagle): some 40 ms now and then",
            "set_tcp_nodelay true",
        )
    return ok(check, f"{path}: set_tcp_nodelay is true")


def _number(options: Options, key: str, default: int) -> int:
    try:
        return int(options.get(key, default))
    except ValueError:
        return default
