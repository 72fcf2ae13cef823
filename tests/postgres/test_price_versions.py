"""Prices that held, hold and will; what was believed of them; contracts; what sidecars are told."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from bursar.pricing import price_from_json, snapshot
from bursar.v1 import charges_pb2, contracts_pb2, prices_pb2
from bursar_server.changes import Change, ChangeFeed
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError, Status
from bursar_server.prices.books import book_through_time
from bursar_server.prices.contract_service import PriceContractService
from bursar_server.prices.contract_store import contracts_to_tell
from bursar_server.prices.service import PriceService, publish_snapshot
from bursar_server.prices.store import overlay
from bursar_server.times import timestamp
from tests.postgres.rows import House, make_house

DAY = timedelta(days=1)


class Shop:
    """Both services over one database, and times around now as the database has it."""

    def __init__(self, pool: Pool, house: House, now: datetime) -> None:
        self.pool = pool
        self.house = house
        self.now = now
        self.changes: list[Change] = []
        feed = ChangeFeed()
        feed.listen(self.changes.append)
        self.prices = PriceService(pool, feed)
        self.contracts = PriceContractService(pool, feed)

    async def set(
        self, rate: str, since: float | None = None, until: float | None = None, **fields: Any
    ) -> prices_pb2.Price:
        """A price of mine/m; times in days from now."""
        asked = prices_pb2.Price(
            provider="mine",
            model="m",
            currency="USD",
            components=[
                prices_pb2.PriceComponent(meter=meter, rate=rate, per=1_000_000)
                for meter in ("input", "output")
            ],
        )
        if since is not None:
            asked.effective_time.CopyFrom(timestamp(self.now + since * DAY))
        if until is not None:
            asked.expire_time.CopyFrom(timestamp(self.now + until * DAY))
        organization = fields.pop("organization", "organizations/acme")
        request = prices_pb2.SetPriceRequest(organization=organization, price=asked, **fields)
        return await self.prices.SetPrice(request, None)

    async def rate_at(self, days: float) -> str:
        """The input rate in force then; "" without a price."""
        request = prices_pb2.GetPriceRequest(
            organization="organizations/acme", model="mine/m",
            at_time=timestamp(self.now + days * DAY),
        )  # fmt: skip
        try:
            found = await self.prices.GetPrice(request, None)
        except BursarError as error:
            return "" if error.status is Status.NOT_FOUND else str(error)
        return found.components[0].rate

    async def history(self, *, everything: bool = False) -> list[prices_pb2.Price]:
        request = prices_pb2.ListPriceHistoryRequest(
            organization="organizations/acme", provider="mine", model="m",
            include_superseded=everything,
        )  # fmt: skip
        return list((await self.prices.ListPriceHistory(request, None)).prices)

    async def contract(self, **fields: Any) -> contracts_pb2.PriceContract:
        organization = fields.pop("organization", "organizations/acme")
        request = contracts_pb2.SetPriceContractRequest(
            organization=organization, contract=contracts_pb2.PriceContract(**fields)
        )
        return await self.contracts.SetPriceContract(request, None)

    async def quote(
        self, days: float | None = None, **fields: Any
    ) -> prices_pb2.QuotePriceResponse:
        request = prices_pb2.QuotePriceRequest(
            organization="organizations/acme", model="mine/m",
            usage=charges_pb2.Usage(input_llm_tokens=1_000_000), **fields,
        )  # fmt: skip
        if days is not None:
            request.at_time.CopyFrom(timestamp(self.now + days * DAY))
        return await self.prices.QuotePrice(request, None)


@pytest.fixture
async def shop(pool: Pool) -> Shop:
    now: datetime = await pool.fetchval("SELECT clock_timestamp()")
    return Shop(pool, await make_house(pool), now)


async def test_a_scheduled_price_ends_the_one_in_force_at_its_time(shop: Shop) -> None:
    await shop.set("1")
    later = await shop.set("2", since=1)
    assert later.version == "custom@2"
    assert later.effective_time == timestamp(shop.now + DAY)
    assert [await shop.rate_at(days) for days in (0.5, 1, 30)] == ["1", "2", "2"]
    # Set now, it holds until the scheduled one begins.
    between = await shop.set("3")
    assert between.expire_time == later.effective_time
    assert [await shop.rate_at(days) for days in (0.5, 1)] == ["3", "2"]


async def test_a_price_for_a_while_gives_way_to_the_one_before(shop: Shop) -> None:
    await shop.set("1", since=-9)
    await shop.set("2", since=1, until=2)
    assert [await shop.rate_at(days) for days in (0.5, 1.5, 2, 9)] == ["1", "2", "1", "1"]
    versions = [each.version for each in await shop.history()]
    assert versions == ["custom@1", "custom@2", "custom@1"]


async def test_a_backdated_price_replaces_what_was_believed_and_keeps_it_on_record(
    shop: Shop,
) -> None:
    await shop.set("1", since=-9, reason="from the list")
    wrong = await shop.set("2", since=-5)
    assert [await shop.rate_at(days) for days in (-10, -7, -4)] == ["", "1", "2"]
    right = await shop.set("5", since=-6, until=-3, reason="the list was wrong")
    assert [await shop.rate_at(days) for days in (-7, -6, -4, -3, 1)] == ["1", "5", "5", "2", "2"]
    told = await shop.history()
    assert [each.version for each in told] == ["custom@2", "custom@3", "custom@1"]
    assert told[1].source == "set mine/m by admin: the list was wrong"
    assert told[1].layer == "custom"
    assert told[1].record_time == right.record_time
    assert not any(each.HasField("supersede_time") for each in told)
    beliefs = await shop.history(everything=True)
    gone = [each for each in beliefs if each.HasField("supersede_time")]
    # The first as it was set, what was left of it then, and the second as it was set.
    assert [each.version for each in gone] == ["custom@2", "custom@1", "custom@1"]
    assert {each.supersede_time.ToNanoseconds() for each in gone} == {
        wrong.record_time.ToNanoseconds(),
        right.record_time.ToNanoseconds(),
    }
    # What was believed at any time about any other has one answer.
    for believed_at in (wrong.record_time, right.record_time):
        for about in (-7, -5.5, -4, -2):
            known = [
                each.version
                for each in beliefs
                if each.record_time.ToNanoseconds() <= believed_at.ToNanoseconds()
                and not (
                    each.HasField("supersede_time")
                    and each.supersede_time.ToNanoseconds() <= believed_at.ToNanoseconds()
                )
                and each.effective_time.ToDatetime(shop.now.tzinfo) <= shop.now + about * DAY
                and not (
                    each.HasField("expire_time")
                    and each.expire_time.ToDatetime(shop.now.tzinfo) <= shop.now + about * DAY
                )
            ]
            assert len(known) == 1, (believed_at, about, known)


async def test_a_price_is_taken_back_from_now_on_or_as_if_it_never_was(shop: Shop) -> None:
    await shop.set("1", since=-9)
    await shop.set("2", since=5)
    request = prices_pb2.DeletePriceRequest(provider="mine", model="m")
    await shop.prices.DeletePrice(request, None)
    assert [await shop.rate_at(days) for days in (-1, 1, 6)] == ["1", "", ""]
    request.effective_time.CopyFrom(timestamp(shop.now - 9 * DAY))
    await shop.prices.DeletePrice(request, None)
    assert await shop.rate_at(-1) == ""
    with pytest.raises(BursarError) as refused:
        await shop.prices.DeletePrice(request, None)
    assert refused.value.status is Status.NOT_FOUND


async def test_what_is_left_open_comes_from_the_price_of_that_time(shop: Shop) -> None:
    asked = prices_pb2.Price(
        provider="mine", model="m", mode="embedding",
        components=[prices_pb2.PriceComponent(meter="input", rate="1", per=1)],
    )  # fmt: skip
    asked.expire_time.CopyFrom(timestamp(shop.now + DAY))
    await shop.prices.SetPrice(prices_pb2.SetPriceRequest(price=asked), None)
    assert (await shop.set("2", since=0.5, until=1)).mode == "embedding"
    assert (await shop.set("2", since=2)).mode == "chat"


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        (-20_000, None, "price.effective_time"),
        (20_000, None, "price.effective_time"),
        (None, -1, "price.expire_time"),
        (2, 1, "price.expire_time"),
    ],
)
async def test_times_that_can_not_be_are_refused(
    shop: Shop, since: float | None, until: float | None, field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await shop.set("1", since=since, until=until)
    assert refused.value.metadata["field"] == field
    assert await shop.pool.fetchval("SELECT count(*) FROM prices") == 0


async def test_the_list_is_told_as_it_was_and_will_be(shop: Shop) -> None:
    await shop.set("1", since=-2, until=-1)
    await shop.set("2", since=1)

    async def listed(days: float | None) -> list[str]:
        request = prices_pb2.ListPricesRequest(custom_only=True)
        if days is not None:
            request.at_time.CopyFrom(timestamp(shop.now + days * DAY))
        return [each.version for each in (await shop.prices.ListPrices(request, None)).prices]

    assert [await listed(days) for days in (-1.5, None, 1)] == [["custom@1"], [], ["custom@2"]]


async def test_sidecars_are_told_what_holds_and_will_and_nothing_that_is_over(shop: Shop) -> None:
    await shop.set("1", since=-3, until=-2)
    await shop.set("2", since=-1)
    await shop.set("3", since=1, until=2)
    await shop.set("4", organization="organizations/platform")
    async with shop.pool.acquire() as connection:
        version, texts = await overlay(connection, shop.house.organization)
    told = [price_from_json(text) for text in texts]
    assert version == 4
    assert [(each.price_version, each.effective_at, each.expires_at) for each in told] == [
        ("platform@1", None, None),
        ("custom@2", None, shop.now + DAY),
        ("custom@3", shop.now + DAY, shop.now + 2 * DAY),
        ("custom@2", shop.now + 2 * DAY, None),
    ]


async def test_the_book_of_the_past_knows_the_lists_that_were(shop: Shop) -> None:
    await publish_snapshot(shop.pool)
    await shop.pool.execute(
        "UPDATE prices SET effective_at = $1,"
        " price = jsonb_set(price, '{price_version}', '\"old\"') WHERE model = 'gpt-4o'",
        shop.now - 9 * DAY,
    )  # fmt: skip
    await shop.pool.execute("UPDATE price_lists SET version = 'builtin-older'")
    await publish_snapshot(shop.pool)
    async with shop.pool.acquire() as connection:
        book = await book_through_time(
            connection, shop.house.organization, shop.now - 8 * DAY, shop.now + DAY
        )
    before = book.lookup("gpt-4o", at=shop.now - 7 * DAY)
    after = book.lookup("gpt-4o", at=shop.now + DAY)
    assert before is not None
    assert after is not None
    assert (before.price_version, after.price_version) == ("old", snapshot().version)


async def test_contracts_make_the_quote_and_are_named_in_it(shop: Shop) -> None:
    await shop.set("10")
    everybody = await shop.contract(
        organization="organizations/platform", provider="mine", discount_factor="0.9"
    )
    assert everybody.version == "platform-contract@1"
    own = await shop.contract(
        model="m*", margin_factor="1.5", call_fee="0.25", currency="USD", reason="agreed in June"
    )
    assert (own.name, own.version) == ("contracts/2", "contract@2")
    answer = await shop.quote()
    assert answer.exact_cost == "13.75"
    assert answer.price.version == "custom@1+platform-contract@1+contract@2"
    assert answer.list_price.version == "custom@1"
    assert [each.version for each in answer.contracts] == ["platform-contract@1", "contract@2"]
    lines = {line.meter: (line.rate, line.amount, line.rule) for line in answer.lines}
    assert lines == {
        "input": ("13.5", "13.5", "input"),
        "call_fee": ("0.25", "0.25", "call_fee"),
    }
    # The list's price is shown without them.
    assert await shop.rate_at(0.01) == "10"
    listed = await shop.contracts.ListPriceContracts(
        contracts_pb2.ListPriceContractsRequest(), None
    )
    assert [(each.name, each.organization, each.reason) for each in listed.contracts] == [
        ("contracts/1", "organizations/platform", ""),
        ("contracts/2", "organizations/acme", "agreed in June"),
    ]


async def test_contracts_hold_for_their_time(shop: Shop) -> None:
    await shop.set("10", since=-9)
    await shop.contract(discount_factor="0.5", effective_time=timestamp(shop.now + DAY))
    past = contracts_pb2.PriceContract(discount_factor="0.1")
    past.effective_time.CopyFrom(timestamp(shop.now - 3 * DAY))
    past.expire_time.CopyFrom(timestamp(shop.now - 2 * DAY))
    await shop.contracts.SetPriceContract(
        contracts_pb2.SetPriceContractRequest(contract=past), None
    )
    costs = [(await shop.quote(days)).exact_cost for days in (-5, -2.5, -1, 0.5, 1)]
    assert costs == ["10", "1", "10", "10", "5"]
    request = contracts_pb2.ListPriceContractsRequest()
    assert len((await shop.contracts.ListPriceContracts(request, None)).contracts) == 1
    request.include_ended = True
    assert len((await shop.contracts.ListPriceContracts(request, None)).contracts) == 2
    async with shop.pool.acquire() as connection:
        (told,) = await contracts_to_tell(connection, shop.house.organization)
    assert (told.version, told.effective_at) == ("contract@2", shop.now + DAY)


async def test_a_contract_is_taken_back(shop: Shop) -> None:
    await shop.set("10", since=-9)
    asked = contracts_pb2.PriceContract(discount_factor="0.5")
    asked.effective_time.CopyFrom(timestamp(shop.now - 5 * DAY))
    request = contracts_pb2.SetPriceContractRequest(
        contract=asked, request_id="3d0ca315-aff9-4fc2-be61-3b76b9a2d798"
    )
    made = await shop.contracts.SetPriceContract(request, None)
    assert await shop.contracts.SetPriceContract(request, None) == made
    assert len(shop.changes) == 2
    async with shop.pool.acquire() as connection:
        (told,) = await contracts_to_tell(connection, shop.house.organization)
    assert told.effective_at is None  # it holds, whatever the sidecar's clock says
    gone = contracts_pb2.DeletePriceContractRequest(name=made.name)
    await shop.contracts.DeletePriceContract(gone, None)
    assert [(await shop.quote(days)).exact_cost for days in (-1, None)] == ["5", "10"]
    with pytest.raises(BursarError) as refused:
        await shop.contracts.DeletePriceContract(gone, None)
    assert refused.value.status is Status.NOT_FOUND
    gone.effective_time.CopyFrom(timestamp(shop.now - 9 * DAY))
    await shop.contracts.DeletePriceContract(gone, None)
    assert (await shop.quote(-1)).exact_cost == "10"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "contract.discount_factor"),
        ({"discount_factor": "1.5"}, "contract.discount_factor"),
        ({"margin_factor": "-1"}, "contract.margin_factor"),
        ({"call_fee": "1", "currency": "BTC"}, "contract.currency"),
        ({"discount_factor": "1", "model": "a b"}, "contract.model"),
        ({"discount_factor": "1", "reason": "x" * 501}, "contract.reason"),
        ({"discount_factor": "1", "reason": "\x07"}, "contract.reason"),
    ],
)
async def test_impossible_contracts_are_refused_by_field(
    shop: Shop, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await shop.contract(**fields)
    assert refused.value.metadata["field"] == field
    assert not shop.changes


@pytest.mark.parametrize("name", ["", "17", "contracts/", "contracts/0", "contracts/x"])
async def test_what_is_no_contract_s_name_is_refused(shop: Shop, name: str) -> None:
    with pytest.raises(BursarError) as refused:
        await shop.contracts.DeletePriceContract(
            contracts_pb2.DeletePriceContractRequest(name=name), None
        )
    assert refused.value.metadata["field"] == "name"
