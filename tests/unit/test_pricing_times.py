"""The price book through time: what holds when, and what is kept while it does."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from msgspec import structs

from bursar.pricing import Contract, Price, llm_token_price, snapshot

DAY = timedelta(days=1)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def price(
    rate: str, version: str, since: datetime | None = None, until: datetime | None = None
) -> Price:
    plain = llm_token_price("mine", "m", rates={"input": rate, "output": rate})
    return structs.replace(plain, price_version=version, effective_at=since, expires_at=until)


BOOK = snapshot().with_overlay(
    [
        price("1", "platform@1"),
        price("2", "custom@1", None, NOON),
        price("3", "custom@2", NOON, NOON + DAY),
        price("4", "custom@3", NOON + 2 * DAY),
    ],
    "7",
)


def version_at(moment: datetime) -> str:
    found = BOOK.lookup("m", "mine", at=moment)
    assert found is not None
    return found.price_version


def test_the_last_layer_that_holds_at_the_time_wins() -> None:
    assert version_at(NOON - DAY) == "custom@1"
    assert version_at(NOON - timedelta(microseconds=1)) == "custom@1"
    assert version_at(NOON) == "custom@2"  # the end is outside, the beginning inside
    assert version_at(NOON + DAY) == "platform@1"
    assert version_at(NOON + 2 * DAY) == "custom@3"
    assert version_at(NOON + 900 * DAY) == "custom@3"


def test_a_book_of_an_instant_is_the_same_object_until_something_changes() -> None:
    first, last = NOON, NOON + DAY - timedelta(microseconds=1)
    book = BOOK.at(first)
    assert book is BOOK.at(last)
    assert book is not BOOK.at(NOON + DAY)
    assert (book.since, book.until) == (NOON, NOON + DAY)
    assert book.at(NOON + 10 * DAY) is book
    assert BOOK.at(NOON - 10 * DAY).since is None
    assert BOOK.at(NOON + 10 * DAY).until is None
    assert snapshot().at(NOON) is snapshot()
    found = book.lookup("m", "mine")
    assert found is book.lookup("mine/m") is BOOK.lookup("mine/m", at=last)


def test_a_price_that_is_not_yet_or_no_more_is_not_there() -> None:
    book = snapshot().with_overlay([price("1", "custom@1", NOON, NOON + DAY)], "1")
    assert book.lookup("mine/m", at=NOON - DAY) is None
    assert book.lookup("mine/m", at=NOON + DAY) is None
    assert book.at(NOON - DAY).provider_of("m") == []
    assert "mine/m" not in book.at(NOON + DAY).models()
    assert "mine/m" in book.at(NOON).models()


def test_contracts_hold_for_their_time_and_are_made_once() -> None:
    half = Contract(
        discount=Decimal("0.5"), version="contract@1", effective_at=NOON, expires_at=NOON + DAY
    )
    book = snapshot().with_contracts([half], "1")
    before, during = (book.lookup("gpt-4o", at=at) for at in (NOON - DAY, NOON))
    assert before is not None
    assert during is not None
    assert before.price_version == snapshot().version
    assert during.price_version == f"{snapshot().version}+contract@1"
    assert during is book.at(NOON).lookup("gpt-4o")
    assert book.at(NOON).listed("gpt-4o") is before
    assert book.at(NOON).terms_for(before).discount is half
    assert book.lookup("gpt-4o", at=NOON + DAY) is before


def test_contracts_stay_when_prices_are_laid_over() -> None:
    half = Contract(discount=Decimal("0.5"), version="contract@1")
    book = snapshot().with_contracts([half], "1").with_overlay([price("8", "custom@9")], "9")
    found = book.lookup("mine/m")
    assert found is not None
    assert found.price_version == "custom@9+contract@1"
    assert {component.rate for component in found.components} == {Decimal(4)}


def test_many_instants_do_not_grow_a_book() -> None:
    prices = [price("1", f"custom@{n}", NOON + n * DAY, NOON + (n + 1) * DAY) for n in range(300)]
    book = snapshot().with_overlay(prices, "1")
    for _ in range(2):
        for n in range(300):
            found = book.lookup("mine/m", at=NOON + n * DAY)
            assert found is not None
            assert found.price_version == f"custom@{n}"
    assert len(book._views) <= 64
