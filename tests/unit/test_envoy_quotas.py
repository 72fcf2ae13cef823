"""Envoy's rate limit quota service, over a desk in memory and a real gRPC connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.rate_limit_quota.v3 import rlqs_pb2
from envoy.type.v3 import ratelimit_strategy_pb2

from bursar_sidecar.desk import Call, Outcome, Receipt, Refusal, Reservation
from bursar_sidecar.envoy import quotas
from bursar_sidecar.envoy.quota_slices import IDLE_S, MARGIN_S, TIME_TO_LIVE_S
from bursar_sidecar.envoy.quotas import Quotas
from tests.fakes.desk import KEY, FakeDesk, FakeReservation
from tests.fakes.envoy_limits import FLAT, INPUT, MILLI, Asking, asking
from tests.fakes.spending import MovedClock

GONE_S = TIME_TO_LIVE_S + MARGIN_S
DENY_ALL = ratelimit_strategy_pb2.RateLimitStrategy.DENY_ALL
CALLS = {"limit": "calls", "bursar_key": f"Bearer {KEY}"}
Said = list[str]


class Filter:
    """One filter of one Envoy."""

    def __init__(self, envoy: Asking) -> None:
        self._call = envoy.quotas.StreamRateLimitQuotas()

    async def report(
        self, allowed: int = 0, denied: int = 0, *, bucket: dict[str, str] = CALLS, **fields: Any
    ) -> None:
        """Say what was let through."""
        message = rlqs_pb2.RateLimitQuotaUsageReports(domain="bursar", **fields)
        usage = message.bucket_quota_usages.add(
            num_requests_allowed=allowed, num_requests_denied=denied
        )
        usage.bucket_id.bucket.update(bucket)
        usage.time_elapsed.seconds = 5
        await self._call.write(message)

    async def told(self) -> Said:
        """The next answer, an entry for each of its actions."""
        answer = await self._call.read()
        assert isinstance(answer, rlqs_pb2.RateLimitQuotaResponse)
        return [_shown(action) for action in answer.bucket_action]

    async def ask(self, allowed: int = 0, denied: int = 0, **fields: Any) -> Said:
        """A report, and what follows from it."""
        await self.report(allowed, denied, **fields)
        return await self.told()

    async def leave(self) -> None:
        """The connection breaks."""
        self._call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self._call.read()

    async def fault(self) -> grpc.StatusCode:
        """Why the service ended it."""
        code: grpc.StatusCode = await self._call.code()
        return code


def _shown(action: Any) -> str:
    if action.HasField("abandon_action"):
        return "abandon"
    assignment = action.quota_assignment_action
    assert assignment.assignment_time_to_live.seconds == TIME_TO_LIVE_S
    strategy = assignment.rate_limit_strategy
    if strategy.WhichOneof("strategy") == "blanket_rule":
        assert strategy.blanket_rule == DENY_ALL
        return "deny"
    assert strategy.token_bucket.tokens_per_fill.value == 1
    assert strategy.token_bucket.fill_interval.seconds > 86_400 * 365
    return str(strategy.token_bucket.max_tokens)


def service_of(envoy: Asking) -> Quotas:
    (found,) = [one for one in envoy.services.served if isinstance(one, Quotas)]
    return found


class WatchedDesk(FakeDesk):
    """Tells what is settled."""

    def __init__(self, limit_nanos: int) -> None:
        super().__init__(limit_nanos)
        self.posted: asyncio.Queue[Outcome] = asyncio.Queue()

    def settle(self, reservation: Reservation, outcome: Outcome) -> Receipt:
        self.posted.put_nowait(outcome)
        return super().settle(reservation, outcome)


@pytest.fixture
def desk() -> WatchedDesk:
    return WatchedDesk(100 * MILLI)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def envoy(desk: WatchedDesk, clock: MovedClock) -> AsyncIterator[Asking]:
    async with asking(FLAT, INPUT, desk=desk, clock=clock) as made:
        yield made


async def test_a_bucket_is_lent_requests_whose_money_is_set_aside(
    envoy: Asking, desk: WatchedDesk
) -> None:
    one = Filter(envoy)
    assert await one.ask(denied=1) == ["deny", "10"]
    (call,) = desk.open.values()
    assert (call.ceiling_nanos, call.provider, call.app) == (20 * MILLI, "acme", "envoy")
    assert await one.ask(4) == ["10"]
    assert not desk.outcomes
    assert envoy.metric("envoy_quota_buckets") == 1
    assert envoy.metric("envoy_quota_requests_lent") == 6


async def test_what_is_reported_is_charged_and_the_next_slice_follows_the_demand(
    envoy: Asking, desk: WatchedDesk
) -> None:
    one = Filter(envoy)
    await one.ask(denied=1)
    assert await one.ask(10, 4) == ["deny", "28"]
    outcome = desk.outcomes[0]
    assert (outcome.kind, outcome.cost_nanos) == ("final", 20 * MILLI)
    assert outcome.usage.extra == {"request": 10}
    assert [call.ceiling_nanos for call in desk.open.values()] == [56 * MILLI]


async def test_no_more_is_lent_than_there_is_money_for(envoy: Asking, desk: WatchedDesk) -> None:
    desk.limit_nanos = 7 * MILLI
    one = Filter(envoy)
    assert await one.ask(denied=1) == ["deny", "3"]
    assert await one.ask(3, 2) == ["deny"]
    assert await one.ask(0, 5) == ["deny"]
    assert desk.settled_nanos == 6 * MILLI
    assert envoy.metric("envoy_hits_total", limit="calls", outcome="budget_exhausted") == 2


async def test_what_is_left_of_a_replaced_slice_comes_home_with_a_report(
    envoy: Asking, desk: WatchedDesk, clock: MovedClock
) -> None:
    one = Filter(envoy)
    await one.ask(denied=1)
    assert await one.ask(7) == ["deny", "14"]
    clock.skip(GONE_S)
    await one.report(2)
    # Reported against the first, although Envoy used the second: the sum is what counts.
    assert (await desk.posted.get()).usage.extra == {"request": 9}


async def test_an_idle_bucket_is_denied_settled_and_abandoned(
    envoy: Asking, desk: WatchedDesk, clock: MovedClock
) -> None:
    one = Filter(envoy)
    await one.ask(denied=1)
    await one.ask(2)
    clock.skip(GONE_S - 1)
    assert await one.ask() == ["10"]
    clock.skip(IDLE_S - GONE_S)
    assert await one.ask() == ["deny"]
    assert desk.only_outcome.usage.extra == {"request": 2}
    clock.skip(GONE_S)
    assert await one.ask() == ["abandon"]
    assert envoy.metric("envoy_quota_buckets") == 0


async def test_what_no_slice_covers_is_charged_all_the_same(
    envoy: Asking, desk: WatchedDesk
) -> None:
    desk.limit_nanos = 20 * MILLI
    one = Filter(envoy)
    await one.ask(denied=1)
    await one.ask(13)
    assert desk.settled_nanos == 26 * MILLI
    assert envoy.metric("envoy_quota_requests_total", limit="calls", what="uncovered") == 3


async def test_a_stream_that_breaks_is_charged_whole(envoy: Asking, desk: WatchedDesk) -> None:
    one = Filter(envoy)
    await one.ask(denied=1)
    await one.ask(4)
    await one.leave()
    outcome = await desk.posted.get()
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", 20 * MILLI)
    assert outcome.usage.estimate_reason == "quota_not_reported"
    assert envoy.metric("envoy_quota_requests_total", limit="calls", what="unreported") == 6


async def test_what_was_charged_whole_is_not_charged_again_when_it_is_reported(
    envoy: Asking, desk: WatchedDesk
) -> None:
    one = Filter(envoy)
    await one.ask(denied=1)
    await one.leave()
    assert (await desk.posted.get()).cost_nanos == 20 * MILLI
    assert await Filter(envoy).ask(12) == ["deny", "24"]
    assert (await desk.posted.get()).cost_nanos == 4 * MILLI


async def test_a_filter_that_falls_silent_is_charged_whole(
    envoy: Asking, desk: WatchedDesk, clock: MovedClock
) -> None:
    one = Filter(envoy)
    await one.ask(denied=1)
    service_of(envoy).sweep()
    assert not desk.outcomes
    clock.skip(60)
    service_of(envoy).sweep()
    assert desk.only_outcome.kind == "unknown"


async def test_the_end_of_the_sidecar_charges_what_is_lent(desk: WatchedDesk) -> None:
    async with asking(FLAT, desk=desk) as envoy:
        await Filter(envoy).ask(denied=1)
    assert desk.only_outcome.cost_nanos == 20 * MILLI


@pytest.mark.parametrize(
    ("bucket", "reason"),
    [
        ({"limit": "other"}, "limit_unknown"),
        ({"limit": "calls"}, "key_missing"),
        ({"limit": "input", "bursar_key": KEY}, "limit_unknown"),
        ({"limit": "x" * 5_000}, "descriptor_invalid"),
        ({f"e{i}": "x" for i in range(40)}, "descriptor_invalid"),
    ],
)
async def test_a_bucket_that_nobody_pays_is_denied(
    envoy: Asking, desk: WatchedDesk, bucket: dict[str, str], reason: str
) -> None:
    one = Filter(envoy)
    assert await one.ask(denied=1, bucket=bucket) == ["deny"]
    assert not desk.calls
    assert envoy.metric("envoy_hits_total", limit="none", outcome=reason) == 1


async def test_absurd_counts_are_refused(envoy: Asking, desk: WatchedDesk) -> None:
    one = Filter(envoy)
    assert await one.ask(2**63) == ["deny"]
    assert not desk.calls


class RevokingDesk(FakeDesk):
    revoked = False

    async def reserve(self, call: Call) -> FakeReservation:
        if self.revoked:
            raise Refusal("key_revoked")
        return await super().reserve(call)


async def test_who_may_not_spend_any_more_is_denied_before_the_slice_is_used() -> None:
    desk = RevokingDesk()
    async with asking(FLAT, desk=desk) as envoy:
        one = Filter(envoy)
        await one.ask(denied=1)
        desk.revoked = True
        assert await one.ask(8) == ["deny"]


async def test_buckets_and_streams_are_bounded(
    envoy: Asking, desk: WatchedDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MOST_BUCKETS", 1)
    monkeypatch.setattr(quotas, "MOST_STREAMS", 1)
    one = Filter(envoy)
    await one.ask(denied=1)
    assert await one.ask(denied=1, bucket={**CALLS, "more": "1"}) == ["deny"]
    assert len(desk.calls) == 1
    assert await Filter(envoy).fault() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_report_of_too_many_buckets_ends_the_stream(
    envoy: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MOST_IN_A_REPORT", 0)
    one = Filter(envoy)
    await one.report(1)
    assert await one.fault() is grpc.StatusCode.INVALID_ARGUMENT
