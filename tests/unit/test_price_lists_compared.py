"""A published list against what stands: what changes, by how much, and when it is refused."""

import json
import lzma
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bursar
from bursar.pricing import Price, PriceError, llm_token_price, snapshot
from bursar.pricing.comparing import ChangeOf, Place, PriceChange, compare
from bursar.pricing.lists import list_version, plain, read_list
from bursar_server.prices.import_rules import Limits, ordered, percent_of, refusals

AT = datetime(2026, 11, 21, tzinfo=UTC)
LATER = datetime(2027, 1, 1, tzinfo=UTC)
MAP = Path(bursar.__file__).parent / "data" / "litellm_prices.json.xz"


@cache
def whole_map() -> bytes:
    return lzma.decompress(MAP.read_bytes())


def entry(**more: Any) -> dict[str, Any]:
    return {
        "litellm_provider": "acme",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        **more,
    }


def price(**rates: str) -> Price:
    return llm_token_price("acme", "large", rates=rates or {"input": "1", "output": "2"})


def only(old: Price | None, new: Price | None) -> PriceChange:
    place: Place = ("acme", "large", None)
    (change,) = compare({place: old} if old else {}, {place: new} if new else {})
    return change


def test_the_map_that_the_snapshot_is_made_of_changes_nothing() -> None:
    read = read_list(whole_map(), snapshot(), AT)
    assert len(read.prices) > 4_000
    for one in read.prices:
        below = snapshot().lookup(one.model, one.provider)
        assert below is not None, one.model
        assert plain(below) == plain(one)


def test_a_version_names_the_content_however_it_is_written() -> None:
    entries = json.loads(whole_map())
    backwards = json.dumps(dict(reversed(entries.items())), indent=3).encode()
    read = read_list(whole_map(), snapshot(), AT)
    assert read_list(backwards, snapshot(), AT).version == read.version
    entries["gpt-4o"]["input_cost_per_token"] *= 2
    assert read_list(json.dumps(entries).encode(), snapshot(), AT).version != read.version


@pytest.mark.parametrize("backwards", [False, True])
def test_the_key_with_the_provider_wins_and_a_doubled_one_is_not_reached(
    *, backwards: bool
) -> None:
    entries = {
        "acme/large": entry(input_cost_per_token=5e-06),
        "large": entry(),
        "acme/acme/large": entry(input_cost_per_token=7e-06),
        "acme/small": {"litellm_provider": "acme", "mode": "chat"},
        "small": entry(input_cost_per_token=2e-06),
    }
    ordered_so = dict(sorted(entries.items(), reverse=backwards))
    read = read_list(json.dumps(ordered_so).encode(), snapshot(), AT)
    assert {one.model: one.components[0].rate for one in read.prices} == {"large": 5, "small": 2}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"m": entry(input_cost_per_token=-1)}, "input_cost_per_token"),
        ({"m": entry(input_cost_per_token="NaN")}, "input_cost_per_token"),
        ({"m": entry(input_cost_per_token="1e400")}, "input_cost_per_token"),
        ({"m": entry(input_cost_per_token=2.5)}, "rate of input of acme/m is 2500000"),
        ({"m": entry(input_cost_per_request=1001)}, "rate of request of acme/m is 1001"),
        ({"m": entry(provider_specific_entry={"us": 101})}, "factor region/us of acme/m is 101"),
        ({"m": entry(provider_specific_entry={"us": 0})}, "factor region/us of acme/m is 0"),
        ({"m": entry(), "n": [1]}, "'n' is a list; expected an object"),
        ({"a b": entry()}, "model 'acme/a b' is no name"),
        ({"error": "not found"}, "'error' is a str"),
        ({}, "prices none of its 0 entries"),
        ({"m": entry(input_cost_per_token=0, output_cost_per_token=0)}, "none of its 1 entries"),
    ],
)
def test_a_bad_map_is_refused_whole_and_says_where(entries: Any, said: str) -> None:
    with pytest.raises(PriceError) as caught:
        read_list(json.dumps(entries).encode(), snapshot(), AT)
    assert said in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from(["auto", "litellm", "genai-prices"]))
def test_any_bytes_are_a_list_or_a_fault_that_is_told(data: bytes, form: str) -> None:
    with pytest.raises(PriceError):
        read_list(data, snapshot(), AT, form)


def test_a_change_says_how_much_more_the_same_use_costs() -> None:
    change = only(price(input="1", output="2"), price(input="1.5", output="1"))
    found = [(rate.what, str(rate.percent)) for rate in change.rates]
    assert found == [("input", "50.00"), ("output", "-50.00")]
    assert change.kind is ChangeOf.CHANGED


def test_a_new_rate_is_compared_with_what_stood_in_for_it_and_a_gone_one_with_what_does() -> None:
    plain_one = price(input="2", output="8")
    cached = price(input="2", output="8", cached_input="0.5", reasoning="12")
    gained, lost = only(plain_one, cached), only(cached, plain_one)
    assert [(r.what, r.old, str(r.percent)) for r in gained.rates] == [
        ("cached_input", None, "-75.00"),
        ("reasoning", None, "50.00"),
    ]
    assert [(r.what, r.new, str(r.percent)) for r in lost.rates] == [
        ("cached_input", None, "300.00"),
        ("reasoning", None, "-33.33"),
    ]


