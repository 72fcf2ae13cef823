"""The Settlement message, written as bytes by hand: a tenth of what building the message costs.

What repeats from call to call (the names of a price, the labels of an app) is written once and
kept. The bytes are those that protobuf writes for the same message, which a property test compares.
The format: protobuf.dev/programming-guides/encoding.
"""

from functools import lru_cache
from typing import Final

from bursar.usage import Usage
from bursar.wire import MAX_REASON_TEXT
from bursar_sidecar.clock import NANOS_PER_SECOND

# Spellings kept of each group of names: apps that run at the same time, and their models.
_KEPT: Final = 512
_MAX_INT64: Final = (1 << 63) - 1
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(0x80))
VARINT: Final = 0
BYTES: Final = 2
"""What follows a field's number."""


def varint(value: int) -> bytes:
    """A count. Raises ValueError for what an int64 of zero or more does not hold."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if 0 <= value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if 0 <= value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    if 0 <= value < 0x10000000:
        return bytes(
            (value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21)
        )
    if not 0 <= value <= _MAX_INT64:
        raise ValueError(f"{value} is no count that fits the wire; expected 0..{_MAX_INT64}")
    # Times and dearer calls: at least five bytes.
    written = bytearray(
        (
            value & 0x7F | 0x80,
            value >> 7 & 0x7F | 0x80,
            value >> 14 & 0x7F | 0x80,
            value >> 21 & 0x7F | 0x80,
        )
    )
    value >>= 28
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def tag(field: int, kind: int) -> bytes:
    """What a field begins with."""
    return varint(field << 3 | kind)


_EPOCH: Final = tag(1, VARINT)
_N: Final = tag(2, VARINT)
_KIND: Final = tag(4, VARINT)
_WINDOWS: Final = tag(5, BYTES)
_RESERVED: Final = tag(6, VARINT)
_COST: Final = tag(7, VARINT)
_USAGE: Final = tag(8, BYTES)
_REQUEST_ID: Final = tag(13, BYTES)
_STATUS: Final = tag(14, VARINT)
_STREAM: Final = tag(15, VARINT) + varint(1)
_ADMITTED: Final = tag(21, BYTES)
_FINISHED: Final = tag(22, BYTES)


def head(epoch: int, n: int, kind: int, window_ids: tuple[int, ...]) -> bytes:
    """What differs between the two sessions of a call: fields 1 to 5. Epochs and n are above 0."""
    return b"%b%b%b%b" % (_session(epoch), varint(n), _kind(kind), _windows(window_ids))


def body(
    *,
    reserved_nanos: int,
    cost_nanos: int,
    usage: Usage,
    names: bytes,
    provider_request_id: str,
    http_status: int,
    stream: bool,
    labels: bytes,
    admitted_at: int,
    finished_at: int,
    priced: bytes,
) -> bytes:
    """The rest. `names`, `labels` and `priced` are what `name_fields`, `label_fields` and
    `price_fields` return."""
    parts: list[bytes] = []
    if reserved_nanos:
        parts += (_RESERVED, varint(reserved_nanos))
    if cost_nanos:
        parts += (_COST, varint(cost_nanos))
    used = _usage(usage)
    parts += (_USAGE, varint(len(used)), used, names)
    if provider_request_id:
        parts.append(_text(_REQUEST_ID, provider_request_id))
    if http_status:
        parts += (_STATUS, varint(http_status))
    if stream:
        parts.append(_STREAM)
    parts += (labels, _ADMITTED, _time(admitted_at), _FINISHED, _time(finished_at), priced)
    return b"".join(parts)


@lru_cache(_KEPT)
def name_fields(price_version: str, provider: str, model: str, requested_model: str) -> bytes:
    """Fields 9 to 12."""
    return _texts(9, price_version, provider, model, requested_model)


@lru_cache(_KEPT)
def label_fields(key_id: int, customer: str, app: str, run: str, tags: tuple[str, ...]) -> bytes:
    """Fields 16 to 20: who spent, and how the app calls it."""
    key = tag(16, VARINT) + varint(key_id) if key_id else b""
    each_tag = tag(20, BYTES)
    return key + _texts(17, customer, app, run) + b"".join(_text(each_tag, each) for each in tags)


@lru_cache(_KEPT)
def price_fields(
    price_currency: str, exchange_rate: str, service_tier: str, region: str, priced_as: str
) -> bytes:
    """Fields 23 to 27."""
    return _texts(23, price_currency, exchange_rate, service_tier, region, priced_as)


@lru_cache(64)
def _session(epoch: int) -> bytes:
    return _EPOCH + varint(epoch) + _N


@lru_cache(8)
def _kind(kind: int) -> bytes:
    return _KIND + varint(kind)


@lru_cache(_KEPT)
def _windows(window_ids: tuple[int, ...]) -> bytes:
    packed = b"".join(varint(each) for each in window_ids)
    return _WINDOWS + varint(len(packed)) + packed if packed else b""


@lru_cache(16)
def _seconds(seconds: int) -> bytes:
    return b"\x08" + varint(seconds) if seconds else b""


def _time(wall_ns: int) -> bytes:
    """A google.protobuf.Timestamp, its length before it."""
    seconds, nanos = divmod(wall_ns, NANOS_PER_SECOND)
    stamp = _seconds(seconds) + (b"\x10" + varint(nanos) if nanos else b"")
    return _ONE_BYTE[len(stamp)] + stamp


def _usage(usage: Usage) -> bytes:
    used = b""
    if usage.input:
        used = b"\x08" + varint(usage.input)
    if usage.cached_input:
        used += b"\x10" + varint(usage.cached_input)
    if usage.cache_write_5m:
        used += b"\x18" + varint(usage.cache_write_5m)
    if usage.cache_write_1h:
        used += b"\x20" + varint(usage.cache_write_1h)
    if usage.output:
        used += b"\x28" + varint(usage.output)
    if usage.reasoning:
        used += b"\x30" + varint(usage.reasoning)
    for name, count in usage.extra.items():
        entry = _text(b"\x0a", name) + b"\x10" + varint(count)
        used += b"\x3a" + varint(len(entry)) + entry
    if usage.certainty != "exact":
        used += _text(b"\x42", (usage.estimate_reason or "estimated")[:MAX_REASON_TEXT])
    elif usage.estimate_reason:
        used += _text(b"\x42", usage.estimate_reason[:MAX_REASON_TEXT])
    return used


def _texts(first: int, *texts: str) -> bytes:
    """String fields in a row; empty ones are not written."""
    return b"".join(
        _text(tag(field, BYTES), text) for field, text in enumerate(texts, first) if text
    )


def _text(begin: bytes, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return b"%b%b%b" % (begin, varint(len(data)), data)
