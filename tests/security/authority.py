"""Certificates that are wrong in one way each, for every protocol that speaks TLS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Makes certificates that are wrong in one way each."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self.name, self.key.public_key(), 30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.revoked: list[int] = []

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: int,
        begins: int = -10,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=days))
        )

    def issue(
        self,
        file: str,
        host: str = "localhost",
        *,
        days: int = 30,
        begins: int = -10,
        usage: x509.ObjectIdentifier | None = None,
        itself: bool = False,
    ) -> None:
        """`file`.pem and `file`.key; days and begins count from now; itself: signed by its own key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file)])
        builder = self._builder(subject, key.public_key(), days, begins, subject if itself else None)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(key if itself else self.key, hashes.SHA256())
        (self.folder / f"{file}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.folder / f"{file}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        if file == "revoked":
            self.revoked.append(certificate.serial_number)

    def revocations(self, *, old: bool = False) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - timedelta(days=2))
            .next_update(now - timedelta(days=1) if old else now + timedelta(days=1))
        )
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - timedelta(days=2))
            builder = builder.add_revoked_certificate(entry.build())
        made = builder.sign(self.key, hashes.SHA256())
        (self.folder / ("old.crl" if old else "ca.crl")).write_bytes(made.public_bytes(serialization.Encoding.PEM))


def every_kind(folder: Path, strangers: Path) -> Authority:
    """One authority, with a good certificate for localhost and one that is wrong in each way there is."""
    made = Authority(folder)
    for file in ("good", "revoked", "gateway", "renewed"):
        made.issue(file)
    made.issue("wrong-name", "elsewhere")
    made.issue("ended", days=-5)
    made.issue("not-yet", begins=5)
    made.issue("self-signed", itself=True)
    made.issue("for-clients", usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    made.revocations()
    made.revocations(old=True)
    stranger = Authority(strangers, "stranger")
    stranger.issue("good")
    for end in ("pem", "key"):
        (folder / f"stranger.{end}").write_bytes((strangers / f"good.{end}").read_bytes())
    return made
