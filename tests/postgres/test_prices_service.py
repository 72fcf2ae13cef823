"""The rpcs on prices, against a real database and the snapshot that ships."""

import pytest

from bursar.pricing import price_from_json, snapshot
from bursar.v1 import charges_pb2, prices_pb2
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, Status
from bursar_server.prices.service import PriceService, publish_snapshot
from bursar_server.prices.store import overlay
from tests.postgres.rows import House, make_house

MILLION = 1_000_000


@pytest.fixture
async def house(pool: Pool) -> House:
    return await make_house(pool)


@pytest.fixture
def changes() -> list[Change]:
    return []


@pytest.fixture
def service(pool: Pool, changes: list[Change]) -> PriceService:
    feed = ChangeFeed()
    feed.listen(changes.append)
    return PriceService(pool, feed)


def component(meter: str, rate: str, per: int = MILLION) -> prices_pb2.PriceComponent:
    return prices_pb2.PriceComponent(meter=meter, rate=rate, per=per)


def price(
    model: str = "house-model", rate: str = "1.25", provider: str = "openai"
) -> prices_pb2.Price:
    return prices_pb2.Price(
        provider=provider,
        model=model,
        currency="USD",
        components=[component("input", rate), component("output", "10")],
    )


async def set_price(
    service: PriceService, asked: prices_pb2.Price, organization: str = "organizations/acme"
) -> prices_pb2.Price:
    return await service.SetPrice(
        prices_pb2.SetPriceRequest(organization=organization, price=asked), None
    )


async def get(service: PriceService, model: str, organization: str = "") -> prices_pb2.Price:
    return await service.GetPrice(
        prices_pb2.GetPriceRequest(organization=organization, model=model), None
    )


async def test_the_snapshot_is_registered_once(
    pool: Pool, service: PriceService, house: House
) -> None:
    written = await publish_snapshot(pool)
    assert written > 4000
    assert await publish_snapshot(pool) == 0
    layers = await service.ListPriceLists(prices_pb2.ListPriceListsRequest(), None)
    (layer,) = layers.price_lists
    assert layer.name == "priceLists/builtin"
    assert layer.organization == "organizations/platform"
    assert (layer.version, layer.price_count) == (snapshot().version, written)
    found = await get(service, "gpt-4o-mini")
    assert found.version == snapshot().version
    assert {c.meter: c.rate for c in found.components if not c.condition.service_tier}[
        "input"
    ] == "0.15"
    assert found.HasField("effective_time")


async def test_another_snapshot_ends_the_one_before(pool: Pool, house: House) -> None:
    written = await publish_snapshot(pool)
    await pool.execute("UPDATE price_lists SET version = 'builtin-older' WHERE layer = 'builtin'")
    assert await publish_snapshot(pool) == written
    counts = await pool.fetch(
        """
        SELECT l.version, count(*) FILTER (WHERE p.expires_at IS NULL) AS in_force, count(*) AS all
        FROM prices p JOIN price_lists l ON l.id = p.price_list_id GROUP BY 1 ORDER BY 1
        """
    )
    assert sorted(tuple(row) for row in counts) == sorted(
        [("builtin-older", 0, written), (snapshot().version, written, written)]
    )


async def test_a_custom_price_wins_from_now_on(
    service: PriceService, house: House, pool: Pool, changes: list[Change]
) -> None:
    before = snapshot().lookup("gpt-4o-mini")
    assert before is not None
    made = await set_price(service, price("gpt-4o-mini"))
    assert made.version == "custom@1"
    assert made.HasField("effective_time")
    assert not made.HasField("expire_time")
    # What was left open comes from the price that was in force.
    assert (made.mode, made.max_output_llm_tokens) == (before.mode, before.max_output_llm_tokens)
    assert await get(service, "gpt-4o-mini") == made
    assert await get(service, "openai/gpt-4o-mini") == made
    again = await set_price(service, price("gpt-4o-mini", "2"))
    assert again.version == "custom@2"
    assert [(c.organization_id, c.kind) for c in changes] == [
        (house.organization, ChangeKind.PRICES)
    ] * 2
    async with pool.acquire() as connection:
        version, prices = await overlay(connection, house.organization)
    assert version == 2
    assert [price_from_json(text).price_version for text in prices] == ["custom@2"]


async def test_the_later_layer_wins(service: PriceService, house: House, pool: Pool) -> None:
    other = await make_house(pool, "other")
    platform = await set_price(service, price(rate="3"), "organizations/platform")
    assert platform.version == "platform@1"
    assert await get(service, "house-model", "organizations/other") == platform
    own = await set_price(service, price(rate="4"))
    assert (await get(service, "house-model", "organizations/acme")).version == own.version
    assert (await get(service, "house-model", "organizations/other")) == platform
    async with pool.acquire() as connection:
        version, prices = await overlay(connection, house.organization)
        assert [price_from_json(text).price_version for text in prices] == [
            "platform@1",
            "custom@1",
        ]
        assert version == 2
        assert (await overlay(connection, other.organization))[0] == 1
        assert (await overlay(connection, PLATFORM_ORGANIZATION_ID))[0] == 1
    layers = await service.ListPriceLists(
        prices_pb2.ListPriceListsRequest(organization="organizations/acme"), None
    )
    assert [(one.organization, one.price_count) for one in layers.price_lists] == [
        ("organizations/platform", 1),
        ("organizations/acme", 1),
    ]


