"""Envoy's rate limit quota service over Bursar's budgets: `StreamRateLimitQuotas`.

Envoy decides by itself, with what it was lent: so many requests of a bucket, for which the money is
set aside here before Envoy hears of them. It reports what it let through, and that is charged.

What Envoy 1.40 makes of an assignment (tried): a bucket of N tokens that do not refill lets N
requests through; one that replaces another keeps the share of it that was used up, unless
everything is denied in between; seconds count of a time to live, fractions do not.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from envoy.service.rate_limit_quota.v3 import rlqs_pb2
from envoy.type.v3 import ratelimit_strategy_pb2

from bursar_sidecar.attempt import Attempt
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.desk import Refusal, Spender
from bursar_sidecar.envoy.descriptors import Bill, Hit, add, hit_of, read_entries
from bursar_sidecar.envoy.hit_charges import LATER
from bursar_sidecar.envoy.limits_in_force import NOBODY, LimitsInForce, limits_of
from bursar_sidecar.envoy.parts import Parts
from bursar_sidecar.envoy.quota_metrics import QuotaMetrics
from bursar_sidecar.envoy.quota_slices import (
    TIME_TO_LIVE_S,
    UNHEARD_S,
    QuotaBucket,
    Slice,
    Step,
)

log = structlog.get_logger("bursar.envoy")

NAME: Final = "envoy.service.rate_limit_quota.v3.RateLimitQuotaService"
MOST_STREAMS: Final = 256
"""Envoys at one time; each has one stream for each filter."""
MOST_BUCKETS: Final = 1_000
"""Of one stream. What is more is denied: an app can invent as many as it likes."""
MOST_IN_A_REPORT: Final = 10_000
MOST_REPORTED: Final = 10**9
"""Requests of one bucket in one report; more is no count of requests."""
NEVER_S: Final = 10**9
"""Between two tokens that refill a bucket: 30 years."""
SWEEP_EVERY_S: Final = 5.0
MOST_PAID_AHEAD: Final = 10_000
"""Buckets of streams that broke, whose rest was charged."""
UNREPORTED: Final = "quota_not_reported"
"""Estimate reason of requests that were lent, and of which no report came."""

_DENY_ALL: Final = ratelimit_strategy_pb2.RateLimitStrategy.DENY_ALL
BucketKey = tuple[str, frozenset[tuple[str, str]]]
"""A domain, and a bucket's entries."""


class _Money:
    """What is set aside for a slice."""

    __slots__ = ("attempt", "hit", "spender")

    def __init__(self, attempt: Attempt, spender: Spender, hit: Hit) -> None:
        self.attempt = attempt
        self.spender = spender
        self.hit = hit


class _Kept:
    """A bucket, as one stream knows it."""

    __slots__ = ("bucket", "bucket_id", "renewing")

    def __init__(self, bucket: QuotaBucket[_Money], bucket_id: Any) -> None:
        self.bucket = bucket
        self.bucket_id = bucket_id
        self.renewing: asyncio.Task[None] | None = None


