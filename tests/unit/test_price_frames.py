"""How a book of prices travels: in bounded frames, and in force whole or not at all."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from bursar import wire
from bursar.pricing import Price, llm_token_price, snapshot
from bursar.pricing.lists import plain, read_list
from bursar.v1 import allowances_pb2
from bursar_server.allowances.policy_messages import MOST_FRAME_BYTES, price_parts
from bursar_sidecar.overlay import Overlay

DATA = Path(__file__).parent.parent / "data" / "price_lists"
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
KILOBYTES_256 = 256 * 1024


def dearer(price: Price) -> Price:
    """The same, each rate a third higher."""
    components = tuple(
        msgspec.structs.replace(one, rate=one.rate * Decimal("1.3")) for one in price.components
    )
    return msgspec.structs.replace(
        price, components=components, price_version="imported-0123456789abcdef"
    )


def whole_list() -> list[Price]:
    """Every price of the snapshot, changed, and others up to 4,500."""
    book = snapshot()
    found = {}
    for name in book.models():
        provider, _, model = name.partition("/")
        price = book.lookup(model, provider)
        if price is not None and price.components:
            found[price.provider, price.model] = dearer(price)
    for number in range(4_500 - len(found)):
        new = llm_token_price("acme", f"new-{number}", rates={"input": "1", "output": "2"})
        found["acme", new.model] = new
    return list(found.values())


@pytest.fixture(scope="module")
def prices() -> list[Price]:
    return whole_list()


@pytest.fixture(scope="module")
def frames(prices: list[Price]) -> list[allowances_pb2.ControlFrame]:
    parts = price_parts("builtin-x", 7, [wire.price_to_proto(price) for price in prices])
    for part in parts:
        # As the stream stamps them.
        part.session_epoch, part.applied_seq = 2**40, 2**40
    return parts


def test_no_frame_of_a_whole_list_is_larger_than_256_kilobytes(
    prices: list[Price], frames: list[allowances_pb2.ControlFrame]
) -> None:
    assert len(prices) >= 4_500
    assert MOST_FRAME_BYTES == KILOBYTES_256
    sizes = [frame.ByteSize() for frame in frames]
    assert max(sizes) <= KILOBYTES_256
    # And none is needlessly small.
    assert min(sizes[:-1]) > KILOBYTES_256 * 0.9
    assert sum(len(frame.prices.prices) for frame in frames) == len(prices)


def test_a_whole_list_arrives_as_it_was(
    prices: list[Price], frames: list[allowances_pb2.ControlFrame]
) -> None:
    overlay = Overlay()
    for frame in frames:
        overlay.hear(allowances_pb2.PriceBook.FromString(frame.prices.SerializeToString()))
    assert overlay.version == 7
    for price in prices:
        found = overlay.book(0).lookup(price.model, price.provider)
        assert found is not None
        assert plain(found) == plain(price)


def test_prices_with_every_condition_arrive_as_they_were() -> None:
    data = (DATA / "genai_prices_sample.json").read_bytes()
    prices = read_list(data, snapshot(), AT).prices
    assert any(one.windows for one in prices)
    assert any(one.effective_at for one in prices)
    for price in prices:
        assert plain(wire.price_from_proto(wire.price_to_proto(price))) == plain(price)


def test_nothing_of_a_book_is_in_force_before_its_last_part(
    prices: list[Price], frames: list[allowances_pb2.ControlFrame]
) -> None:
    overlay = Overlay()
    before = overlay.book(0)
    for frame in frames[:-1]:
        overlay.hear(frame.prices)
        assert overlay.book(0) is before
    overlay.hear(frames[-1].prices)
    assert overlay.book(0) is not before


def book(version: int, *models: str) -> list[allowances_pb2.PriceBook]:
    """A book with one price a part."""
    parts = []
    for number, model in enumerate(models):
        price = llm_token_price("acme", model, rates={"input": str(version), "output": "1"})
        parts.append(
            allowances_pb2.PriceBook(
                overlay_version=version,
                part=number,
                part_count=len(models),
                prices=[wire.price_to_proto(price)],
            )
        )
    return parts


def held(overlay: Overlay) -> list[str]:
    return [name for name in ("a", "b", "c") if overlay.book(0).lookup(name, "acme") is not None]


def test_a_book_whose_stream_was_cut_begins_anew() -> None:
    overlay = Overlay()
    first, second = book(1, "a", "b")
    overlay.hear(first)
    # A new stream: everything from the first part on.
    for part in (first, second):
        overlay.hear(part)
    assert (held(overlay), overlay.version) == (["a", "b"], 1)


def test_parts_of_two_books_are_not_mixed() -> None:
    overlay = Overlay()
    overlay.hear(book(1, "a", "b")[0])
    overlay.hear(book(2, "a", "c")[1])
    assert held(overlay) == []
    # The rest of the first still completes it.
    overlay.hear(book(1, "a", "b")[1])
    assert (held(overlay), overlay.version) == (["a", "b"], 1)
    for part in book(2, "c"):
        overlay.hear(part)
    assert (held(overlay), overlay.version) == (["c"], 2)


def test_a_part_that_comes_twice_or_out_of_turn_is_left() -> None:
    overlay = Overlay()
    one, two, three = book(1, "a", "b", "c")
    for part in (one, three, two, two, three):
        overlay.hear(part)
    assert held(overlay) == ["a", "b", "c"]


@pytest.mark.parametrize(("part", "count"), [(-1, 2), (2, 2), (0, 0), (0, 5_000)])
def test_numbers_of_parts_that_cannot_be_are_left(part: int, count: int) -> None:
    overlay = Overlay()
    before = overlay.book(0)
    overlay.hear(allowances_pb2.PriceBook(part=part, part_count=count, overlay_version=3))
    assert (overlay.book(0) is before, overlay.version) == (True, 0)
