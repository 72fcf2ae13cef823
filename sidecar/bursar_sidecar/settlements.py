"""Settlements: what closes a reservation, as the message that travels and is kept in the journal.

Everything a caller chose is made storable here (bounded, no lone surrogates, no NUL): a fact is
never refused because of its labels.
"""

from collections.abc import Sequence
from typing import Final

from bursar.usage import Usage, estimated
from bursar.v1 import charges_pb2
from bursar.wire import usage_to_proto
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.desk import Call, Outcome
from bursar_sidecar.journal_records import Opened, OpenPart

# The bounds of the Settlement message.
MAX_TEXT: Final = 256
MAX_TAGS: Final = 64
MAX_NANOS: Final = 10**18
"""A thousand million units of a currency. No call costs that; a larger bound is no bound at all,
and would not fit the wire."""

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


def open_record(call: Call, parts: tuple[OpenPart, ...], ceiling_nanos: int) -> Opened:
    """All that is needed to post a call, whatever becomes of it."""
    return Opened(
        parts=parts,
        reserved_nanos=ceiling_nanos,
        key_id=call.spender.key_id,
        provider=storable(call.provider),
        model=storable(call.model),
        requested_model=storable(call.requested_model),
        price_version=storable(call.price_version),
        customer=storable(call.customer),
        app=storable(call.app),
        run=storable(call.run),
        tags=tuple(storable(tag) for tag in call.tags[:MAX_TAGS]),
        stream=call.stream,
        admitted_at=call.started_at,
        price_currency=call.price_currency,
        exchange_rate=call.exchange_rate,
        request_id=storable(call.request_id),
    )


_KINDS: Final = {"released": _RELEASED, "unknown": _PROVISIONAL}
"""All other endings are final."""


def settled(opened: Opened, outcome: Outcome) -> list[charges_pb2.Settlement]:
    """The settlements of a call that ended, one for each session it was reserved in."""
    usage = outcome.usage
    if outcome.kind == "aborted" and usage.is_exact:
        # What a cut call was billed is not known exactly, whatever was counted until then.
        usage = estimated(
            "aborted", input_llm_tokens=usage.input_llm_tokens, output_llm_tokens=usage.output
        )
    released = outcome.kind == "released"
    free = released or outcome.kind == "provider_error"
    return _settlements(
        opened,
        kind=_KINDS.get(outcome.kind, _FINAL),
        cost_nanos=0 if free else min(outcome.cost_nanos, MAX_NANOS),
        usage=usage,
        price_version=storable(outcome.price_version) or opened.price_version,
        service_tier=storable(outcome.service_tier),
        region=storable(outcome.region),
        priced_as=storable(outcome.priced_as),
        # Who names no price charges nothing, or what was reserved.
        exchange=(outcome if outcome.price_version else opened),
        provider_request_id=storable(outcome.provider_request_id),
        http_status=outcome.http_status if 0 <= outcome.http_status <= 999 else 0,
        finished_at=outcome.finished_at,
    )


def provisional(opened: Opened, reason: str, finished_at: int) -> list[charges_pb2.Settlement]:
    """The settlements of a call whose end is unknown: at what was reserved, until evidence."""
    return _settlements(
        opened,
        kind=_PROVISIONAL,
        cost_nanos=opened.reserved_nanos,
        usage=Usage(certainty="estimated", estimate_reason=reason),
        price_version=opened.price_version,
        exchange=opened,
        provider_request_id="",
        http_status=0,
        finished_at=finished_at,
    )


def _settlements(
    opened: Opened,
    *,
    kind: charges_pb2.SettlementKind.ValueType,
    cost_nanos: int,
    usage: Usage,
    price_version: str,
    provider_request_id: str,
    http_status: int,
    finished_at: int,
    service_tier: str = "",
    region: str = "",
    priced_as: str = "",
    exchange: Outcome | Opened,
) -> list[charges_pb2.Settlement]:
    parts: Sequence[OpenPart] = opened.parts
    messages = []
    for part in parts:
        message = charges_pb2.Settlement(
            session_epoch=part.epoch,
            n=part.n,
            kind=kind,
            budget_window_ids=part.window_ids,
            reserved_nanos=opened.reserved_nanos,
            cost_nanos=cost_nanos,
            usage=usage_to_proto(usage),
            price_version=price_version,
            provider=opened.provider,
            model=opened.model,
            requested_model=opened.requested_model,
            provider_request_id=provider_request_id,
            http_status=http_status,
            stream=opened.stream,
            key_id=opened.key_id,
            customer=opened.customer,
            app=opened.app,
            run=opened.run,
            tags=opened.tags,
            service_tier=service_tier,
            region=region,
            priced_as=priced_as,
            price_currency=exchange.price_currency,
            exchange_rate=exchange.exchange_rate,
        )
        admit, finish = message.admit_time, message.finish_time
        admit.seconds, admit.nanos = divmod(opened.admitted_at, NANOS_PER_SECOND)
        finish.seconds, finish.nanos = divmod(finished_at, NANOS_PER_SECOND)
        messages.append(message)
    return messages
