"""The rpcs on exchange rates, against a real database."""

import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import charges_pb2, contracts_pb2, prices_pb2
from bursar.v1 import exchange_rates_pb2 as pb
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, Status
from bursar_server.exchange_rates import rules, store
from bursar_server.exchange_rates.service import ExchangeRateService
from bursar_server.prices.contract_service import PriceContractService
from bursar_server.prices.service import PriceService
from bursar_server.times import timestamp
from tests.postgres.rows import NOW, FixedClock, House, make_house

PLATFORM = "organizations/platform"
ACME = "organizations/acme"
DAY = timedelta(days=1)


@pytest.fixture
async def house(pool: Pool) -> House:
    return await make_house(pool, currency="EUR")


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def service(pool: Pool, changes: list[Change]) -> ExchangeRateService:
    feed = ChangeFeed()
    feed.listen(changes.append)
    return ExchangeRateService(pool, feed, FixedClock())


def stamp(at: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(at)
    return made


def rate(base: str, quote: str, value: str, at: datetime | None = None) -> pb.ExchangeRate:
    made = pb.ExchangeRate(base_currency=base, quote_currency=quote, rate=value)
    if at is not None:
        made.effective_time.FromDatetime(at)
    return made


async def set_rate(
    service: ExchangeRateService, asked: pb.ExchangeRate, organization: str = PLATFORM
) -> pb.ExchangeRate:
    request = pb.SetExchangeRateRequest(organization=organization, exchange_rate=asked)
    return await service.SetExchangeRate(request, None)


async def listed(
    service: ExchangeRateService, organization: str = ACME, **asked: Any
) -> list[tuple[str, str, str, str]]:
    request = pb.ListExchangeRatesRequest(organization=organization, **asked)
    answer = await service.ListExchangeRates(request, None)
    return [
        (each.organization.partition("/")[2], each.base_currency, each.quote_currency, each.rate)
        for each in answer.exchange_rates
    ]


async def import_rates(
    service: ExchangeRateService, rates: list[pb.ExchangeRate], **asked: Any
) -> pb.ImportExchangeRatesResponse:
    request = pb.ImportExchangeRatesRequest(
        organization=PLATFORM, exchange_rates=rates, source="file", **asked
    )
    return await service.ImportExchangeRates(request, None)


async def test_a_rate_holds_from_now_on(
    service: ExchangeRateService, house: House, changes: list[Change], pool: Pool
) -> None:
    made = await set_rate(service, rate("USD", "EUR", "0.920"))
    assert (made.organization, made.rate) == (PLATFORM, "0.92")
    assert made.name.startswith("exchangeRates/")
    assert made.effective_time.ToDatetime(NOW.tzinfo) == NOW
    assert made.HasField("record_time")
    assert await listed(service) == [("platform", "USD", "EUR", "0.92")]
    assert [(c.organization_id, c.kind) for c in changes] == [
        (PLATFORM_ORGANIZATION_ID, ChangeKind.PRICES)
    ]
    version = await pool.fetchval(
        "SELECT price_overlay_version FROM organizations WHERE id = $1", PLATFORM_ORGANIZATION_ID
    )
    assert version == 1


async def test_an_own_rate_wins_and_one_that_begins_later_is_shown(
    service: ExchangeRateService, house: House
) -> None:
    await set_rate(service, rate("USD", "EUR", "0.92"))
    await set_rate(service, rate("EUR", "GBP", "0.85"))
    await set_rate(service, rate("EUR", "USD", "1.1", NOW + DAY), ACME)
    assert await listed(service) == [
        ("platform", "EUR", "GBP", "0.85"),
        ("platform", "USD", "EUR", "0.92"),
        ("acme", "EUR", "USD", "1.1"),
    ]
    assert await listed(service, time=stamp(NOW + 2 * DAY)) == [
        ("platform", "EUR", "GBP", "0.85"),
        ("acme", "EUR", "USD", "1.1"),
    ]
    assert await listed(service, currency="GBP") == [("platform", "EUR", "GBP", "0.85")]
    assert await listed(service, PLATFORM, currency="USD") == [("platform", "USD", "EUR", "0.92")]


async def test_what_an_organization_ends_leaves_the_platforms(
    service: ExchangeRateService, house: House
) -> None:
    ended = pb.EndExchangeRateRequest(
        organization=ACME, base_currency="USD", quote_currency="EUR", request_id=str(uuid.uuid4())
    )
    with pytest.raises(BursarError) as caught:
        await service.EndExchangeRate(ended, None)
    assert caught.value.status is Status.NOT_FOUND
    await set_rate(service, rate("USD", "EUR", "0.92"))
    await set_rate(service, rate("USD", "EUR", "0.8", NOW - DAY), ACME)
    assert await listed(service) == [("acme", "USD", "EUR", "0.8")]
    first = await service.EndExchangeRate(ended, None)
    assert await service.EndExchangeRate(ended, None) == first
    assert first.rate == ""
    assert await listed(service) == [("platform", "USD", "EUR", "0.92")]
    history = await listed(service, history=True)
    assert history == [
        ("acme", "USD", "EUR", ""),
        ("platform", "USD", "EUR", "0.92"),
        ("acme", "USD", "EUR", "0.8"),
    ]


async def test_what_was_recorded_is_never_changed(
    service: ExchangeRateService, house: House, pool: Pool
) -> None:
    await set_rate(service, rate("USD", "EUR", "0.92", NOW))
    await set_rate(service, rate("USD", "EUR", "0.93", NOW))
    assert await listed(service) == [("platform", "USD", "EUR", "0.93")]
    assert len(await listed(service, history=True)) == 2
    with pytest.raises(asyncpg.RestrictViolationError):
        await pool.execute("UPDATE exchange_rates SET rate = 1")


async def test_a_repeated_request_records_nothing_more(
    service: ExchangeRateService, house: House
) -> None:
    request = pb.SetExchangeRateRequest(
        organization=ACME, exchange_rate=rate("USD", "EUR", "0.9"), request_id=str(uuid.uuid4())
    )
    first = await service.SetExchangeRate(request, None)
    assert await service.SetExchangeRate(request, None) == first
    request.exchange_rate.rate = "0.91"
    with pytest.raises(BursarError) as caught:
        await service.SetExchangeRate(request, None)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert len(await listed(service, history=True)) == 1


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("base_currency", rate("XXX", "EUR", "1")),
        ("base_currency", rate("", "EUR", "1")),
        ("quote_currency", rate("USD", "eur", "1")),
        ("quote_currency", rate("USD", "USD", "1")),
        ("rate", rate("USD", "EUR", "")),
        ("rate", rate("USD", "EUR", "0")),
        ("rate", rate("USD", "EUR", "-1")),
        ("rate", rate("USD", "EUR", "1e3")),
        ("rate", rate("USD", "EUR", "1" * 13)),
        ("effective_time", rate("USD", "EUR", "1", datetime(1998, 12, 31))),  # noqa: DTZ001 - UTC
        ("effective_time", rate("USD", "EUR", "1", NOW + 2000 * DAY)),
        ("source", pb.ExchangeRate(base_currency="USD", quote_currency="EUR", rate="1",
                                   source="\n")),
    ],
)  # fmt: skip
async def test_a_rate_that_cannot_be_is_refused(
    service: ExchangeRateService, house: House, field: str, asked: pb.ExchangeRate
) -> None:
    with pytest.raises(BursarError) as caught:
        await set_rate(service, asked)
    assert [v.field for v in caught.value.field_violations] == [f"exchange_rate.{field}"]
    assert await listed(service, history=True) == []