async def test_a_custom_price_is_taken_back(
    service: PriceService, house: House, changes: list[Change]
) -> None:
    await set_price(service, price("gpt-4o-mini"))
    request = prices_pb2.DeletePriceRequest(provider="openai", model="gpt-4o-mini")
    await service.DeletePrice(request, None)
    assert (await get(service, "gpt-4o-mini")).version == snapshot().version
    assert len(changes) == 2
    with pytest.raises(BursarError) as refused:
        await service.DeletePrice(request, None)
    assert refused.value.status is Status.NOT_FOUND
    assert len(changes) == 2
    # The version is not used again, though no price of it is left.
    assert (await set_price(service, price())).version == "custom@3"


async def test_every_price_it_had_is_told(service: PriceService, house: House, pool: Pool) -> None:
    await publish_snapshot(pool)
    await set_price(service, price("gpt-4o-mini", "1"))
    await set_price(service, price("gpt-4o-mini", "2"))
    await service.DeletePrice(
        prices_pb2.DeletePriceRequest(provider="openai", model="openai/gpt-4o-mini"), None
    )
    answer = await service.ListPriceHistory(
        prices_pb2.ListPriceHistoryRequest(provider="openai", model="gpt-4o-mini"), None
    )
    assert [one.version for one in answer.prices] == ["custom@2", "custom@1", snapshot().version]
    assert [one.HasField("expire_time") for one in answer.prices] == [True, True, False]
    newest, middle = answer.prices[:2]
    assert middle.expire_time.ToNanoseconds() <= newest.effective_time.ToNanoseconds()
    with pytest.raises(BursarError):
        await service.ListPriceHistory(
            prices_pb2.ListPriceHistoryRequest(provider="openai", model="nothing"), None
        )


async def test_a_repeated_set_makes_one(
    service: PriceService, house: House, changes: list[Change], pool: Pool
) -> None:
    request = prices_pb2.SetPriceRequest(
        price=price(), request_id="3d0ca315-aff9-4fc2-be61-3b76b9a2d798"
    )
    first = await service.SetPrice(request, None)
    assert await service.SetPrice(request, None) == first
    assert await pool.fetchval("SELECT count(*) FROM prices") == 1
    assert len(changes) == 1


def broken(**changed: object) -> prices_pb2.Price:
    made = price()
    for field, value in changed.items():
        if field == "components":
            del made.components[:]
            made.components.extend(value)  # type: ignore[arg-type]  # by name, from a table
        else:
            setattr(made, field, value)
    return made


