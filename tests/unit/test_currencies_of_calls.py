"""Calls whose price is in another currency than the organization's books."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.exchange import ExchangeRate, ExchangeRates
from bursar.pricing import (
    Contract,
    PriceBook,
    booked_ceiling,
    booked_nanos,
    llm_token_price,
    snapshot,
)
from bursar.pricing.model import ForeignFee
from bursar.v1 import allowances_pb2, charges_pb2
from bursar.wire import exchange_rate_from_proto, exchange_rate_to_proto
from bursar_sidecar import journal_records as records
from bursar_sidecar import settlements
from bursar_sidecar.conversion import CallRates, UnconvertibleError
from bursar_sidecar.desk import Outcome
from bursar_sidecar.overlay import Overlay
from bursar_sidecar.routing import Route
from bursar_sidecar.settings import Provider
from bursar_sidecar.terms import agree, clamp
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.dialect_requests import read
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, Bench, chat_answer, error_of

NOW = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
"""What the bench's clock says."""
NOW_NS = int(NOW.timestamp()) * 1_000_000_000


def rate(base: str, quote: str, value: str, after: timedelta = timedelta()) -> ExchangeRate:
    return ExchangeRate(base, quote, Decimal(value), NOW + after)


def euro_desk(*rates: ExchangeRate, **options: Any) -> FakeDesk:
    """Of an organization that keeps its books in euros."""
    of_the_house = msgspec.structs.replace(spender(), currency="EUR")
    desk = FakeDesk(spenders={KEY: of_the_house}, **options)
    desk.rates = ExchangeRates(rates)
    return desk


async def call(bench: Bench, **answer: Any) -> Outcome:
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(**answer))
    await bench.answered()
    return await bench.settled()


