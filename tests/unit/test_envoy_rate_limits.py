"""Envoy's rate limit service, over a desk in memory and a real gRPC connection."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.ratelimit.v3 import rls_pb2

from bursar_sidecar.desk import Call, Outcome, Receipt, Refusal, Reservation
from bursar_sidecar.envoy import hit_charges
from bursar_sidecar.envoy.descriptors import MAX_ENTRY_VALUE, MOST_DESCRIPTORS, MOST_HITS
from bursar_sidecar.envoy.rate_limits import RateLimits, seconds_until
from tests.fakes.desk import KEY, FakeDesk, FakeReservation, spender
from tests.fakes.envoy_limits import (
    AFTER,
    FLAT,
    INPUT,
    MILLI,
    OUTPUT,
    asking,
    descriptor,
    headers_of,
    settings_of,
)

OK = rls_pb2.RateLimitResponse.OK
OVER = rls_pb2.RateLimitResponse.OVER_LIMIT
CALLS = descriptor(limit="calls")


async def test_a_hit_is_charged_at_its_price() -> None:
    desk = FakeDesk(10 * MILLI)
    async with asking(FLAT, desk=desk) as envoy:
        answer = await envoy.ask(CALLS)
        assert answer.overall_code == OK
        assert [status.code for status in answer.statuses] == [OK]
        assert answer.statuses[0].limit_remaining == 4
        assert headers_of(answer) == {
            "x-bursar-charge-id": "7-1",
            "x-bursar-cost": "0.002",
            "x-bursar-currency": "USD",
            "x-bursar-budget-remaining": "0.008",
        }
        told = {name: value.string_value for name, value in answer.dynamic_metadata.fields.items()}
        assert (told["charge_id"], told["spender"], told["limit"]) == ("7-1", "keys/k-1", "calls")
        assert envoy.metric("envoy_hits_total", limit="calls", outcome="charged") == 1
    outcome = desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("final", 2 * MILLI)
    assert outcome.usage.extra == {"request": 1}
    (call,) = desk.calls
    assert (call.provider, call.model, call.app) == ("acme", "", "envoy")


async def test_requests_pass_until_the_budget_is_used_and_then_it_says_why() -> None:
    desk = FakeDesk(10 * MILLI)
    async with asking(FLAT, desk=desk) as envoy:
        answers = [await envoy.ask(CALLS) for _ in range(7)]
        assert [answer.overall_code for answer in answers] == [OK] * 5 + [OVER] * 2
        assert envoy.metric("envoy_hits_total", limit="calls", outcome="budget_exhausted") == 2
    assert desk.settled_nanos == 10 * MILLI
    refused = answers[-1]
    headers = headers_of(refused)
    assert headers["x-bursar-refused"] == "budget_exhausted"
    assert headers["x-bursar-budget"].startswith("budgets/b-1; scope=key/demo; limit=0.01")
    assert headers["content-type"] == "application/json"
    assert json.loads(refused.raw_body)["error"]["code"] == "budget_exhausted"
    (status,) = refused.statuses
    assert (status.code, status.current_limit.name) == (OVER, "budgets/b-1")
    assert (status.current_limit.requests_per_unit, status.limit_remaining) == (5, 0)
    assert status.duration_until_reset.seconds == 193_455_995  # of MovedClock until 2030
    told = {name: value.string_value for name, value in refused.dynamic_metadata.fields.items()}
    assert (told["refused"], told["limit"]) == ("budget_exhausted", "calls")


async def test_hits_are_the_requests_or_the_descriptors_own() -> None:
    desk = FakeDesk()
    async with asking(FLAT, desk=desk) as envoy:
        await envoy.ask(CALLS, addend=3)
        await envoy.ask(descriptor(5, limit="calls"), addend=3)
        await envoy.ask(CALLS, descriptor(4, limit="calls"))
    assert [outcome.cost_nanos for outcome in desk.outcomes] == [6 * MILLI, 10 * MILLI, 10 * MILLI]


async def test_llm_tokens_of_one_call_are_one_charge_at_the_models_price() -> None:
    desk = FakeDesk()
    async with asking(INPUT, OUTPUT, desk=desk) as envoy:
        answer = await envoy.ask(descriptor(1_000, limit="input"), descriptor(200, limit="output"))
        assert len(answer.statuses) == 2
    outcome = desk.only_outcome
    assert (outcome.usage.input, outcome.usage.output) == (1_000, 200)
    assert (outcome.cost_nanos, outcome.priced_as) == (270_000, "openai/gpt-4o-mini")
    assert headers_of(answer)["x-bursar-cost"] == "0.00027"


async def test_a_question_buys_nothing_and_needs_the_least() -> None:
    desk = FakeDesk(20_000)
    async with asking(INPUT, desk=desk) as envoy:
        answer = await envoy.ask(descriptor(0, limit="input"))
        assert answer.overall_code == OK
        assert headers_of(answer) == {"x-bursar-budget-remaining": "0.00002"}
        assert answer.statuses[0].limit_remaining == 133
        assert desk.only_outcome.kind == "released"
        desk.settled_nanos = 5_001
        assert (await envoy.ask(descriptor(0, limit="input"))).overall_code == OVER
    assert desk.calls[0].ceiling_nanos == 15_000


async def test_the_model_may_be_an_entry() -> None:
    desk = FakeDesk()
    table = {**INPUT, "model_entry": "model"}
    del table["model"]
    async with asking(table, desk=desk) as envoy:
        await envoy.ask(descriptor(100, limit="input", model="gpt-4o"))
        refused = await envoy.ask(descriptor(100, limit="input", model=""))
        assert headers_of(refused)["x-bursar-refused"] == "descriptor_invalid"
        unpriced = await envoy.ask(descriptor(100, limit="input", model="no-such-model"))
        assert headers_of(unpriced)["x-bursar-refused"] == "model_unpriced"
    assert desk.only_outcome.priced_as == "openai/gpt-4o"


async def test_a_key_that_may_not_call_a_model_pays_for_none() -> None:
    desk = FakeDesk(spenders={KEY: spender(allowed_models=("claude-*",))})
    async with asking(INPUT, desk=desk) as envoy:
        answer = await envoy.ask(descriptor(1, limit="input"))
    assert headers_of(answer)["x-bursar-refused"] == "model_not_allowed"


async def test_what_a_key_called_is_charged_whatever_it_may_call() -> None:
    desk = FakeDesk(spenders={KEY: spender(allowed_models=("gpt-4o-mini",))})
    table = {**INPUT, **AFTER, "model_entry": "model"}
    del table["model"]
    async with asking(table, desk=desk) as envoy:
        await envoy.ask(descriptor(1_000, limit="input", model="gpt-4o-mini-2024-07-18"))
    assert desk.only_outcome.cost_nanos == 150_000


async def test_a_limit_may_have_a_payer_of_its_own() -> None:
    desk = FakeDesk()
    async with asking({**FLAT, "api_key_env": "PAYER"}, desk=desk) as envoy:
        assert (await envoy.ask(descriptor(key="", limit="calls"))).overall_code == OK
        # What an app sends as its own does not count there.
        assert (await envoy.ask(descriptor(key="bk-other", limit="calls"))).overall_code == OK
    assert {call.spender.key for call in desk.calls} == {"keys/k-1"}


async def test_a_payers_key_from_a_file_may_change(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    table = {**FLAT, "api_key_file": str(path)}
    async with asking(table) as envoy:
        assert (await envoy.ask(descriptor(key="", limit="calls"))).overall_code == OK
        path.write_text("bk-another")
        (served,) = [one for one in envoy.services.served if isinstance(one, RateLimits)]
        served.limits.files.look(at_once=True)
        answer = await envoy.ask(descriptor(key="", limit="calls"))
        assert headers_of(answer)["x-bursar-refused"] == "key_unknown"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (descriptor(key="", limit="calls"), "key_missing"),
        (descriptor(key="bk-nobody", limit="calls"), "key_unknown"),
        (descriptor(key="bk-" + "x" * 4_000, limit="calls"), "key_unknown"),
        (descriptor(limit="other"), "limit_unknown"),
        (descriptor(key=""), "descriptor_invalid"),
        (descriptor(MOST_HITS + 1, limit="calls"), "descriptor_invalid"),
        (descriptor(limit="calls", more="x" * (MAX_ENTRY_VALUE + 1)), "descriptor_invalid"),
        (descriptor(limit="calls", **{f"e{i}": "x" for i in range(40)}), "descriptor_invalid"),
        (descriptor(limit="calls", **{"k" * 300: "x"}), "descriptor_invalid"),
    ],
)
async def test_what_cannot_be_charged_is_over_the_limit(asked: Any, reason: str) -> None:
    desk = FakeDesk()
    async with asking(FLAT, desk=desk) as envoy:
        answer = await envoy.ask(asked)
    assert answer.overall_code == OVER
    assert headers_of(answer)["x-bursar-refused"] == reason
    assert not desk.calls


async def test_one_entry_with_two_values_is_refused() -> None:
    asked = descriptor(limit="calls")
    asked.entries.add(key="bursar_key", value="bk-somebody-else")
    async with asking(FLAT) as envoy:
        answer = await envoy.ask(asked)
        assert headers_of(answer)["x-bursar-refused"] == "descriptor_invalid"
        none = await envoy.ask()
        many = await envoy.ask(*[CALLS] * (MOST_DESCRIPTORS + 1))
        elsewhere = await envoy.ask(CALLS, domain="other")
        assert [a.overall_code for a in (none, many, elsewhere)] == [OVER] * 3


async def test_an_amount_that_is_none_is_refused() -> None:
    dear = {**FLAT, "flat_price": "1000000"}
    async with asking(dear) as envoy:
        answer = await envoy.ask(descriptor(MOST_HITS, limit="calls"))
    assert headers_of(answer)["x-bursar-refused"] == "descriptor_invalid"


async def test_where_it_is_set_an_unknown_descriptor_is_an_error() -> None:
    async with asking(FLAT, envoy_limit_unknown="error") as envoy:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await envoy.ask(descriptor(limit="other"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "bursar_key, limit" in str(caught.value.details())
        # Who does not pay is refused all the same.
        assert (await envoy.ask(descriptor(key="", limit="calls"))).overall_code == OVER


async def test_all_or_nothing() -> None:
    desk = FakeDesk(3 * MILLI)
    dearer = {**FLAT, "name": "more", "match": {"limit": "more"}, "provider": "other"}
    async with asking(FLAT, dearer, desk=desk) as envoy:
        answer = await envoy.ask(CALLS, descriptor(limit="more"))
        assert answer.overall_code == OVER
        assert [status.code for status in answer.statuses] == [OK, OVER]
        told = answer.dynamic_metadata.fields
        assert told["limit"].string_value == "more"
        assert envoy.metric("envoy_hits_total", limit="more", outcome="budget_reserved") == 1
    assert [outcome.kind for outcome in desk.outcomes] == ["released"]
    assert desk.settled_nanos == 0


async def test_what_is_told_after_is_charged_without_money_and_the_next_is_refused() -> None:
    desk = FakeDesk(30_000)
    asked = {**INPUT, "name": "ask", "match": {"limit": "ask"}, "least_hits": 1}
    async with asking(asked, {**INPUT, **AFTER}, {**OUTPUT, **AFTER}, desk=desk) as envoy:
        assert (await envoy.ask(descriptor(0, limit="ask"))).overall_code == OK
        told = await envoy.ask(descriptor(1_000, limit="input"), descriptor(100, limit="output"))
        assert told.overall_code == OK
        assert headers_of(told)["x-bursar-cost"] == "0.00021"
        assert (await envoy.ask(descriptor(0, limit="ask"))).overall_code == OVER
        assert envoy.metric("envoy_hits_total", limit="input", outcome="told") == 1
    assert desk.settled_nanos == 210_000
    assert desk.calls[-1].ceiling_nanos == 0  # nothing could be set aside for it


async def test_a_call_that_used_nothing_is_told_and_costs_nothing() -> None:
    desk = FakeDesk()
    async with asking({**INPUT, **AFTER}, desk=desk) as envoy:
        assert (await envoy.ask(descriptor(0, limit="input"))).overall_code == OK
    assert not desk.calls


class AwayDesk(FakeDesk):
    """A desk whose control plane can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.waiting = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()
        self.posted = asyncio.Event()

    def settle(self, reservation: Reservation, outcome: Outcome) -> Receipt:
        self.posted.set()
        return super().settle(reservation, outcome)

    async def reserve(self, call: Call) -> FakeReservation:
        self.waiting.set()
        await self.going.wait()
        if self.away:
            raise Refusal("no_allowance")
        return await super().reserve(call)


