"""How far the reservation of an open stream reaches, when it must grow, and when the stream is cut.

Pure: amounts are LLM tokens of output over all choices, time is an argument (seconds since the
answer began). What a stream has produced is known by its bytes: an LLM token is at least one byte,
so that bytes bound what the provider bills. At every moment

    what was produced, by that bound, + slack <= covered          (or covered is the worst case)

where `covered` is the output that the reservation pays, and the slack is what a provider may still
produce, and bill, until it notices that it was hung up on. What is decided on the path of every
piece is one comparison: `produced >= ask_at` (time to grow), `produced > cut_at` (no further).

    flowing --(produced >= ask_at)--> asking --granted--> flowing
                                      asking --refused--> asking for half as much, later
    flowing or asking --(produced > cut_at)--> cut, unless the rest can be had in a moment
"""

from typing import Final

FIRST_OUTPUT: Final = 1_024
"""LLM tokens of output that a stream begins with, for each choice, beside its slack. By bytes these
are some 170 words: short answers never grow, and a hundred of them hold what a single call without
a limit would."""
LEAST_SLACK: Final = 256
"""LLM tokens for each choice that the provider may produce until it stops: a second at the pace of
the fastest models in the table, which hosted ones reach for moments."""
NOTICED_WITHIN_S: Final = 1.0
"""How long a provider goes on after a hang-up; what it produces meanwhile, at the pace the stream
has, is slack where that is more than the least."""
SHORTEST_PACED_S: Final = 1.0
"""Of a younger stream no pace is told: what comes first comes in bursts."""
AHEAD_PART: Final = 4
"""It grows by a quarter of what it has, so that the number of growths goes with the logarithm of a
stream's length."""
AHEAD_S: Final = 2.0
"""And by what comes in so many seconds, which is how long a growth may wait for money."""
LEAST_AHEAD: Final = 256
"""LLM tokens: smaller growths cost more records in the journal than they save."""
LAST_STEP: Final = 4
"""LLM tokens: money is not looked for in smaller pieces."""
ASK_AGAIN_S: Final = 1.0
"""After the smallest piece was refused."""
NEVER: Final = 1 << 62


class Growth:
    """The growth of one call, whose hidden output is bounded by the slack."""

    __slots__ = (
        "_asked_ahead",
        "_credit",
        "_least_slack",
        "_limit",
        "_not_before_s",
        "_refusals",
        "ask_at",
        "covered",
        "cut_at",
        "growths",
    )

    def __init__(self, *, covered: int, limit: int, slack: int) -> None:
        """`covered` LLM tokens are reserved, of `limit` in the worst case; `slack` is the least."""
        self._limit = limit
        self._least_slack = slack
        self._credit = 0
        self._refusals = 0
        self._asked_ahead = 0
        self._not_before_s = 0.0
        self.growths = 0
        """How often it grew."""
        self.covered = covered
        """LLM tokens of output that the reservation pays."""
        self.ask_at = 0
        """Bytes: when so much is produced, it is time to grow."""
        self.cut_at = 0
        """Bytes: beyond it nothing may flow."""
        self._place(0, 0.0)

    @property
    def is_whole(self) -> bool:
        """Whether the worst case is reserved: there is nothing left to grow to."""
        return self.covered >= self._limit

    def bound(self, produced_bytes: int) -> int:
        """The most LLM tokens that so many bytes are."""
        return min(self._limit, max(0, produced_bytes - self._credit))

    def slack(self, produced_bytes: int, elapsed_s: float) -> int:
        """LLM tokens that may be billed beyond those seen, at the pace of the stream."""
        if elapsed_s < SHORTEST_PACED_S:
            return self._least_slack
        pace = self.bound(produced_bytes) * NOTICED_WITHIN_S / elapsed_s
        return max(self._least_slack, int(pace) + 1)

    def least(self, produced_bytes: int, elapsed_s: float) -> int:
        """What must be covered for so many bytes to flow."""
        needed = self.bound(produced_bytes) + self.slack(produced_bytes, elapsed_s)
        return min(self._limit, needed)

    def target(self, produced_bytes: int, elapsed_s: float) -> int:
        """What it should be covered now, with what is ahead. Never above the worst case, and more
        than is covered unless that is the worst case."""
        seen = self.bound(produced_bytes)
        ahead = max(LEAST_AHEAD, seen // AHEAD_PART)
        if elapsed_s >= SHORTEST_PACED_S:
            ahead = max(ahead, int(seen * AHEAD_S / elapsed_s))
        if self._refusals:
            ahead = max(LAST_STEP, ahead >> self._refusals)
        self._asked_ahead = ahead
        least = self.least(produced_bytes, elapsed_s)
        return min(self._limit, max(least, self.covered) + ahead)

    def may_ask(self, elapsed_s: float) -> bool:
        """Whether it is of use to ask now: not where all was refused a moment ago."""
        return not self.is_whole and elapsed_s >= self._not_before_s

    def grew(self, covered: int, produced_bytes: int, elapsed_s: float) -> None:
        """So much is covered now."""
        self.covered = max(self.covered, covered)
        self.growths += 1
        # After a refusal it goes on in the small steps that it found, to what is left.
        self._place(produced_bytes, elapsed_s)

    def refused(self, produced_bytes: int, elapsed_s: float) -> None:
        """That much was not to be had: the next time half as much is asked for, and when even the
        last step was refused, only after a while."""
        if self._asked_ahead <= LAST_STEP:
            self._not_before_s = elapsed_s + ASK_AGAIN_S
            self._refusals = 0
        else:
            self._refusals += 1
        self._place(produced_bytes, elapsed_s)

    def counted(self, produced_bytes: int, llm_tokens: int, elapsed_s: float) -> None:
        """What was produced until now is known better than by its bytes: at most `llm_tokens`."""
        self._credit = max(self._credit, produced_bytes - llm_tokens)
        self._place(produced_bytes, elapsed_s)

    def _place(self, produced_bytes: int, elapsed_s: float) -> None:
        """Where the next growth and the cut are, in bytes."""
        if self.is_whole:
            self.ask_at = self.cut_at = NEVER
            return
        slack = self.slack(produced_bytes, elapsed_s)
        self.cut_at = self.covered - slack + self._credit
        # Half of what is left is for the time that growing takes.
        room = max(0, self.cut_at - produced_bytes)
        self.ask_at = produced_bytes + room // 2
