"""`gatewayd certs new-lab`: an authority and certificates to try TLS with. For the lab: the keys lie in plain files."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 365


def make(folder: Path, names: Iterable[str], *, now: datetime | None = None) -> list[Path]:
    """Write ca.pem, ca-key.pem, an empty ca-crl.pem, and for each name NAME.pem and NAME-key.pem; returns the paths.

    A name is a host name or an IP address, and stands in its certificate as such; each certificate serves as client
    and as server. Raises FileExistsError rather than overwrite anything; OSError where it cannot write.
    """
    begin = (now or datetime.now(UTC)) - timedelta(minutes=5)
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gatewayd lab authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key(), begin)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    revocations = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority_name)
        .last_update(begin)
        .next_update(begin + timedelta(days=DAYS))
        .sign(authority_key, hashes.SHA256())
    )
    written = [
        _write(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM), 0o644),
        _write(folder / "ca-key.pem", _key(authority_key), 0o600),
        _write(folder / "ca-crl.pem", revocations.public_bytes(serialization.Encoding.PEM), 0o644),
    ]
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            _builder(subject, authority_name, key.public_key(), begin)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_san(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        written.append(_write(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644))
        written.append(_write(folder / f"{name}-key.pem", _key(key), 0o600))
    return written


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=DAYS))
    )


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> Path:
    path.touch(mode=mode, exist_ok=False)
    path.write_bytes(data)
    return path
