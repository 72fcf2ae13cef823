"""Pictures that were made are charged once, in the unit that the price has."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.pricing import Component, Meter, Price, ceiling, charge
from bursar.pricing.book import snapshot
from bursar.usage import Usage, read_usage

TWO = {"output_picture.hd/1024x1792": 2, "output_pixel": 2 * 1024 * 1792}


def price(mode: str, **rates: str) -> Price:
    components = tuple(
        Component(meter=Meter(meter), rate=Decimal(rate), per=1) for meter, rate in rates.items()
    )
    return Price(provider="acme", model="painter", components=components, mode=mode)


@pytest.mark.parametrize(
    ("rates", "cost", "unpriced"),
    [
        ({"output_picture": "0.08"}, "0.16", ()),
        ({"output_pixel": "0.00000004"}, "0.1468006400", ()),
        ({"output_picture": "0.08", "output_pixel": "0.00000004"}, "0.16", ()),
        ({"input_picture": "0.08"}, "0.16", ()),
        ({"input_pixel": "0.00000004"}, "0.1468006400", ()),
        ({"input_picture": "0.08", "input_pixel": "1"}, "0.16", ()),
        ({"page": "1"}, "0", ("output_picture.hd/1024x1792",)),
    ],
)
def test_one_picture_is_charged_once(
    rates: dict[str, str], cost: str, unpriced: tuple[str, ...]
) -> None:
    charged = charge(price("image_generation", **rates), Usage(extra=TWO))
    assert charged.cost == Decimal(cost)
    assert charged.unpriced == unpriced


def test_what_a_chat_is_given_is_no_picture_made() -> None:
    charged = charge(price("chat", input_picture="0.08"), Usage(extra=TWO))
    assert charged.unpriced == ("output_picture.hd/1024x1792",)


def test_pictures_given_and_made_stand_beside_each_other() -> None:
    both = price("image_edit", input_picture="0.01", output_picture="0.08")
    assert charge(both, Usage(extra={**TWO, "input_picture": 3})).cost == Decimal("0.19")


@given(
    st.dictionaries(
        st.sampled_from(["output_picture", "output_pixel", "input_picture", "input_pixel"]),
        st.sampled_from(["0.01", "0.5", "3"]),
        min_size=1,
    ),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_the_ceiling_covers_pictures(rates: dict[str, str], made: int, bound: int) -> None:
    painter = price("image_generation", **rates)
    made = min(made, bound)
    most = ceiling(
        painter,
        input_llm_tokens=0,
        output_llm_tokens=0,
        extra={"output_picture": bound, "output_pixel": bound * 100},
    )
    usage = Usage(extra={"output_picture.hd/10x10": made, "output_pixel": made * 100})
    assert charge(painter, usage).cost_nanos <= most


def test_a_picture_is_found_in_the_list_by_its_quality_and_size() -> None:
    metered = read_usage(
        "openai_images",
        {"data": [{"url": "https://example.com/1"}]},
        request={"model": "dall-e-3", "size": "1024x1792", "quality": "hd"},
    )
    found = (snapshot().lookup(name, "azure") for name in metered.listed_as)
    listed = next(entry for entry in found if entry is not None)
    # By the pixel: 1024 times 1792 of 7.19343e-08.
    assert round(charge(listed, metered.usage).cost, 4) == Decimal("0.1320")
