"""The one TLS policy of everything that goes through Python's ssl: the broker, DNP3, Modbus, IEC 61850.

TLS 1.2 or newer, AEAD ciphers with forward secrecy only, the peer's chain and name checked, our own certificate where
there is one, revocation lists from files. A context is made for each connection, so that what changes on the disk holds
from the next one on.
"""

from __future__ import annotations

import os
import pwd
import ssl
from pathlib import Path

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 are all of this kind."""


def client_context(ca_file: str = "", cert_file: str = "", key_file: str = "", crl_file: str = "") -> ssl.SSLContext:
    """A client's context; names may be paths or systemd credentials, an empty ca_file means the system's authorities.

    Raises OSError (ssl.SSLError among them) where a file cannot be used; one that cannot be read is named.
    """
    context = ssl.create_default_context(cafile=str(readable(ca_file)) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    if cert_file:
        context.load_cert_chain(readable(cert_file), readable(key_file))
    if crl_file:
        context.load_verify_locations(cafile=str(readable(crl_file)))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def credential(name: str) -> Path:
    """The file behind a path, or behind the bare name of a systemd credential ($CREDENTIALS_DIRECTORY)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and "/" not in name and (Path(directory) / name).exists():
        return Path(directory) / name
    return Path(name)


def readable(name: str) -> Path:
    """The same, looked at: ssl does not say which of its files it could not read.

    Raises OSError whose text names the file and says what is allowed.
    """
    path = credential(name)
    try:
        path.open("rb").close()
    except OSError as error:
        why = error.strerror or type(error).__name__
        if path.name == name:
            hint = f"no systemd credential has this name either: LoadCredential={name}:/path, or write a path with a /"
        else:
            hint = f"{_user()} must be able to read it"
        raise OSError(f"{path}: {why}; {hint}") from None
    return path


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def reason(error: ssl.SSLError) -> str:
    """Why a handshake failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
