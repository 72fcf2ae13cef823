"""A published list is taken over whole or not at all, against a real database."""

import asyncio
import json
import lzma
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import bursar
from bursar.v1 import prices_pb2
from bursar.v1.price_imports_pb2 import (
    PRICE_IMPORT_OUTCOME_IMPORTED,
    PRICE_IMPORT_OUTCOME_UNCHANGED,
    PRICE_IMPORT_OUTCOME_WOULD_IMPORT,
    PRICE_IMPORT_OUTCOME_WOULD_REFUSE,
    ClearImportedPricesRequest,
    ImportPricesRequest,
    PriceImport,
)
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError
from bursar_server.prices import import_service
from bursar_server.prices.import_service import PriceImportService
from bursar_server.prices.imported import ImportedPrices
from bursar_server.prices.service import PriceService, publish_snapshot
from bursar_server.prices.sync import PriceSync, SyncSettings
from tests.postgres.price_list_files import a_list, changes, parts
from tests.postgres.rows import FixedClock, House, make_house

PLATFORM = "organizations/platform"
TEN = {f"m{n}": 1.0 for n in range(10)}


@pytest.fixture
async def house(pool: Pool) -> House:
    return await make_house(pool)


@pytest.fixture
def imports(pool: Pool, feed: ChangeFeed) -> PriceImportService:
    clock = FixedClock()
    sync = PriceSync(pool, feed, clock, SyncSettings())
    return PriceImportService(pool, feed, clock, sync)


@pytest.fixture
def prices(pool: Pool, feed: ChangeFeed) -> PriceService:
    return PriceService(pool, feed)


async def take(imports: PriceImportService, data: bytes, **asked: Any) -> Any:
    return await imports.ImportPrices(parts(data, **asked), None)


async def refused(imports: PriceImportService, data: bytes, **asked: Any) -> BursarError:
    with pytest.raises(BursarError) as caught:
        await take(imports, data, **asked)
    return caught.value


async def rate(prices: PriceService, model: str, organization: str = "") -> tuple[str, str]:
    asked = prices_pb2.GetPriceRequest(organization=organization, model=model)
    found = await prices.GetPrice(asked, None)
    return next(c.rate for c in found.components if c.meter == "input"), found.version


async def rows_of(pool: Pool) -> list[tuple[Any, ...]]:
    found = await pool.fetch(
        """
        SELECT model, expires_at IS NULL AS in_force, price ->> 'price_version' AS version
        FROM prices WHERE layer = 'imported' ORDER BY model, effective_at
        """
    )
    return [tuple(row) for row in found]


async def test_a_list_is_put_in_force_and_the_same_again_changes_nothing(
    imports: PriceImportService, prices: PriceService, house: House, changes_told: list[Change]
) -> None:
    first = await take(imports, a_list(TEN), source="list.json")
    assert first.outcome == PRICE_IMPORT_OUTCOME_IMPORTED
    assert (first.price_count, first.added_count, first.previous_version) == (10, 10, "")
    assert await rate(prices, "acme/m3") == ("1", first.version)
    assert [(c.organization_id, c.kind) for c in changes_told] == [
        (house.organization, ChangeKind.PRICES)
    ]
    again = await take(imports, a_list(dict(reversed(TEN.items()))), source="list.json")
    assert (again.outcome, again.version) == (PRICE_IMPORT_OUTCOME_UNCHANGED, first.version)
    assert len(changes_told) == 1


@pytest.fixture
def changes_told(changes: list[Change]) -> list[Change]:
    return changes