async def test_without_a_control_plane_requests_are_refused() -> None:
    desk = AwayDesk()
    desk.away = True
    async with asking(FLAT, desk=desk) as envoy:
        answer = await envoy.ask(CALLS)
    assert answer.overall_code == OVER
    assert headers_of(answer)["x-bursar-refused"] == "no_allowance"
    assert headers_of(answer)["retry-after"] == "1"


async def test_what_is_told_without_a_control_plane_is_owed_and_paid_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hit_charges, "PAY_EVERY_S", 0.01)
    desk = AwayDesk()
    desk.away = True
    async with asking({**INPUT, **AFTER}, {**OUTPUT, **AFTER}, desk=desk) as envoy:
        for _ in range(3):
            await envoy.ask(descriptor(1_000, limit="input"), descriptor(10, limit="output"))
        assert envoy.metric("envoy_hits_owed") == 1
        assert not desk.outcomes
        desk.away = False
        await desk.posted.wait()
        assert envoy.metric("envoy_hits_owed") == 0
    usage = desk.only_outcome.usage
    assert (usage.input, usage.output) == (3_000, 30)


async def test_what_is_owed_at_the_end_is_tried_once_more() -> None:
    desk = AwayDesk()
    desk.away = True
    async with asking({**INPUT, **AFTER}, desk=desk) as envoy:
        await envoy.ask(descriptor(1_000, limit="input"))
        desk.away = False
    assert desk.only_outcome.usage.input == 1_000


