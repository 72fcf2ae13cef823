"""The border of the session stream: a sidecar's frame is checked whole before any of it counts.

A frame that breaks a rule ends its stream and moves nothing. A hostile sidecar with a valid
credential is held here to its own sessions, to bounded numbers and to bounded sizes.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import lt
from typing import Final

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.exchange import MOST_CONVERSION_TEXT
from bursar.v1 import allowances_pb2, charges_pb2
from bursar_server.allowances.proofs import MOST_BYTES
from bursar_server.errors import invalid
from bursar_server.ledger.entries import Kind, Settlement

MOST_NANOS: Final = 10**18
"""A thousand million units of a currency: more than any budget, so a larger amount is nonsense."""
MOST_LLM_TOKENS: Final = 10**12
MOST_COUNT: Final = 2**62
MOST_N: Final = 10**12
"""Reservations of one session: a thousand each second for thirty years. A number beyond it would
keep the session, and what it holds, from ever being closed."""
MOST_TEXT: Final = 256
"""Characters of a name that a caller chooses (customer, tag): they are indexed and shown."""
MOST_TAGS: Final = 64
MOST_FURTHER_METERS: Final = 64
MOST_WINDOWS_OF_A_CALL: Final = 64
MOST_USAGE: Final = 4096
MOST_NEEDS: Final = 1024
MOST_SETTLEMENTS: Final = 4096
MOST_RESOLVE_KEYS: Final = 1024
MOST_CLOSES: Final = 64
HASH_BYTES: Final = 32
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_SECOND: Final = -62_135_596_800
LAST_SECOND: Final = 253_402_300_799
"""Of the years 1 to 9999, since 1970: what a Timestamp holds, and a datetime."""
NANOS_PER_SECOND: Final = 1_000_000_000

_CURRENCY: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_EXCHANGE_RATE: Final = re.compile(r"[0-9]+(\.[0-9]+)?(/[0-9]+(\.[0-9]+)?)?", re.ASCII)

_KINDS: Final[Mapping[int, Kind]] = {
    charges_pb2.SETTLEMENT_KIND_FINAL: Kind.FINAL,
    charges_pb2.SETTLEMENT_KIND_PROVISIONAL: Kind.PROVISIONAL,
    charges_pb2.SETTLEMENT_KIND_RELEASED: Kind.RELEASED,
}


class Report(msgspec.Struct, frozen=True, gc=False):
    """How one allowance stands in the sidecar; amounts in nanos."""

    window_id: int
    granted_seen: int
    returned: int
    free: int
    want: int
    idle_ms: int
    proof: bytes = b""
    """Of what was granted; unread."""
    reserved: int = 0
    largest_call: int = 0


class NeedLine(msgspec.Struct, frozen=True, gc=False):
    """One budget a waiting call draws on; amounts in nanos."""

    budget_id: int
    amount: int
    least: int
    want: int
    window_id: int = 0
    """For growth, the window of the call's admission."""


class NeedRequest(msgspec.Struct, frozen=True, gc=False):
    """One call that waits."""

    need_id: int
    lines: tuple[NeedLine, ...]
    wait_ms: int
    growth: bool = False
    """An open call whose reservation is to grow."""


class Close(msgspec.Struct, frozen=True, gc=False):
    """A session that opens no more reservations."""

    session_epoch: int
    last_n: int


class Frame(msgspec.Struct, frozen=True):
    """A frame that passed the border."""

    session_epoch: int
    seq: int
    reports: tuple[Report, ...]
    needs: tuple[NeedRequest, ...]
    withdrawn: frozenset[int]
    settlements: tuple[Settlement, ...]
    resolve: tuple[bytes, ...]
    policy_ack: tuple[int, int] | None
    """(policy version in force, highest n admitted under an older one)."""
    closes: tuple[Close, ...]
    raw: bytes


