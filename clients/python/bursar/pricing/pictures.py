"""Pictures that were made, in the unit that a price has for them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

from .model import Meter, Price

_PIECES: Final = Meter.OUTPUT_PICTURE.value
_PIXELS: Final = Meter.OUTPUT_PIXEL.value
_MADE: Final = (_PIECES, _PIXELS)
# What both begin with; most usages have neither, and are told apart by this alone.
_PRODUCED: Final = "output_pi"
# Models that are given nothing that is paid by the picture.
_MAKES_PICTURES: Final = "image_generation"


def in_one_unit(
    price: Price, counts: Mapping[str, int], units: Container[Meter]
) -> Mapping[str, int]:
    """`counts` with the pictures that were made counted once, in a unit of `units` if possible.

    A usage counts them by the piece ("output_picture", with quality and size) and, where their
    size is known, in pixels too: charging both would charge them twice, and a price has but one.
    LiteLLM's map has rates of pictures made under the names of what is given
    (`input_cost_per_image` and `input_cost_per_pixel` of the mode image_generation); those are
    meant where no other is.
    """
    if not any(name.startswith(_MADE) for name in counts):
        return counts
    bases = {name: name.partition(".")[0] for name in counts}
    pieces = _PIECES in bases.values()
    makes = price.mode == _MAKES_PICTURES and not price.free_quotas
    chosen, unit = _PIECES if pieces else _PIXELS, ""
    if pieces and Meter.OUTPUT_PICTURE in units:
        unit = _PIECES
    elif pieces and makes and Meter.INPUT_PICTURE in units:
        unit = Meter.INPUT_PICTURE.value
    elif _PIXELS in bases.values() and Meter.OUTPUT_PIXEL in units:
        chosen = unit = _PIXELS
    elif _PIXELS in bases.values() and makes and Meter.INPUT_PIXEL in units:
        chosen, unit = _PIXELS, Meter.INPUT_PIXEL.value
    once: dict[str, int] = {}
    for name, count in counts.items():
        if bases[name] == chosen:
            name = (unit or chosen) + name[len(chosen) :]
        elif bases[name] in _MADE:
            continue
        once[name] = once.get(name, 0) + count
    return once
