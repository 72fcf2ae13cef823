"""Imported lists as sidecars are told of them: only what differs, in bounded frames, whole."""

import json
import lzma
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import bursar
from bursar.pricing import Price, snapshot
from bursar.pricing.lists import plain, read_list
from bursar.v1 import allowances_pb2, prices_pb2
from bursar.v1.price_imports_pb2 import ClearImportedPricesRequest
from bursar_server.allowances.settings import LendingSettings
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.prices.import_service import PriceImportService
from bursar_server.prices.service import PriceService
from bursar_server.prices.sync import PriceSync, SyncSettings
from bursar_sidecar.overlay import Overlay
from tests.fakes.scripted_sidecar import ScriptedSidecar
from tests.postgres.lending_world import World, lending
from tests.postgres.price_list_files import a_list, parts

KILOBYTES_256 = 256 * 1024
ACME = "organizations/acme"
PLATFORM = "organizations/platform"


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with lending(pool, SystemClock(), LendingSettings(idle_tick_ms=5)) as world:
        yield world


@pytest.fixture
def imports(world: World) -> PriceImportService:
    clock = SystemClock()
    sync = PriceSync(world.pool, world.feed, clock, SyncSettings())
    return PriceImportService(world.pool, world.feed, clock, sync)


def whole_map() -> dict[str, Any]:
    file = Path(bursar.__file__).parent / "data" / "litellm_prices.json.xz"
    entries: dict[str, Any] = json.loads(lzma.decompress(file.read_bytes()))
    return entries


def dearer(value: Any) -> Any:
    """A third more for everything that costs something."""
    if isinstance(value, dict):
        return {
            key: dearer(inner) if isinstance(inner, dict | list) else _rate(key, inner)
            for key, inner in value.items()
        }
    return [dearer(inner) for inner in value] if isinstance(value, list) else value


def _rate(key: str, value: Any) -> Any:
    is_rate = "cost" in key and isinstance(value, float) and value
    return float(f"{value * 1.3:.12g}") if is_rate else value


async def take(imports: PriceImportService, entries: Any, organization: str = PLATFORM) -> Any:
    data = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    sent = parts(data, chunk=256 * 1024, organization=organization, force=True)
    return await imports.ImportPrices(sent, None)


def books(sidecar: ScriptedSidecar) -> list[allowances_pb2.ControlFrame]:
    return [frame for frame in sidecar.frames if frame.HasField("prices")]


def gathered(frames: list[allowances_pb2.ControlFrame]) -> Overlay:
    overlay = Overlay()
    for frame in frames:
        overlay.hear(frame.prices)
    return overlay


async def opened(
    world: World, *, snapshot_version: str | None = None, boot_id: str = "boot-1"
) -> ScriptedSidecar:
    version = snapshot().version if snapshot_version is None else snapshot_version
    return await world.sidecar().open(boot_id, snapshot=version)


def listed(data: bytes) -> list[Price]:
    return list(read_list(data, snapshot(), SystemClock().now()).prices)


async def test_a_whole_changed_list_arrives_in_bounded_frames(
    world: World, imports: PriceImportService
) -> None:
    data = json.dumps({key: dearer(entry) for key, entry in whole_map().items()}).encode()
    answer = await take(imports, data)
    assert answer.changed_count > 4_000
    sidecar = await opened(world)
    frames = books(sidecar)
    assert len(frames) > 3
    assert max(frame.ByteSize() for frame in frames) <= KILOBYTES_256
    overlay = gathered(frames)
    for price in listed(data):
        found = overlay.book(0).lookup(price.model, price.provider)
        assert found is not None
        assert plain(found) == plain(price)


async def test_only_what_differs_from_the_snapshot_travels(
    world: World, imports: PriceImportService
) -> None:
    entries = whole_map()
    await take(imports, entries)
    sidecar = await opened(world)
    assert [len(frame.prices.prices) for frame in books(sidecar)] == [0]
    entries["gpt-4o"] = dearer(entries["gpt-4o"])
    version = (await take(imports, entries)).version
    told = await sidecar.until(lambda frame: frame.HasField("prices"))
    assert [(one.provider, one.model, one.version) for one in told.prices.prices] == [
        ("openai", "gpt-4o", version)
    ]