async def test_only_what_changed_ends_and_begins(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    first = await take(imports, a_list({"same": 1, "dearer": 1, "gone": 1}))
    second = await take(imports, a_list({"same": 1, "dearer": 1.5, "fresh": 4}))
    assert second.previous_version == first.version
    assert (second.added_count, second.removed_count, second.changed_count) == (1, 1, 1)
    assert second.left_the_list_count == 1
    assert changes(second) == [
        ("gone", "input", "1", ""),
        ("gone", "output", "2", ""),
        ("dearer", "input", "1", "1.5"),
        ("dearer", "output", "2", "3"),
        ("fresh", "input", "", "4"),
        ("fresh", "output", "", "8"),
    ]
    assert [c.left_the_list for c in second.changes] == [True, False, False]
    assert second.changes[1].change_percent == "50.00"
    assert await rows_of(pool) == [
        ("dearer", False, first.version),
        ("dearer", True, second.version),
        ("fresh", True, second.version),
        ("gone", False, first.version),
        ("same", True, first.version),
    ]
    with pytest.raises(BursarError, match="no price"):
        await rate(prices, "acme/gone")


async def test_a_list_that_comes_back_is_the_one_in_force_again(
    imports: PriceImportService, prices: PriceService, house: House
) -> None:
    one, two = a_list({"m": 1}), a_list({"m": 2})
    first = await take(imports, one)
    await take(imports, two)
    third = await take(imports, one)
    assert (third.outcome, third.version) == (PRICE_IMPORT_OUTCOME_IMPORTED, first.version)
    assert (await rate(prices, "acme/m"))[0] == "1"
    assert (await take(imports, one)).outcome == PRICE_IMPORT_OUTCOME_UNCHANGED
    lists = await prices.ListPriceLists(prices_pb2.ListPriceListsRequest(), None)
    assert [(one.name, one.version, one.price_count) for one in lists.price_lists] == [
        ("priceLists/imported", first.version, 1)
    ]


async def test_the_same_list_twice_at_once_is_imported_once(
    imports: PriceImportService, house: House, changes_told: list[Change]
) -> None:
    answers = await asyncio.gather(*(take(imports, a_list(TEN)) for _ in range(3)))
    assert sorted(answer.outcome for answer in answers) == [
        PRICE_IMPORT_OUTCOME_UNCHANGED,
        PRICE_IMPORT_OUTCOME_UNCHANGED,
        PRICE_IMPORT_OUTCOME_IMPORTED,
    ]
    assert len(changes_told) == 1


async def test_layers_lie_over_each_other(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    await publish_snapshot(pool)
    model = "openai/gpt-4o-mini"
    assert (await rate(prices, model))[0] == "0.15"

    async def of_list(value: float, organization: str) -> str:
        data = a_list({"gpt-4o-mini": value}, "openai")
        answer = await take(imports, data, organization=organization)
        return str(answer.version)

    async def custom(value: str, organization: str) -> None:
        components = [
            prices_pb2.PriceComponent(meter=meter, rate=value, per=1_000_000)
            for meter in ("input", "output")
        ]
        price = prices_pb2.Price(provider="openai", model="gpt-4o-mini", components=components)
        asked = prices_pb2.SetPriceRequest(organization=organization, price=price)
        await prices.SetPrice(asked, None)

    acme = "organizations/acme"
    everybody = await of_list(0.3, PLATFORM)
    assert await rate(prices, model) == ("0.3", everybody)
    own = await of_list(0.4, acme)
    assert await rate(prices, model) == ("0.4", own)
    await custom("0.5", PLATFORM)
    assert (await rate(prices, model))[0] == "0.5"
    await custom("0.6", acme)
    assert (await rate(prices, model))[0] == "0.6"
    assert await rate(prices, model, PLATFORM) == ("0.5", "platform@2")
    shown = await prices.ListPrices(
        prices_pb2.ListPricesRequest(model="gpt-4o-mini", provider="openai"), None
    )
    assert [one.version for one in shown.prices] == ["custom@2"]
    # Of a list that says what is built in, nothing differs: the snapshot is what is named.
    await imports.ClearImportedPrices(ClearImportedPricesRequest(organization=acme), None)


async def test_a_model_that_left_the_list_has_the_built_in_price_again(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    await take(imports, a_list({"gpt-4o-mini": 0.3, "gpt-4o": 9}, "openai"))
    answer = await take(imports, a_list({"gpt-4o": 9}, "openai"))
    assert (answer.removed_count, answer.changed_count, answer.left_the_list_count) == (0, 1, 1)
    assert ("gpt-4o-mini", "input", "0.3", "0.15") in changes(answer)
    assert (await rate(prices, "openai/gpt-4o-mini"))[0] == "0.15"
    assert (await rate(prices, "openai/gpt-4o"))[0] == "9"


async def test_the_whole_map_is_taken_over_and_nothing_differs(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    whole = lzma.decompress(
        (Path(bursar.__file__).parent / "data" / "litellm_prices.json.xz").read_bytes()
    )
    answer = await imports.ImportPrices(parts(whole, chunk=256 * 1024), None)
    assert answer.price_count > 4_000
    assert (answer.added_count, answer.removed_count, answer.changed_count) == (0, 0, 0)
    assert len(await rows_of(pool)) == answer.price_count
    # What says the same as the snapshot is the snapshot's.
    assert (await rate(prices, "openai/gpt-4o-mini"))[1].startswith("builtin-")
    cleared = await imports.ClearImportedPrices(ClearImportedPricesRequest(), None)
    assert cleared.removed_count == answer.price_count
    assert not any(in_force for _, in_force, _ in await rows_of(pool))
    assert (await imports.ClearImportedPrices(ClearImportedPricesRequest(), None)) == type(
        cleared
    )()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (a_list({"good": 1, "bad": -1}), "input_cost_per_token"),
        (a_list({"good": 1})[:-1], "not valid JSON"),
        (a_list({"good": 1, "absurd": 1e7}), "rate of input of acme/absurd is 10000000"),
        (b"<html>not found</html>", "begins with '<html>"),
        # Longer than what is told to sidecars.
        (a_list({"good": 1}, mode="m" * 65), "acme/good: mode: 'mmm"),
    ],
)
async def test_a_bad_file_changes_nothing(
    imports: PriceImportService, house: House, pool: Pool, data: bytes, said: str
) -> None:
    await take(imports, a_list({"good": 2}))
    before = await rows_of(pool)
    fault = await refused(imports, data)
    assert fault.reason == "PRICE_LIST_INVALID"
    assert said in fault.message
    assert await rows_of(pool) == before


async def test_a_change_over_the_limit_is_refused_until_it_is_forced(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    await take(imports, a_list(TEN))
    doubled = a_list(TEN | {"m1": 2.0})
    fault = await refused(imports, doubled, max_change_percent="50")
    assert fault.reason == "PRICE_CHANGE_REFUSED"
    assert "acme/m1: input 1 -> 2 (+100.00 %); at most 50 % are allowed" in fault.message
    assert (await rate(prices, "acme/m1"))[0] == "1"
    shown = await take(imports, doubled, max_change_percent="50", dry_run=True)
    assert shown.outcome == PRICE_IMPORT_OUTCOME_WOULD_REFUSE
    assert len(shown.refusals) == 2
    assert (await take(imports, doubled, dry_run=True)).outcome == PRICE_IMPORT_OUTCOME_WOULD_IMPORT
    assert (await rate(prices, "acme/m1"))[0] == "1"
    forced = await take(imports, doubled, max_change_percent="50", force=True)
    assert forced.outcome == PRICE_IMPORT_OUTCOME_IMPORTED
    assert (await rate(prices, "acme/m1"))[0] == "2"
    events = [row["summary"] for row in await pool.fetch("SELECT summary FROM events ORDER BY id")]
    assert len(events) == 2
    assert "although acme/m1: " in events[1]


async def test_a_list_that_shrinks_is_refused(imports: PriceImportService, house: House) -> None:
    await take(imports, a_list(TEN))
    fault = await refused(imports, a_list(dict(list(TEN.items())[:5])))
    assert "5 of 10 prices (50.0 %) are not on the list any more" in fault.message
    answer = await take(imports, a_list(dict(list(TEN.items())[:5])), max_removed_percent="50")
    assert answer.left_the_list_count == 5


async def stream(*messages: ImportPricesRequest) -> AsyncIterator[ImportPricesRequest]:
    for message in messages:
        yield message


def asked(**fields: Any) -> ImportPricesRequest:
    return ImportPricesRequest(wanted=PriceImport(**fields))


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "wanted"),
        ([ImportPricesRequest()], "part"),
        ([ImportPricesRequest(chunk=b"{}")], "part"),
        ([asked()], "chunk"),
        ([asked(), asked()], "part"),
        ([asked(), ImportPricesRequest(chunk=bytes(1024 * 1024 + 1))], "chunk"),
        ([asked(form=9), ImportPricesRequest(chunk=b"{}")], "wanted.form"),
        ([asked(source="a\nb"), ImportPricesRequest(chunk=b"{}")], "wanted.source"),
        ([asked(max_change_percent="0"), ImportPricesRequest(chunk=b"{}")], "max_change_percent"),
        ([asked(max_removed_percent="101"), ImportPricesRequest(chunk=b"{}")], "max_removed"),
        ([asked(content_sha256=b"x"), ImportPricesRequest(chunk=b"{}")], "content_sha256"),
        ([asked(organization="organizations/no"), ImportPricesRequest(chunk=b"{}")], "no"),
    ],
)
async def test_a_stream_that_means_nothing_is_refused(
    imports: PriceImportService, house: House, messages: list[ImportPricesRequest], field: str
) -> None:
    with pytest.raises(BursarError) as caught:
        await imports.ImportPrices(stream(*messages), None)
    assert field in caught.value.message


