"""Counting what a stream was asked and produced, where its usage never came.

Only for models with a public tokenizer; what was produced only of those that show all of it, and
where the request left the choice of LLM tokens to the model. All else is charged by its bytes, and
so is every count that is late.
"""

from typing import Final

from bursar.llm_tokens import has_public_tokenizer, tokenizer_of
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.counting.counter import LlmTokenCounter
from bursar_sidecar.counting.frames import MAX_MESSAGES_BYTES
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.input_bounds import countable, counted_bound
from bursar_sidecar.meter import lacks_usage
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.produced import Produced, samples_freely, visible_bound

END_WAITS_S: Final = 0.25
"""How long the end of a stream without usage is held back for a count: the app waits for it."""
CUT_WAITS_S: Final = 2.0
"""How long a cut call stays reserved for a count; nobody waits. Covers the process's start."""
ENDS_WAITS_S: Final = 0.1
"""How long, where the provider goes on producing until the app's answer is ended."""


class Recount:
    """Asks the counter about streams without usage."""

    def __init__(self, counter: LlmTokenCounter | None, metrics: Metrics) -> None:
        self._counter = counter
        self._metrics = metrics

    def keeps_text(self, attempt: Attempt, facts: Facts) -> bool:
        """Whether a stream's text should be kept: whether it could be counted in the end."""
        return (
            self._counter is not None
            and not attempt.terms.hidden_output
            and has_public_tokenizer(attempt.route.listed)
            and samples_freely(facts.fields)
        )

    def close(self) -> None:
        """Whoever waits for a count settles without it, now."""
        if self._counter is not None:
            self._counter.close()

    def wanted(self, attempt: Attempt) -> bool:
        """Whether a stream that came to its end has to be counted before it can be settled."""
        reading = attempt.reading
        return self._counter is not None and reading is not None and lacks_usage(reading, cut=False)

    async def count(
        self,
        attempt: Attempt,
        facts: Facts,
        *,
        cut: bool,
        unread: bool,
        goes_on: bool = False,
    ) -> None:
        """Tell the attempt how many LLM tokens went in and are seen to have come out, if that can
        be known in time. `unread`: more came out than was seen; `goes_on`: more comes until the
        answer is ended, which waits for the count."""
        reading = attempt.reading
        if self._counter is None or (reading is not None and not lacks_usage(reading, cut=cut)):
            return
        model = (reading.model if reading is not None else "") or attempt.route.listed
        if not has_public_tokenizer(model):
            return
        whole = reading is not None and not reading.unreadable and not unread
        kept = reading.kept if whole and reading is not None else None
        kept = kept if isinstance(kept, Produced) else None
        messages = _messages(facts)
        if not messages and (kept is None or not kept.size):
            return
        counted = await self._counter.count(
            tokenizer_of(model).encoding,
            () if kept is None else kept.texts(),
            messages,
            ENDS_WAITS_S if goes_on else CUT_WAITS_S if cut else END_WAITS_S,
        )
        self._metrics.recounted("bytes" if counted is None else "counted")
        if counted is None:
            return
        if kept is not None and kept.size:
            attempt.counted = counted.produced
        if messages:
            attempt.input_bound = min(attempt.input_bound, counted_bound(facts, counted.asked))

    async def so_far(
        self, attempt: Attempt, facts: Facts, within_s: float
    ) -> tuple[int, int, int] | None:
        """The most LLM tokens that went in and came out of a stream until now, and how many bytes
        those are; None where that can't be known in time. Nothing is told to the attempt."""
        reading = attempt.reading
        if self._counter is None or reading is None or reading.unreadable:
            return None
        kept, produced_bytes = reading.kept, reading.produced_bytes
        model = reading.model or attempt.route.listed
        if not isinstance(kept, Produced) or not has_public_tokenizer(model):
            return None
        messages, kept_bytes = _messages(facts), kept.size
        counted = await self._counter.count(
            tokenizer_of(model).encoding, kept.texts(), messages, within_s
        )
        if counted is None:
            return None
        asked = counted_bound(facts, counted.asked) if messages else attempt.input_bound
        produced = visible_bound(
            produced_bytes, cut=False, kept_bytes=kept_bytes, counted=counted.produced
        )
        return min(asked, attempt.input_bound), produced, produced_bytes


def _messages(facts: Facts) -> bytes:
    """What of a request can be counted; b"" where that is nothing, or too much."""
    messages = bytes(facts.prompt) if facts.prompt is not None and countable(facts) else b""
    return b"" if len(messages) > MAX_MESSAGES_BYTES else messages
