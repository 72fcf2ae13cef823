"""Progressive streams on the data path: they begin small, grow as they flow, and end in good order
where the money ends."""

import asyncio
import json
from typing import Any

import pytest

from bursar_sidecar.desk import Reservation
from bursar_sidecar.growth import FIRST_OUTPUT, LEAST_SLACK
from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, DONE, USAGE_CHUNK, Bench, chunk
from tests.fakes.wire import Answer, ProviderCall, delivered

STREAM: dict[str, Any] = {k: v for k, v in CHAT.items() if k != "max_tokens"} | {"stream": True}
OUTPUT_NANOS = 600
"""An LLM token of gpt-4o-mini's output, a budget's unit here."""
WORST_NANOS = 16_384 * OUTPUT_NANOS
PIECE = "word" * 8
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}


async def begun(bench: Bench, **fields: Any) -> ProviderCall:
    bench.post({**STREAM, **fields})
    call = await bench.provider.request()
    call.start_stream()
    return call


def events(answer: Answer) -> list[Any]:
    """The data of all events; comments of ours as dictionaries with `cost`."""
    found: list[Any] = []
    for event in answer.body.decode().split("\n\n"):
        if event.startswith("data: [DONE]"):
            found.append("DONE")
        elif event.startswith("data: "):
            found.append(json.loads(event.removeprefix("data: ")))
        elif event.startswith(": bursar "):
            found.append(json.loads(event.removeprefix(": bursar ")))
    return found


def text_of(answer: Answer) -> str:
    deltas = [e["choices"][0]["delta"] for e in events(answer) if e != "DONE" and e.get("choices")]
    return "".join(delta.get("content", "") for delta in deltas)


async def flood(call: ProviderCall, pieces: int, piece: str = PIECE) -> int:
    """Send piece after piece, each in a turn of its own, until hung up on; returns how many."""
    for number in range(pieces):
        if call.lost:
            return number
        call.send_chunk(chunk(piece))
        await delivered()
    return pieces


