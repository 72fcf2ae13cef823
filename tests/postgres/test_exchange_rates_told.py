"""Exchange rates reach sidecars with the prices, at the start and whenever they change."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from bursar.v1 import allowances_pb2, exchange_rates_pb2, prices_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.clock import SystemClock
from bursar_server.database.pool import Pool
from bursar_server.exchange_rates.service import ExchangeRateService
from bursar_server.prices.service import PriceService
from tests.fakes.scripted_sidecar import ScriptedSidecar
from tests.postgres.lending_world import ORGANIZATION, World, lending

PLATFORM = "organizations/platform"
ACME = "organizations/acme"
CLOCK = SystemClock()


@pytest.fixture
async def world(pool: Pool) -> AsyncIterator[World]:
    async with lending(pool, CLOCK, LendingSettings()) as world:
        currency = "UPDATE organizations SET currency = 'EUR' WHERE id = $1"
        await pool.execute(currency, ORGANIZATION)
        yield world


async def set_rate(
    world: World, base: str, quote: str, rate: str, *, organization: str = PLATFORM,
    at: datetime | None = None,
) -> None:  # fmt: skip
    asked = exchange_rates_pb2.ExchangeRate(base_currency=base, quote_currency=quote, rate=rate)
    if at is not None:
        asked.effective_time.FromDatetime(at)
    request = exchange_rates_pb2.SetExchangeRateRequest(
        organization=organization, exchange_rate=asked
    )
    service = ExchangeRateService(world.pool, world.feed, CLOCK)
    await service.SetExchangeRate(request, None)


def told(frame: allowances_pb2.ControlFrame) -> list[tuple[str, str, str]]:
    return [
        (each.base_currency, each.quote_currency, each.rate) for each in frame.prices.exchange_rates
    ]


def prices_of(sidecar: ScriptedSidecar) -> list[allowances_pb2.ControlFrame]:
    return [frame for frame in sidecar.frames if frame.HasField("prices")]


async def greeted(world: World) -> ScriptedSidecar:
    """A sidecar that was told the prices."""
    sidecar = await world.sidecar().open("boot-1")
    if not prices_of(sidecar):
        await sidecar.until(lambda frame: frame.HasField("prices"))
    return sidecar


async def test_a_session_is_told_what_its_prices_need_and_what_changes(world: World) -> None:
    later = CLOCK.now() + timedelta(days=3)
    await set_rate(world, "EUR", "USD", "1.25")
    await set_rate(world, "EUR", "JPY", "160")
    await set_rate(world, "USD", "EUR", "0.7", organization=ACME, at=later)
    sidecar = await greeted(world)
    first = prices_of(sidecar)[0]
    assert told(first) == [("EUR", "USD", "1.25"), ("USD", "EUR", "0.7")]
    await set_rate(world, "EUR", "USD", "1.5")
    await sidecar.until(lambda frame: ("EUR", "USD", "1.5") in told(frame))
    assert prices_of(sidecar)[-1].prices.overlay_version > first.prices.overlay_version
    # A price in another currency needs another rate.
    components = [
        prices_pb2.PriceComponent(meter=meter, rate="100", per=1_000_000)
        for meter in ("input", "output")
    ]
    price = prices_pb2.Price(provider="sakura", model="x", currency="JPY", components=components)
    await PriceService(world.pool, world.feed).SetPrice(
        prices_pb2.SetPriceRequest(organization=ACME, price=price), None
    )
    await sidecar.until(lambda frame: ("EUR", "JPY", "160") in told(frame))


async def test_an_organization_that_needs_none_is_told_none(world: World) -> None:
    await world.pool.execute("UPDATE organizations SET currency = 'USD' WHERE id = 5000")
    await set_rate(world, "EUR", "USD", "1.25")
    sidecar = await greeted(world)
    assert not any(told(frame) for frame in prices_of(sidecar))
