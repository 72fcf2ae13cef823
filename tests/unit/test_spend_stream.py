"""All verbs on one stream: answers by id, refusals that do not end it, what a break leaves."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bursar.v1 import charges_pb2, spend_pb2
from bursar_sidecar.local_grpc.service import MOST_COMMANDS_AT_A_TIME
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.spending import MOST_NANOS, Spending, counted, spending, usd

S = spend_pb2
USAGE = charges_pb2.Usage(input_llm_tokens=100, output_llm_tokens=200)
AUTHORIZED = (("authorization", f"Bearer {KEY}"),)


@pytest.fixture
async def app() -> AsyncIterator[Spending]:
    async with spending() as made:
        yield made


class Stream:
    """One stream of an app."""

    def __init__(self, app: Spending, metadata: Any = AUTHORIZED) -> None:
        self._call = app.stub.Spend(metadata=metadata)

    async def say(self, number: int, **command: Any) -> None:
        await self._call.write(S.SpendRequest(id=number, **command))

    async def reserve(self, number: int, request_id: str = "") -> None:
        named = S.ReserveRequest(request_id=request_id or f"r{number}", call=counted())
        await self.say(number, reserve=named)

    async def hear(self) -> spend_pb2.SpendResponse:
        answer = await self._call.read()
        assert isinstance(answer, S.SpendResponse), f"the stream ended: {answer}"
        return answer

    async def end(self) -> None:
        await self._call.done_writing()

    async def over(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await self._call.code()
        return code

    def break_off(self) -> None:
        self._call.cancel()


async def test_a_life_on_one_stream(app: Spending) -> None:
    stream = Stream(app)
    await stream.say(1, quote=S.QuoteRequest(call=counted()))
    answer = await stream.hear()
    assert (answer.id, answer.quote.most) == (1, usd(MOST_NANOS))
    await stream.reserve(2)
    name = (await stream.hear()).reservation.name
    await stream.say(3, extend=S.ExtendRequest(reservation=name, hold_ms=90_000))
    assert (await stream.hear()).reservation.expires_in_ms == 90_000
    await stream.say(4, settle=S.SettleRequest(reservation=name, usage=USAGE))
    assert (await stream.hear()).receipt.cost == usd(135_000)
    await stream.reserve(5)
    second = (await stream.hear()).reservation.name
    await stream.say(6, release=S.ReleaseRequest(reservation=second))
    assert (await stream.hear()).receipt.state == S.RESERVATION_STATE_RELEASED
    await stream.end()
    assert await stream.over() is grpc.StatusCode.OK


async def test_a_refused_command_does_not_end_the_stream(app: Spending) -> None:
    app.desk.limit_nanos = 10
    stream = Stream(app)
    await stream.reserve(1)
    error = (await stream.hear()).error
    assert (error.code, error.reason) == (8, "BUDGET_EXHAUSTED")
    assert error.metadata["budget"] == "budgets/b-1"
    await stream.say(2, settle=S.SettleRequest(reservation="nothing", cost=usd(1)))
    error = (await stream.hear()).error
    assert (error.code, [each.field for each in error.field_violations]) == (3, ["reservation"])
    await stream.say(3)
    error = (await stream.hear()).error
    assert [each.field for each in error.field_violations] == ["command"]
    app.desk.limit_nanos = 10**12
    await stream.reserve(4)
    assert (await stream.hear()).reservation.name
    await stream.end()


class WaitingDesk(FakeDesk):
    """The first call waits for money until it is let; `waiting` are those that do."""

    def __init__(self, waits: Callable[[Any], bool]) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.waiting = 0
        self.changed = asyncio.Event()
        self._waits = waits

    async def reserve(self, call: Any) -> Any:
        if self._waits(call):
            self.waiting += 1
            self.changed.set()
            try:
                await self.let.wait()
            finally:
                self.waiting -= 1
                self.changed.set()
        return await super().reserve(call)

    async def until(self, count: int) -> None:
        while self.waiting != count:
            self.changed.clear()
            await self.changed.wait()


async def test_answers_come_as_they_are_ready() -> None:
    desk = WaitingDesk(lambda call: call.request_id == "slow")
    async with spending(desk) as app:
        stream = Stream(app)
        await stream.reserve(1, "slow")
        await stream.reserve(2, "quick")
        assert (await stream.hear()).id == 2
        desk.let.set()
        assert (await stream.hear()).id == 1
        await stream.end()
        assert await stream.over() is grpc.StatusCode.OK


async def test_what_was_asked_before_the_end_of_the_stream_is_answered() -> None:
    desk = WaitingDesk(lambda call: True)
    async with spending(desk) as app:
        stream = Stream(app)
        await stream.reserve(1)
        await stream.end()
        await desk.until(1)
        desk.let.set()
        assert (await stream.hear()).reservation.name


async def test_only_so_many_commands_are_worked_on_at_a_time() -> None:
    desk = WaitingDesk(lambda call: True)
    async with spending(desk) as app:
        stream = Stream(app)
        for number in range(MOST_COMMANDS_AT_A_TIME + 10):
            await stream.reserve(number)
        await desk.until(MOST_COMMANDS_AT_A_TIME)
        other = Stream(app)
        await other.say(1, quote=S.QuoteRequest(call=counted()))
        await other.hear()
        assert desk.waiting == MOST_COMMANDS_AT_A_TIME
        desk.let.set()
        heard = {(await stream.hear()).id for _ in range(MOST_COMMANDS_AT_A_TIME + 10)}
        assert heard == set(range(MOST_COMMANDS_AT_A_TIME + 10))
        await stream.end()
        await other.end()


async def test_a_stream_that_breaks_leaves_what_is_reserved_and_gives_up_what_waits() -> None:
    desk = WaitingDesk(lambda call: call.request_id == "slow")
    async with spending(desk) as app:
        stream = Stream(app)
        await stream.reserve(1, "held")
        held = (await stream.hear()).reservation
        await stream.reserve(2, "slow")
        await desk.until(1)
        stream.break_off()
        await desk.until(0)
        assert list(desk.open) == [held.charge_id]
        # Whoever comes back goes on where it was, on a stream or without.
        assert (await app.reserve("held")).name == held.name
        assert (await app.settle(held.name, usage=USAGE)).cost == usd(135_000)


async def test_who_shows_no_key_hears_it_at_once(app: Spending) -> None:
    stream = Stream(app, metadata=())
    assert await stream.over() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_and_reflection_are_served(app: Spending) -> None:
    async with grpc.aio.insecure_channel(app.local.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="bursar.v1.SpendService")
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (await health.Check(request)).status == serving
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection.ServerReflectionInfo(iter([asked]))
        async for answer in call:
            names = [each.name for each in answer.list_services_response.service]
            assert "bursar.v1.SpendService" in names
            break


async def test_a_unix_socket_is_served_to_whom_the_setting_lets_in(tmp_path: Path) -> None:
    path = tmp_path / "spend.sock"
    os.mknod(path, stat.S_IFSOCK)  # left by one that was killed
    async with spending(grpc_address=f"unix:{path}", socket_mode="0660") as app:
        assert (await app.quote()).most == usd(MOST_NANOS)
        assert path.stat().st_mode & 0o777 == 0o660


async def test_an_address_that_is_taken_is_told(app: Spending) -> None:
    second = Spending(grpc_address=app.local.address)
    with pytest.raises(OSError, match="can't be listened on"):
        await second.local.start()


async def test_without_an_address_nothing_is_served() -> None:
    silent = Spending(grpc_address="")
    await silent.local.start()
    assert silent.local.address == ""
    await silent.local.drain(0)
