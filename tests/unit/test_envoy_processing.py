"""Calls whose answers Envoy shows us: metered, told, and ended like those of the proxy."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bursar.money import format_nanos
from tests.fakes.envoy_calls import EnvoyCalls
from tests.fakes.scripted_envoy import (
    NONE,
    REFUSED_CONNECTION,
    SSE,
    ScriptedEnvoy,
    scripted_envoy,
)
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, DONE, USAGE_CHUNK, chat_answer, chunk

PLAIN = json.dumps(CHAT).encode()
STREAM = json.dumps({**CHAT, "stream": True}).encode()
EDITED = json.dumps({**CHAT, "stream": True, "stream_options": {"include_usage": True}}).encode()
SPEECH = json.dumps({"model": "tts-1", "input": "Hello.", "voice": "alloy"}).encode()
COST = format_nanos(COST_NANOS)


@pytest_asyncio.fixture
async def envoy(tmp_path: Path) -> AsyncIterator[ScriptedEnvoy]:
    """An Envoy before a desk in memory with money for everything."""
    async with scripted_envoy(EnvoyCalls(), tmp_path) as running:
        yield running


async def test_a_plain_answer_is_held_until_its_cost_is_in_its_head(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(PLAIN)
    assert stream.request.request_headers.response.status == 0
    assert not stream.request.HasField("mode_override")
    answer = chat_answer()
    await stream.head(headers={"content-type": "application/json", "x-request-id": "r-1"})
    await stream.body(answer[:20])
    await stream.body(answer[20:])
    await stream.body()
    seen = await stream.answered()
    assert (seen.status, seen.body) == (200, answer)
    assert seen.headers["x-bursar-cost"] == COST
    assert seen.headers["x-request-id"] == "r-1"
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.cost_nanos) == ("final", COST_NANOS)
    assert outcome.provider_request_id == "r-1"
    assert envoy.calls.in_flight == (0, 0)


async def test_a_stream_flows_and_its_cost_comes_before_its_last_event(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(STREAM, edited=EDITED)
    await stream.head(headers=SSE)
    assert await stream.hear()
    assert stream.seen.headers["x-bursar-charge-id"] == "7-1"
    await stream.body(chunk("fo"))
    assert await stream.hear()
    assert stream.seen.pieces == [chunk("fo")]
    await stream.body(chunk("ur") + USAGE_CHUNK + DONE)
    await stream.body()
    seen = await stream.answered()
    comment = seen.body.removeprefix(chunk("fo") + chunk("ur")).removesuffix(DONE)
    told = json.loads(comment.removeprefix(b": bursar "))
    assert (told["cost"], told["charge_id"]) == (COST, "7-1")
    assert (await envoy.ended()).cost_nanos == COST_NANOS


async def test_the_body_that_is_to_be_sent_goes_with_the_answer_to_the_head(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(STREAM, edited=EDITED)
    answer = stream.request.request_headers.response
    assert answer.status == answer.CONTINUE_AND_REPLACE
    assert answer.body_mutation.body == EDITED
    # Check has seen to the headers.
    assert not answer.HasField("header_mutation")
    await stream.hang_up()


@pytest.mark.parametrize(("status", "kind"), [(429, "provider_error"), (500, "provider_error")])
async def test_an_error_of_the_provider_passes_and_costs_nothing(
    envoy: ScriptedEnvoy, status: int, kind: str
) -> None:
    stream = await envoy.carry(STREAM, edited=EDITED)
    await stream.head(status, {"content-type": "application/json", "retry-after": "7"})
    await stream.body(b'{"error":"no"}', end=True)
    seen = await stream.answered()
    assert (seen.status, seen.body) == (status, b'{"error":"no"}')
    assert seen.headers["retry-after"] == "7"
    assert seen.headers["x-bursar-cost"] == format_nanos(0)
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.cost_nanos, outcome.http_status) == (kind, 0, status)


async def test_what_a_provider_says_in_our_name_stays_here(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(PLAIN)
    headers = {"x-bursar-cost": "0", "x-bursar-budget-remaining": "9", "x-kept": "1"}
    await stream.head(headers={"content-type": "application/json", **headers})
    await stream.body(chat_answer(), end=True)
    seen = await stream.answered()
    assert seen.headers["x-bursar-cost"] == COST
    assert seen.headers["x-bursar-budget-remaining"] != "9"
    assert seen.headers["x-kept"] == "1"


async def test_an_answer_that_is_its_head_alone_is_answered_by_its_head(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(PLAIN)
    await stream.head(204, {"x-kept": "1"}, end=True)
    assert await stream.hear()
    await stream.close()
    assert (stream.seen.status, stream.seen.headers["x-kept"]) == (204, "1")
    assert (await envoy.ended()).http_status == 204


async def test_trailers_follow_the_body_and_the_app_gets_those_it_may(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(PLAIN)
    await stream.head()
    message = chat_answer()
    await stream.body(message)
    await stream.trailers(**{"x-checksum": "1", "set-cookie": "a=b"})
    seen = await stream.answered()
    assert seen.body == message
    assert seen.trailers == {"x-checksum": "1"}
    assert (await envoy.ended()).cost_nanos == COST_NANOS


async def test_a_compressed_answer_is_read_along(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(PLAIN)
    packed = gzip.compress(chat_answer())
    await stream.head(headers={"content-type": "application/json", "content-encoding": "gzip"})
    await stream.body(packed, end=True)
    seen = await stream.answered()
    assert seen.body == packed
    assert seen.headers["content-encoding"] == "gzip"
    assert seen.headers["x-bursar-cost"] == COST
    assert (await envoy.ended()).usage.is_exact


async def test_a_large_answer_goes_in_pieces_of_64_kib(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(PLAIN)
    answer = chat_answer(pad="x" * 300_000)
    await stream.head()
    await stream.body(answer, end=True)
    seen = await stream.answered()
    assert seen.body == answer
    assert max(map(len, seen.pieces)) == 64 * 1024


async def test_what_waits_for_the_same_moment_goes_as_one_message(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM, edited=EDITED)
    await stream.head(headers=SSE)
    assert await stream.hear()
    await stream.body(chunk("four"))
    assert await stream.hear()
    await stream.body(USAGE_CHUNK + DONE)
    await stream.body()
    await stream.answered()
    # The comment and the last event; the end may come with them or by itself.
    assert [piece for piece in stream.seen.pieces if piece][1:] == [
        stream.seen.body.removeprefix(chunk("four"))
    ]


async def test_a_body_whose_price_is_known_before_is_not_asked_for(envoy: ScriptedEnvoy) -> None:
    charge_id = await envoy.calls.admit(body=SPEECH, path=b"/v1/audio/speech")
    stream = envoy.stream()
    mode = (await stream.ask(charge_id, body_mode=NONE)).mode_override
    assert (mode.response_header_mode, mode.response_body_mode) == (mode.SEND, mode.NONE)
    await stream.head(headers={"content-type": "audio/mpeg"})
    assert await stream.hear()
    await stream.close()
    assert stream.seen.headers["x-bursar-cost"] != format_nanos(0)
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.usage.is_exact) == ("final", True)


async def test_and_one_that_was_never_sent_is_told_in_a_body_of_ours(envoy: ScriptedEnvoy) -> None:
    charge_id = await envoy.calls.admit(body=SPEECH, path=b"/v1/audio/speech")
    stream = envoy.stream()
    await stream.ask(charge_id, body_mode=NONE)
    await stream.head(503, {"content-type": "text/plain"}, attributes=REFUSED_CONNECTION)
    seen = await stream.answered()
    assert (seen.status, json.loads(seen.body)["error"]["code"]) == (502, "provider_unreachable")
    assert (await envoy.ended()).kind == "released"
