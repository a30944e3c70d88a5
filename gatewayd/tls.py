"""The one TLS policy of everything that goes through Python's ssl: the broker, DNP3, Modbus, IEC 61850.

TLS 1.2 or newer, AEAD ciphers with forward secrecy only, the peer's chain and name checked, our own certificate where
there is one, revocation lists from files. A context is made for each connection, so that what changes on the disk holds
from the next one on.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all of this kind."""


def client_context(ca_file: str = "", cert_file: str = "", key_file: str = "", crl_file: str = "") -> ssl.SSLContext:
    """A client's context; names may be paths or systemd credentials, an empty ca_file means the system's authorities.

    Raises OSError (ssl.SSLError among them) where a file cannot be used.
    """
    context = ssl.create_default_context(cafile=str(credential(ca_file)) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if cert_file:
        context.load_cert_chain(credential(cert_file), credential(key_file))
    if crl_file:
        context.load_verify_locations(cafile=str(credential(crl_file)))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def credential(name: str) -> Path:
    """The file behind a path, or behind the bare name of a systemd credential ($CREDENTIALS_DIRECTORY)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and "/" not in name and (Path(directory) / name).exists():
        return Path(directory) / name
    return Path(name)


def reason(error: ssl.SSLError) -> str:
    """Why a handshake failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
