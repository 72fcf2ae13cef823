"""Calls that grow as Envoy carries them, and end in good order where their money does."""

import asyncio
import json
from pathlib import Path

from openai.types.chat import ChatCompletion

from bursar_sidecar.growth import LEAST_SLACK
from bursar_sidecar.recount import CUT_WAITS_S, ENDS_WAITS_S
from tests.fakes.counting import FakeCounter
from tests.fakes.desk import FakeDesk
from tests.fakes.envoy_calls import EnvoyCalls
from tests.fakes.scripted_envoy import SSE, ScriptedStream, scripted_envoy
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, DONE, USAGE_CHUNK, chunk

UNBOUND = {k: v for k, v in CHAT.items() if k != "max_tokens"}
PLAIN = json.dumps(UNBOUND).encode()
STREAM = json.dumps({**UNBOUND, "stream": True}).encode()
OUTPUT_NANOS = 600
"""An LLM token of gpt-4o-mini's output."""
SHORT = 3_000 * OUTPUT_NANOS
"""Less than the worst case of 16,384 LLM tokens."""
PIECE = "word" * 8
MOST_PIECES = 2_000
STOP = {"index": 0, "delta": {}, "finish_reason": "stop"}


async def flood(stream: ScriptedStream) -> int:
    """Piece after piece until the sidecar ends the answer; returns how many were sent."""
    sent = 0
    hearing = asyncio.ensure_future(stream.answered())
    while not hearing.done():
        assert sent < MOST_PIECES
        if not stream.seen.ended:
            await stream.body(chunk(PIECE))
            sent += 1
        await asyncio.sleep(0)
    await hearing
    return sent


def text_of(body: bytes) -> str:
    events = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    return "".join(delta.get("content", "") for delta in deltas)


async def test_a_stream_is_cut_where_its_money_ends_and_ends_in_good_order(tmp_path: Path) -> None:
    calls = EnvoyCalls(FakeDesk(SHORT))
    async with scripted_envoy(calls, tmp_path) as envoy:
        stream = await envoy.carry(STREAM)
        await stream.head(headers=SSE)
        await flood(stream)
        seen = stream.seen
        assert (seen.ended, seen.reset) == (True, False)
        assert seen.body.endswith(DONE)
        events = seen.body.split(b"\n\n")
        (comment,) = [event for event in events if event.startswith(b": bursar ")]
        assert json.loads(comment[9:])["cut"] == "budget"
        outcome = await envoy.ended()
        assert outcome.kind == "aborted"
        flowed = len(text_of(seen.body))
        assert flowed // 4 * OUTPUT_NANOS < outcome.cost_nanos <= calls.desk.growths[-1] <= SHORT


async def test_it_grows_ahead_of_what_flows(tmp_path: Path) -> None:
    calls = EnvoyCalls()
    async with scripted_envoy(calls, tmp_path) as envoy:
        stream = await envoy.carry(STREAM)
        await stream.head(headers=SSE)
        await stream.hear()
        for _ in range(300):
            await stream.body(chunk(PIECE))
            await stream.hear()
        await stream.body(chunk("", choices=[STOP]) + USAGE_CHUNK + DONE)
        await stream.body()
        await stream.answered()
        assert text_of(stream.seen.body) == PIECE * 300
        assert (await envoy.ended()).cost_nanos == COST_NANOS
        assert calls.desk.growths[-1] > (300 * len(PIECE) + LEAST_SLACK) * OUTPUT_NANOS


async def test_a_plain_call_that_does_not_fit_runs_as_a_stream_and_is_assembled(
    tmp_path: Path,
) -> None:
    calls = EnvoyCalls(FakeDesk(SHORT))
    async with scripted_envoy(calls, tmp_path) as envoy:
        stream = await envoy.carry(PLAIN, edited=STREAM)
        await stream.head(headers={**SSE, "x-request-id": "r-1"})
        await stream.body(chunk("fo") + chunk("ur"))
        await stream.body(chunk("", choices=[STOP]) + USAGE_CHUNK + DONE)
        await stream.body()
        seen = await stream.answered()
        body = ChatCompletion.model_validate_json(seen.body, strict=True)
        assert body.choices[0].message.content == "four"
        assert seen.headers["content-type"] == "application/json"
        assert seen.headers["x-bursar-assembled"] == "1"
        assert seen.headers["x-request-id"] == "r-1"
        assert (await envoy.ended()).cost_nanos == COST_NANOS


async def test_an_assembled_one_that_is_cut_is_whole_and_says_so(tmp_path: Path) -> None:
    calls = EnvoyCalls(FakeDesk(SHORT))
    async with scripted_envoy(calls, tmp_path) as envoy:
        stream = await envoy.carry(PLAIN, edited=STREAM)
        await stream.head(headers=SSE)
        await flood(stream)
        body = ChatCompletion.model_validate_json(stream.seen.body, strict=True)
        assert body.choices[0].finish_reason == "length"
        assert stream.seen.headers["x-bursar-cut"] == "budget"
        assert 0 < (await envoy.ended()).cost_nanos <= SHORT


async def test_an_error_that_a_stream_tells_is_the_plain_calls_own(tmp_path: Path) -> None:
    calls = EnvoyCalls(FakeDesk(SHORT))
    async with scripted_envoy(calls, tmp_path) as envoy:
        stream = await envoy.carry(PLAIN, edited=STREAM)
        await stream.head(headers=SSE)
        await stream.body(b'data: {"error":{"message":"busy"}}\n\n')
        await stream.body()
        seen = await stream.answered()
        assert (seen.status, json.loads(seen.body)["error"]["message"]) == (502, "busy")
        assert seen.headers["content-type"] == "application/json"
        await envoy.ended()


async def test_no_count_keeps_a_provider_producing_that_only_the_answers_end_stops(
    tmp_path: Path,
) -> None:
    counter = FakeCounter(700)
    calls = EnvoyCalls(FakeDesk(SHORT), counter=counter)
    async with scripted_envoy(calls, tmp_path) as envoy:
        stream = await envoy.carry(STREAM)
        await stream.head(headers=SSE)
        await flood(stream)
        assert (await envoy.ended()).kind == "aborted"
        assert counter.asked[-1][2] == ENDS_WAITS_S < CUT_WAITS_S / 10