def check_frame(
    message: allowances_pb2.SidecarFrame, organization_id: int, own_epochs: Collection[int]
) -> Frame:
    """The frame of a session of `organization_id`; `own_epochs` are those it may settle for.

    Raises BursarError (INVALID_ARGUMENT) naming the field.
    """
    _most("usage", message.usage, MOST_USAGE)
    _most("needs", message.needs, MOST_NEEDS)
    _most("settlements", message.settlements, MOST_SETTLEMENTS)
    _most("resolve_keys", message.resolve_keys, MOST_RESOLVE_KEYS)
    _most("close_sessions", message.close_sessions, MOST_CLOSES)
    _most("withdrawn_need_ids", message.withdrawn_need_ids, MOST_USAGE)
    if message.HasField("hello"):
        raise invalid("hello", "set", "a Hello only in the first frame")
    return Frame(
        session_epoch=message.session_epoch,
        seq=message.seq,
        reports=tuple([_report(u, i) for i, u in enumerate(message.usage)]),
        needs=tuple(_need(n, f"needs[{i}]") for i, n in enumerate(message.needs)),
        withdrawn=frozenset(message.withdrawn_need_ids),
        settlements=tuple(
            _settlement(s, f"settlements[{i}]", organization_id, own_epochs)
            for i, s in enumerate(message.settlements)
        ),
        resolve=tuple(
            _hash(r.key_hash, f"resolve_keys[{i}].key_hash")
            for i, r in enumerate(message.resolve_keys)
        ),
        policy_ack=_policy_ack(message),
        closes=tuple(
            _close(c, f"close_sessions[{i}]", own_epochs)
            for i, c in enumerate(message.close_sessions)
        ),
        raw=message.SerializeToString(),
    )


def _policy_ack(message: allowances_pb2.SidecarFrame) -> tuple[int, int] | None:
    if not message.HasField("policy_ack"):
        return None
    ack = message.policy_ack
    if not 0 <= ack.last_n_under_older <= MOST_COUNT:
        raise invalid("policy_ack.last_n_under_older", ack.last_n_under_older, f"0 to {MOST_COUNT}")
    version = _count(ack.policy_version, "policy_ack.policy_version")
    return version, ack.last_n_under_older


def _report(message: allowances_pb2.AllowanceUsage, number: int) -> Report:
    window_id, proof = message.budget_window_id, message.grant_proof
    granted_seen, returned = message.granted_seen_nanos, message.returned_nanos
    free, want = message.free_nanos, message.want_nanos
    reserved, largest_call = message.reserved_nanos, message.largest_call_nanos
    amounts = (granted_seen, returned, want, reserved, largest_call)
    is_sound = min(amounts) >= 0 and max(*amounts, abs(free)) <= MOST_NANOS
    if not (is_sound and 1 <= window_id <= MOST_COUNT and len(proof) <= MOST_BYTES):
        # On the path of every frame: names of fields are put together only here.
        field = f"usage[{number}]"
        _count(window_id, f"{field}.budget_window_id")
        _nanos(granted_seen, f"{field}.granted_seen_nanos")
        _nanos(returned, f"{field}.returned_nanos")
        _signed_nanos(free, f"{field}.free_nanos")
        _nanos(want, f"{field}.want_nanos")
        _proof(proof, f"{field}.grant_proof")
        _nanos(reserved, f"{field}.reserved_nanos")
        _nanos(largest_call, f"{field}.largest_call_nanos")
    return Report(
        window_id=window_id,
        granted_seen=granted_seen,
        returned=returned,
        # Free may be below zero after an overrun: nothing is free then.
        free=max(0, free),
        want=want,
        idle_ms=max(0, message.idle_ms),
        proof=proof,
        reserved=reserved,
        largest_call=largest_call,
    )


