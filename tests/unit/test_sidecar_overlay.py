"""What a sidecar holds of prices: in force at their time, without a word from anybody."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import structs

from bursar.pricing import llm_token_price, snapshot
from bursar.v1 import allowances_pb2, contracts_pb2
from bursar.wire import price_to_proto
from bursar_sidecar.overlay import Overlay

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOON_NS = int(NOON.timestamp()) * 10**9
MINUTE_NS = 60 * 10**9
PLAIN = llm_token_price("openai", "ours", rates={"input": "1", "output": "2"})


def stamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def told() -> Overlay:
    scheduled = structs.replace(PLAIN, effective_at=NOON, price_version="custom@9")
    half = contracts_pb2.PriceContract(
        organization="organizations/acme",
        discount_factor="0.5",
        version="contract@8",
        effective_time=stamp(NOON + timedelta(minutes=1)),
    )
    nonsense = contracts_pb2.PriceContract(discount_factor="7", version="contract@9")
    overlay = Overlay()
    overlay.hear(
        allowances_pb2.PriceBook(
            overlay_version=5,
            part_count=1,
            prices=[price_to_proto(scheduled)],
            contracts=[half, nonsense],
        )
    )
    return overlay


def version_at(overlay: Overlay, wall_ns: int) -> str:
    found = overlay.book(wall_ns).lookup("openai/ours")
    return "" if found is None else found.price_version


def test_what_is_scheduled_is_in_force_at_its_time() -> None:
    overlay = told()
    assert version_at(overlay, NOON_NS - 1) == ""
    assert version_at(overlay, NOON_NS) == "custom@9"
    assert version_at(overlay, NOON_NS + MINUTE_NS - 1) == "custom@9"
    assert version_at(overlay, NOON_NS + MINUTE_NS) == "custom@9+contract@8"
    # A wall clock that was set back.
    assert version_at(overlay, NOON_NS - 1) == ""


def test_the_book_is_the_same_object_until_something_changes() -> None:
    overlay = told()
    book = overlay.book(NOON_NS)
    assert book is overlay.book(NOON_NS + MINUTE_NS - 1)
    assert book is not overlay.book(NOON_NS + MINUTE_NS)
    assert Overlay().book(0) is snapshot()


def test_a_new_overlay_takes_the_place_of_the_old_one_at_once() -> None:
    overlay = told()
    assert version_at(overlay, NOON_NS) == "custom@9"
    overlay.hear(allowances_pb2.PriceBook(overlay_version=6, part_count=1))
    assert version_at(overlay, NOON_NS) == ""
    assert overlay.version == 6


def test_contracts_of_several_parts_keep_their_order() -> None:
    overlay = Overlay()
    for part, factor in enumerate(("0.1", "0.2", "0.3")):
        contract = contracts_pb2.PriceContract(discount_factor=factor, version=f"contract@{part}")
        overlay.hear(
            allowances_pb2.PriceBook(
                overlay_version=1, part=part, part_count=3, contracts=[contract]
            )
        )
    found = overlay.book(NOON_NS).lookup("gpt-4o")
    assert found is not None
    assert found.price_version == f"{snapshot().version}+contract@2"
