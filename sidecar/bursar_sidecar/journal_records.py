"""The records of the journal, and their framing on disk.

A record on disk is: length of the payload (4 bytes, little endian), CRC-32 of the payload (4
bytes), payload (MessagePack: an array that starts with the record's kind). `docs/journal.md`
describes the format for people.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

FORMAT_VERSION: Final = 1
FRAME: Final = struct.Struct("<II")
# No record is near this (a settlement has at most 64 tags of 256 characters): a length beyond it
# is not a record but damage.
MAX_RECORD_BYTES: Final = 1 << 20


class SessionRow(msgspec.Struct, array_like=True):
    """A session as a segment's header knows it. `journal`: "live", "complete" or "truncated"."""

    epoch: int
    organization_id: int
    platform: bool
    last_n: int
    journal: str
    proof: bytes = b""
    """What the control plane gave to prove it."""


class Header(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first record of every segment: all that earlier segments would have told."""

    format_version: int
    place: str
    """The boot of the machine and the directory it was written in; "" if not known."""
    sessions: tuple[SessionRow, ...]


class SessionOpened(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A session began. Written before the first reservation in it."""

    epoch: int
    organization_id: int
    platform: bool
    proof: bytes = b""


class OpenPart(msgspec.Struct, frozen=True, array_like=True):
    """An open call's number and budget windows in one session."""

    epoch: int
    n: int
    window_ids: tuple[int, ...]


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A call that may go upstream from now on: all that is needed to post it without its end."""

    parts: tuple[OpenPart, ...]
    reserved_nanos: int
    key_id: int
    provider: str
    model: str
    requested_model: str
    price_version: str
    customer: str
    app: str
    run: str
    tags: tuple[str, ...]
    stream: bool
    admitted_at: int
    """Wall clock, nanoseconds."""
    price_currency: str = ""
    """Where it is not the organization's; "" in records of older sidecars."""
    exchange_rate: str = ""
    """With it: what the reservation was converted by."""
    request_id: str = ""
    """The app's name of a reservation that was handed out to it, or ours of a call that Envoy's log
    tells of (`envoy.origins`); "" of a call that is proxied."""


class Settled(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """How a call ended: the Settlement message of one session, as it travels."""

    epoch: int
    n: int
    settlement: bytes


class Acknowledged(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Settlements that the control plane has committed."""

    epoch: int
    numbers: tuple[int, ...]


class SessionClosed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The control plane has closed a session: nothing of it is owed any more."""

    epoch: int


class CleanEnd(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The last record of an orderly shutdown, synced: nothing can be missing before it."""


class Grown(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """More is reserved for an open call. Written before what it covers may flow."""

    parts: tuple[tuple[int, int], ...]
    """(session epoch, n) of the call in each of its sessions: all of them grow, or none."""
    reserved_nanos: int
    """All that is reserved now. It only grows, so that the largest one counts."""


Record = Header | SessionOpened | Opened | Settled | Acknowledged | SessionClosed | CleanEnd | Grown

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The record as it stands on disk."""
    payload = _encoder.encode(record)
    return FRAME.pack(len(payload), zlib.crc32(payload)) + payload


class Scan:
    """Reads the records of one segment; afterwards `damage` says how the reading ended.

    "" : every byte was a record. "torn": the last record is cut short, as an interrupted write
    leaves it. "corrupt": a whole record has the wrong sum or no meaning.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.damage = ""
        self.good_bytes = 0

    def __iter__(self) -> Iterator[tuple[Record, bytes]]:
        data, at = self._data, 0
        view = memoryview(data)
        while at < len(data):
            if at + FRAME.size > len(data):
                self.damage = "torn"
                return
            length, crc = FRAME.unpack_from(data, at)
            end = at + FRAME.size + length
            if length > MAX_RECORD_BYTES:
                self.damage = "corrupt"
                return
            if end > len(data):
                self.damage = "torn"
                return
            payload = view[at + FRAME.size : end]
            if zlib.crc32(payload) != crc:
                self.damage = "corrupt"
                return
            try:
                record = _decoder.decode(payload)
            except msgspec.DecodeError:
                self.damage = "corrupt"
                return
            self.good_bytes = end
            yield record, bytes(view[at:end])
            at = end
