"""Lists that are damaged somewhere: each is read, or refused with a fault that is told."""

import copy
import json
import lzma
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bursar
from bursar.pricing import PriceError, snapshot
from bursar.pricing.lists import read_list

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
SAMPLE = Path(__file__).parent.parent / "data" / "price_lists" / "genai_prices_sample.json"
MAP = Path(bursar.__file__).parent / "data" / "litellm_prices.json.xz"
RARE = ("tiered_pricing", "search_context_cost_per_query", "provider_specific_entry", "off_peak")
MOST_ENTRIES = 60

Path_ = tuple[Any, ...]

NUMBER = re.compile(r'"number ([-+0-9e]+)"')
NONSENSE: list[Any] = [
    *(None, True, -1, 0, 1, 10**400, 1e308, -0.0, 10**19, "", "x", "NaN", "1e5", "2026-13-01"),
    *("number 1e999999999", "number -1e-999999999", "number 1e99999999999999999999"),
    *([], {}, [1], {"a": 1}, [{}], [[[]]], {"base": 1, "tiers": [{"start": 1, "price": None}]}),
    *({"start_date": 5}, {"start_time": "01:00:00+99:00", "end_time": "x"}),
    {"start_time": "01:00:00", "end_time": "01:00:00"},
]


@cache
def lists() -> list[Any]:
    """A list of each form, whose every part may be damaged."""
    whole = json.loads(lzma.decompress(MAP.read_bytes()))
    rare = [key for key in whole if any(field in str(whole[key]) for field in RARE)]
    chosen = {key: whole[key] for key in [*rare[:MOST_ENTRIES], "gpt-4o", "gemini-2.5-pro"]}
    return [json.loads(SAMPLE.read_bytes()), chosen]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    yield path
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, part in inner:
        yield from places(part, (*path, key))


@cache
def every_place(which: int) -> list[Path_]:
    return list(places(lists()[which]))


def damaged(which: int, place: int, nonsense: Any) -> bytes:
    path = every_place(which)[place % len(every_place(which))]
    if not path:
        return written(nonsense)
    whole = copy.deepcopy(lists()[which])
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = nonsense
    return written(whole)


def written(whole: Any) -> bytes:
    """As JSON; "number 1e999" stands for a number that nothing in Python would write."""
    return NUMBER.sub(r"\1", json.dumps(whole)).encode()


@settings(deadline=None)
@given(st.integers(0, 1), st.integers(0, 10**6), st.sampled_from(NONSENSE))
def test_a_damaged_list_is_read_or_refused_with_a_word(
    which: int, place: int, nonsense: Any
) -> None:
    try:
        read = read_list(damaged(which, place, nonsense), snapshot(), AT)
    except PriceError:
        return
    for price in read.prices:
        assert price.is_priced
        assert all(one.rate.is_finite() and one.rate >= 0 for one in price.components)


def off_peak_on(day: str) -> bytes:
    return (
        b'{"m": {"litellm_provider": "deepseek", "mode": "chat", "input_cost_per_token": 1e-6, '
        b'"output_cost_per_token": 1e-6, "off_peak_pricing": {"input_cost_per_token": 5e-7, '
        b'"windows": [{"hours_utc": "16:30-00:30", "weekdays": [%s]}]}}}' % day.encode()
    )


@pytest.mark.parametrize("number", ["1e999999", "-1e-999999", "1e99999999999999999999", "0e-500"])
def test_a_number_that_takes_gigabytes_to_write_out_refuses_the_list(number: str) -> None:
    with pytest.raises(PriceError, match=re.escape(f"number {number} is not accepted")):
        read_list(off_peak_on(number), snapshot(), AT)
    with pytest.raises(PriceError, match=re.escape(f"number {number} is not accepted")):
        read_list(b'[{"id": "a", "models": [%s]}]' % number.encode(), snapshot(), AT)


@pytest.mark.parametrize("day", ["1e300", "2.5", "0", "8", "true"])
def test_a_day_that_no_week_has_opens_no_window(day: str) -> None:
    (price,) = read_list(off_peak_on(day), snapshot(), AT).prices
    assert not price.windows
    assert "off_peak_pricing" in price.unmodelled


@pytest.mark.parametrize("windows", ["null", "5", "1.5", "true", '"x"', "[null]", '{"a": 1}'])
def test_windows_that_are_none_are_reported_and_refuse_nothing(windows: str) -> None:
    listed = off_peak_on("1").replace(b'[{"hours_utc": "16:30-00:30", "weekdays": [1]}]', b"%s")
    (price,) = read_list(listed % windows.encode(), snapshot(), AT).prices
    assert not price.windows
    assert "off_peak_pricing" in price.unmodelled


def test_days_of_the_week_are_read() -> None:
    (price,) = read_list(off_peak_on("1, 2.0"), snapshot(), AT).prices
    assert price.windows["off_peak"].spans[0].weekdays == (1, 2)


def test_a_map_that_is_nested_without_end_is_refused() -> None:
    with pytest.raises(PriceError, match="not valid JSON"):
        read_list(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, snapshot(), AT)