async def test_an_import_says_what_it_changes_before_and_does_it_once(
    service: ExchangeRateService, house: House, changes: list[Change]
) -> None:
    await set_rate(service, rate("EUR", "USD", "1.05", NOW - 5 * DAY))
    await set_rate(service, rate("GBP", "EUR", "1.25", NOW - DAY))
    file = [
        rate("EUR", "USD", "1.07", NOW - DAY),
        rate("EUR", "USD", "1.06", NOW - 2 * DAY),
        rate("EUR", "GBP", "0.85", NOW - DAY),
        rate("EUR", "JPY", "160", NOW - DAY),
    ]
    shown = await import_rates(service, file, dry_run=True)
    told = [
        (c.exchange_rate.quote_currency, c.exchange_rate.rate, c.previous_rate, c.corrects)
        for c in shown.changes
    ]
    assert told == [
        ("GBP", "0.85", "1/1.25", True),
        ("JPY", "160", "", False),
        ("USD", "1.06", "1.05", False),
        ("USD", "1.07", "1.06", False),
    ]
    assert (shown.changed_count, shown.unchanged_count) == (4, 0)
    assert len(await listed(service, history=True)) == 2
    id = str(uuid.uuid4())
    changes.clear()
    done = await import_rates(service, file, request_id=id)
    assert done == shown
    assert len(changes) == 1
    again = await import_rates(service, file, request_id=id)
    assert (again.changed_count, again.unchanged_count) == (4, 0)
    once_more = await import_rates(service, file, request_id=str(uuid.uuid4()))
    assert (once_more.changed_count, once_more.unchanged_count) == (0, 4)
    assert len(changes) == 1
    assert await listed(service) == [
        ("platform", "EUR", "GBP", "0.85"),
        ("platform", "EUR", "JPY", "160"),
        ("platform", "EUR", "USD", "1.07"),
    ]