class QuotaStream:
    """One Envoy's filter."""

    def __init__(self, service: "Quotas") -> None:
        self._service = service
        self._limits = service.limits
        self._domain = ""
        self.buckets: dict[BucketKey, _Kept] = {}
        self._outgoing: dict[BucketKey, list[Any]] = {}
        """Actions by bucket: the last word counts, so that they are few however slowly Envoy
        reads."""
        self._changed = asyncio.Event()
        self._is_open = True

    # -- in and out ----------------------------------------------------------------------------

    async def read(self, reports: AsyncIterator[Any]) -> None:
        """Take reports until Envoy ends them. Raises Refusal for one that can't be taken."""
        async for message in reports:
            self._domain = self._domain or message.domain
            usages = message.bucket_quota_usages
            if len(usages) > MOST_IN_A_REPORT:
                raise Refusal(
                    "descriptor_invalid", f"{len(usages)} buckets, at most {MOST_IN_A_REPORT}"
                )
            for usage in usages:
                self._reported(usage)
            self._changed.set()

    async def answers(self, reading: "asyncio.Task[None]") -> AsyncIterator[Any]:
        """What Envoy is to do, as it is decided."""
        reading.add_done_callback(lambda _: self._changed.set())
        while not reading.done():
            await self._changed.wait()
            self._changed.clear()
            if self._outgoing:
                actions, self._outgoing = self._outgoing, {}
                yield rlqs_pb2.RateLimitQuotaResponse(
                    bucket_action=[action for each in actions.values() for action in each]
                )
        reading.result()

    def close(self) -> None:
        """Nothing more will be heard: what was lent is charged whole, at once."""
        self._is_open = False
        for key, kept in self.buckets.items():
            if kept.renewing is not None:
                kept.renewing.cancel()
            self._give_up(key, kept)
        self.buckets.clear()

    # -- reports -------------------------------------------------------------------------------

    def _reported(self, usage: Any) -> None:
        pairs = list(usage.bucket_id.bucket.items())
        key: BucketKey = (self._domain, frozenset(pairs))
        allowed, denied = usage.num_requests_allowed, usage.num_requests_denied
        now = self._service.now()
        kept = self.buckets.get(key)
        if kept is None:
            if len(self.buckets) >= MOST_BUCKETS:
                self._refused(Refusal("overloaded", f"{MOST_BUCKETS} buckets of one Envoy"))
                self._outgoing[key] = [_denied(usage.bucket_id)]
                return
            kept = self.buckets[key] = _Kept(QuotaBucket(now), usage.bucket_id)
        bucket = kept.bucket
        uncovered, over = bucket.report(allowed, denied, now)
        for each in over:
            self._service.settle(each)
        try:
            if max(allowed, denied) > MOST_REPORTED:
                raise Refusal("descriptor_invalid", f"{allowed} requests, at most {MOST_REPORTED}")
            hit = self._hit(pairs)
            self._service.charge_uncovered(key, hit, uncovered)
        except Refusal as refusal:
            self._refused(refusal)
            if uncovered:  # nobody can be charged for it
                self._service.metrics.uncovered(NOBODY, uncovered)
            self._deny(key, kept)
            return
        self._decide(key, kept, hit, now)

    def _hit(self, pairs: list[tuple[str, str]]) -> Hit:
        """What a request of a bucket costs, and who pays. Raises Refusal."""
        limits, keys = self._limits.now()
        entries = read_entries(pairs, "bucket")
        hit = hit_of(self._domain, entries, 1, limits, keys, "bucket")
        if not hit.limit.flat_price or hit.limit.when != "before":
            # Nobody knows before what its requests will use.
            raise Refusal(
                "limit_unknown", f"The limit {hit.limit.name!r} has no flat_price for a request."
            )
        return hit

    def _decide(self, key: BucketKey, kept: _Kept, hit: Hit, now: int) -> None:
        bucket = kept.bucket
        step = bucket.step(now)
        if step is Step.ABANDON:
            del self.buckets[key]
            action = rlqs_pb2.RateLimitQuotaResponse.BucketAction(bucket_id=kept.bucket_id)
            action.abandon_action.SetInParent()
            self._outgoing[key] = [action]
        elif step is Step.DENY:
            self._deny(key, kept)
        else:
            # It lives on while more is asked for.
            self._extend(key, kept, now)
            if step is Step.RENEW and kept.renewing is None:
                kept.renewing = asyncio.create_task(self._renew(key, kept, hit), name="envoy-quota")

    # -- assignments ---------------------------------------------------------------------------

    async def _renew(self, key: BucketKey, kept: _Kept, hit: Hit) -> None:
        try:
            money, requests = await self._service.borrow(
                hit, kept.bucket.wanted(hit.limit.most_ahead)
            )
        except Refusal as refusal:
            self._refused(refusal, hit)
            # What was lent was paid for: only who may not spend any more loses it.
            if kept.bucket.current is None or refusal.reason not in LATER:
                self._deny(key, kept)
        except Exception:
            log.exception("quota_failed", limit=hit.limit.name)
            self._deny(key, kept)
        else:
            if not self._is_open or self.buckets.get(key) is not kept:
                self._service.settle(Slice(money, requests, 0, 0))
                return
            kept.bucket.lend(money, requests, self._service.now())
            # Denied in between: Envoy would count what is used up of the last one.
            self._outgoing[key] = [
                _denied(kept.bucket_id),
                _assigned(kept.bucket_id, requests),
            ]
        finally:
            kept.renewing = None
            self._changed.set()

    def _extend(self, key: BucketKey, kept: _Kept, now: int) -> None:
        current = kept.bucket.current
        if current is not None:
            kept.bucket.extend(now)
            # What Envoy was not told yet begins with a denial; that stays.
            waiting = self._outgoing.get(key, [])
            first = [_denied(kept.bucket_id)] if len(waiting) > 1 else []
            self._outgoing[key] = [*first, _assigned(kept.bucket_id, current.requests)]

    def _deny(self, key: BucketKey, kept: _Kept) -> None:
        kept.bucket.deny()
        self._outgoing[key] = [_denied(kept.bucket_id)]

    def _refused(self, refusal: Refusal, hit: Hit | None = None) -> None:
        if hit is None:
            self._limits.unreadable(refusal)
        else:
            self._limits.refused(hit.limit, refusal)

    # -- time ----------------------------------------------------------------------------------

    def sweep(self, now: int) -> None:
        """Give up what Envoy reports about no more."""
        for key, kept in list(self.buckets.items()):
            if kept.bucket.is_unheard(now):
                del self.buckets[key]
                self._give_up(key, kept)

    def _give_up(self, key: BucketKey, kept: _Kept) -> None:
        rest = 0
        for each in kept.bucket.give_up():
            rest += each.rest
            self._service.settle_unreported(each)
        if rest:
            self._service.paid_ahead(key, rest)