def _need(message: allowances_pb2.Need, field: str) -> NeedRequest:
    _most(f"{field}.lines", message.lines, MOST_WINDOWS_OF_A_CALL)
    if not message.lines:
        raise invalid(f"{field}.lines", "empty", "at least one budget")
    lines = tuple(
        NeedLine(
            budget_id=_count(line.budget_id, f"{field}.lines[{i}].budget_id"),
            amount=_nanos(line.amount_nanos, f"{field}.lines[{i}].amount_nanos"),
            least=_nanos(line.least_nanos, f"{field}.lines[{i}].least_nanos"),
            want=_nanos(line.want_nanos, f"{field}.lines[{i}].want_nanos"),
            window_id=_growing(line, message.growth, f"{field}.lines[{i}].budget_window_id"),
        )
        for i, line in enumerate(message.lines)
    )
    if len({line.budget_id for line in lines}) != len(lines):
        raise invalid(f"{field}.lines", "a budget twice", "each budget once")
    need_id = _count(message.need_id, f"{field}.need_id")
    return NeedRequest(need_id, lines, max(0, message.wait_ms), message.growth)


def _growing(line: allowances_pb2.NeedLine, growth: bool, field: str) -> int:
    if growth:
        return _count(line.budget_window_id, field)
    if line.budget_window_id:
        raise invalid(field, line.budget_window_id, "0: only growth names its window")
    return 0


def _close(message: allowances_pb2.CloseSession, field: str, own_epochs: Collection[int]) -> Close:
    epoch = _own_epoch(message.session_epoch, f"{field}.session_epoch", own_epochs)
    if not 0 <= message.last_n <= MOST_N:
        raise invalid(f"{field}.last_n", message.last_n, f"0 to {MOST_N}")
    return Close(epoch, message.last_n)


def _settlement(
    message: charges_pb2.Settlement,
    field: str,
    organization_id: int,
    own_epochs: Collection[int],
) -> Settlement:
    # On the path of every call: names of fields are put together only where one is refused.
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise invalid(f"{field}.kind", message.kind, "final, provisional or released")
    if message.k != 0:
        raise invalid(f"{field}.k", message.k, "0: adjustments are numbered when posted")
    windows = tuple(message.budget_window_ids)
    if len(windows) > MOST_WINDOWS_OF_A_CALL:
        _most(f"{field}.budget_window_ids", windows, MOST_WINDOWS_OF_A_CALL)
    if windows and (windows[0] < 1 or not all(map(lt, windows, windows[1:]))):
        raise invalid(f"{field}.budget_window_ids", list(windows), "ascending ids, each once")
    epoch, n, reserved, cost = (
        message.session_epoch,
        message.n,
        message.reserved_nanos,
        message.cost_nanos,
    )
    if not (0 <= reserved <= MOST_NANOS and 0 <= cost <= MOST_NANOS):
        _nanos(cost, f"{field}.cost_nanos")
        _nanos(reserved, f"{field}.reserved_nanos")
    if kind is Kind.RELEASED and cost:
        raise invalid(f"{field}.cost_nanos", cost, "0 for a released reservation")
    if epoch not in own_epochs or not 1 <= n <= MOST_N:
        _own_epoch(epoch, f"{field}.session_epoch", own_epochs)
        _number(n, f"{field}.n")
    if not 0 <= message.http_status <= 999:
        raise invalid(f"{field}.http_status", message.http_status, "0 to 999")
    key_id = message.key_id
    return Settlement(
        organization_id,
        epoch,
        n,
        kind,
        windows,
        reserved,
        cost,
        key_id if 0 <= key_id <= MOST_COUNT else 0,
        _text(message.customer),
        _text(message.app),
        _text(message.run),
        _tags(message.tags, field),
        _text(message.provider),
        _text(message.model),
        _text(message.requested_model),
        _text(message.price_version),
        *_usage(message.usage, field),
        _text(message.provider_request_id),
        message.http_status,
        message.stream,
        _time(message.admit_time, field, "admit_time"),
        _time(message.finish_time, field, "finish_time"),
        _text(message.service_tier),
        _text(message.region),
        _text(message.priced_as),
        *_exchange(message, field),
    )


_Usage = tuple[int, int, int, int, int, int, dict[str, int], str]


