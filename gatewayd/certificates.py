"""Certificates and keys named in the configuration: what they say, and what is wrong with them. Reads files only.

Used by `gatewayd certs`, by `check` (rights of key files) and by the daemon, which warns 60, 30 and 7 days before the
end. A certificate that has ended is the peer's reason to refuse us; running connections stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from gatewayd.config_tables import exposed

WARN_DAYS = (60, 30, 7)
NOT_UNDERSTOOD = (
    ValueError, TypeError, UnsupportedAlgorithm,
    x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What reading a file that is no certificate, or a damaged one, may raise."""


class Named(NamedTuple):
    """A file as the configuration names it. use: `ca`, `cert`, `key` or `crl`; of: `mqtt` or a device's name."""

    of: str
    use: str
    path: Path


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One certificate, key or list, and what is wrong with it ("" nothing).

    days: until its end, negative afterwards; None where it has none
    """

    of: str
    use: str
    file: str
    subject: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()
    not_before: str = ""
    not_after: str = ""
    days: int | None = None
    trouble: str = ""


def examine(named: Iterable[Named], now: datetime | None = None) -> list[Finding]:
    """Every file, in order; several certificates of one file are several findings. Never raises."""
    now = now or datetime.now(UTC)
    found: list[Finding] = []
    files = list(named)
    for one in files:
        found += _one(one, now)
    for key in files:
        if key.use == "key":
            certificate = next((other for other in files if (other.of, other.use) == (key.of, "cert")), None)
            if certificate is not None and (trouble := _fits(certificate.path, key.path)):
                found.append(Finding(of=key.of, use="key", file=str(key.path), trouble=trouble))
    return found


def _one(named: Named, now: datetime) -> list[Finding]:
    plain = Finding(of=named.of, use=named.use, file=str(named.path))
    replace = msgspec.structs.replace
    try:
        data = named.path.read_bytes()
    except OSError as error:
        return [replace(plain, trouble=f"cannot be read: {error.strerror or error}")]
    try:
        if named.use == "key":
            _load_key(data)
            return [replace(plain, trouble=exposed(named.path))]
        if named.use == "crl":
            return [_revocations(plain, data, now)]
        certificates = x509.load_pem_x509_certificates(data)
        # parsed only as far as it is asked for: a name or an extension may still be no such thing
        return [_certificate(plain, certificate, now, first=at == 0) for at, certificate in enumerate(certificates)]
    except NOT_UNDERSTOOD as error:
        return [replace(plain, trouble=f"not understood: {str(error).partition('. See http')[0]}")]


def _load_key(data: bytes) -> PrivateKeyTypes:
    return serialization.load_pem_private_key(data, None)


def _certificate(plain: Finding, certificate: x509.Certificate, now: datetime, *, first: bool) -> Finding:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (ends - now).days
    trouble = ""
    if now < begins:
        trouble = f"not valid before {_time(begins)}: is the clock of this machine right?"
    elif now >= ends:
        trouble = f"ended on {_time(ends)}"
    elif days < WARN_DAYS[0]:
        trouble = f"ends in {days} days, on {_time(ends)}"
    elif plain.use == "cert" and first and not _for_clients(certificate):
        trouble = "is not meant for clients (extended key usage without clientAuth)"
    elif plain.use == "ca" and not _is_ca(certificate):
        trouble = "is not a certificate of an authority (basic constraints without CA)"
    return msgspec.structs.replace(
        plain,
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=_names(certificate),
        not_before=_time(begins),
        not_after=_time(ends),
        days=days,
        trouble=trouble,
    )


def _revocations(plain: Finding, data: bytes, now: datetime) -> Finding:
    listed = x509.load_pem_x509_crl(data)
    ends = listed.next_update_utc
    trouble = ""
    if ends is not None and now >= ends:
        trouble = (
            f"the list is old, the next one was due on {_time(ends)}: every connection is refused until it is here"
        )
    return msgspec.structs.replace(
        plain,
        issuer=listed.issuer.rfc4514_string(),
        not_before=_time(listed.last_update_utc),
        not_after=_time(ends) if ends else "",
        days=(ends - now).days if ends else None,
        trouble=trouble,
    )


def _for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.issuer == certificate.subject  # a peer's own certificate, pinned


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _fits(certificate: Path, key: Path) -> str:
    """What is wrong between a certificate and the key named with it; "" where they fit or cannot be read."""
    try:
        public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
        own = _load_key(key.read_bytes()).public_key()
    except (OSError, *NOT_UNDERSTOOD):
        return ""
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return "" if public.public_bytes(*form) == own.public_bytes(*form) else f"does not belong to {certificate}"


def due(findings: Iterable[Finding], warned: dict[str, int]) -> list[Finding]:
    """Those of which to warn now: each once at 60, 30 and 7 days, and once when it has ended. Updates `warned`."""
    now: list[Finding] = []
    for one in findings:
        if one.days is None:
            continue
        step = sum(one.days < limit for limit in WARN_DAYS) + (one.days < 0)
        key = f"{one.of} {one.file} {one.subject}"
        if step > warned.get(key, 0):
            now.append(one)
        warned[key] = step
    return now


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
