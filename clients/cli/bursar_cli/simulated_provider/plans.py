"""What a call will produce, decided before a byte of it is sent; the same in every dialect."""

from typing import NamedTuple

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.served_calls import BilledUsage

# Without a limit or a setting, an answer is 16 to 256 LLM tokens long, decided by the prompt.
SHORTEST_ANSWER_LLM_TOKENS = 16
ANSWER_LENGTHS = 241

# Each word, its space before it, is one LLM token in the byte-pair encodings in common use, so a
# reader that counts for itself comes to about what is billed.
_WORDS = (
    " the of and to in is that for it as was with be by on not he his but at are this have from"
    " or had an they which one you were all her she there would their we him been has when who"
    " will no more if out so up said what its about than into them can only other time new some"
    " could these two may first then do any like my now over such our man me even most"
)
WORDS = tuple(" " + word for word in _WORDS.split())


class AnswerPlan(NamedTuple):
    """What an answer will cost and hold. LLM tokens."""

    input: int
    """All of it, what was read from or written to a cache included."""
    cached_input: int
    output_per_choice: int
    reasoning_per_choice: int
    choices: int
    finish_reason: str
    """`stop`, or `length` where a limit ended it."""
    first_word: int
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    searches: int = 0

    @property
    def visible(self) -> int:
        """Output of one choice that is shown."""
        return self.output_per_choice - self.reasoning_per_choice

    def billed(self, output: int | None = None, after_cancel: int = 0) -> BilledUsage:
        """The bill for `output` LLM tokens of all choices (all of them by default).

        `after_cancel` more are added as far as the whole answer had them.
        """
        whole = self.output_per_choice * self.choices
        produced = whole if output is None else output
        after_cancel = min(after_cancel, whole - produced)
        return BilledUsage(
            input=self.input,
            cached_input=self.cached_input,
            output=produced + after_cancel,
            reasoning=min(self.reasoning_per_choice * self.choices, produced + after_cancel),
            after_cancel=after_cancel,
            cache_write_5m=self.cache_write_5m,
            cache_write_1h=self.cache_write_1h,
            searches=self.searches,
        )

    def text(self, choice: int = 0, start: int = 0, count: int | None = None) -> str:
        """`count` visible words (all by default) of a choice, from word `start` on."""
        return words(self.first_word + choice + start, self.visible if count is None else count)


def plan_answer(
    behaviour: Behaviour,
    *,
    prompt_digest: int,
    input_llm_tokens: int,
    output_limit: int | None,
    choices: int = 1,
    writes_cache: bool = False,
    most_searches: int = 0,
) -> AnswerPlan:
    """The same request and behaviour give the same plan.

    `output_limit` is of each choice; `most_searches` is how many the request allows.
    """
    if behaviour.output_llm_tokens is None:
        wanted = SHORTEST_ANSWER_LLM_TOKENS + prompt_digest % ANSWER_LENGTHS
    else:
        wanted = behaviour.output_llm_tokens
    exceeds = behaviour.exceed_output_limit and behaviour.output_llm_tokens is not None
    output = wanted if output_limit is None or exceeds else min(wanted, output_limit)
    given = behaviour.input_llm_tokens
    total = input_llm_tokens if given is None else given
    cached = min(behaviour.cached_input_llm_tokens, total)
    write_5m = min(behaviour.cache_write_5m_llm_tokens, total - cached) if writes_cache else 0
    most_1h = total - cached - write_5m
    return AnswerPlan(
        input=total,
        cached_input=cached,
        output_per_choice=output,
        reasoning_per_choice=min(behaviour.reasoning_llm_tokens, output),
        choices=choices,
        finish_reason="length" if output < wanted else "stop",
        first_word=prompt_digest % len(WORDS),
        cache_write_5m=write_5m,
        cache_write_1h=min(behaviour.cache_write_1h_llm_tokens, most_1h) if writes_cache else 0,
        searches=min(behaviour.searches, most_searches),
    )


def words(first: int, count: int) -> str:
    """`count` words, from word number `first` on, round and round."""
    start = first % len(WORDS)
    rounds = -(-(start + count) // len(WORDS))
    return "".join((WORDS * rounds)[start : start + count])