def _usage(usage: charges_pb2.Usage, field: str) -> _Usage:
    """In the order of Settlement's fields."""
    counts = (
        usage.input_llm_tokens,
        usage.cached_input_llm_tokens,
        usage.cache_write_5m_llm_tokens,
        usage.cache_write_1h_llm_tokens,
        usage.output_llm_tokens,
        usage.reasoning_llm_tokens,
    )
    if min(counts) < 0 or max(counts) > MOST_LLM_TOKENS:
        for name, count in zip(_COUNTS, counts, strict=True):
            _llm_tokens(count, f"{field}.usage.{name}")
    further: dict[str, int] = {}
    if usage.further:
        _most(f"{field}.usage.further", usage.further, MOST_FURTHER_METERS)
        for meter, count in usage.further.items():
            further[_text(meter)] = _llm_tokens(count, f"{field}.usage.further[{meter!r}]")
    return *counts, further, _text(usage.estimate_reason)


_COUNTS: Final = (
    "input",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
)


def _tags(tags: Sequence[str], field: str) -> tuple[str, ...]:
    if not tags:
        return ()
    _most(f"{field}.tags", tags, MOST_TAGS)
    return tuple(dict.fromkeys(map(_text, tags)))


def _exchange(message: charges_pb2.Settlement, field: str) -> tuple[str, str]:
    """The price's currency and its exchange rate: both or none. Only their form is checked: a
    younger sidecar may know of currencies that did not exist when this program was made."""
    currency, rate = message.price_currency, message.exchange_rate
    if currency or rate:
        if not _CURRENCY.fullmatch(currency):
            raise invalid(f"{field}.price_currency", currency, 'a code such as "EUR"')
        if len(rate) > MOST_CONVERSION_TEXT or not _EXCHANGE_RATE.fullmatch(rate):
            raise invalid(f"{field}.exchange_rate", rate, 'a rate such as "0.92" or "1/1.0842"')
    return currency, rate


def _proof(value: bytes, field: str) -> bytes:
    if len(value) > MOST_BYTES:
        raise invalid(field, f"{len(value)} bytes", f"at most {MOST_BYTES}")
    return value


def _own_epoch(epoch: int, field: str, own_epochs: Collection[int]) -> int:
    if epoch not in own_epochs:
        raise invalid(field, epoch, "a session of this sidecar and organization")
    return epoch


def _most(field: str, values: Collection[object], most: int) -> None:
    if len(values) > most:
        raise invalid(field, f"{len(values)} values", f"at most {most}")


def _count(value: int, field: str) -> int:
    if not 1 <= value <= MOST_COUNT:
        raise invalid(field, value, f"1 to {MOST_COUNT}")
    return value


def _number(value: int, field: str) -> int:
    if not 1 <= value <= MOST_N:
        raise invalid(field, value, f"1 to {MOST_N}")
    return value


def _nanos(value: int, field: str) -> int:
    if not 0 <= value <= MOST_NANOS:
        raise invalid(field, value, f"0 to {MOST_NANOS} nanos")
    return value


def _signed_nanos(value: int, field: str) -> int:
    if abs(value) > MOST_NANOS:
        raise invalid(field, value, f"{-MOST_NANOS} to {MOST_NANOS} nanos")
    return value


def _llm_tokens(value: int, field: str) -> int:
    if not 0 <= value <= MOST_LLM_TOKENS:
        raise invalid(field, value, f"0 to {MOST_LLM_TOKENS}")
    return value


def _text(value: str) -> str:
    """Names a caller chose. A fact is never refused for them: they are cut, and made storable."""
    return value[:MOST_TEXT].replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _hash(value: bytes, field: str) -> bytes:
    if len(value) != HASH_BYTES:
        raise invalid(field, f"{len(value)} bytes", f"a SHA-256 of {HASH_BYTES} bytes")
    return value


def _time(value: Timestamp, field: str, name: str) -> datetime:
    seconds, nanos = value.seconds, value.nanos
    if not (FIRST_SECOND <= seconds <= LAST_SECOND and 0 <= nanos < NANOS_PER_SECOND):
        raise invalid(f"{field}.{name}", f"{seconds}.{nanos:09}", "a time from year 1 to 9999")
    return EPOCH + timedelta(0, seconds, nanos // 1_000)
