"""Secrets that the control plane makes and checks: of apps (bk-), sidecars (bs-), admins (ba-).

A secret is shown once and kept as its SHA-256 alone. It carries 256 random bits, so that a plain
hash protects it as well as a slow one would: there is nothing to guess.
"""

import hashlib
import hmac
import secrets
from typing import Literal

import msgspec

# 32 bytes are 43 characters in base64 without padding.
RANDOM_BYTES = 32
# Three characters that say what it is, and four to tell it from others: 24 of 256 bits.
CHARACTERS_OF_A_PREFIX = 7

Kind = Literal["bk", "bs", "ba"]


class Credential(msgspec.Struct, frozen=True):
    """A secret just made. Its repr does not tell it."""

    secret: str
    """The whole of it, for its owner alone."""
    hash: bytes
    """What is kept: 32 bytes."""
    prefix: str
    """What people may see, to tell secrets apart."""

    def __repr__(self) -> str:
        return f"Credential({self.prefix}...)"


def secret_hash(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def credential_of(secret: str) -> Credential:
    """The parts of a secret that exists."""
    return Credential(secret, secret_hash(secret), secret[:CHARACTERS_OF_A_PREFIX])


def new_credential(kind: Kind) -> Credential:
    """A new secret, from the system's own source of randomness."""
    return credential_of(f"{kind}-{secrets.token_urlsafe(RANDOM_BYTES)}")


def same_hash(one: bytes, other: bytes) -> bool:
    """Whether two hashes are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)
