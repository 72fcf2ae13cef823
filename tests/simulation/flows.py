"""Progressive calls: what their provider produces; the real core says how far that flows.

Made small: sixty-four LLM tokens of output cost a nano, so that the steps of the real core are a
few nanos of the budgets here. What the provider bills is what it produced, and what it still
produces until it notices a hang-up, which is less than the slack.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bursar_sidecar.growth import FIRST_OUTPUT, LEAST_SLACK, Growth
from bursar_sidecar.holds import Hold
from bursar_sidecar.produced import visible_bound
from tests.simulation.coverage import saw
from tests.simulation.database import Broken

if TYPE_CHECKING:
    from tests.simulation.oracle import Oracle

LLM_TOKENS_A_NANO = 64
FLOW = "flow"
"""Kind of such a call in its label: flow:0:0:worst:least:whole:bytes:late, see `Flowing`."""


def cost_of(llm_tokens: int) -> int:
    """Nanos."""
    return -(-llm_tokens // LLM_TOKENS_A_NANO)


def begin_of(plan: str) -> int:
    """What such a call begins with; 0 for all others."""
    return cost_of(FIRST_OUTPUT + LEAST_SLACK) if plan.startswith(FLOW) else 0


@dataclass(slots=True, eq=False)
class Flowing:
    """One answer that flows. Counts are LLM tokens of output."""

    whole: int
    """How long the answer is if nobody cuts it."""
    size: int
    """Bytes of each LLM token, in tenths."""
    late: int
    """What is still produced after a hang-up."""
    growth: Growth
    since: float = 0.0
    """When the answer began, on the sidecar's clock."""
    produced: int = 0

    @property
    def seen(self) -> int:
        """Bytes."""
        return self.produced * self.size // 10

    @property
    def is_over(self) -> bool:
        """Whether the answer came to its end."""
        return self.produced >= self.whole

    @property
    def billed(self) -> int:
        """Nanos that the provider bills if it is hung up on now."""
        return cost_of(min(self.whole, self.produced + self.late))

    def grew(self, hold: Hold, elapsed_s: float) -> None:
        """What is covered now follows from what is reserved now."""
        covered = hold.ceiling_nanos * LLM_TOKENS_A_NANO
        self.growth.grew(min(covered, self.growth._limit), self.seen, elapsed_s)

    def told(self) -> int:
        """Nanos that the sidecar charges for it as it is, before what is reserved caps it."""
        if self.is_over:
            return cost_of(self.produced)
        return cost_of(visible_bound(self.seen, cut=True))


def flowing(hold: Hold, worst: int, since: float) -> Flowing:
    """The answer of a call that was admitted, with what it was left."""
    _kind, _true, _told, _worst, _least, whole, size, late = map(str, hold.opened.run.split(":"))
    limit = worst * LLM_TOKENS_A_NANO
    covered = hold.ceiling_nanos * LLM_TOKENS_A_NANO
    if not hold.grows:
        # All that it may produce is reserved, or its limit was lowered to that.
        limit = min(limit, covered)
        saw("a call that might have grown began whole or clamped")
    growth = Growth(covered=min(covered, limit), limit=limit, slack=LEAST_SLACK)
    return Flowing(min(int(whole), limit), int(size), int(late), growth, since)


def produced(oracle: "Oracle", hold: Hold, billed: int) -> None:
    """The provider produced more: it never bills more than what is reserved."""
    attempt = oracle.attempts[hold.opened.parts[0].epoch, hold.opened.parts[0].n]
    if billed > attempt.ceiling:
        raise Broken(f"8: {billed} would be billed, {attempt.ceiling} is reserved")
    more, attempt.true = billed - attempt.true, max(billed, attempt.true)
    if more > 0 and attempt.dispatched:
        for epoch, _n, window_ids in attempt.parts:
            for window_id in window_ids:
                oracle.truth[epoch, window_id] += more
                oracle.spent[window_id] += more
                oracle._within_limit(window_id)


def charged(flow: Flowing, hold: Hold, told: int) -> None:
    """A cut call is never charged below its bill, nor above what is reserved."""
    if not flow.billed <= told <= hold.ceiling_nanos:
        raise Broken(f"8: charged {told}, billed {flow.billed}, {hold.ceiling_nanos} were reserved")
