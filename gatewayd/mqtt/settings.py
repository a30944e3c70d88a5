"""The `[mqtt]` table: where the broker is, who we are there, and the limits. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[mqtt]` of the configuration.

    url:             `mqtt://host:port`, `mqtts://host:port` for TLS (ports 1883 and 8883 when left out)
    client_id, base: `gw-<gateway>` and `gw/<gateway>` when left empty, see `completed`
    password_file, ca_file, cert_file, key_file, crl_file: paths, or names of systemd credentials; read at each connect
    retain_rate:     retained per-point messages per second at most
    reply_prefixes:  topics under which a Response Topic is honoured besides `<base>/reply/<operator>`
    keepalive_s:     a broker that is mute for about twice as long is left
    backlog_rate, replay_rate: events per second at most, so that a backlog or a replay never floods the line
    snapshot_s:      how often the retained snapshot of a device is refreshed at most
    reconnect_max_s: the longest pause between two attempts to connect
    """

    url: str = "mqtt://127.0.0.1:1883"
    client_id: str = ""
    base: str = ""
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    crl_file: str = ""
    retain_rate: int = 500
    reply_prefixes: tuple[str, ...] = ()
    keepalive_s: int = 15
    backlog_rate: int = 50_000
    replay_rate: int = 10_000
    snapshot_s: float = 10.0
    reconnect_max_s: float = 30.0

    def completed(self, gateway: str) -> MqttSettings:
        """The same with the defaults that follow from the gateway's name."""
        return msgspec.structs.replace(
            self, client_id=self.client_id or f"gw-{gateway}", base=self.base or f"gw/{gateway}"
        )


class Endpoint(NamedTuple):
    """Where the broker listens."""

    host: str
    port: int
    tls: bool


def endpoint(url: str) -> Endpoint:
    """Take the broker's address apart. Raises ValueError with a text for people, in which no login is shown."""
    shown = repr(without_login(url))
    allowed = "allowed: mqtt://host:port or mqtts://host:port"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shown}: {error}; {allowed}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{shown} is not the address of a broker; {allowed}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the address of a broker carries no login; {allowed}, with username and password_file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{shown} has more than host and port; {allowed}")
    return Endpoint(parts.hostname, port or _PORTS[parts.scheme], parts.scheme == "mqtts")


def without_login(url: str) -> str:
    """The address as it may be shown: what somebody wrote before an @ could be a password."""
    return re.sub(r"[^/@\s]*@", "***@", url)


def check(settings: MqttSettings) -> list[tuple[str, str]]:
    """Every mistake in the table as (key, what was found; what is allowed). Opens nothing."""
    found: list[tuple[str, str]] = []
    tls = False
    try:
        tls = endpoint(settings.url).tls
    except ValueError as error:
        found.append(("url", str(error)))
    if not tls:
        found += [
            (key, f"{key} is set, but {without_login(settings.url)!r} is not encrypted; use mqtts://")
            for key in ("ca_file", "cert_file", "key_file", "crl_file")
            if getattr(settings, key)
        ]
    if bool(settings.cert_file) != bool(settings.key_file):
        found.append(("cert_file", "cert_file and key_file belong together; give both or neither"))
    if settings.password_file and not settings.username:
        found.append(("password_file", "password_file without username; give both"))
    for key, topic in (("base", settings.base), *(("reply_prefixes", prefix) for prefix in settings.reply_prefixes)):
        if topic and (any(c in "+#$ \0" for c in topic) or topic.startswith("/") or topic.endswith("/")):
            found.append((key, f"{topic!r} is not a topic; no + # $, no spaces, no / at either end"))
    for key in ("retain_rate", "keepalive_s", "backlog_rate", "replay_rate", "snapshot_s", "reconnect_max_s"):
        if getattr(settings, key) <= 0:
            found.append((key, f"{key} is {getattr(settings, key)}; it must be more than 0"))
    if settings.keepalive_s > 65535:
        found.append(("keepalive_s", f"keepalive_s is {settings.keepalive_s}; 65535 at most"))
    return found
