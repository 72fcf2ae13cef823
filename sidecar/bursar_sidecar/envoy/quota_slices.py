"""What one bucket of one Envoy was lent, as slices of requests. Pure: `now` is an argument
(nanoseconds of `Clock.boot_ns`).

A slice is lent with the money for it set aside, and is paid for by what Envoy reports. Reports name
no slice: they count against the oldest first. A slice is over when all of it was reported, or when
Envoy reported once more after it had dropped the slice for certain: it keeps none beyond its time
to live. What is left of one that nobody reports about any more is taken for used.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, TypeVar

from bursar_sidecar.clock import NANOS_PER_SECOND

REPORTED_EVERY_S: Final = 5
"""How often Envoy 1.40 reports, whatever `reporting_interval` says (tried)."""
TIME_TO_LIVE_S: Final = 15
"""Of what is assigned: two reports may be late. Whole seconds, because Envoy drops the rest."""
MARGIN_S: Final = 5
"""For what is under way between here and Envoy, in both directions."""
RENEW_AFTER_S: Final = 60
"""A slice is settled at least so often, and the next one is as large as is needed by then."""
IDLE_S: Final = 300
"""A bucket that nobody uses is given up after it."""
UNHEARD_S: Final = 60
"""A bucket that Envoy does not report about any more."""
LEAST: Final = 10
"""Requests, where nothing is known of how many come."""

Held = TypeVar("Held")


class Step(StrEnum):
    """What is to be done about a bucket after a report."""

    EXTEND = "extend"
    """Its slice lasts: let it live longer."""
    RENEW = "renew"
    """It needs another one."""
    DENY = "deny"
    """It gets none."""
    ABANDON = "abandon"
    """Envoy may forget it."""


@dataclass(slots=True, eq=False)
class Slice(Generic[Held]):
    """So many requests."""

    held: Held
    """What the caller keeps with it: the money."""
    requests: int
    opened_at: int
    dropped_at: int
    """When Envoy has dropped it for certain, unless it is extended."""
    reported: int = 0

    @property
    def rest(self) -> int:
        """What was not reported so far."""
        return self.requests - self.reported


@dataclass(slots=True, eq=False)
class QuotaBucket(Generic[Held]):
    """One bucket of one Envoy."""

    heard_at: int
    used_at: int = -1
    """When somebody last wanted something of it; -1: it was not reported about yet."""
    demand: int = 0
    """Requests in the last report, let through or not."""
    current: Slice[Held] | None = None
    """The one that Envoy counts down."""
    slices: list[Slice[Held]] = field(default_factory=list)
    """All that may be reported about still, the oldest first."""

    def report(self, allowed: int, denied: int, now: int) -> tuple[int, list[Slice[Held]]]:
        """Count a report. Returns how many requests no slice covers, and the slices that are
        over."""
        self.heard_at = now
        self.demand = allowed + denied
        if self.demand or self.used_at < 0:
            self.used_at = now
        for each in self.slices:
            counted = min(allowed, each.rest)
            each.reported += counted
            allowed -= counted
        over = [each for each in self.slices if not each.rest or now >= each.dropped_at]
        self.slices = [each for each in self.slices if each not in over]
        if self.current in over:
            self.current = None
        return allowed, over

    def step(self, now: int) -> Step:
        """What is to be done, after a report."""
        if now - self.used_at >= IDLE_S * NANOS_PER_SECOND:
            return Step.DENY if self.slices else Step.ABANDON
        if self.current is None:
            return Step.RENEW if self.demand else Step.DENY
        is_old = now - self.current.opened_at >= RENEW_AFTER_S * NANOS_PER_SECOND
        return Step.RENEW if is_old or self.current.rest < self.demand else Step.EXTEND

    def wanted(self, most: int) -> int:
        """How many requests the next slice is for: twice what came since the last report."""
        return min(most, max(LEAST, 2 * self.demand))

    def lend(self, held: Held, requests: int, now: int) -> None:
        """Envoy is told of another slice; what is left of the last one is dropped by that."""
        self.current = Slice(held, requests, now, now)
        self.slices.append(self.current)
        self.extend(now)

    def extend(self, now: int) -> None:
        """Envoy is told of its slice again, which then lives on from there."""
        if self.current is not None:
            self.current.dropped_at = now + (TIME_TO_LIVE_S + MARGIN_S) * NANOS_PER_SECOND

    def deny(self) -> None:
        """Envoy is told to let nothing through."""
        self.current = None

    def is_unheard(self, now: int) -> bool:
        """Whether Envoy reports about it no more."""
        return now - self.heard_at >= UNHEARD_S * NANOS_PER_SECOND

    def give_up(self) -> list[Slice[Held]]:
        """Nobody will report about it any more: the slices that are to be charged whole."""
        left, self.slices, self.current = self.slices, [], None
        return left
