"""What a stream has produced, kept so that it can be counted should its usage never come.

Pure. What is counted is an estimate of what the provider sampled: docs/llm-tokens.md says when it
is at least the truth, and why the margins are what they are.
"""

from array import array
from collections.abc import Mapping
from typing import Final

import msgspec

from bursar_sidecar.counting.frames import Text

MAX_KEPT_BYTES: Final = 65_536
"""Of one stream, all choices together: some 14,000 LLM tokens of prose. What goes beyond it counts
a LLM token a byte."""
CUT_SLACK_LLM_TOKENS: Final = 32
"""Output of a cut stream that may have been sampled, and is billed, but did not reach us: some
chunks are always under way."""
SAMPLING_MARGIN_PERCENT: Final = 125
"""A model may sample a text in other LLM tokens than its tokenizer makes of it."""
NOTICED_WITHIN_S: Final = 1.0
"""Until a provider stops after we hung up on it, it produces at the pace it had."""
SHORTEST_PACED_S: Final = 0.001
"""Of a shorter stream no pace is told."""

# Fields that force a model off the LLM tokens it would choose: what it then samples is bounded by
# nothing but its bytes.
_FORCING: Final = (
    "logit_bias",
    "response_format",
    "grammar",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
)
HIGHEST_USUAL_TEMPERATURE: Final = 1.0

_number = msgspec.json.Decoder(float | None)


class Produced:
    """The text of each choice as it came, bounded."""

    __slots__ = ("_data", "_ends", "size")

    def __init__(self) -> None:
        self._data: dict[int, bytearray] = {}
        self._ends: dict[int, array[int]] = {}
        self.size = 0
        """Bytes kept."""

    def keep(self, choice: int, text: str) -> None:
        """One piece of a choice's text; dropped whole where there is no more room."""
        piece = text.encode("utf-8", "replace")
        if self.size + len(piece) > MAX_KEPT_BYTES:
            return
        data = self._data.get(choice)
        if data is None:
            data = self._data[choice] = bytearray()
            self._ends[choice] = array("I")
        data += piece
        self._ends[choice].append(len(data))
        self.size += len(piece)

    def texts(self) -> tuple[Text, ...]:
        """All that was kept, to be counted."""
        return tuple(
            Text(bytes(data), tuple(self._ends[choice])) for choice, data in self._data.items()
        )


def samples_freely(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether nothing in a request forces the model's choice of LLM tokens."""
    if any(name in fields for name in _FORCING):
        return False
    temperature = fields.get("temperature")
    if temperature is None:
        return True
    try:
        degree = _number.decode(temperature)
    except msgspec.MsgspecError:
        return False
    return degree is None or degree <= HIGHEST_USUAL_TEMPERATURE


def visible_bound(
    produced_bytes: int,
    *,
    cut: bool,
    kept_bytes: int = 0,
    counted: int | None = None,
    streamed_for_s: float | None = None,
) -> int:
    """LLM tokens to charge for what was seen of an answer without usage.

    `counted` of them are behind `kept_bytes` of the `produced_bytes`; None: nothing was counted,
    and each byte is one. `streamed_for_s` is how long the answer had been coming when we hung up on
    the provider; None where it ended by itself.
    """
    slack = CUT_SLACK_LLM_TOKENS if cut else 0
    by_bytes = produced_bytes + slack
    if counted is None:
        return by_bytes
    by_count = -(-counted * SAMPLING_MARGIN_PERCENT // 100) + produced_bytes - kept_bytes
    if streamed_for_s is not None:
        if streamed_for_s < SHORTEST_PACED_S:
            return by_bytes
        pace = counted + produced_bytes - kept_bytes
        by_count += int(pace * NOTICED_WITHIN_S / streamed_for_s) + 1
    return min(by_bytes, by_count + slack)
