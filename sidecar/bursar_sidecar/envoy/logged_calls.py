"""The light tier: calls that are settled by what Envoy logs of them.

The same entry may come over gRPC and from a file, more than once from either: the first settles,
the rest are counted. What can't be read, or is of no call that is known, is counted, and said a few
times; the call it may have been of stays held, and is charged at its deadline.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bursar_sidecar.attempt import Attempt
from bursar_sidecar.clock import NANOS_PER_SECOND, Clock
from bursar_sidecar.desk import Receipt, Refusal
from bursar_sidecar.envoy.earlier_calls import EarlierCalls
from bursar_sidecar.envoy.held_calls import HeldCall, HeldCalls
from bursar_sidecar.envoy.log_entries import LogEntry, LogFault
from bursar_sidecar.envoy.logged_answers import Asked, Verdict, judge, settle, sight

log = structlog.get_logger("bursar.envoy")

Source = Literal["grpc", "file"]
Result = Literal[
    "settled", "adjusted", "duplicate", "unknown", "too_late", "unreadable", "not_ours", "failed"
]
"""What became of an entry: it "settled" a call; "adjusted" one that was charged at its deadline;
"duplicate" the call had ended before; "unknown" no call of that name is known; "too_late" its
session takes no evidence any more; "unreadable"; "not_ours" it is of a call that nobody reserved
for; "failed" by a fault of ours."""
SOURCES: Final[tuple[Source, ...]] = ("grpc", "file")
RESULTS: Final[tuple[Result, ...]] = (
    "settled", "adjusted", "duplicate", "unknown", "too_late", "unreadable", "not_ours", "failed",
)  # fmt: skip
_SAID: Final = frozenset({"unknown", "too_late", "unreadable", "failed"})
STRETCH_S: Final = 60
"""Of each of them one line of log is written in each such stretch."""
PROOFS: Final = ("never_sent", "refused", "counted", "cut", "untold")


def asked_of(call: HeldCall) -> Asked:
    """What the answer to a held call is read by."""
    server = call.upstream.server
    return Asked(call.endpoint, call.facts, server, sight(call.endpoint, call.facts, server))


class LoggedCalls:
    """Takes entries, and settles by them. A collector of the sidecar's metrics."""

    def __init__(
        self,
        held: HeldCalls,
        earlier: EarlierCalls | None,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        """`earlier` are calls of lives before this one."""
        self._held = held
        self._earlier = earlier
        self._clock = clock
        self.taken: Counter[tuple[Source, Result]] = Counter()
        self.proven: Counter[str] = Counter()
        """What entries that settled or adjusted a call proved."""
        self.last_at: dict[Source, int] = {}
        """When an entry of a call came last, on the wall clock, in nanoseconds."""
        self._said_at: dict[Result, int] = {}
        self._unsaid: Counter[Result] = Counter()
        registry.register(self)

    def take(self, entry: LogEntry | None, source: Source) -> Result:
        """What an entry of the log says; None for one that is of no call of ours."""
        if entry is None:
            return self._count(source, "not_ours")
        self.last_at[source] = self._clock.wall_ns()
        call = self._held.held(entry.charge_id)
        if call is None:
            return self._take_other(entry, source)
        is_late = call.late is not None
        verdict = judge(entry, asked_of(call))
        if is_late and verdict.proof == "cut":
            # No more than was known at its deadline; it stays open to what proves more.
            return self._count(source, "duplicate")
        try:
            self._settle(entry, verdict, is_late=is_late)
        except Refusal as refusal:
            return self._count(source, "too_late", entry.charge_id, refusal.message)
        self.proven[verdict.proof] += 1
        return self._count(source, "adjusted" if is_late else "settled")

    def _take_other(self, entry: LogEntry, source: Source) -> Result:
        """Of a call that is not held: it ended, or is of an earlier life."""
        if self._held.knows(entry.charge_id):
            return self._count(source, "duplicate")
        earlier = self._earlier
        if earlier is None or not earlier.knows(entry.charge_id):
            return self._count(source, "unknown", entry.charge_id)
        try:
            proof = earlier.settle(entry)
        except Refusal as refusal:
            return self._count(source, "too_late", entry.charge_id, refusal.message)
        if proof is None:
            return self._count(source, "duplicate")
        self.proven[proof] += 1
        return self._count(source, "adjusted")

    def unreadable(self, fault: LogFault, source: Source) -> None:
        """An entry that is none."""
        self._count(source, "unreadable", why=str(fault))

    def failed(self, error: Exception, source: Source) -> None:
        """An entry that a fault of ours kept from being settled by."""
        self._count(source, "failed", why=repr(error))

    def _settle(self, entry: LogEntry, verdict: Verdict, *, is_late: bool) -> None:
        def word(attempt: Attempt) -> Receipt:
            receipt = settle(verdict, entry, attempt, late=is_late)
            if receipt is None:
                raise ValueError(f"{entry.charge_id} is adjusted by what proves nothing")
            return receipt

        self._held.settle(entry.charge_id, word)

    def _count(self, source: Source, result: Result, charge_id: str = "", why: str = "") -> Result:
        self.taken[source, result] += 1
        if result in _SAID:
            self._say(source, result, charge_id, why)
        return result

    def _say(self, source: Source, result: Result, charge_id: str, why: str) -> None:
        now = self._clock.boot_ns()
        said_at = self._said_at.get(result)
        if said_at is not None and now - said_at < STRETCH_S * NANOS_PER_SECOND:
            self._unsaid[result] += 1
            return
        self._said_at[result] = now
        log.warning(
            "envoy_log_entry_of_no_use",
            result=result,
            source=source,
            charge_id=charge_id,
            why=why[:256],
            more_since=self._unsaid.pop(result, 0),
        )

    def collect(self) -> Iterable[Metric]:
        """The state of this moment."""
        entries = CounterMetricFamily(
            "bursar_sidecar_envoy_log_entries",
            "Entries of Envoy's access logs, by where they came from and what became of them.",
            labels=("source", "result"),
        )
        for source in SOURCES:
            for result in RESULTS:
                entries.add_metric((source, result), self.taken[source, result])
        yield entries
        proven = CounterMetricFamily(
            "bursar_sidecar_envoy_logged_calls",
            "Calls of the light tier that a log entry settled or adjusted, by what it proved; cut "
            "and untold ones are charged at what was reserved.",
            labels=("proof",),
        )
        for proof in PROOFS:
            proven.add_metric((proof,), self.proven[proof])
        yield proven
        last = GaugeMetricFamily(
            "bursar_sidecar_envoy_log_last_entry_seconds",
            "When the latest entry of a call came, in seconds of Unix time, by where from.",
            labels=("source",),
        )
        for source, at in self.last_at.items():
            last.add_metric((source,), at / NANOS_PER_SECOND)
        yield last
