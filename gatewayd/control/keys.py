"""Operators' keys: Ed25519 signatures over `topic ‖ payload`.

The last level of a request's topic is one of a few words, none the beginning of another, and a payload begins with a
brace, so that the two put together can be read in one way only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_OCTETS = 32


class KeyFileError(Exception):
    """A key file cannot be used; the text says what was found and what is allowed."""


def public_key(text: str) -> bytes:
    """A public key as it stands in the rights file: 32 octets in base64. Raises ValueError."""
    allowed = f"{PUBLIC_OCTETS} octets in base64 are allowed, as `gatewayd keys new` prints them"
    try:
        public = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        # Not shown: it could be a private key that was put here by mistake.
        raise ValueError(f"found {len(text)} characters that are not base64; {allowed}") from None
    if len(public) != PUBLIC_OCTETS:
        raise ValueError(f"found {len(public)} octets; {allowed}")
    return public


def key_id(public: bytes) -> str:
    """What the user property `key` says: the first 16 hexadecimal digits of the key's SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def verified(public: bytes, topic: str, payload: bytes, signature: str) -> bool:
    """Whether a signature (base64) over `topic ‖ payload` was made with the key."""
    try:
        octets = base64.b64decode(signature, validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(octets, topic.encode() + payload)
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


class SigningKey:
    """An operator's private key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self.id = key_id(self.public)

    @classmethod
    def new(cls) -> SigningKey:
        """A fresh one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """From a PEM file (PKCS #8, not encrypted). Raises KeyFileError."""
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise KeyFileError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path} is no private key in PEM: {error}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError(f"{path} has a key of another kind; Ed25519 is allowed, see `gatewayd keys new`")
        return cls(private)

    def pem(self) -> bytes:
        """For the file: PKCS #8, not encrypted; to be kept with mode 0600."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, topic: str, payload: bytes) -> str:
        """The user property `sig`: the signature over `topic ‖ payload`, in base64."""
        return base64.b64encode(self._private.sign(topic.encode() + payload)).decode()
