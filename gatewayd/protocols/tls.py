"""TLS towards field devices: the one policy of `gatewayd.tls`, from a device's `tls` table."""

from __future__ import annotations

import ssl

from gatewayd import tls as policy
from gatewayd.protocols.device import Tls


def client_context(tls: Tls) -> ssl.SSLContext:
    """A client's context. Raises OSError (ssl.SSLError among them) where a file cannot be used."""
    return policy.client_context(tls.ca_file, tls.cert_file, tls.key_file, tls.crl_file)


def server_name(tls: Tls, host: str) -> str:
    """The name that must stand in the device's certificate."""
    return tls.server_name or host


def reason(error: ssl.SSLError) -> str:
    """Why a session was not made or ended, in words for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the device's certificate is not accepted: {error.verify_message or error}"
    return (error.reason or str(error)).lower().replace("_", " ")
