"""Calls that come whether or not there is money, and what became of a budget under them.

The same load drives sidecars under virtual time and real ones. It knows the truth by itself: what
every call cost, and what was set aside for those in flight; no balance of Bursar is read for that.
"""

import asyncio
from bisect import bisect
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from random import Random

import msgspec

from benchmarks.measuring import say

MEAN_COST_NANOS = 1_000_000
"""What a call costs on average, a thousandth of a unit of money."""
SIZES = (0.5, 1.0, 1.0, 1.5)
"""How calls differ: their part of the mean, on average one."""
LONGEST_CALL = 5.0
"""Durations spread exponentially, up to so many times the mean."""
ARRIVALS_AT_A_TIME_S = 0.005
"""Calls that come within so long come together: timers of a real loop are no finer."""
MOST_AT_A_TIME = 5_000
"""Calls in flight or in line; what would come beyond does not come. A machine that can't keep up
with what is offered would else only ever fall further behind."""
EXHAUSTED = "budget_exhausted"
RESERVED = "budget_reserved"
QUIET_S = 3.0
"""All is refused when every call of so long was, and none was in flight: longer than a call waits.
"""


class Load(msgspec.Struct, frozen=True):
    """What is offered."""

    calls_a_second: float
    """Over all sidecars."""
    weights: tuple[float, ...]
    """How often each sidecar is called."""
    budget_calls: float
    """The budget, in mean costs of a call."""
    ratio: float = 5.0
    """W over the cost, on average."""
    duration_s: float = 2.0
    """Of a call, on average."""
    sizes: tuple[float, ...] = SIZES
    seed: int = 0

    @property
    def limit_nanos(self) -> int:
        """The budget."""
        return int(self.budget_calls * MEAN_COST_NANOS)


def share(part: int, whole: int) -> float:
    """A part of the limit, for people."""
    return part / whole


def even(sidecars: int) -> tuple[float, ...]:
    """Every sidecar is called as often."""
    return (1.0,) * sidecars


def zipf(sidecars: int) -> tuple[float, ...]:
    """The second is called half as often as the first, the third a third as often."""
    return tuple(1.0 / rank for rank in range(1, sidecars + 1))


class Offer(msgspec.Struct, frozen=True):
    """One call."""

    sidecar: int
    ceiling_nanos: int
    cost_nanos: int
    duration_s: float


class Moment(msgspec.Struct, frozen=True):
    """How the budget stood when a call was refused, in parts of the limit."""

    at_s: float
    offered_a_second: float
    """Until then."""
    settled: float
    reserved: float

    @property
    def committed(self) -> float:
        """Spent, or set aside for a call in flight."""
        return self.settled + self.reserved


class Tally:
    """What became of the calls and of the money."""

    def __init__(self, limit_nanos: int, quiet_s: float = QUIET_S) -> None:
        self.limit_nanos = limit_nanos
        self._quiet_s = quiet_s
        self.settled_nanos = 0
        self.reserved_nanos = 0
        self.began_s = 0.0
        self.offered = 0
        self.in_flight = 0
        self.served = 0
        self.refused: Counter[str] = Counter()
        self.first: dict[str, Moment] = {}
        self.before_exhausted = 0
        """Calls refused before the first one was told that the budget is used up."""
        self.quiet_since_s: float | None = None
        self.on_first: Callable[[str], None] = lambda reason: None

    def admitted(self, ceiling_nanos: int) -> None:
        """A call started."""
        self.in_flight += 1
        self.reserved_nanos += ceiling_nanos
        self.quiet_since_s = None

    def finished(self, ceiling_nanos: int, cost_nanos: int) -> None:
        """It ended, and its receipt is there."""
        self.in_flight -= 1
        self.served += 1
        self.reserved_nanos -= ceiling_nanos
        self.settled_nanos += cost_nanos
        self.quiet_since_s = None

    def refuse(self, reason: str, now_s: float) -> None:
        """A call may not start."""
        self.refused[reason] += 1
        if reason not in self.first:
            limit = self.limit_nanos
            pace = self.offered / max(now_s - self.began_s, ARRIVALS_AT_A_TIME_S)
            self.first[reason] = Moment(
                now_s, pace, share(self.settled_nanos, limit), share(self.reserved_nanos, limit)
            )
            self.on_first(reason)
        if EXHAUSTED not in self.first:
            self.before_exhausted += 1
        if reason != EXHAUSTED or self.in_flight:
            self.quiet_since_s = None
        elif self.quiet_since_s is None:
            self.quiet_since_s = now_s

    def is_over(self, now_s: float) -> bool:
        """Whether nothing is to be had any more."""
        return self.quiet_since_s is not None and now_s - self.quiet_since_s >= self._quiet_s

    @property
    def settled(self) -> float:
        """The spent part of the limit."""
        return share(self.settled_nanos, self.limit_nanos)