async def test_what_nobody_pays_is_lost_and_said_so() -> None:
    async with asking({**INPUT, **AFTER}) as envoy:
        answer = await envoy.ask(descriptor(7, key="bk-nobody", limit="input"))
        assert answer.overall_code == OK  # Envoy does not listen any more
        assert envoy.metric("envoy_hits_lost") == 1
        assert envoy.metric("envoy_hits_total", limit="input", outcome="key_unknown") == 1


async def test_envoy_gives_up_waiting_and_nothing_is_charged() -> None:
    desk = AwayDesk()
    desk.going.clear()
    async with asking(FLAT, desk=desk) as envoy:
        request = rls_pb2.RateLimitRequest(domain="bursar", descriptors=[CALLS])
        call = envoy.limits.ShouldRateLimit(request)
        await desk.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        desk.going.set()
        assert (await envoy.ask(CALLS)).overall_code == OK
    assert len(desk.outcomes) == 1


async def test_what_is_told_is_charged_although_envoy_has_left() -> None:
    desk = AwayDesk()
    desk.going.clear()
    async with asking({**INPUT, **AFTER}, desk=desk) as envoy:
        asked = descriptor(1_000, limit="input")
        request = rls_pb2.RateLimitRequest(domain="bursar", descriptors=[asked])
        call = envoy.limits.ShouldRateLimit(request)
        await desk.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        desk.going.set()
        await desk.posted.wait()
    assert desk.only_outcome.usage.input == 1_000


class BrokenDesk(FakeDesk):
    async def reserve(self, call: Call) -> FakeReservation:
        raise RuntimeError("a fault of ours")


async def test_a_fault_of_ours_lets_nothing_pass() -> None:
    async with asking(FLAT, desk=BrokenDesk()) as envoy:
        answer = await envoy.ask(CALLS)
    assert answer.overall_code == OVER
    assert headers_of(answer)["x-bursar-refused"] == "internal"


async def test_limits_change_while_it_runs() -> None:
    desk = FakeDesk()
    async with asking(FLAT, desk=desk) as envoy:
        envoy.proxy.apply(settings_of({**FLAT, "flat_price": "0.5"}))
        await envoy.ask(CALLS)
    assert desk.only_outcome.cost_nanos == 500 * MILLI


def test_the_end_of_a_window_is_a_duration() -> None:
    assert seconds_until("", 0) is None
    assert seconds_until("1970-01-01T00:01:00Z", 500_000_000) == 60
    assert seconds_until("1970-01-01T00:01:00Z", 10**12) == 0