def test_a_tiers_own_rate_is_compared_with_the_factor_that_it_replaces() -> None:
    before = json.dumps({"large": entry()}).encode()
    after = json.dumps({"large": entry(input_cost_per_token_batches=1e-06)}).encode()
    old, new = (read_list(data, snapshot(), AT).prices[0] for data in (before, after))
    # A batch cost half before.
    assert [(r.what, str(r.percent)) for r in only(old, new).rates] == [("input@batch", "100.00")]


def test_what_is_added_and_removed_shows_its_rates() -> None:
    added, removed = only(None, price()), only(price(), None)
    assert (added.kind, removed.kind) == (ChangeOf.ADDED, ChangeOf.REMOVED)
    assert [(r.old, r.new) for r in added.rates] == [(None, Decimal(1)), (None, Decimal(2))]
    assert [(r.old, r.new) for r in removed.rates] == [(Decimal(1), None), (Decimal(2), None)]


def test_a_price_of_a_later_day_is_compared_with_the_one_of_now() -> None:
    now: Place = ("acme", "large", None)
    old = {now: price(input="1", output="2")}
    then: Place = ("acme", "large", LATER)
    (change,) = compare(old, {**old, then: price(input="3", output="2")})
    assert (change.since, change.percent) == (LATER, Decimal("200.00"))


changed = st.decimals(min_value="0.01", max_value="100", places=2)


@given(old=changed, new=changed)
def test_a_percentage_gives_the_new_rate_back(old: Decimal, new: Decimal) -> None:
    before, after = price(input=str(old), output="1"), price(input=str(new), output="1")
    found = compare({("a", "m", None): before}, {("a", "m", None): after})
    if old == new:
        assert not found
        return
    percent = found[0].percent
    assert percent is not None
    assert abs(old * (1 + percent / 100) - new) <= old * Decimal("0.0001")


def limits(change: str | None = None, removed: str = "10") -> Limits:
    return Limits(None if change is None else Decimal(change), Decimal(removed))


@pytest.mark.parametrize(("limit", "refused"), [("99.99", True), ("100", False), (None, False)])
def test_a_change_at_the_limit_passes_and_one_over_it_does_not(
    limit: str | None, *, refused: bool
) -> None:
    change = only(price(input="1", output="2"), price(input="2", output="2"))
    found = refusals([change], 0, 10, limits(limit))
    assert bool(found) is refused
    if refused:
        assert found == ["acme/large: input 1 -> 2 (+100.00 %); at most 99.99 % are allowed"]


def test_a_fall_counts_as_a_rise_does() -> None:
    change = only(price(input="1", output="2"), price(input="0.1", output="2"))
    assert refusals([change], 0, 10, limits("50"))


def test_a_fee_for_every_call_where_there_was_none_is_over_any_limit() -> None:
    before = price()
    after = read_list(
        json.dumps({"large": entry(input_cost_per_request=0.01)}).encode(), snapshot(), AT
    ).prices[0]
    found = refusals([only(before, after)], 0, 10, limits("1000000"))
    assert found == [
        "acme/large: request none -> 0.01/1 (from nothing); at most 1000000 % are allowed"
    ]


def test_a_rate_that_becomes_nothing_is_over_any_limit() -> None:
    change = only(price(input="1", output="2"), price(input="1", output="0"))
    assert refusals([change], 0, 10, limits("1000000"))


def test_a_rate_above_any_length_of_input_is_seen_as_what_it_is() -> None:
    # A list that moves the rate behind a threshold of one LLM token changes every call.
    after = read_list(
        json.dumps({"large": entry(input_cost_per_token_above_1_tokens=1e-03)}).encode(),
        snapshot(),
        AT,
    ).prices[0]
    assert refusals([only(price(), after)], 0, 10, limits("50"))


def test_a_list_that_shrinks_is_refused() -> None:
    assert not refusals([], 10, 100, limits())
    (found,) = refusals([], 11, 100, limits())
    assert found.startswith("11 of 100 prices (11.0 %) are not on the list any more")
    assert not refusals([], 3, 4, limits())
    assert not refusals([], 100, 100, limits(removed="100"))


def test_many_reasons_are_counted_not_listed() -> None:
    change = only(price(input="1", output="2"), price(input="9", output="2"))
    found = refusals([change] * 25, 0, 100, limits("1"))
    assert len(found) == 11
    assert found[-1] == "and 15 more rates"


def test_the_largest_change_comes_first() -> None:
    small = only(price(input="1", output="2"), price(input="1.1", output="2"))
    large = only(price(input="1", output="2"), price(input="0.1", output="2"))
    added, removed = only(None, price()), only(price(), None)
    assert ordered([added, small, large, removed]) == [removed, large, small, added]


@pytest.mark.parametrize("text", ["", "-1", "1e3", "abc", "1.2.3", "٣", "1" * 21, "1000001"])
def test_what_is_no_percentage_is_none(text: str) -> None:
    assert percent_of(text, Decimal(1_000_000)) is None


def test_equal_content_has_one_version_whatever_list_it_came_from() -> None:
    one = price()
    assert list_version([one]) == list_version([plain(one)])