async def test_a_file_has_a_size_limit(
    imports: PriceImportService, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_service, "MAX_LIST_BYTES", 1_000)
    fault = await refused(imports, a_list(TEN))
    assert "at most 1000 bytes in all" in fault.message


async def test_few_imports_run_at_once(
    imports: PriceImportService, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_service, "MOST_IMPORTS_AT_ONCE", 0)
    assert (await refused(imports, a_list(TEN))).reason == "TOO_MANY_IMPORTS"


async def test_an_answer_is_bounded(
    imports: PriceImportService, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_service, "MOST_CHANGES", 3)
    answer = await take(imports, a_list(TEN))
    assert (len(answer.changes), answer.further_change_count, answer.added_count) == (3, 7, 10)


async def test_the_platforms_list_is_everybodys(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    answer = await take(imports, a_list({"m": 1}), organization=PLATFORM)
    assert await rate(prices, "acme/m") == ("1", answer.version)
    owner = await pool.fetchval("SELECT DISTINCT organization_id FROM prices")
    assert owner == PLATFORM_ORGANIZATION_ID


def dated(*prices: tuple[str, float]) -> bytes:
    """A list in genai-prices' form with one model; ("" or the day it begins, rate)."""
    entries = [
        {
            **({"constraint": {"start_date": day}} if day else {}),
            "prices": {"input_mtok": value, "output_mtok": value},
        }
        for day, value in prices
    ]
    model = {"id": "m", "match": {"equals": "m"}, "prices": entries}
    return json.dumps([{"id": "acme", "models": [model]}]).encode()


async def test_a_price_of_a_later_day_is_known_ahead_and_can_be_withdrawn(
    imports: PriceImportService, prices: PriceService, house: House, pool: Pool
) -> None:
    answer = await take(imports, dated(("", 1), ("2100-01-01", 3)))
    assert [c.effective_time.ToDatetime().year for c in answer.changes] == [1970, 2100]
    assert (answer.added_count, answer.changed_count) == (1, 0)
    assert (await rate(prices, "acme/m"))[0] == "1"
    # Both travel, each with its time.
    async with pool.acquire() as connection, connection.transaction():
        told = await ImportedPrices().of(connection, house.organization)
    begins = datetime(2100, 1, 1, tzinfo=UTC)
    assert [(one.effective_at, one.expires_at) for one in told] == [(None, begins), (begins, None)]
    assert (await take(imports, dated(("", 1), ("2100-01-01", 3)))).outcome == (
        PRICE_IMPORT_OUTCOME_UNCHANGED
    )
    withdrawn = await take(imports, dated(("", 1)))
    assert [list(c.notes) for c in withdrawn.changes] == [["is not announced any more"]]
    assert (withdrawn.changed_count, withdrawn.left_the_list_count) == (1, 0)
    rows = await pool.fetch(
        """
        SELECT effective_at > now() AS later, expires_at IS NULL OR expires_at > now() AS open,
               superseded_at IS NOT NULL AS withdrawn
        FROM prices WHERE layer = 'imported' ORDER BY effective_at, id
        """
    )
    assert [tuple(row) for row in rows] == [
        (False, False, False),
        (False, True, False),
        (True, True, True),
    ]
