"""Progressive calls in money: what one begins with, and what so much output costs. Pure.

A call begins with its whole input and a first slice of output, and its reservation grows ahead of
what flows (see `growth`). Only pairs of the table may (see `progressive_pairs`), only where the
answer shows all that is billed, and only under a hard budget: without one nothing is to be spared.
"""

from typing import Final

import msgspec

from bursar.pricing import booked_ceiling, ceiling
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.growth import FIRST_OUTPUT, Growth
from bursar_sidecar.progressive_pairs import Row
from bursar_sidecar.terms import LEAST_OUTPUT_LLM_TOKENS, Bounds, Terms

_REASONING_OFF: Final = (b'"none"',)
"""Values of `reasoning_effort` that turn reasoning off."""


class Start(msgspec.Struct, frozen=True):
    """What a progressive call begins with. LLM tokens of output, over all choices."""

    begin_nanos: int
    """What is reserved at first: the input, and `covered` of output."""
    covered: int
    slack: int
    """What may be billed beyond what was seen."""
    limit: int
    """The worst case."""

    def growth(self, bounds: Bounds, reserved_nanos: int) -> Growth:
        """The growth of a call that was admitted with so much, at least `begin_nanos`."""
        covered = self.covered
        if reserved_nanos > self.begin_nanos:
            covered = covered_by(bounds, reserved_nanos, self.limit)
        return Growth(covered=covered, limit=self.limit, slack=self.slack)


def shows_all(facts: Facts, terms: Terms, row: Row) -> bool:
    """Whether an answer shows all that is billed: no reasoning behind it, no predicted output that
    is billed beside it."""
    if facts.predicted_bytes or facts.rounds > 1 or facts.provider_units:
        return False
    if "best_of" in facts.fields:  # completions that are billed and not shown
        return False
    if row.reasoning == "off":
        effort = facts.fields.get("reasoning_effort")
        return effort is not None and bytes(effort) in _REASONING_OFF
    return not terms.hidden_output


def start_of(facts: Facts, terms: Terms, row: Row | None) -> Start | None:
    """How a call under a hard budget begins if it is to be progressive; None where it may not be,
    or where the first slice is the whole of it."""
    bounds = terms.bounds
    if row is None or bounds is None or not shows_all(facts, terms, row):
        return None
    slack = row.slack * bounds.choices
    covered = FIRST_OUTPUT * bounds.choices + slack
    if covered >= terms.output_bound:
        return None
    return Start(
        begin_nanos=_begin_nanos(terms, bounds, covered),
        covered=covered,
        slack=slack,
        limit=terms.output_bound,
    )


def _begin_nanos(terms: Terms, bounds: Bounds, covered: int) -> int:
    """What so much output costs at most; a nano more, where that is known without pricing it."""
    least = LEAST_OUTPUT_LLM_TOKENS * bounds.choices
    more_nanos = terms.ceiling_nanos - terms.least_nanos
    if not more_nanos or terms.conversion is not None or covered < least:
        return nanos_of(bounds, covered)
    # Of the same input, what output costs goes with its length: two points are known already, each
    # rounded up, and what lies between them is no dearer than the line.
    return terms.least_nanos - (-more_nanos * (covered - least) // (terms.output_bound - least))


def nanos_of(bounds: Bounds, output: int) -> int:
    """The most that a call costs with so much output over all its choices."""
    nanos = ceiling(
        bounds.price,
        input_llm_tokens=bounds.input_llm_tokens,
        output_llm_tokens=output,
        service_tier=bounds.service_tier,
        text_only=bounds.text_only,
        extra=bounds.provider_units,
    )
    return booked_ceiling(bounds.price, nanos, bounds.rates.conversion)


def covered_by(bounds: Bounds, nanos: int, limit: int) -> int:
    """The most output, up to the limit, that so much pays; 0 where it does not pay the input."""
    if nanos_of(bounds, limit) <= nanos:
        return limit
    low, high = 0, limit - 1
    while low < high:
        middle = (low + high + 1) // 2
        if nanos_of(bounds, middle) <= nanos:
            low = middle
        else:
            high = middle - 1
    return low