class Quotas:
    """The service."""

    name = NAME

    def __init__(self, limits: LimitsInForce, parts: Parts) -> None:
        self.limits = limits
        self._clock = parts.clock
        self.streams: set[QuotaStream] = set()
        """Those that are there."""
        self._telling: set[asyncio.Task[Any]] = set()
        self._paid_ahead: dict[BucketKey, tuple[int, int]] = {}
        """Requests of a broken stream that were charged without a report, and until when a report
        that comes all the same, on another stream, is about them."""
        self.metrics = QuotaMetrics(parts.registry, self._open)

    def methods(self) -> Mapping[str, Any]:
        """Its one rpc."""
        return {
            "StreamRateLimitQuotas": grpc.stream_stream_rpc_method_handler(
                self.stream,
                request_deserializer=rlqs_pb2.RateLimitQuotaUsageReports.FromString,
                response_serializer=rlqs_pb2.RateLimitQuotaResponse.SerializeToString,
            )
        }

    async def run(self) -> None:
        """Give up what nobody reports about, until cancelled."""
        try:
            while True:
                await asyncio.sleep(SWEEP_EVERY_S)
                self.sweep()
        finally:
            for stream in list(self.streams):
                stream.close()
            await asyncio.gather(*self._telling, return_exceptions=True)

    def sweep(self) -> None:
        """Give up what nobody reports about."""
        for stream in self.streams:
            stream.sweep(self.now())

    def now(self) -> int:
        """Nanoseconds on the clock that never goes back."""
        return self._clock.boot_ns()

    async def stream(self, reports: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One Envoy's filter, as long as it is there."""
        if len(self.streams) >= MOST_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MOST_STREAMS} streams")
        stream = QuotaStream(self)
        self.streams.add(stream)
        reading = asyncio.create_task(stream.read(reports), name="envoy-quota-reports")
        try:
            async for answer in stream.answers(reading):
                yield answer
        except Refusal as refusal:
            log.warning("quota_stream_refused", reason=refusal.reason, detail=refusal.message)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal.message)
        finally:
            self.streams.discard(stream)
            stream.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    # -- money ---------------------------------------------------------------------------------

    async def borrow(self, hit: Hit, wanted: int) -> tuple[_Money, int]:
        """Set money aside for so many requests, or for as many as there is money for. Raises
        Refusal."""
        bill = bill_of(hit, wanted)
        price = hit.limit.flat_nanos
        attempt, spender = await self.limits.charges.open(bill, least_nanos=price)
        got = attempt.reservation.ceiling_nanos // price if price else wanted
        self.metrics.lent(hit.limit.name, got)
        return _Money(attempt, spender, hit), got

    def settle(self, each: Slice[_Money]) -> None:
        """Charge what was reported of a slice; the rest comes home."""
        money = each.held
        self.limits.charges.close(money.attempt, money.spender, bill_of(money.hit, each.reported))
        self.metrics.reported(money.hit.limit.name, each.reported)

    def settle_unreported(self, each: Slice[_Money]) -> None:
        """Charge all of a slice."""
        money = each.held
        self.limits.charges.close_unknown(money.attempt, money.spender, UNREPORTED)
        self.metrics.reported(money.hit.limit.name, each.reported)
        self.metrics.unreported(money.hit.limit.name, each.rest)
        log.warning(
            "quota_not_reported",
            limit=money.hit.limit.name,
            charge_id=money.attempt.charge_id,
            lent=each.requests,
            reported=each.reported,
        )

    def charge_uncovered(self, key: BucketKey, hit: Hit, requests: int) -> None:
        """Charge what Envoy let through beyond all that it was lent: it is a fact."""
        paid, until = self._paid_ahead.get(key, (0, 0))
        if paid and requests:
            known = min(paid, requests) if self.now() < until else 0
            self._paid_ahead[key] = (paid - known, until)
            requests -= known
        if not requests:
            return
        self.metrics.uncovered(hit.limit.name, requests)
        task = asyncio.create_task(self.limits.told(bill_of(hit, requests)), name="envoy-quota")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def paid_ahead(self, key: BucketKey, requests: int) -> None:
        """So many were charged that Envoy may report on another stream."""
        now = self.now()
        if len(self._paid_ahead) >= MOST_PAID_AHEAD:
            over = [each for each, (_, until) in self._paid_ahead.items() if until <= now]
            for each in over or [next(iter(self._paid_ahead))]:
                del self._paid_ahead[each]
        paid, until = self._paid_ahead.get(key, (0, 0))
        before = paid if now < until else 0
        self._paid_ahead[key] = (before + requests, now + UNHEARD_S * NANOS_PER_SECOND)

    def _open(self) -> Iterator[int]:
        """For the metrics: streams, buckets, requests that are lent."""
        kept = [kept.bucket for stream in self.streams for kept in stream.buckets.values()]
        yield from (len(self.streams), len(kept))
        yield sum(each.rest for bucket in kept for each in bucket.slices)


def bill_of(hit: Hit, requests: int) -> Bill:
    """So many requests of a bucket."""
    bill = Bill(hit.limit, hit.key, hit.model, asks=not requests)
    add(bill, hit.limit, requests)
    return bill


def _denied(bucket_id: Any) -> Any:
    action = rlqs_pb2.RateLimitQuotaResponse.BucketAction(bucket_id=bucket_id)
    assignment = action.quota_assignment_action
    assignment.assignment_time_to_live.seconds = TIME_TO_LIVE_S
    assignment.rate_limit_strategy.blanket_rule = _DENY_ALL
    return action


def _assigned(bucket_id: Any, requests: int) -> Any:
    action = rlqs_pb2.RateLimitQuotaResponse.BucketAction(bucket_id=bucket_id)
    assignment = action.quota_assignment_action
    assignment.assignment_time_to_live.seconds = TIME_TO_LIVE_S
    strategy = assignment.rate_limit_strategy.token_bucket
    strategy.max_tokens = requests
    strategy.tokens_per_fill.value = 1
    strategy.fill_interval.seconds = NEVER_S
    return action


def service(parts: Parts) -> Quotas:
    """Of one process."""
    return Quotas(limits_of(parts), parts)
