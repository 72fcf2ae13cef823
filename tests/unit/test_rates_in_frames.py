"""Exchange rates in the frames that bring prices to sidecars."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from bursar.exchange import ExchangeRate
from bursar.pricing import llm_token_price, snapshot
from bursar.pricing.book import BUILT_IN_CURRENCY
from bursar.wire import exchange_rate_from_proto, price_to_proto
from bursar_server.allowances import policy_messages
from bursar_server.allowances.policy_messages import price_parts

NOW = datetime(2026, 3, 15, tzinfo=UTC)


def test_rates_and_prices_share_frames_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_messages, "MOST_PRICE_BYTES", 400)
    rates = [
        ExchangeRate("EUR", "USD", Decimal("1.08"), NOW + timedelta(days=day)) for day in range(30)
    ]
    prices = [
        llm_token_price("openai", f"m-{number}", rates={"input": "1", "output": "2"})
        for number in range(5)
    ]
    messages = [price_to_proto(price) for price in prices]
    parts = [frame.prices for frame in price_parts("builtin-1", 7, messages, rates)]
    assert len(parts) > 3
    assert [(part.part, part.part_count) for part in parts] == [
        (number, len(parts)) for number in range(len(parts))
    ]
    assert max(part.ByteSize() for part in parts) < 500
    told = [exchange_rate_from_proto(each) for part in parts for each in part.exchange_rates]
    assert told == rates
    assert [price.model for part in parts for price in part.prices] == [p.model for p in prices]


def test_all_that_is_built_in_is_in_one_currency() -> None:
    book = snapshot()
    parted = (name.partition("/") for name in book.models())
    prices = [book.lookup(model, provider) for provider, _, model in parted]
    found = {price.currency for price in prices if price is not None}
    assert found == {BUILT_IN_CURRENCY}
