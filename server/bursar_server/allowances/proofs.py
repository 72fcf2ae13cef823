"""What a sidecar can prove to a control plane whose database forgot it. Pure.

Every session and every grant is told with a proof: the words themselves, sealed with a key that the
shard keeps in its row. A database that went back to an older state still has the key, so what it
forgot can be believed: nobody else can make a proof, and none fits another session.
"""

import hmac
from datetime import datetime
from typing import Final

import msgspec

MAC_BYTES: Final = 16
"""Of HMAC-SHA-256: nobody guesses 128 bits over a stream that ends at the first wrong frame."""
MOST_BYTES: Final = 512
"""More than any proof has: a boot id of 64 characters and a dozen numbers."""


class SessionProof(msgspec.Struct, frozen=True, array_like=True, tag="session"):
    """A session was opened for this life of this sidecar."""

    organization_id: int
    session_epoch: int
    sidecar_organization_id: int
    sidecar_id: int
    boot_id: str


class GrantProof(msgspec.Struct, frozen=True, array_like=True, tag="grant"):
    """So much was granted to a session of a window, in nanos, in all."""

    organization_id: int
    session_epoch: int
    boot_id: str
    window_id: int
    budget_id: int
    start_at: datetime
    end_at: datetime | None
    granted: int


Proof = SessionProof | GrantProof

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Proof] = msgspec.msgpack.Decoder(Proof)


class Seal:
    """Makes proofs, and reads those that it made."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, proof: Proof) -> bytes:
        """The proof as it travels."""
        words = _encoder.encode(proof)
        return self._mac(words) + words

    def read(self, sealed: bytes) -> Proof | None:
        """What is proven; None for anything that was not made with this key."""
        mac, words = sealed[:MAC_BYTES], sealed[MAC_BYTES:]
        if not words or not hmac.compare_digest(mac, self._mac(words)):
            return None
        try:
            return _decoder.decode(words)
        except msgspec.DecodeError:
            return None  # made by a build that said something else

    def _mac(self, words: bytes) -> bytes:
        return hmac.digest(self._key, words, "sha256")[:MAC_BYTES]
