"""What the provider served: one record a call, kept up to a limit, and totals that never forget."""

from collections import Counter, deque
from collections.abc import Iterator
from enum import StrEnum

import msgspec

DEFAULT_KEPT_CALLS = 200_000  # about 700 bytes each: 140 MB at most, a long load test fits
MAX_PAGE_SIZE = 10_000  # about 3 MB of JSON
DEFAULT_PAGE_SIZE = 1_000


class Ended(StrEnum):
    """How a call ended, seen from the provider."""

    COMPLETE = "complete"
    CANCELLED = "cancelled"
    """The app hung up before the last byte was handed to the network."""
    ERROR = "error"
    """Refused, failed or never answered; nothing is billed."""
    ABORTED = "aborted"
    """The provider closed the connection in the middle of its answer."""
    FAILED = "failed"
    """An error event ended a stream that had begun well; what it produced is billed."""


class BilledUsage(msgspec.Struct, frozen=True):
    """What the provider bills, whatever it reported. All are LLM tokens, but `searches` and
    what comes after them.

    `cached_input` and the cache writes are parts of `input`, `reasoning` and `after_cancel` are
    parts of `output`.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    after_cancel: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    searches: int = 0
    """Searches of the provider's own, each of which has a price."""
    pictures: int = 0
    """Made by a model that bills the piece."""
    characters: int = 0
    """Spoken."""
    seconds: int = 0
    """Of sound that was heard, a begun one counted whole."""


NOTHING_BILLED = BilledUsage()


class ServedCall(msgspec.Struct, frozen=True):
    """One call, written when it ended."""

    sequence: int
    """From 1, in the order in which calls ended."""
    call_id: str
    """The caller's `x-simulate-call-id`, else one of the provider's own."""
    response_id: str
    """The `id` of the answer and its `x-request-id` header."""
    endpoint: str
    model: str
    stream: bool
    ended: Ended
    http_status: int
    """0 where no status was sent at all."""
    billed: BilledUsage
    usage_reported: bool
    """Whether the answer told its usage to the end."""
    started_ns: int
    """Wall clock, nanoseconds since 1970."""
    ended_ns: int


class Totals(msgspec.Struct, frozen=True):
    """Sums since the start, or since the record was last cleared."""

    calls: int
    in_flight: int
    dropped: int
    """Records no longer kept; the totals still hold them."""
    by_ending: dict[str, int]
    billed: BilledUsage


class ServedCalls:
    """The record. Keeps the last `limit` calls; drops the oldest and counts what it dropped."""

    def __init__(self, limit: int = DEFAULT_KEPT_CALLS) -> None:
        self._limit = limit
        self._in_flight = 0
        self._next_sequence = 1
        self._reset()

    def _reset(self) -> None:
        self._kept: deque[ServedCall] = deque()
        self._attempts: Counter[str] = Counter()
        self._dropped = 0
        self._count = 0
        self._by_ending: Counter[str] = Counter()
        self._billed = [0] * len(BilledUsage.__struct_fields__)

    def started(self) -> None:
        """A call came in."""
        self._in_flight += 1

    def attempts(self, call_id: str) -> int:
        """How many kept calls carry this id."""
        return self._attempts.get(call_id, 0)

    def ended(
        self,
        *,
        call_id: str,
        response_id: str,
        endpoint: str,
        model: str,
        stream: bool,
        ended: Ended,
        http_status: int,
        billed: BilledUsage,
        usage_reported: bool,
        started_ns: int,
        ended_ns: int,
    ) -> None:
        """Record a call that was `started` and is over."""
        self._in_flight -= 1
        if len(self._kept) >= self._limit:
            self._drop_oldest()
        self._kept.append(
            ServedCall(
                sequence=self._next_sequence,
                call_id=call_id,
                response_id=response_id,
                endpoint=endpoint,
                model=model,
                stream=stream,
                ended=ended,
                http_status=http_status,
                billed=billed,
                usage_reported=usage_reported,
                started_ns=started_ns,
                ended_ns=ended_ns,
            )
        )
        self._next_sequence += 1
        self._attempts[call_id] += 1
        self._count += 1
        self._by_ending[ended.value] += 1
        for index, amount in enumerate(msgspec.structs.astuple(billed)):
            self._billed[index] += amount

    def _drop_oldest(self) -> None:
        oldest = self._kept.popleft()
        self._dropped += 1
        self._attempts[oldest.call_id] -= 1
        if not self._attempts[oldest.call_id]:
            del self._attempts[oldest.call_id]

    def clear(self) -> None:
        """Forget what ended; calls in flight are recorded when they end."""
        self._reset()

    def after(self, sequence: int, call_id: str | None = None) -> Iterator[ServedCall]:
        """Kept calls that ended after number `sequence`, oldest first."""
        if not self._kept:
            return
        # Sequences are contiguous: the place of the first one wanted is known.
        skip = max(0, sequence + 1 - self._kept[0].sequence)
        for index, call in enumerate(self._kept):
            if index >= skip and (call_id is None or call.call_id == call_id):
                yield call

    def totals(self) -> Totals:
        """Sums of all calls, dropped records included."""
        return Totals(
            calls=self._count,
            in_flight=self._in_flight,
            dropped=self._dropped,
            by_ending={ending.value: self._by_ending[ending.value] for ending in Ended},
            billed=BilledUsage(*self._billed),
        )