Serve = Callable[[Offer, Tally], Awaitable[None]]
"""Makes one call and tells the tally."""


class Traffic:
    """Draws calls."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._random = Random(load.seed)
        self._shares = list(accumulate(load.weights))

    def next(self) -> tuple[float, Offer]:
        """Seconds until the next call, and the call."""
        random, load = self._random, self._load
        after_s = random.expovariate(load.calls_a_second)
        sidecar = bisect(self._shares, random.random() * self._shares[-1])
        size = random.choice(load.sizes) * MEAN_COST_NANOS
        cost = int(size * random.uniform(0.5, 1.5)) if load.ratio > 1.5 else int(size)
        duration_s = min(random.expovariate(1.0), LONGEST_CALL) * load.duration_s
        sidecar = min(sidecar, len(self._shares) - 1)
        return after_s, Offer(sidecar, int(size * load.ratio), cost, duration_s)


async def spend(load: Load, serve: Serve, tally: Tally, most_s: float) -> None:
    """Offer calls until all are refused, at most so long. Raises RuntimeError when it was."""
    loop = asyncio.get_running_loop()
    traffic = Traffic(load)
    due = tally.began_s = loop.time()
    running: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    def ended(task: "asyncio.Task[None]") -> None:
        running.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            failed.append(fault)

    while not tally.is_over(loop.time()):
        if loop.time() - tally.began_s > most_s:
            raise RuntimeError(
                f"after {most_s:.0f} s {tally.settled:.4f} is spent, {tally.in_flight} calls are in"
                f" flight; refused: {dict(tally.refused)}"
            )
        if len(running) >= MOST_AT_A_TIME:
            due = loop.time()
        while due <= loop.time() and len(running) < MOST_AT_A_TIME:
            after_s, offer = traffic.next()
            due += after_s
            tally.offered += 1
            task = asyncio.ensure_future(serve(offer, tally))
            running.add(task)
            task.add_done_callback(ended)
        await asyncio.sleep(ARRIVALS_AT_A_TIME_S)
        if failed:
            raise failed[0]
    await asyncio.gather(*running)


class Result(msgspec.Struct, frozen=True):
    """One run."""

    load: Load
    first: Moment
    """At the first refusal of any kind."""
    exhausted: Moment
    """At the first `exhausted`."""
    settled_at_end: float
    served: int
    refused: float
    """Refusals before the first `exhausted`, over the calls served."""


def result_of(load: Load, tally: Tally) -> Result:
    """What is to be told of a run that is over."""
    exhausted = tally.first[EXHAUSTED]
    first = min(tally.first.values(), key=lambda moment: moment.at_s)
    return Result(
        load, first, exhausted, tally.settled, tally.served, tally.before_exhausted / tally.served
    )


def report(name: str, results: Sequence[Result]) -> None:
    """Print what became of a budget."""
    load = results[0].load
    mean = load.ratio / load.budget_calls
    least = mean * min(load.sizes)
    print(f"{name}; W of a call is {_percent(mean)} of it, {_percent(least)} at least")
    rows = (
        ("committed at the first refusal", [r.first.committed for r in results], ">= 99.9 %"),
        ("committed at the first `exhausted`", [r.exhausted.committed for r in results], ""),
        ("settled at the first `exhausted`", [r.exhausted.settled for r in results], ">= 99 %"),
        ("settled in the end", [r.settled_at_end for r in results], ">= 99.99 %"),
    )
    for what, values, target in rows:
        short = (1 - min(values)) / mean
        say(f"  {what}", shares(values), f"(short of all by {short:.2g} W at most)", target=target)
    say("  refused for now before that, a call served", shares([r.refused for r in results]))


def shares(values: Sequence[float]) -> str:
    """Parts of one as percent: median (least - greatest), with the digits that matter here."""
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"{_percent(middle)} ({_percent(ordered[0])} - {_percent(ordered[-1])})"


def _percent(value: float) -> str:
    return f"{value * 100:.3f} %"
