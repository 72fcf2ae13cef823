"""Lists that are damaged somewhere: each is read, or refused with a fault that is told."""

import copy
import json
import lzma
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

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

NONSENSE: list[Any] = [
    *(None, True, -1, 0, 1, 10**400, 1e308, -0.0, 10**19, "", "x", "NaN", "1e5", "2026-13-01"),
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
        return json.dumps(nonsense).encode()
    whole = copy.deepcopy(lists()[which])
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = nonsense
    return json.dumps(whole).encode()


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
