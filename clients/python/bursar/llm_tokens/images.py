"""What an image costs in LLM tokens, by the formulas that providers publish.

`count_image_llm_tokens` is the likeliest count, `image_llm_token_bound` the most the formula can
give. Where a formula can be read in two ways, the bound takes the dearer one; where none is
published for a model, there is no bound. docs/llm-tokens.md cites each rule.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Final, NamedTuple

from .encodings import model_family_name

MAX_PIXELS_A_SIDE: Final = 65_535
"""Larger sizes are no sizes: no format but PNG and WebP can state them, no provider takes them."""

_LARGEST_PERCENT: Final = 246
"""The largest factor on patches that OpenAI publishes; the bound takes it where a model's own is
only told by those who measured."""

_LOW: Final = "low"
_HIGH: Final = "high"


class ImageCount(NamedTuple):
    """The LLM tokens of one image."""

    llm_tokens: int
    is_published: bool
    """By the provider's published formula at the image's own size; else an estimate."""
    basis: str


@dataclass(frozen=True)
class _Tiles:
    """OpenAI: fit into 2,048 x 2,048, then the short side to 768; a base, and so much for each
    square of 512. `low` detail costs the base."""

    base: int
    tile: int

    def count(self, width: int, height: int, detail: str) -> int:
        return self.base if detail == _LOW else self._at(*_down_to_768(width, height))

    def bound(self, size: tuple[int, int] | None, detail: str) -> int:
        if detail == _LOW:
            return self.base
        if size is None:
            return self.base + 8 * self.tile  # 768 x 2,048
        # "The shortest side is 768 px long": whether small images are made larger is not said.
        larger = 768 / min(size)
        grown = min(2_048, size[0] * larger), min(2_048, size[1] * larger)
        return max(self._at(*_down_to_768(*size)), self._at(*grown), self.base + self.tile)

    def _at(self, width: float, height: float) -> int:
        return self.base + self.tile * _cells(width, 512) * _cells(height, 512)


@dataclass(frozen=True)
class _Patches:
    """OpenAI: as many squares of 32 as cover the image, scaled down to `budget` of them, times a
    factor. `original` is the budget at that detail; `auto` says whether no detail means it."""

    budget: int
    percent: int
    original: int = 0
    auto_is_original: bool = False
    is_exact: bool = True
    """The factor is published; else told by those who measured."""

    def _budget(self, detail: str) -> int:
        if self.original and (
            detail == "original" or (self.auto_is_original and detail not in (_LOW, _HIGH))
        ):
            return self.original
        return self.budget

    def count(self, width: int, height: int, detail: str) -> int:
        budget = self._budget(detail)
        wide, high = _cells(width, 32), _cells(height, 32)
        if wide * high > budget:
            shrink = sqrt(budget * 32 * 32 / (width * height))
            fit = min(
                (max(1, int(width * shrink / 32)) / (width * shrink / 32)),
                (max(1, int(height * shrink / 32)) / (height * shrink / 32)),
            )
            wide, high = _cells(width * shrink * fit, 32), _cells(height * shrink * fit, 32)
        return -(-min(wide * high, budget) * self.percent // 100)

    def bound(self, size: tuple[int, int] | None, detail: str) -> int:
        budget = self._budget(detail)
        if size is not None:
            budget = min(budget, _cells(size[0], 32) * _cells(size[1], 32))
        percent = self.percent if self.is_exact else max(self.percent, _LARGEST_PERCENT)
        return -(-budget * percent // 100)


@dataclass(frozen=True)
class _Claude:
    """Anthropic: a visual LLM token for each square of 28, the image scaled down to at most `cap`
    of them and `side` pixels. Earlier said as width x height / 750, which is 4.5 percent more."""

    cap: int
    side: int
    is_exact: bool = True

    def count(self, width: int, height: int, detail: str) -> int:
        shrink = min(1.0, self.side / max(width, height))
        cells = _cells(width * shrink, 28) * _cells(height * shrink, 28)
        return min(cells, self.cap)

    def bound(self, size: tuple[int, int] | None, detail: str) -> int:
        cap = self.cap
        if size is not None:
            cap = min(cap, _cells(size[0], 28) * _cells(size[1], 28))
        return -(-cap * 784 // 750)


@dataclass(frozen=True)
class _Gemini:
    """Google: 258 up to 384 x 384, else 258 for each tile of 768 (or, as told elsewhere, of two
    thirds of the short side, 256 to 768). No limit is published, so there is none without a
    size."""

    is_exact: bool = True

    def count(self, width: int, height: int, detail: str) -> int:
        if max(width, height) <= 384:
            return 258
        return 258 * _cells(width, 768) * _cells(height, 768)

    def bound(self, size: tuple[int, int] | None, detail: str) -> int | None:
        if size is None:
            return None
        unit = min(768, max(256, int(min(size) / 1.5)))
        return max(self.count(*size, detail), 258 * _cells(size[0], unit) * _cells(size[1], unit))


_Rule = _Tiles | _Patches | _Claude | _Gemini

_TILES_GPT_4O: Final = _Tiles(85, 170)
_TILES_GPT_5: Final = _Tiles(70, 140)
_TILES_O: Final = _Tiles(75, 150)
_PATCHES_MINI: Final = _Patches(1_536, 162)
_PATCHES_NANO: Final = _Patches(1_536, 246)
_CLAUDE_STANDARD: Final = _Claude(1_568, 1_568)
_CLAUDE_HIGH: Final = _Claude(4_784, 2_576)

# By the start of the model's name; the longest match decides. None: reads no images, or nothing is
# published for it.
_RULES: Final[dict[str, _Rule | None]] = {
    "gpt-4-turbo": _TILES_GPT_4O,
    "gpt-4-vision": _TILES_GPT_4O,
    "gpt-4o": _TILES_GPT_4O,
    "chatgpt-4o": _TILES_GPT_4O,
    "gpt-4o-mini": _Tiles(2_833, 5_667),
    "gpt-4.1": _TILES_GPT_4O,
    "gpt-4.1-mini": _PATCHES_MINI,
    "gpt-4.1-nano": _PATCHES_NANO,
    "gpt-4.5": _TILES_GPT_4O,
    "gpt-5": _TILES_GPT_5,
    "gpt-5-mini": _PATCHES_MINI,
    "gpt-5-nano": _PATCHES_NANO,
    "gpt-5.1": _TILES_GPT_5,
    "gpt-5.1-codex-mini": None,
    "gpt-5.2": _Patches(1_536, 120, is_exact=False),
    "gpt-5.3": _Patches(1_536, 120, is_exact=False),
    "gpt-5.4": _Patches(2_500, 120, original=10_000, is_exact=False),
    "gpt-5.4-mini": _Patches(1_536, 162, is_exact=False),
    "gpt-5.4-nano": _Patches(1_536, 246, is_exact=False),
    "gpt-5.5": _Patches(2_500, 120, original=10_000, auto_is_original=True, is_exact=False),
    # Larger images are refused, not scaled down.
    "gpt-5.6": _Patches(2_500, 120, original=30_000, auto_is_original=True, is_exact=False),
    "gpt-5.6-terra": None,
    "gpt-5.6-luna": None,
    "gpt-5.6-cyber": None,
    "o1": _TILES_O,
    "o3": _TILES_O,
    "o4-mini": _Patches(1_536, 172),
    "computer-use-preview": _Tiles(65, 129),
    "claude-3": _CLAUDE_STANDARD,
    "claude-opus-4": _CLAUDE_STANDARD,
    "claude-sonnet-4": _CLAUDE_STANDARD,
    "claude-haiku-4": _CLAUDE_STANDARD,
    "claude-opus-4-7": _CLAUDE_HIGH,
    "claude-opus-4-8": _CLAUDE_HIGH,
    "claude-opus-4-9": _CLAUDE_HIGH,
    "claude-opus-4.7": _CLAUDE_HIGH,
    "claude-opus-4.8": _CLAUDE_HIGH,
    "claude-opus-4.9": _CLAUDE_HIGH,
    "gemini-2": _Gemini(),
}


def count_image_llm_tokens(
    model: str, size: tuple[int, int] | None, detail: str = "auto"
) -> ImageCount:
    """The LLM tokens an image of `size` (width, height in pixels) likely costs with `model`.

    `detail` is OpenAI's: low, high, original or auto. Without a size it is the formula's most.
    """
    rule = _rule_of(model)
    if rule is None:
        guess = _CLAUDE_HIGH
        return ImageCount(
            guess.bound(size, detail), False, "no formula is published for this model; Anthropic's"
        )
    name = type(rule).__name__.strip("_").lower()
    published = getattr(rule, "is_exact", True)
    if _is_size(size):
        assert size is not None
        return ImageCount(rule.count(*size, detail), published, name)
    most = rule.bound(None, detail)
    if most is None:
        return ImageCount(_CLAUDE_HIGH.bound(None, detail), False, f"{name}, of unknown size")
    return ImageCount(most, False, f"{name}, of unknown size")


def image_llm_token_bound(
    model: str, size: tuple[int, int] | None, detail: str = "auto"
) -> int | None:
    """The most LLM tokens an image can cost with `model`; None where nothing published bounds it.

    Without a size (an image given by its address, or a file that tells none) it is the formula's
    own limit.
    """
    rule = _rule_of(model)
    if rule is None:
        return None
    return rule.bound(size if _is_size(size) else None, detail)


@lru_cache(maxsize=1_024)  # model names repeat
def _rule_of(model: str) -> _Rule | None:
    name = model_family_name(model)
    known = [
        start
        for start in _RULES
        if name.startswith(start) and not name[len(start) : len(start) + 1].isalnum()
    ]
    return _RULES[max(known, key=len)] if known else None


def _is_size(size: tuple[int, int] | None) -> bool:
    return size is not None and min(size) > 0 and max(size) <= MAX_PIXELS_A_SIDE


def _cells(length: float, cell: int) -> int:
    return max(1, -int(-length // cell))


def _down_to_768(width: float, height: float) -> tuple[float, float]:
    shrink = min(1.0, 2_048 / max(width, height))
    width, height = width * shrink, height * shrink
    shrink = min(1.0, 768 / min(width, height))
    return width * shrink, height * shrink