async def test_an_organizations_own_list_hides_the_platforms(
    world: World, imports: PriceImportService
) -> None:
    built_in = snapshot().lookup("gpt-4o", "openai")
    assert built_in is not None
    await take(imports, a_list({"gpt-4o": 9, "gpt-4o-mini": 9}, "openai"))
    entries = {"gpt-4o": whole_map()["gpt-4o"]}
    await take(imports, entries, ACME)
    book = gathered(books(await opened(world))).book(0)
    found, other = book.lookup("gpt-4o", "openai"), book.lookup("gpt-4o-mini", "openai")
    assert found == built_in
    assert other is not None
    assert other.components[0].rate == 9


async def test_a_custom_price_lies_over_the_imported_one(
    world: World, imports: PriceImportService
) -> None:
    prices = PriceService(world.pool, world.feed)
    components = [
        prices_pb2.PriceComponent(meter=meter, rate="7", per=1_000_000)
        for meter in ("input", "output")
    ]
    custom = prices_pb2.Price(provider="openai", model="gpt-4o", components=components)
    await prices.SetPrice(prices_pb2.SetPriceRequest(organization=ACME, price=custom), None)
    await take(imports, a_list({"gpt-4o": 9, "gpt-4o-mini": 9}, "openai"), ACME)
    for snapshot_version in (None, "other"):
        sidecar = await opened(world, snapshot_version=snapshot_version)
        book = gathered(books(sidecar)).book(0)
        found, other = book.lookup("gpt-4o", "openai"), book.lookup("gpt-4o-mini", "openai")
        assert found is not None
        assert other is not None
        assert [one.components[0].rate for one in (found, other)] == [7, 9]


async def test_a_build_with_another_snapshot_gets_the_same_prices(
    world: World, imports: PriceImportService
) -> None:
    await take(imports, a_list({"gpt-4o": 9, "fresh": 3}, "openai"))
    ours, theirs = await opened(world), await opened(world, snapshot_version="other", boot_id="b-2")
    frames = books(theirs)
    assert max(frame.ByteSize() for frame in frames) <= KILOBYTES_256
    here, there = gathered(books(ours)).book(0), gathered(frames).book(0)
    # All of it is told: nothing is left to what the other build ships.
    told = {(one.provider, one.model) for frame in frames for one in frame.prices.prices}
    for name in here.models():
        provider, _, model = name.partition("/")
        price = here.lookup(model, provider)
        assert price is not None
        assert (price.provider, price.model) in told
        assert plain(there.lookup(price.model, price.provider) or price) == plain(price)
    dear = there.lookup("gpt-4o", "openai")
    assert dear is not None
    assert dear.components[0].rate == 9


async def test_a_book_whose_stream_was_cut_is_told_anew(
    world: World, imports: PriceImportService
) -> None:
    data = json.dumps({key: dearer(entry) for key, entry in whole_map().items()}).encode()
    await take(imports, data)
    first = books(await opened(world))
    overlay = Overlay()
    for frame in first[: len(first) // 2]:
        overlay.hear(frame.prices)
    again = await opened(world)
    for frame in books(again):
        overlay.hear(frame.prices)
    assert overlay.version == first[0].prices.overlay_version
    assert overlay.book(0).lookup("gpt-4o", "openai") != snapshot().lookup("gpt-4o", "openai")


async def test_a_list_taken_back_leaves_the_snapshot(
    world: World, imports: PriceImportService
) -> None:
    await take(imports, a_list({"gpt-4o": 9}, "openai"))
    sidecar = await opened(world)
    await imports.ClearImportedPrices(ClearImportedPricesRequest(organization=PLATFORM), None)
    told = await sidecar.until(lambda frame: frame.HasField("prices"))
    assert list(told.prices.prices) == []