async def test_what_is_reserved_and_charged_is_converted_and_the_rate_kept() -> None:
    plain = Bench()
    await call(plain)
    bench = Bench(euro_desk(rate("EUR", "USD", "1.25")))
    outcome = await call(bench)
    assert outcome.cost_nanos == COST_NANOS * 4 // 5
    assert (outcome.price_currency, outcome.exchange_rate) == ("USD", "1/1.25")
    (asked,), (in_dollars,) = bench.desk.calls, plain.desk.calls
    assert asked.ceiling_nanos == -(-in_dollars.ceiling_nanos * 4 // 5)
    assert (asked.price_currency, asked.exchange_rate) == ("USD", "1/1.25")
    assert (in_dollars.price_currency, in_dollars.exchange_rate) == ("", "")
    headers = bench.app.answers[0].headers
    assert (headers["x-bursar-cost"], headers["x-bursar-currency"]) == ("0.0000108", "EUR")


async def test_a_charge_is_rounded_once_from_the_exact_cost() -> None:
    # 10 at 0.0001 and 20 at 0.0000001 a million are 1.002 nanos of a dollar. Were they rounded to
    # one nano first, it would cost 1,500.
    own = llm_token_price("openai", "gpt-4o-mini", rates={"input": "0.0001", "output": "0.0000001"})
    book = snapshot().with_overlay([own], "own-1")
    outcome = await call(Bench(euro_desk(rate("USD", "EUR", "1500"), book=book)))
    assert outcome.cost_nanos == 1503


async def test_a_rate_that_begins_during_a_call_is_not_its_rate() -> None:
    desk = euro_desk(rate("USD", "EUR", "0.8"), rate("USD", "EUR", "2", timedelta(seconds=1)))
    bench = Bench(desk)
    bench.post(CHAT)
    request = await bench.provider.request()
    desk.rates = ExchangeRates([rate("USD", "EUR", "3")])
    request.send_json(chat_answer())
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.exchange_rate) == (COST_NANOS * 4 // 5, "0.8")
    assert outcome.cost_nanos <= desk.calls[0].ceiling_nanos


async def test_without_a_rate_the_call_is_refused_and_nothing_is_sent() -> None:
    bench = Bench(euro_desk(rate("USD", "EUR", "0.8", timedelta(seconds=1))))
    bench.post(CHAT)
    answer = await bench.answered()
    assert answer.status == 403
    error = error_of(answer)
    assert error["code"] == "exchange_rate_missing"
    assert "priced in USD" in error["message"]
    assert "bursar fx set USD EUR RATE" in error["message"]
    assert bench.desk.calls == []


async def test_the_price_of_the_model_that_answered_is_converted_by_its_own_rate() -> None:
    other = llm_token_price(
        "openai", "gpt-4o", rates={"input": "100", "output": "100"}, currency="JPY"
    )
    book = snapshot().with_overlay([other], "own-1")
    rates = [rate("USD", "EUR", "0.8"), rate("EUR", "JPY", "160")]
    outcome = await call(Bench(euro_desk(*rates, book=book)), model="gpt-4o")
    assert (outcome.price_currency, outcome.exchange_rate) == ("JPY", "1/160")
    assert outcome.cost_nanos == 18_750  # 30 at 100 JPY a million, over 160
    # Without a rate for it, it is charged as the one asked for.
    outcome = await call(Bench(euro_desk(rates[0], book=book)), model="gpt-4o")
    assert (outcome.price_currency, outcome.cost_nanos) == ("USD", COST_NANOS * 4 // 5)


async def test_a_call_that_cost_nothing_keeps_its_rate_too() -> None:
    bench = Bench(euro_desk(rate("USD", "EUR", "0.8")))
    bench.post(CHAT)
    (await bench.provider.request()).send_json(b'{"error": {}}', 500)
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.exchange_rate) == (0, "0.8")


def with_fee(amount: str, currency: str) -> PriceBook:
    fee = Contract(call_fee=Decimal(amount), currency=currency, version="contract@1")
    return snapshot().with_contracts([fee], "own-1")


async def test_a_fee_in_the_organizations_currency_is_added_as_it_stands() -> None:
    plain = Bench(euro_desk(rate("USD", "EUR", "0.8")))
    await call(plain)
    bench = Bench(euro_desk(rate("USD", "EUR", "0.8"), book=with_fee("0.01", "EUR")))
    outcome = await call(bench)
    assert outcome.cost_nanos == COST_NANOS * 4 // 5 + 10_000_000
    assert outcome.price_version.endswith("+contract@1")
    assert (outcome.price_currency, outcome.exchange_rate) == ("USD", "0.8")
    (asked,), (without,) = bench.desk.calls, plain.desk.calls
    assert asked.ceiling_nanos == without.ceiling_nanos + 10_000_000
    # An organization that is priced in its own currency pays a fee in another one too.
    dollars = FakeDesk(book=with_fee("0.01", "EUR"))
    dollars.rates = ExchangeRates([rate("EUR", "USD", "1.25")])
    outcome = await call(Bench(dollars))
    assert (outcome.cost_nanos, outcome.price_currency) == (COST_NANOS + 12_500_000, "")


async def test_a_fee_without_a_rate_is_not_waived() -> None:
    bench = Bench(euro_desk(rate("USD", "EUR", "0.8"), book=with_fee("0.01", "GBP")))
    bench.post(CHAT)
    error = error_of(await bench.answered())
    assert error["code"] == "exchange_rate_missing"
    assert "charged a fee in GBP" in error["message"]
    assert bench.desk.calls == []


@given(
    cost=st.decimals(0, 1_000, places=15),
    fee=st.decimals("0.000000001", 10, places=9),
    rates=st.tuples(*[st.decimals("0.001", 1_000, places=6)] * 2),
)
def test_cost_and_fee_are_rounded_once_and_never_exceed_their_bound(
    cost: Decimal, fee: Decimal, rates: tuple[Decimal, Decimal]
) -> None:
    priced = llm_token_price("openai", "x", rates={"input": "1", "output": "1"})
    priced = msgspec.structs.replace(priced, foreign_fee=ForeignFee(fee, "GBP"))
    known = ExchangeRates(
        [ExchangeRate("EUR", code, r, NOW) for code, r in zip(("USD", "GBP"), rates, strict=True)]
    )
    convert = CallRates(known, "EUR", NOW_NS).conversion
    exact = Fraction(cost) / Fraction(rates[0]) + Fraction(fee) / Fraction(rates[1])
    booked = booked_nanos(priced, cost, convert)
    assert booked == round(exact * 10**9)
    assert booked_ceiling(priced, ceil(Fraction(cost) * 10**9), convert) >= booked


def test_a_clamped_call_fits_what_was_reserved_in_its_own_currency() -> None:
    price = snapshot().lookup("gpt-4o-mini", "openai")
    body = {"model": "gpt-4o-mini", "messages": [], "max_tokens": 10_000}
    terms = agree(
        read("chat", json.dumps(body).encode()),
        Route(Provider("openai", "http://p/v1"), "gpt-4o-mini", price),
        budgeted=True,
        rates=CallRates(ExchangeRates([rate("USD", "JPY", "150")]), "JPY", NOW_NS),
        default_max_output=4096,
        may_clamp=True,
    )
    assert terms.bounds is not None
    reserved = terms.ceiling_nanos // 2
    clamped = clamp(terms, reserved)
    assert clamped.clamped_output is not None
    assert terms.bounds.ceiling_nanos(clamped.clamped_output) <= reserved
    assert terms.bounds.ceiling_nanos(clamped.clamped_output + 1) > reserved


def test_the_rate_is_that_of_the_admission_to_the_microsecond() -> None:
    later = rate("USD", "EUR", "0.9", timedelta(milliseconds=500))
    rates = ExchangeRates([rate("USD", "EUR", "0.8"), later])
    later_ns = 500_000_000
    found = [
        CallRates(rates, "EUR", NOW_NS + ns).conversion("USD")
        for ns in (0, later_ns - 1000, later_ns)
    ]
    assert [each.text for each in found if each is not None] == ["0.8", "0.8", "0.9"]
    with pytest.raises(UnconvertibleError, match="from USD to EUR"):
        CallRates(rates, "EUR", NOW_NS - 1000).conversion("USD")


def test_the_overlay_brings_rates_in_parts_and_drops_one_that_means_nothing() -> None:
    def part(number: int, *rates: ExchangeRate) -> allowances_pb2.PriceBook:
        return allowances_pb2.PriceBook(
            overlay_version=3,
            part=number,
            part_count=2,
            exchange_rates=[exchange_rate_to_proto(each) for each in rates],
        )

    overlay = Overlay()
    overlay.hear(part(0, rate("USD", "EUR", "0.8")))
    assert len(overlay.rates) == 0
    last = part(1, rate("EUR", "GBP", "0.85"), rate("USD", "EUR", "0.9", timedelta(days=1)))
    last.exchange_rates.add(base_currency="EUR", quote_currency="???", rate="1")
    overlay.hear(last)
    assert len(overlay.rates) == 3
    found = overlay.rates.conversion("USD", "GBP", NOW)
    assert found is not None
    assert found.text == "0.68"
    # The next overlay replaces them all.
    overlay.hear(allowances_pb2.PriceBook(overlay_version=4, part=0, part_count=1))
    assert len(overlay.rates) == 0


def test_a_rate_travels_as_it_is() -> None:
    for one in (rate("USD", "EUR", "0.123456789012345"), rate("JPY", "KWD", "0.002")):
        assert exchange_rate_from_proto(exchange_rate_to_proto(one)) == one
    ended = ExchangeRate("USD", "EUR", None, NOW)
    assert exchange_rate_from_proto(exchange_rate_to_proto(ended)) == ended


OPENED = records.Opened(
    parts=(records.OpenPart(7, 1, (11,)),),
    reserved_nanos=500,
    key_id=3,
    provider="openai",
    model="gpt-4o-mini",
    requested_model="gpt-4o-mini",
    price_version="builtin@1",
    customer="",
    app="",
    run="",
    tags=(),
    stream=False,
    admitted_at=NOW_NS,
    price_currency="USD",
    exchange_rate="1/1.25",
)


def test_a_call_that_a_crash_left_open_is_posted_with_its_rate() -> None:
    ((read_back, _),) = records.Scan(records.encode(OPENED))
    assert read_back == OPENED
    assert isinstance(read_back, records.Opened)
    (row,) = settlements.provisional(read_back, "sidecar_crashed", NOW_NS).rows
    posted = charges_pb2.Settlement.FromString(row.settlement)
    assert (posted.price_currency, posted.exchange_rate) == ("USD", "1/1.25")


def test_an_open_record_of_an_older_sidecar_is_read() -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(OPENED))
    older = msgspec.msgpack.encode(fields[:-3])
    read_back = msgspec.msgpack.decode(older, type=records.Record)
    assert read_back == msgspec.structs.replace(OPENED, price_currency="", exchange_rate="")
