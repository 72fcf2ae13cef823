"""Checks that come to nothing, or come twice, and an Envoy's services as a server."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bursar_sidecar.desk import Call
from tests.fakes.checked import BEARER, Answer, Checks, asked, checks
from tests.fakes.desk import FakeDesk, FakeReservation
from tests.fakes.envoy_calls import CHAT


@pytest.fixture
async def envoy() -> AsyncIterator[Checks]:
    async with checks() as made:
        yield made


class WaitingDesk(FakeDesk):
    """Every reservation waits until the test lets it through."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.through = asyncio.Event()

    async def reserve(self, call: Call) -> FakeReservation:
        self.asked.set()
        await self.through.wait()
        return await super().reserve(call)


async def test_a_check_that_envoy_gives_up_while_it_waits_reserves_nothing() -> None:
    desk = WaitingDesk()
    async with checks(desk) as envoy:
        under_way = envoy.call(asked())
        await desk.asked.wait()
        assert envoy.held.open_count == 1
        under_way.cancel()
        while envoy.held.open_count:  # noqa: ASYNC110  # nobody tells a test of it
            await asyncio.sleep(0)
        desk.through.set()
        assert not desk.open
        assert envoy.in_flight == (0, 0)


async def test_an_answer_that_may_have_arrived_is_charged_at_its_deadline() -> None:
    """Envoy gave the Check up, and nobody can tell whether before or after it had the answer."""
    desk = WaitingDesk()
    async with checks(desk) as envoy:
        under_way = envoy.call(asked())
        await desk.asked.wait()
        desk.through.set()
        while not desk.open:  # noqa: ASYNC110  # nobody tells a test of it
            await asyncio.sleep(0)
        under_way.cancel()
        envoy.clock.skip(60)
        assert envoy.held.sweep() == 1
    assert desk.only_outcome.usage.estimate_reason == "reservation_expired"
    assert desk.only_outcome.kind == "unknown"


async def test_a_check_that_comes_twice_is_two_calls(envoy: Checks) -> None:
    """An id that an app could send proves nothing, and a call that is not known to be the same is
    another one: the one that nobody takes is charged."""
    headers = BEARER | {"x-request-id": "same"}
    first, second = await envoy.check(headers=headers), await envoy.check(headers=headers)
    assert first.charge_id != second.charge_id
    assert envoy.held.take(second.charge_id) is not None
    envoy.clock.skip(60)
    assert envoy.held.sweep() == 1


async def test_a_fault_of_ours_opens_nothing(
    envoy: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr("bursar_sidecar.envoy.checking._edited", broken)
    answer = await envoy.check()
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert envoy.desk.only_outcome.kind == "released"
    assert (envoy.held.open_count, envoy.in_flight) == (0, (0, 0))


async def test_past_the_most_calls_a_check_is_refused_at_once() -> None:
    async with checks(envoy_max_calls=1) as envoy:
        await envoy.check()
        answer = await envoy.check()
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"


async def test_past_the_most_bytes_a_check_is_refused_and_room_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bursar_sidecar.envoy.checking.MOST_HELD_BYTES", 2 * len(CHAT) - 1)
    desk = WaitingDesk()
    async with checks(desk) as envoy:
        first = envoy.call(asked())
        await desk.asked.wait()
        refused = await envoy.check()
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        desk.through.set()
        assert Answer(await first).is_allowed
        assert (await envoy.check()).is_allowed


async def test_health_is_told() -> None:
    async with checks() as envoy:
        health = health_pb2_grpc.HealthStub(envoy.channel)
        for service in ("", "envoy.service.auth.v3.Authorization"):
            told = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert told.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_is_held_is_shown(envoy: Checks) -> None:
    first, second = await envoy.check(), await envoy.check()
    call = envoy.held.take(first.charge_id)
    assert second.charge_id
    shown = envoy.services.described()
    assert (shown["held"], shown["taken"], shown["ended"]["taken"]) == (1, 1, 1)
    told = envoy.registry.get_sample_value
    assert told("bursar_sidecar_envoy_calls", {"hand": "taken"}) == 1
    assert told("bursar_sidecar_envoy_calls_ended_total", {"end": "expired"}) == 0
    envoy.held.over(call)
    assert told("bursar_sidecar_envoy_calls", {"hand": "taken"}) == 0