OUT = component("output", "1")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (broken(provider=""), "price.provider"),
        (broken(provider="open ai"), "price.provider"),
        (broken(model=""), "price.model"),
        (broken(model="a b"), "price.model"),
        (broken(model="x" * 300), "price.model"),
        (broken(currency="BTC"), "price.currency"),
        (broken(components=[]), "price.components"),
        (broken(components=[component("input", "1")]), "price.components"),
        (broken(components=[component("inputs", "1"), OUT]), "price.components[0].meter"),
        (broken(components=[component("input", "-1"), OUT]), "price.components[0].rate"),
        (broken(components=[component("input", "1e9"), OUT]), "price.components[0].rate"),
        (broken(components=[component("input", "NaN"), OUT]), "price.components[0].rate"),
        (broken(components=[component("input", ""), OUT]), "price.components[0].rate"),
        (broken(components=[component("input", "1" * 40), OUT]), "price.components[0].rate"),
        (broken(components=[component("input", "0." + "1" * 41), OUT]), "price.components[0].rate"),
        (broken(components=[component("input", "1", 0), OUT]), "price.components[0].per"),
        (broken(components=[component("input", "1"), OUT, OUT]), "price.components[2]"),
        (broken(max_output_llm_tokens=-1), "price.max_output_llm_tokens"),
    ],
)
async def test_impossible_prices_are_refused_by_field(
    service: PriceService, house: House, pool: Pool, asked: prices_pb2.Price, field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await set_price(service, asked)
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert [violation.field for violation in refused.value.field_violations] == [field]
    assert await pool.fetchval("SELECT count(*) FROM price_lists") == 0


async def test_an_explicit_zero_is_free(service: PriceService, house: House) -> None:
    free = broken(components=[component("input", "0"), component("output", "0.00")])
    made = await set_price(service, free)
    assert [c.rate for c in made.components] == ["0", "0"]
    answer = await service.QuotePrice(
        prices_pb2.QuotePriceRequest(
            model="house-model", usage=charges_pb2.Usage(input_llm_tokens=5)
        ),
        None,
    )
    assert (answer.cost.nanos, answer.exact_cost) == (0, "0")


async def test_a_quote_is_exact_and_rounded_once(service: PriceService, house: House) -> None:
    answer = await service.QuotePrice(
        prices_pb2.QuotePriceRequest(
            model="openai/gpt-4o-mini",
            usage=charges_pb2.Usage(
                input_llm_tokens=1001, cached_input_llm_tokens=3, output_llm_tokens=7
            ),
        ),
        None,
    )
    # 1001 * 0.15 + 3 * 0.075 + 7 * 0.60, for a million each.
    assert answer.exact_cost == "0.000154575"
    assert answer.cost.nanos == 154_575
    assert answer.cost.currency == "USD"
    lines = {line.meter: (line.quantity, line.rate, line.per, line.amount) for line in answer.lines}
    assert lines == {
        "input": (1001, "0.15", MILLION, "0.00015015"),
        "cached_input": (3, "0.075", MILLION, "0.000000225"),
        "output": (7, "0.6", MILLION, "0.0000042"),
    }
    assert answer.price.model == "gpt-4o-mini"


async def test_what_has_no_rate_is_not_free(service: PriceService, house: House) -> None:
    unpriced = next(
        name
        for name in snapshot().models()
        if (found := snapshot().lookup(*reversed(name.split("/", 1)))) and not found.is_priced
    )
    with pytest.raises(BursarError) as refused:
        await service.QuotePrice(prices_pb2.QuotePriceRequest(model=unpriced), None)
    assert refused.value.reason == "MODEL_UNPRICED"
    with pytest.raises(BursarError) as refused:
        await service.QuotePrice(
            prices_pb2.QuotePriceRequest(
                model="gpt-4o-mini", usage=charges_pb2.Usage(further={"page": 2})
            ),
            None,
        )
    assert refused.value.reason == "METER_UNPRICED"


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        (charges_pb2.Usage(input_llm_tokens=-1), "usage.input_llm_tokens"),
        (charges_pb2.Usage(output_llm_tokens=10**13), "usage.output_llm_tokens"),
        (charges_pb2.Usage(reasoning_llm_tokens=1), "usage.reasoning_llm_tokens"),
        (charges_pb2.Usage(further={"": 1}), "usage.further"),
    ],
)
async def test_absurd_usages_are_refused(
    service: PriceService, house: House, usage: charges_pb2.Usage, field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await service.QuotePrice(
            prices_pb2.QuotePriceRequest(model="gpt-4o-mini", usage=usage), None
        )
    assert refused.value.metadata["field"] == field


async def test_unknown_and_ambiguous_names(service: PriceService, house: House) -> None:
    with pytest.raises(BursarError) as refused:
        await get(service, "no-such-model")
    assert refused.value.reason == "PRICE_NOT_FOUND"
    await set_price(service, price("twice", provider="azure"))
    await set_price(service, price("twice", provider="openai"))
    with pytest.raises(BursarError) as refused:
        await get(service, "twice")
    assert refused.value.status is Status.INVALID_ARGUMENT
    assert "azure, openai" in refused.value.message
    assert (await get(service, "azure/twice")).provider == "azure"


async def test_prices_come_in_pages(service: PriceService, house: House, pool: Pool) -> None:
    written = await publish_snapshot(pool)
    await set_price(service, price("gpt-4o-mini", "9"))
    await set_price(service, price("house_model"), "organizations/platform")
    request = prices_pb2.ListPricesRequest(page_size=1000)
    seen: list[prices_pb2.Price] = []
    while True:
        page = await service.ListPrices(request, None)
        seen += page.prices
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    names = [(one.provider, one.model) for one in seen]
    assert len(names) == len(set(names)) == written + 1
    assert [one.version for one in seen if one.model == "gpt-4o-mini"].count("custom@1") == 1
    custom = await service.ListPrices(prices_pb2.ListPricesRequest(custom_only=True), None)
    assert [(one.model, one.version) for one in custom.prices] == [
        ("gpt-4o-mini", "custom@1"),
        ("house_model", "platform@1"),
    ]
    globbed = await service.ListPrices(
        prices_pb2.ListPricesRequest(model="gpt-4o-min?", provider="openai"), None
    )
    assert [one.model for one in globbed.prices] == ["gpt-4o-mini"]
    # An underscore is a letter, not a wildcard.
    literal = await service.ListPrices(prices_pb2.ListPricesRequest(model="house_m*"), None)
    assert [one.model for one in literal.prices] == ["house_model"]
    none = await service.ListPrices(prices_pb2.ListPricesRequest(model="house-m*"), None)
    assert not none.prices
