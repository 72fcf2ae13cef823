"""The scheduled fetch of a published list, from a server on this machine."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from bursar.download import Download, DownloadError
from bursar.v1.price_imports_pb2 import ClearImportedPricesRequest, GetPriceSyncRequest
from bursar_server.changes import Change, ChangeFeed
from bursar_server.database.pool import Pool
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.prices import import_store
from bursar_server.prices import sync as sync_module
from bursar_server.prices.import_service import PriceImportService
from bursar_server.prices.sync import RETRY_FIRST_S, PriceSync, Superseded, SyncSettings
from tests.fakes.list_publisher import ListPublisher
from tests.postgres.price_list_files import a_list
from tests.postgres.rows import FixedClock

TEN = {f"m{n}": 1.0 for n in range(10)}
DAY = timedelta(days=1)


@pytest.fixture
def publisher() -> Iterator[ListPublisher]:
    with ListPublisher(a_list(TEN)) as running:
        yield running


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def settings(publisher: ListPublisher) -> SyncSettings:
    return SyncSettings(publisher.url, max_change_percent=50)


@pytest.fixture
async def sync(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, settings: SyncSettings
) -> AsyncIterator[PriceSync]:
    sync = PriceSync(pool, feed, clock, settings)
    yield sync
    await sync.stop()


async def in_force(pool: Pool) -> dict[str, str]:
    rows = await pool.fetch(
        """
        SELECT model, c ->> 'rate' AS rate
        FROM prices, jsonb_array_elements(price -> 'components') AS c
        WHERE layer = 'imported' AND expires_at IS NULL AND c ->> 'meter' = 'input'
        """
    )
    return {row["model"]: row["rate"] for row in rows}


async def told(pool: Pool, sync: PriceSync, clock: FixedClock) -> Any:
    service = PriceImportService(pool, ChangeFeed(), clock, sync)
    return await service.GetPriceSync(GetPriceSyncRequest(), None)


async def events(pool: Pool) -> list[str]:
    return [row["kind"] for row in await pool.fetch("SELECT kind FROM events ORDER BY id")]


async def test_without_an_address_nothing_is_ever_fetched(
    pool: Pool, feed: ChangeFeed, clock: FixedClock
) -> None:
    def fetch(url: str, etag: str) -> Download:
        raise AssertionError("a connection was made")

    sync = PriceSync(pool, feed, clock, SyncSettings(), fetch)
    sync.start()
    assert sync._task is None
    state = await told(pool, sync, clock)
    assert (state.enabled, state.url, state.outcome) == (False, "", "")
    await sync.stop()


async def test_a_list_is_taken_over_once_a_day_and_fetched_only_where_it_changed(
    pool: Pool,
    sync: PriceSync,
    clock: FixedClock,
    publisher: ListPublisher,
    changes: list[Change],
) -> None:
    assert await sync.look() == "imported"
    assert len(await in_force(pool)) == 10
    assert [one.organization_id for one in changes] == [PLATFORM_ORGANIZATION_ID]
    assert await sync.look() is None
    clock.time += DAY
    assert await sync.look() == "not modified"
    assert publisher.requests[-1]["If-None-Match"] == '"1"'
    clock.time += DAY
    publisher.etag = '"2"'
    assert await sync.look() == "unchanged"
    clock.time += DAY
    publisher.etag, publisher.content = '"3"', a_list(TEN | {"m0": 1.2})
    assert await sync.look() == "imported"
    assert (await in_force(pool))["m0"] == "1.2"
    assert len(changes) == 2
    state = await told(pool, sync, clock)
    assert (state.enabled, state.outcome, state.failure_count) == (True, "imported", 0)
    assert state.success_time.ToDatetime() == clock.time.replace(tzinfo=None)
    assert state.next_time.ToDatetime() == (clock.time + DAY).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("content", "outcome", "why"),
    [
        (a_list(TEN | {"m0": 2.0}), "refused", "acme/m0: input 1 -> 2 (+100.00 %)"),
        (a_list({"m0": 1.0}), "refused", "9 of 10 prices (90.0 %)"),
        (a_list(TEN | {"m0": -1.0}), "bad file", "input_cost_per_token"),
        (b"{", "bad file", "not valid JSON"),
    ],
)
async def test_what_is_not_accepted_changes_nothing_and_is_told(
    pool: Pool,
    sync: PriceSync,
    clock: FixedClock,
    publisher: ListPublisher,
    content: bytes,
    outcome: str,
    why: str,
) -> None:
    await sync.look()
    before = await in_force(pool)
    publisher.etag, publisher.content = '"2"', content
    for day in range(2):
        clock.time += DAY
        assert await sync.look() == outcome
        state = await told(pool, sync, clock)
        assert (state.outcome, state.failure_count) == (outcome, day + 1)
        assert why in state.detail
    assert await in_force(pool) == before
    assert await events(pool) == ["prices_imported", "price_sync_failed"]
    # It is asked for whole until it is acceptable.
    assert "If-None-Match" not in publisher.requests[-1]
    publisher.content = a_list(TEN)
    clock.time += DAY
    assert await sync.look() == "unchanged"
    assert (await told(pool, sync, clock)).failure_count == 0


async def test_an_address_that_does_not_answer_is_asked_again_later_and_later(
    pool: Pool, feed: ChangeFeed, clock: FixedClock
) -> None:
    def fetch(url: str, etag: str) -> Download:
        raise DownloadError("nobody there")

    sync = PriceSync(pool, feed, clock, SyncSettings("http://x.test/", interval_s=300), fetch)
    pauses = []
    for _ in range(4):
        assert await sync.look() == "unreachable"
        state = await told(pool, sync, clock)
        following = state.next_time.ToDatetime(tzinfo=clock.time.tzinfo)
        pauses.append((following - clock.time).total_seconds())
        clock.time = following
    assert pauses == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S, 300]
    assert await in_force(pool) == {}
    await sync.stop()


async def test_a_look_that_hangs_is_not_joined_by_another(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def fetch(url: str, etag: str) -> Download:
        answered.wait()
        return Download(a_list(TEN), "")

    monkeypatch.setattr(sync_module, "LONGEST_LOOK_S", sync_module.DOWNLOAD_TIMEOUT_S + 0.01)
    sync = PriceSync(pool, feed, clock, SyncSettings("http://x.test/"), fetch)
    for said in ("takes too long", "still holds up the look before this one"):
        assert await sync.look() == "unreachable"
        assert said in (await told(pool, sync, clock)).detail
        clock.time += DAY
    answered.set()
    assert sync._thread is not None
    sync._thread.join()
    monkeypatch.undo()
    assert await sync.look() == "imported"
    await sync.stop()


async def test_of_several_control_planes_one_looks(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, publisher: ListPublisher, sync: PriceSync
) -> None:
    other = PriceSync(pool, feed, clock, sync.settings)
    looks = await asyncio.gather(sync.look(), other.look())
    assert sorted(looks, key=str) == [None, "imported"]
    assert len(publisher.requests) == 1
    await other.stop()


async def test_one_that_died_in_its_look_is_followed_by_another_and_says_nothing_later(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, publisher: ListPublisher, sync: PriceSync
) -> None:
    slow = PriceSync(pool, feed, clock, sync.settings)
    look = await slow._claim()
    assert look is not None
    assert await sync.look() is None
    clock.time += timedelta(minutes=4)
    assert await sync.look() == "imported"
    publisher.content = a_list(TEN | {"m0": 1.4})
    with pytest.raises(Superseded):
        await slow._take(look)
    assert (await in_force(pool))["m0"] == "1"
    await slow.stop()


async def test_another_address_is_looked_at_at_once(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, sync: PriceSync
) -> None:
    await sync.look()
    with ListPublisher(a_list(TEN | {"m1": 1.1})) as elsewhere:
        other = PriceSync(pool, feed, clock, SyncSettings(elsewhere.url))
        assert (await told(pool, other, clock)).outcome == ""
        assert await other.look() == "imported"
        assert "If-None-Match" not in elsewhere.requests[0]
        await other.stop()


async def test_a_list_that_was_taken_back_by_hand_is_fetched_again(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, sync: PriceSync, publisher: ListPublisher
) -> None:
    await sync.look()
    service = PriceImportService(pool, feed, clock, sync)
    asked = ClearImportedPricesRequest(organization="organizations/platform")
    await service.ClearImportedPrices(asked, None)
    clock.time += DAY
    assert await sync.look() == "imported"
    assert len(await in_force(pool)) == 10


async def test_the_secrets_of_an_address_are_kept_nowhere(
    pool: Pool, feed: ChangeFeed, clock: FixedClock, publisher: ListPublisher
) -> None:
    url = publisher.url.replace("//", "//me:hidden@") + "?key=hidden"
    sync = PriceSync(pool, feed, clock, SyncSettings(url))
    assert await sync.look() == "imported"
    state = await told(pool, sync, clock)
    assert state.url == publisher.url
    async with pool.acquire() as connection:
        record = await import_store.sync_state(connection, PLATFORM_ORGANIZATION_ID)
        listed = await import_store.imported_list(connection, PLATFORM_ORGANIZATION_ID)
    assert "hidden" not in f"{record} {listed}"
    await sync.stop()