async def test_a_stream_begins_with_a_slice_and_settles_exactly() -> None:
    bench = Bench()
    call = await begun(bench)
    call.send_chunk(chunk("four") + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert "x-bursar-clamped-output" not in answer.headers
    (asked,) = bench.desk.calls
    assert asked.ceiling_nanos > WORST_NANOS
    slice_nanos = (FIRST_OUTPUT + LEAST_SLACK) * OUTPUT_NANOS
    assert slice_nanos < asked.begin_nanos < slice_nanos + 100_000
    assert bench.desk.growths == []
    assert (await bench.settled()).cost_nanos == COST_NANOS
    assert "max_tokens" not in json.loads(call.requests[0])


async def test_it_grows_ahead_of_what_flows_and_every_byte_arrives() -> None:
    bench = Bench()
    call = await begun(bench)
    await flood(call, 300)
    assert len(bench.desk.growths) > 3
    assert bench.desk.growths == sorted(bench.desk.growths)
    assert bench.desk.growths[-1] > (300 * len(PIECE) + LEAST_SLACK) * OUTPUT_NANOS
    assert bench.desk.growths[-1] < WORST_NANOS
    call.send_chunk(USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert text_of(answer) == PIECE * 300
    assert (await bench.settled()).cost_nanos == COST_NANOS


@pytest.mark.parametrize("asks_usage", [False, True])
async def test_where_the_money_ends_the_stream_ends_in_good_order(asks_usage: bool) -> None:
    limit = 3_000 * OUTPUT_NANOS
    bench = Bench(FakeDesk(limit))
    fields = {"stream_options": {"include_usage": True}} if asks_usage else {}
    call = await begun(bench, **fields)
    sent = await flood(call, 2_000)
    answer = await bench.answered()
    assert call.lost
    outcome = await bench.settled()
    # All that was covered flowed, and not a piece more.
    flowed = len(text_of(answer)) // len(PIECE)
    assert 0 < sent - flowed <= 2
    reserved = bench.desk.growths[-1]
    assert reserved <= limit
    assert limit - reserved < 40 * OUTPUT_NANOS
    assert (len(text_of(answer)) + LEAST_SLACK) * OUTPUT_NANOS <= reserved
    assert (len(text_of(answer)) + 2 * len(PIECE) + LEAST_SLACK + 200) * OUTPUT_NANOS > reserved
    # The charge covers what was produced and what may still be billed, and not more than was held.
    assert sent * len(PIECE) // 4 * OUTPUT_NANOS < outcome.cost_nanos <= reserved
    assert outcome.kind == "aborted"
    assert outcome.usage.estimate_reason == "the budget ended"
    *_, last_chunk, comment, done = events(answer)
    if asks_usage:
        assert last_chunk["usage"]["completion_tokens"] == outcome.usage.output
        last_chunk = events(answer)[-4]
    assert last_chunk["choices"][0]["finish_reason"] == "length"
    assert comment["cut"] == "budget"
    assert done == "DONE"


async def test_an_answer_that_came_whole_is_never_cut() -> None:
    bench = Bench(FakeDesk(1_400 * OUTPUT_NANOS))
    call = await begun(bench)
    call.send_chunk(chunk("x" * 9_000) + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert text_of(answer) == "x" * 9_000
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_a_choice_that_ended_in_what_does_not_flow_is_ended_for_the_app() -> None:
    bench = Bench(FakeDesk(2_800 * OUTPUT_NANOS))
    call = await begun(bench, n=2)
    second = {"index": 1, "delta": {"content": "second"}, "finish_reason": None}
    call.send_chunk(chunk("first") + chunk("", choices=[second]))
    await delivered()
    call.send_chunk(chunk("x" * 9_000) + chunk("", choices=[STOP]))
    answer = await bench.answered()
    assert text_of(answer) == "firstsecond"
    said = [event["choices"][0] for event in events(answer)[:-2]]
    ends = [(choice["index"], choice["finish_reason"]) for choice in said]
    assert ends == [(0, None), (1, None), (0, "length"), (1, "length")]
    assert (await bench.settled()).cost_nanos <= 2_800 * OUTPUT_NANOS


@pytest.mark.parametrize("goes_on", [False, True])
async def test_an_answer_that_ended_is_not_cut_while_its_usage_is_on_its_way(goes_on: bool) -> None:
    limit = 1_400 * OUTPUT_NANOS
    bench = Bench(FakeDesk(limit))
    call = await begun(bench)
    more = chunk("more than it said") if goes_on else b""
    call.send_chunk(chunk("x" * 9_000) + chunk("", choices=[STOP]) + more)
    await delivered()
    if not goes_on:
        call.send_chunk(USAGE_CHUNK + DONE)
        call.send_chunk(b"")
    answer = await bench.answered()
    assert text_of(answer) == ("" if goes_on else "x" * 9_000)
    outcome = await bench.settled()
    assert outcome.cost_nanos <= limit
    assert goes_on or outcome.cost_nanos == COST_NANOS


class HeldDesk(FakeDesk):
    """What is not here comes when the test says so."""

    def __init__(self, limit_nanos: int) -> None:
        super().__init__(limit_nanos)
        self.comes = asyncio.Event()

    def extend_here(self, reservation: Reservation, ceiling_nanos: int, least_nanos: int) -> bool:
        return self.comes.is_set() and super().extend_here(reservation, ceiling_nanos, least_nanos)

    async def extend(self, reservation: Reservation, ceiling_nanos: int) -> None:
        await self.comes.wait()
        await super().extend(reservation, ceiling_nanos)


async def test_what_is_not_covered_yet_is_held_back_and_flows_once_it_is() -> None:
    desk = HeldDesk(10**12)
    bench = Bench(desk)
    call = await begun(bench)
    call.send_chunk(chunk("x" * 600))
    await delivered()
    call.send_chunk(chunk("y" * 600))
    await delivered()
    assert b"xxx" in bench.app.body_so_far
    assert b"yyy" not in bench.app.body_so_far
    desk.comes.set()
    await bench.app.until(lambda: b"yyy" in bench.app.body_so_far)
    call.send_chunk(USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    await bench.answered()
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_an_app_that_reads_too_slowly_is_reserved_whole() -> None:
    bench = Bench()
    call = await begun(bench)
    bench.app.stop_reading()
    for _ in range(100):  # little is produced, and much is written
        call.send_chunk(chunk("w", padding="p" * 4_000))
        await delivered()
    assert bench.desk.growths == []
    async with asyncio.timeout(5):
        while not bench.desk.growths:
            await delivered()
    assert bench.desk.growths[-1] > WORST_NANOS
    bench.app.read_on()
    call.send_chunk(USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    await bench.answered()
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_what_can_not_be_read_needs_the_whole_worst_case() -> None:
    bench = Bench(FakeDesk(3_000 * OUTPUT_NANOS))
    call = await begun(bench)
    call.send_chunk(chunk("first"))
    call.send_chunk(b"data: {not json\n\n")
    answer = await bench.answered()
    assert text_of(answer) == "first"
    assert (await bench.settled()).cost_nanos <= 3_000 * OUTPUT_NANOS
    assert events(answer)[-2]["cut"] == "budget"


async def test_a_hang_up_while_it_is_held_back_settles_once() -> None:
    desk = HeldDesk(10**12)
    bench = Bench(desk)
    call = await begun(bench)
    call.send_chunk(chunk("x" * 1_200))
    await delivered()
    bench.app.hang_up()
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert not desk.open


@pytest.mark.parametrize("headers", ["content-encoding: gzip\r\n", "content-encoding: br\r\n"])
async def test_a_stream_that_can_not_be_watched_is_given_up(headers: str) -> None:
    bench = Bench(FakeDesk(3_000 * OUTPUT_NANOS))
    bench.post(STREAM)
    call = await bench.provider.request()
    call.start_stream(headers)
    outcome = await bench.settled()
    assert outcome.cost_nanos <= 3_000 * OUTPUT_NANOS
    assert outcome.kind in ("aborted", "unknown")
    await delivered()
    assert call.lost


async def test_in_the_tail_it_is_clamped_as_before() -> None:
    desk = FakeDesk(3_000 * OUTPUT_NANOS)
    desk.in_tail = True
    bench = Bench(desk)
    call = await begun(bench)
    call.send_chunk(chunk("four") + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert 2_000 < int(answer.headers["x-bursar-clamped-output"]) < 3_000
    assert json.loads(call.requests[0])["max_completion_tokens"] < 3_000


@pytest.mark.parametrize(
    ("fields", "upstream"),
    [
        ({"model": "o3-mini"}, {}),
        ({"reasoning_effort": "high"}, {}),
        ({}, {"name": "somebody", "kind": "openai"}),
    ],
)
async def test_what_is_not_in_the_table_reserves_its_worst_case(
    fields: dict[str, Any], upstream: dict[str, str]
) -> None:
    bench = Bench(upstream=upstream)
    await begun(bench, **fields)
    assert bench.desk.calls[0].begin_nanos == 0


async def test_without_a_budget_nothing_grows() -> None:
    bench = Bench(FakeDesk(None))
    await begun(bench)
    assert bench.desk.calls[0].begin_nanos == 0
