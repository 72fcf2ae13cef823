"""What a `Usage` is: the counts of one call, as meters that never count a thing twice.

Providers disagree about what contains what: OpenAI counts cached LLM tokens inside
`prompt_tokens`, Anthropic beside `input_tokens`, xAI counts reasoning outside
`completion_tokens`. A `Usage` has one meaning whoever sent it, and says whether it is exact or
estimated, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

# A single call never has a trillion of anything. Beyond it a count is a fault of the sender, and
# taking it at its word would overflow a budget.
MAX_COUNT: Final = 10**12

Certainty = Literal["exact", "estimated"]

# Meters of `extra` that say how many of a field's LLM tokens were of some kind. The field already
# holds them: a price that has no rate for the kind bills them at the field's own rate.
PART_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "audio_input": "input",
        "image_input": "input",
        "video_input": "input",
        "explicit_cached_input": "cached_input",
        "cached_audio_input": "cached_input",
        "cached_image_input": "cached_input",
        "cache_write_audio": "cache_write_5m",
        "cache_write_12h": "cache_write_1h",
        "audio_output": "output",
        "image_output": "output",
        "video_output": "output",
    }
)


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts of one call. All counts are LLM tokens unless a meter of `extra` says otherwise.

    - `input`, `cached_input`, `cache_write_5m`, `cache_write_1h` are disjoint: their sum is
      everything the model was given. `cache_write_5m` also holds writes whose time-to-live the
      provider did not name (its default).
    - `output` is everything the model produced, `reasoning` how many of them were reasoning.
    - `extra` holds further meters (see `PART_OF` for those that detail a field above; all others,
      such as `request` or `second`, stand beside them).
    - `certainty` is "estimated" when any count was missing, inconsistent or absurd, with the
      reason. An estimate is never used to give money back.
    """

    input: int = 0
    cached_input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    extra: dict[str, int] = {}
    certainty: Certainty = "exact"
    estimate_reason: str = ""

    def __post_init__(self) -> None:
        given, cached, short = self.input, self.cached_input, self.cache_write_5m
        long, output, reasoning = self.cache_write_1h, self.output, self.reasoning
        whole = (
            type(given) is type(cached) is type(short) is type(long) is type(output) is int
            and type(reasoning) is int
        )
        # All bits together are within the bound only if each count is, and below zero if any is.
        if not (whole and 0 <= given | cached | short | long | output | reasoning <= MAX_COUNT):
            for name in COUNTS:
                _check_count(name, getattr(self, name))
        for name, value in self.extra.items():
            _check_count(name, value)
        if self.reasoning > self.output:
            raise ValueError(
                f"reasoning ({self.reasoning}) must not exceed output ({self.output}), "
                "which includes it"
            )

    @property
    def input_llm_tokens(self) -> int:
        """Everything the model was given: input, cached and written to a cache."""
        return self.input + self.cached_input + self.cache_write_5m + self.cache_write_1h

    @property
    def total_llm_tokens(self) -> int:
        """Given and produced together."""
        return self.input_llm_tokens + self.output

    @property
    def is_exact(self) -> bool:
        return self.certainty == "exact"


# The fields that are counts.
COUNTS: Final = (
    "input",
    "cached_input",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
)


def _check_count(name: str, value: object) -> None:
    if type(value) is int and 0 <= value <= MAX_COUNT:
        return
    fault = fault_of(value)
    if fault:
        raise ValueError(f"usage {name} is {fault}; expected a whole number 0..{MAX_COUNT}")


def fault_of(value: object) -> str:
    """Why `value` is no count, or "" if it is one."""
    if isinstance(value, bool) or not isinstance(value, int):
        return f"a {type(value).__name__}"
    if value < 0:
        # A number of thousands of digits can't be printed at all.
        return f"negative ({value})" if value >= -MAX_COUNT else "absurdly negative"
    if value > MAX_COUNT:
        return "absurdly large"
    return ""


def estimated(reason: str, *, input_llm_tokens: int = 0, output_llm_tokens: int = 0) -> Usage:
    """A usage nobody counted for us: `reason` says why, the counts are our bounds."""
    return Usage(
        input=input_llm_tokens,
        output=output_llm_tokens,
        certainty="estimated",
        estimate_reason=reason,
    )