@pytest.mark.parametrize(
    ("field", "file"),
    [
        ("exchange_rates", []),
        ("exchange_rates[1].effective_time",
         [rate("EUR", "USD", "1", NOW), rate("EUR", "JPY", "1")]),
        ("exchange_rates[1]", [rate("EUR", "USD", "1", NOW), rate("USD", "EUR", "1", NOW)]),
        ("exchange_rates[1].rate", [rate("EUR", "USD", "1", NOW), rate("EUR", "JPY", "x", NOW)]),
    ],
)  # fmt: skip
async def test_a_bad_import_changes_nothing(
    service: ExchangeRateService, house: House, field: str, file: list[pb.ExchangeRate]
) -> None:
    with pytest.raises(BursarError) as caught:
        await import_rates(service, file)
    assert [v.field for v in caught.value.field_violations] == [field]
    assert await listed(service, history=True) == []


async def test_what_is_scheduled_has_a_limit(
    service: ExchangeRateService, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MOST_SCHEDULED", 2)

    def later(day: int) -> pb.ExchangeRate:
        return rate("EUR", "USD", "1", NOW + day * DAY)

    await import_rates(service, [later(1), later(2), later(-1)])
    with pytest.raises(BursarError) as caught:
        await set_rate(service, later(3))
    assert caught.value.reason == "EXCHANGE_RATES_TOO_MANY"
    assert len(await listed(service, history=True)) == 3


async def test_pages_are_whole(service: ExchangeRateService, house: House) -> None:
    codes = ("USD", "GBP", "JPY", "CHF", "SEK")
    await import_rates(service, [rate("EUR", code, "2", NOW - DAY) for code in codes])
    for history in (False, True):
        found: list[str] = []
        page_token = ""
        while True:
            answer = await service.ListExchangeRates(
                pb.ListExchangeRatesRequest(
                    organization=ACME, page_size=2, page_token=page_token, history=history
                ),
                None,
            )
            found += [each.quote_currency for each in answer.exchange_rates]
            page_token = answer.next_page_token
            if not page_token:
                break
        assert sorted(found) == sorted(codes)


async def test_sidecars_are_told_what_their_prices_need(
    service: ExchangeRateService, house: House, pool: Pool
) -> None:
    await import_rates(
        service,
        [
            rate("EUR", "USD", "1.01", NOW - 9 * DAY),
            rate("EUR", "USD", "1.02", NOW - 3 * DAY),
            rate("EUR", "USD", "1.03", NOW - DAY / 2),
            rate("EUR", "JPY", "160", NOW - 9 * DAY),
        ],
    )
    await set_rate(service, rate("USD", "EUR", "0.5", NOW + DAY), ACME)

    async def told(currency: str, *prices: str) -> list[tuple[str, str, Decimal | None]]:
        async with pool.acquire() as connection:
            rates = await store.rates_to_tell(connection, house.organization, currency, prices, NOW)
        return [(each.base, each.quote, each.rate) for each in rates]

    # What held a day ago too, for a sidecar whose clock is behind.
    assert await told("EUR", "USD") == [
        ("EUR", "USD", Decimal("1.02")), ("EUR", "USD", Decimal("1.03")),
        ("USD", "EUR", Decimal("0.5")),
    ]  # fmt: skip
    assert await told("USD", "USD") == []
    assert len(await told("JPY", "USD")) == 4
    assert await told("GBP", "USD") == []


async def test_a_quote_is_told_in_both_currencies(
    service: ExchangeRateService, house: House, pool: Pool
) -> None:
    prices = PriceService(pool, ChangeFeed())

    async def quote(organization: str = ACME) -> prices_pb2.QuotePriceResponse:
        usage = charges_pb2.Usage(input_llm_tokens=1_000_000)
        request = prices_pb2.QuotePriceRequest(
            organization=organization, model="gpt-4o-mini", usage=usage, at_time=timestamp(NOW)
        )
        return await prices.QuotePrice(request, None)

    assert not (await quote()).HasField("organization_cost")
    await set_rate(service, rate("EUR", "USD", "1.2", NOW - DAY))
    await set_rate(service, rate("EUR", "USD", "1.5", NOW + DAY))
    quoted = await quote()
    assert (quoted.cost.nanos, quoted.cost.currency) == (150_000_000, "USD")
    told = (quoted.organization_cost.nanos, quoted.organization_cost.currency)
    assert (*told, quoted.exchange_rate) == (125_000_000, "EUR", "1/1.2")
    contract = contracts_pb2.PriceContract(
        call_fee="0.5", currency="EUR", reason="agreed", effective_time=timestamp(NOW - DAY)
    )
    await PriceContractService(pool, ChangeFeed()).SetPriceContract(
        contracts_pb2.SetPriceContractRequest(organization=ACME, contract=contract), None
    )
    with_fee = await quote()
    assert (with_fee.cost.nanos, with_fee.organization_cost.nanos) == (150_000_000, 625_000_000)
    assert (with_fee.foreign_fee.nanos, with_fee.foreign_fee.currency) == (500_000_000, "EUR")
    await make_house(pool, "dollars")
    same = await quote("organizations/dollars")
    assert same.organization_cost == same.cost
    assert same.exchange_rate == ""
