"""Settlements: what closes a reservation, as the message that travels and is kept in the journal.

Everything a caller chose is made storable here (bounded, no lone surrogates, no NUL): a fact is
never refused because of its labels.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from bursar.usage import MAX_COUNT, Usage, estimated
from bursar.v1 import charges_pb2
from bursar_sidecar import settlement_wire
from bursar_sidecar.desk import Call, Outcome
from bursar_sidecar.journal_records import Opened, OpenPart, Settled

# The bounds of the Settlement message.
MAX_TEXT: Final = 256
MAX_TAGS: Final = 64
MAX_NANOS: Final = 10**18
"""A thousand million units of a currency. No call costs that; a larger bound is no bound at all,
and would not fit the wire."""

MAX_HTTP_STATUS: Final = 999
# Spellings of a call's names kept: apps that run at the same time, and their models.
_KEPT: Final = 512

CRASHED: Final = "sidecar_crashed"
"""Estimate reason of a call whose sidecar ended before the call did."""

_FINAL: Final = charges_pb2.SETTLEMENT_KIND_FINAL
_PROVISIONAL: Final = charges_pb2.SETTLEMENT_KIND_PROVISIONAL
_RELEASED: Final = charges_pb2.SETTLEMENT_KIND_RELEASED


def storable(text: str) -> str:
    """The text cut to MAX_TEXT characters, with what no database stores replaced."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT]
    if text.isascii() and text.isprintable():
        return text
    return (
        text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    )


@lru_cache(_KEPT)
def _storable(*texts: str) -> tuple[str, ...]:
    return tuple(map(storable, texts))


@lru_cache(_KEPT)
def _storable_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(storable, tags[:MAX_TAGS]))


def open_record(call: Call, parts: tuple[OpenPart, ...], ceiling_nanos: int) -> Opened:
    """All that is needed to post a call, whatever becomes of it."""
    provider, model, requested_model, price_version = _storable(
        call.provider, call.model, call.requested_model, call.price_version
    )
    customer, app, run = _storable(call.customer, call.app, call.run)
    return Opened(
        parts=parts,
        reserved_nanos=ceiling_nanos,
        key_id=call.spender.key_id,
        provider=provider,
        model=model,
        requested_model=requested_model,
        price_version=price_version,
        customer=customer,
        app=app,
        run=run,
        tags=_storable_tags(call.tags),
        stream=call.stream,
        admitted_at=call.started_at,
        price_currency=call.price_currency,
        exchange_rate=call.exchange_rate,
        request_id=storable(call.request_id),
    )


_KINDS: Final = {"released": _RELEASED, "unknown": _PROVISIONAL}
"""All other endings are final."""


class Closing(NamedTuple):
    """What closes a reservation."""

    cost_nanos: int
    rows: list[Settled]
    """The settlements, one for each session it was reserved in."""


def settled(opened: Opened, outcome: Outcome) -> Closing:
    """How a call ended."""
    usage = outcome.usage
    if outcome.kind == "aborted" and usage.is_exact:
        # What a cut call was billed is not known exactly, whatever was counted until then.
        given = min(usage.input_llm_tokens, MAX_COUNT)
        usage = estimated("aborted", input_llm_tokens=given, output_llm_tokens=usage.output)
    free = outcome.kind in ("released", "provider_error")
    cost_nanos = 0 if free else min(outcome.cost_nanos, MAX_NANOS)
    # Who names no price charges nothing, or what was reserved.
    exchange = outcome if outcome.price_version else opened
    status = outcome.http_status
    body = settlement_wire.body(
        reserved_nanos=opened.reserved_nanos,
        cost_nanos=cost_nanos,
        usage=usage,
        names=_names(opened, outcome.price_version),
        provider_request_id=storable(outcome.provider_request_id),
        http_status=status if 0 <= status <= MAX_HTTP_STATUS else 0,
        stream=opened.stream,
        labels=_labels(opened),
        admitted_at=opened.admitted_at,
        finished_at=outcome.finished_at,
        priced=_priced(
            exchange.price_currency,
            exchange.exchange_rate,
            outcome.service_tier,
            outcome.region,
            outcome.priced_as,
        ),
    )
    return Closing(cost_nanos, _rows(opened, _KINDS.get(outcome.kind, _FINAL), body))


def provisional(opened: Opened, reason: str, finished_at: int) -> Closing:
    """A call whose end is unknown: at what was reserved, until evidence."""
    body = settlement_wire.body(
        reserved_nanos=opened.reserved_nanos,
        cost_nanos=opened.reserved_nanos,
        usage=Usage(certainty="estimated", estimate_reason=reason),
        names=_names(opened, ""),
        provider_request_id="",
        http_status=0,
        stream=opened.stream,
        labels=_labels(opened),
        admitted_at=opened.admitted_at,
        finished_at=finished_at,
        priced=_priced(opened.price_currency, opened.exchange_rate, "", "", ""),
    )
    return Closing(opened.reserved_nanos, _rows(opened, _PROVISIONAL, body))


def _rows(opened: Opened, kind: charges_pb2.SettlementKind.ValueType, body: bytes) -> list[Settled]:
    return [
        Settled(
            part.epoch,
            part.n,
            settlement_wire.head(part.epoch, part.n, kind, part.window_ids) + body,
        )
        for part in opened.parts
    ]


def _names(opened: Opened, price_version: str) -> bytes:
    return settlement_wire.name_fields(
        storable(price_version) or opened.price_version,
        opened.provider,
        opened.model,
        opened.requested_model,
    )


def _labels(opened: Opened) -> bytes:
    return settlement_wire.label_fields(
        opened.key_id, opened.customer, opened.app, opened.run, opened.tags
    )


@lru_cache(_KEPT)
def _priced(
    price_currency: str, exchange_rate: str, service_tier: str, region: str, priced_as: str
) -> bytes:
    return settlement_wire.price_fields(
        price_currency,
        exchange_rate,
        storable(service_tier),
        storable(region),
        storable(priced_as),
    )
