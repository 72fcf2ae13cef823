"""A settlement that is written by hand has the bytes that protobuf writes for the same message."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.usage import MAX_COUNT, Usage
from bursar.usage.counts import Certainty
from bursar.v1 import charges_pb2
from bursar.wire import usage_to_proto
from bursar_sidecar import settlement_wire, settlements
from bursar_sidecar.desk import Outcome
from bursar_sidecar.journal_records import Opened, OpenPart

NANOS = st.one_of(
    st.integers(0, settlements.MAX_NANOS), st.sampled_from((0, 127, 128, 16_383, 16_384))
)
TEXT = st.text(max_size=300)
IDS = st.integers(0, (1 << 63) - 1)
TIMES = st.integers(0, 4_000_000_000 * 10**9)
COUNTS = st.integers(0, MAX_COUNT)
FROM_ONE = st.integers(1, (1 << 63) - 1)
PARTS = st.builds(
    OpenPart, FROM_ONE, FROM_ONE, st.lists(IDS, max_size=9, unique=True).map(sorted).map(tuple)
)
OPENED = st.builds(
    Opened,
    parts=st.lists(PARTS, min_size=1, max_size=2).map(tuple),
    reserved_nanos=NANOS,
    key_id=IDS,
    **dict.fromkeys(
        ("provider", "model", "requested_model", "price_version", "customer", "app", "run"),
        TEXT.map(settlements.storable),
    ),
    tags=st.lists(TEXT.map(settlements.storable), max_size=5).map(tuple),
    stream=st.booleans(),
    admitted_at=TIMES,
    price_currency=st.sampled_from(("", "EUR")),
    exchange_rate=st.sampled_from(("", "1/1.25")),
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Every usage; of further meters one, since a map has no order."""
    output = draw(COUNTS)
    certainty: Certainty = draw(st.sampled_from(("exact", "estimated")))
    return Usage(
        input=draw(COUNTS),
        cached_input=draw(COUNTS),
        cache_write_5m=draw(COUNTS),
        cache_write_1h=draw(COUNTS),
        output=output,
        reasoning=draw(st.integers(0, output)),
        extra=draw(st.dictionaries(st.sampled_from(("search", "second")), COUNTS, max_size=1)),
        certainty=certainty,
        estimate_reason=draw(st.text(max_size=1_100)) if certainty == "estimated" else "",
    )


OUTCOMES = st.builds(
    Outcome,
    kind=st.sampled_from(("final", "provider_error", "released", "aborted", "unknown")),
    usage=usages(),
    cost_nanos=NANOS,
    http_status=st.integers(-1, 1_100),
    finished_at=TIMES,
    price_currency=st.sampled_from(("", "USD")),
    exchange_rate=st.sampled_from(("", "0.92")),
    **dict.fromkeys(
        ("provider_request_id", "price_version", "service_tier", "region", "priced_as"), TEXT
    ),
)


def message(opened: Opened, part: OpenPart, **fields: Any) -> charges_pb2.Settlement:
    """The same in protobuf's own way."""
    built = charges_pb2.Settlement(
        session_epoch=part.epoch,
        n=part.n,
        budget_window_ids=part.window_ids,
        reserved_nanos=opened.reserved_nanos,
        provider=opened.provider,
        model=opened.model,
        requested_model=opened.requested_model,
        stream=opened.stream,
        key_id=opened.key_id,
        customer=opened.customer,
        app=opened.app,
        run=opened.run,
        tags=opened.tags,
        **fields,
    )
    seconds, nanos = divmod(opened.admitted_at, 10**9)
    built.admit_time.seconds, built.admit_time.nanos = seconds, nanos
    return built


def finished(built: charges_pb2.Settlement, at: int) -> bytes:
    built.finish_time.seconds, built.finish_time.nanos = divmod(at, 10**9)
    return built.SerializeToString()


@settings(deadline=None)
@given(OPENED, OUTCOMES)
def test_an_end_has_the_bytes_of_the_message(opened: Opened, outcome: Outcome) -> None:
    free = outcome.kind in ("released", "provider_error")
    usage = outcome.usage
    if outcome.kind == "aborted" and usage.is_exact:
        usage = Usage(
            input=min(usage.input_llm_tokens, MAX_COUNT),
            output=usage.output,
            certainty="estimated",
            estimate_reason="aborted",
        )
    told = outcome if outcome.price_version else opened
    kind = {
        "released": charges_pb2.SETTLEMENT_KIND_RELEASED,
        "unknown": charges_pb2.SETTLEMENT_KIND_PROVISIONAL,
    }.get(outcome.kind, charges_pb2.SETTLEMENT_KIND_FINAL)
    closing = settlements.settled(opened, outcome)
    assert closing.cost_nanos == (0 if free else outcome.cost_nanos)
    for part, row in zip(opened.parts, closing.rows, strict=True):
        built = message(
            opened,
            part,
            kind=kind,
            cost_nanos=closing.cost_nanos,
            usage=usage_to_proto(usage),
            price_version=settlements.storable(outcome.price_version) or opened.price_version,
            provider_request_id=settlements.storable(outcome.provider_request_id),
            http_status=outcome.http_status if 0 <= outcome.http_status <= 999 else 0,
            price_currency=told.price_currency,
            exchange_rate=told.exchange_rate,
            service_tier=settlements.storable(outcome.service_tier),
            region=settlements.storable(outcome.region),
            priced_as=settlements.storable(outcome.priced_as),
        )
        assert (row.epoch, row.n) == (part.epoch, part.n)
        assert row.settlement == finished(built, outcome.finished_at)


@settings(deadline=None)
@given(OPENED, TIMES)
def test_an_unknown_end_has_the_bytes_of_the_message(opened: Opened, finished_at: int) -> None:
    closing = settlements.provisional(opened, settlements.CRASHED, finished_at)
    assert closing.cost_nanos == opened.reserved_nanos
    for part, row in zip(opened.parts, closing.rows, strict=True):
        built = message(
            opened,
            part,
            kind=charges_pb2.SETTLEMENT_KIND_PROVISIONAL,
            cost_nanos=opened.reserved_nanos,
            usage=charges_pb2.Usage(estimate_reason=settlements.CRASHED),
            price_version=opened.price_version,
            price_currency=opened.price_currency,
            exchange_rate=opened.exchange_rate,
        )
        assert row.settlement == finished(built, finished_at)


def test_further_meters_are_all_there() -> None:
    usage = Usage(extra={"search": 3, "second": 0, "image_output": 70_000})
    opened = Opened((OpenPart(1, 2, (3,)),), 0, 1, "", "", "", "", "", "", "", (), False, 0)
    (row,) = settlements.settled(opened, Outcome("final", usage, 5)).rows
    read = charges_pb2.Settlement.FromString(row.settlement)
    assert dict(read.usage.further) == usage.extra


@pytest.mark.parametrize("value", [-1, 1 << 63])
def test_what_an_int64_does_not_hold_is_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="fits the wire"):
        settlement_wire.varint(value)
