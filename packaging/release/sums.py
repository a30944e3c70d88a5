"""Checksums of what is released, and the builder's signature over them."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path

from release.errors import BuildError
from release.run import run

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"


def write_sums(paths: Sequence[Path], out: Path) -> Path:
    """A file for `sha256sum -c`, sorted by name."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]
    target = out / SUMS
    target.write_text("".join(sorted(lines, key=lambda line: line.split("  ")[1])))
    return target


def sign(sums: Path, key: Path) -> tuple[Path, str]:
    """Sign with an Ed25519 key (PEM) and verify it at once; the signature's file and the key's fingerprint.

    The fingerprint is the SHA-256 of the public key in DER form: what is given to customers by another way.
    Raises BuildError where the key is of another kind or others can read it.
    """
    check_key(key)
    signature = sums.parent / SIGNATURE
    run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", sums, "-out", signature])
    public = sums.parent / ".public.der"
    try:
        run(["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER", "-out", public])
        verify(sums, signature, public)
        return signature, hashlib.sha256(public.read_bytes()).hexdigest()
    finally:
        public.unlink(missing_ok=True)


def check_key(key: Path) -> None:
    """Raises BuildError where a signing key is missing, of another kind, or readable for others."""
    if not key.is_file():
        raise BuildError(f"the signing key {key} is not there; make one: openssl genpkey -algorithm ed25519 -out {key}")
    if key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BuildError(f"the signing key {key} can be read by others; allowed is mode 0600: chmod 600 {key}")
    kind = run(["openssl", "pkey", "-in", key, "-noout", "-text"]).split("\n", 1)[0]
    if "ED25519" not in kind.upper():
        raise BuildError(f"the signing key {key} is {kind.rstrip(':')}; Ed25519 is needed")


def verify(sums: Path, signature: Path, public: Path) -> None:
    """Raises BuildError where the signature is not of this key over these sums."""
    run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-in", sums, "-sigfile", signature])
