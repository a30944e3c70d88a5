"""TLS towards field devices: one policy for every protocol that goes through Python's ssl."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from gatewayd.protocols.device import Tls


def client_context(tls: Tls) -> ssl.SSLContext:
    """A client's context: TLS 1.2 or newer with AEAD, chain and name of the device checked, our certificate if given.

    Raises OSError (ssl.SSLError among them) where a file cannot be used.
    """
    context = ssl.create_default_context(cafile=str(credential(tls.ca_file)))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    if tls.cert_file:
        context.load_cert_chain(credential(tls.cert_file), credential(tls.key_file))
    return context


def server_name(tls: Tls, host: str) -> str:
    """The name that must stand in the device's certificate."""
    return tls.server_name or host


def credential(name: str) -> Path:
    """The file behind a path, or behind the bare name of a systemd credential."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and "/" not in name and (Path(directory) / name).exists():
        return Path(directory) / name
    return Path(name)
