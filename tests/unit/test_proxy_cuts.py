"""Calls that are cut, by the app, the provider or us: each settles exactly once."""

import asyncio
import json

from bursar_sidecar.desk import Call
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from tests.fakes.desk import KEY, FakeDesk, FakeReservation
from tests.fakes.sidecar_bench import (
    CHAT,
    COST_NANOS,
    Bench,
    chat_answer,
    chunk,
    error_of,
)
from tests.fakes.wire import FakeApp, join


async def test_a_call_that_was_never_sent_is_released() -> None:
    bench = Bench()
    bench.provider.refuses = True
    bench.post(CHAT)
    answer = await bench.answered()
    assert answer.status == 502
    assert error_of(answer)["code"] == "provider_unreachable"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("released", 0)


async def test_a_provider_that_closes_before_its_answer_leaves_the_reservation_charged() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).reset()
    answer = await bench.answered()
    assert answer.status == 502
    assert error_of(answer)["code"] == "provider_broke"
    assert answer.headers["x-bursar-charge-id"] == "7-1"
    outcome = await bench.settled()
    assert outcome.kind == "unknown"
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    assert not outcome.usage.is_exact


async def test_a_plain_answer_that_breaks_off_is_charged_at_its_reservation() -> None:
    bench = Bench()
    bench.post(CHAT)
    call = await bench.provider.request()
    call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    call.close()
    assert (await bench.answered()).status == 502
    outcome = await bench.settled()
    assert (outcome.kind, outcome.http_status) == ("unknown", 200)
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos


async def test_a_stream_that_breaks_off_is_cut_for_the_app_too_and_charged_for_what_came() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("12345"))
    call.close()
    answer = await bench.app.until_ended()
    assert not answer.complete
    assert bench.app.body_so_far == chunk("12345")
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert outcome.usage.output == 5 + 32
    assert outcome.usage.estimate_reason == "the provider closed the connection"
    assert 0 < outcome.cost_nanos < bench.desk.calls[0].ceiling_nanos


async def test_nonsense_from_a_provider_is_a_broken_call() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send(b"\x00\x01 not http\r\n\r\n")
    assert (await bench.answered()).status == 502
    assert (await bench.settled()).kind == "unknown"


async def test_an_app_that_hangs_up_mid_stream_is_charged_for_what_was_produced() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream(headers="x-request-id: req-9\r\n")
    call.send_chunk(chunk("12345"))
    await bench.app.until(lambda: chunk("12345") in bench.app.body_so_far)
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert outcome.usage.output == 5 + 32
    assert outcome.usage.estimate_reason == "the app hung up"
    assert outcome.provider_request_id == "req-9"


async def test_an_app_that_hangs_up_before_a_stream_began_pays_for_its_input() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert 0 < outcome.cost_nanos < bench.desk.calls[0].ceiling_nanos
    assert outcome.usage.output == 32


async def test_a_model_that_reasons_is_charged_at_its_reservation_when_cut() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True, "reasoning_effort": "high"})
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    assert (await bench.settled()).cost_nanos == bench.desk.calls[0].ceiling_nanos


async def test_a_plain_answer_is_read_to_its_end_though_the_app_hung_up() -> None:
    bench = Bench()
    bench.post(CHAT)
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.app.until(lambda: bench.app.lost)
    call.send_json(chat_answer())
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("final", COST_NANOS)
    assert outcome.usage.is_exact


async def test_a_plain_call_is_cut_at_once_where_the_setting_says_so() -> None:
    bench = Bench(finish_after_hang_up_s=0)
    bench.post(CHAT)
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "unknown"
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos


class WaitingDesk(FakeDesk):
    """Money comes only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.money = asyncio.Event()

    async def reserve(self, call: Call) -> FakeReservation:
        self.asked.set()
        await self.money.wait()
        return await super().reserve(call)


async def test_an_app_that_hangs_up_while_it_waits_for_money_pays_nothing() -> None:
    desk = WaitingDesk()
    bench = Bench(desk)
    bench.post(CHAT)
    await desk.asked.wait()
    bench.app.hang_up()
    await bench.app.until(lambda: bench.app.lost)
    desk.money.set()
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("released", 0)
    assert not bench.provider.connections


async def test_a_call_that_the_sidecar_itself_cuts_is_settled() -> None:
    bench = Bench(drain_s=0)
    server = HttpServer(bench.proxy.handle)
    app = FakeApp()
    join(app, Connection(server))
    app.post("/v1/chat/completions", json.dumps(CHAT).encode(), {"authorization": f"Bearer {KEY}"})
    call = await bench.provider.request()
    await server.drain(0)
    outcome = await bench.settled()
    assert outcome.kind in ("unknown", "final")
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    await bench.provider.until(lambda: call.lost)
