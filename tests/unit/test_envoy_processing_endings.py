"""Calls that Envoy carries and that do not come to their end: who pays for what."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bursar_sidecar.envoy.carried_call import CarriedCall
from tests.fakes.envoy_calls import EnvoyCalls
from tests.fakes.scripted_envoy import (
    DENIED,
    NONE,
    REFUSED_CONNECTION,
    RESET,
    SSE,
    TIMED_OUT,
    TOO_LARGE,
    ScriptedEnvoy,
    scripted_envoy,
)
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, chat_answer, chunk

PLAIN = json.dumps(CHAT).encode()
STREAM = json.dumps({**CHAT, "stream": True}).encode()
TEXT = {"content-type": "text/plain"}


@pytest_asyncio.fixture
async def envoy(tmp_path: Path) -> AsyncIterator[ScriptedEnvoy]:
    """An Envoy before a desk in memory with money for everything."""
    async with scripted_envoy(EnvoyCalls(), tmp_path) as running:
        yield running


def reserved(envoy: ScriptedEnvoy) -> int:
    """Nanos set aside for the one call."""
    (call,) = envoy.calls.desk.open.values()
    return call.ceiling_nanos


async def test_who_hangs_up_pays_for_what_was_produced(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM)
    most = reserved(envoy)
    await stream.head(headers=SSE)
    await stream.hear()
    await stream.body(chunk("four"))
    await stream.hear()
    await stream.hang_up()
    outcome = await envoy.ended()
    assert outcome.kind == "aborted"
    assert 0 < outcome.cost_nanos < most
    assert outcome.usage.estimate_reason == "the app hung up"
    assert envoy.calls.in_flight == (0, 0)


async def test_a_stream_that_envoy_ends_without_a_reset_is_no_other(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM)
    await stream.head(headers=SSE)
    await stream.hear()
    await stream.call.done_writing()
    assert (await envoy.ended()).kind == "aborted"


async def test_a_plain_call_that_is_hung_up_on_may_have_cost_all_of_it(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(PLAIN)
    most = reserved(envoy)
    await stream.hang_up()
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", most)


async def test_a_call_that_never_left_is_given_back(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM)
    await stream.head(503, TEXT, attributes=REFUSED_CONNECTION)
    await stream.body(b"upstream connect error", end=True)
    seen = await stream.answered()
    assert seen.status == 502
    assert seen.headers["content-type"] == "application/json"
    assert json.loads(seen.body)["error"]["code"] == "provider_unreachable"
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.cost_nanos) == ("released", 0)
    assert envoy.counted("bursar_envoy_own_answers_total", provider="openai", sent="never") == 1


@pytest.mark.parametrize(
    ("attributes", "status", "code"),
    [
        (RESET, 502, "provider_broke"),
        (TIMED_OUT, 504, "provider_timeout"),
        # Of the first of two attempts nothing is told.
        ({**REFUSED_CONNECTION, "upstream.request_attempt_count": 2}, 502, "provider_broke"),
        # An Envoy that says nothing of its answers: this may be its own, to a call that was sent.
        ({}, 502, "provider_broke"),
    ],
)
async def test_a_call_that_may_have_left_is_charged_as_reserved(
    envoy: ScriptedEnvoy, attributes: dict[str, object], status: int, code: str
) -> None:
    stream = await envoy.carry(PLAIN)
    most = reserved(envoy)
    await stream.head(503, TEXT, attributes=attributes)
    await stream.body(b"upstream connect error", end=True)
    seen = await stream.answered()
    assert (seen.status, json.loads(seen.body)["error"]["code"]) == (status, code)
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", most)


async def test_an_envoy_without_attributes_is_believed_where_its_router_signed(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(PLAIN)
    headers = {"content-type": "application/json", "x-envoy-upstream-service-time": "3"}
    await stream.head(503, headers, attributes={})
    await stream.body(b'{"error":"busy"}', end=True)
    assert (await stream.answered()).body == b'{"error":"busy"}'
    assert (await envoy.ended()).kind == "provider_error"


async def test_an_answer_of_a_later_filter_passes_and_the_call_is_given_back(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(PLAIN)
    await stream.head(413, TEXT, attributes=TOO_LARGE)
    await stream.body(b"Payload Too Large", end=True)
    seen = await stream.answered()
    assert (seen.status, seen.body, seen.headers) == (413, b"Payload Too Large", TEXT)
    assert (await envoy.ended()).kind == "released"


async def test_a_call_that_envoy_sent_twice_is_counted(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(PLAIN)
    twice = {"response.code_details": "via_upstream", "upstream.request_attempt_count": 2}
    await stream.head(attributes=twice)
    await stream.body(chat_answer(), end=True)
    await stream.answered()
    assert (await envoy.ended()).cost_nanos == COST_NANOS
    assert envoy.counted("bursar_envoy_resent_calls_total") == 1


async def test_what_is_denied_comes_too_and_nothing_is_metered(envoy: ScriptedEnvoy) -> None:
    stream = envoy.stream()
    await stream.head(402, {"content-type": "application/json"}, attributes=DENIED)
    await stream.body(b'{"error":"no money"}', end=True)
    seen = await stream.answered()
    assert (seen.status, seen.body) == (402, b'{"error":"no money"}')
    assert envoy.calls.desk.outcomes == []
    assert envoy.counted("bursar_envoy_unreserved_total", done="refused") == 0


async def test_an_answer_of_a_filter_before_ours_gives_the_call_back(envoy: ScriptedEnvoy) -> None:
    charge_id = await envoy.calls.admit(body=PLAIN)
    stream = envoy.stream()
    limited = {**DENIED, "response.code_details": "request_rate_limited"}
    await stream.head(429, TEXT, attributes=limited, charge_id=charge_id)
    await stream.body(b"slow down", end=True)
    assert (await stream.answered()).body == b"slow down"
    assert (await envoy.ended()).kind == "released"


@pytest.mark.parametrize("attributes", [{}, {"response.code_details": "via_upstream"}])
async def test_and_leaves_it_where_that_is_not_proven(
    envoy: ScriptedEnvoy, attributes: dict[str, object]
) -> None:
    charge_id = await envoy.calls.admit(body=PLAIN)
    stream = envoy.stream()
    await stream.head(429, TEXT, attributes=attributes, charge_id=charge_id)
    await stream.body(b"slow down", end=True)
    await stream.answered()
    assert envoy.calls.held.held(charge_id) is not None


@pytest.mark.parametrize("charge_id", ["", "7-99"])
async def test_a_request_that_nothing_is_reserved_for_is_refused(
    envoy: ScriptedEnvoy, charge_id: str
) -> None:
    stream = envoy.stream()
    # A header is what anybody wrote.
    real = await envoy.calls.admit(body=PLAIN)
    answer = await stream.ask(charge_id, path="/v1/messages", **{"x-bursar-charge-id": real})
    refused = answer.immediate_response
    assert refused.status.code == 503
    # In the dialect of its path.
    assert json.loads(refused.body)["type"] == "error"
    assert envoy.calls.held.held(real) is not None
    assert envoy.counted("bursar_envoy_unreserved_total", done="refused") == 1
    await stream.close()


async def test_a_charge_id_serves_once(envoy: ScriptedEnvoy) -> None:
    charge_id = await envoy.calls.admit(body=PLAIN)
    first, second = envoy.stream(), envoy.stream()
    await first.ask(charge_id)
    assert (await second.ask(charge_id)).immediate_response.status.code == 503
    await second.close()
    await first.head()
    await first.body(chat_answer(), end=True)
    await first.answered()
    assert (await envoy.ended()).cost_nanos == COST_NANOS


async def test_it_passes_unmetered_where_the_operator_said_so(tmp_path: Path) -> None:
    async with scripted_envoy(EnvoyCalls(envoy_unreserved="pass"), tmp_path) as envoy:
        stream = envoy.stream()
        await stream.ask("")
        assert stream.request.HasField("request_headers")
        await stream.head(headers=SSE)
        await stream.body(chunk("four"))
        await stream.body()
        seen = await stream.answered()
        assert (seen.body, seen.headers) == (chunk("four"), SSE)
        assert envoy.counted("bursar_envoy_unreserved_total", done="passed") == 1
        assert envoy.calls.desk.calls == []


async def test_a_provider_that_is_silent_for_too_long_is_given_up(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM)
    envoy.calls.clock.skip(599)
    envoy.service.sweep()
    envoy.calls.clock.skip(2)
    envoy.service.sweep()
    assert not await stream.hear()
    assert stream.seen.status == 504
    assert json.loads(stream.seen.body)["error"]["code"] == "provider_timeout"
    await stream.close()
    assert (await envoy.ended()).kind == "unknown"


async def test_one_that_falls_silent_in_the_midst_is_cut_where_the_app_sees_it(
    envoy: ScriptedEnvoy,
) -> None:
    stream = await envoy.carry(STREAM)
    await stream.head(headers=SSE)
    await stream.hear()
    await stream.body(chunk("four"))
    await stream.hear()
    envoy.calls.clock.skip(301)
    envoy.service.sweep()
    assert not await stream.hear()
    assert stream.seen.reset
    await stream.close()
    assert (await envoy.ended()).kind == "aborted"


async def test_a_fault_of_ours_lets_nothing_flow(
    envoy: ScriptedEnvoy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await envoy.carry(STREAM)
    most = reserved(envoy)
    await stream.head(headers=SSE)
    await stream.hear()

    def fails(_carried: CarriedCall, _told: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(CarriedCall, "got_body", fails)
    await stream.body(chunk("four"))
    assert not await stream.hear()
    assert stream.seen.reset
    await stream.close()
    assert 0 < (await envoy.ended()).cost_nanos <= most


async def test_a_body_that_has_to_be_asked_for_is(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(PLAIN, body_mode=NONE)
    mode = stream.request.mode_override
    assert (mode.response_header_mode, mode.response_body_mode, mode.response_trailer_mode) == (
        mode.SEND,
        mode.FULL_DUPLEX_STREAMED,
        mode.SEND,
    )
    await stream.head()
    await stream.body(chat_answer(), end=True)
    await stream.answered()
    assert (await envoy.ended()).cost_nanos == COST_NANOS


async def test_an_answer_that_flew_by_unseen_is_charged_as_reserved(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM, body_mode=NONE)
    most = reserved(envoy)
    await stream.call.done_writing()
    outcome = await envoy.ended()
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", most)
    assert outcome.usage.estimate_reason == "Envoy showed nothing of the answer"


async def test_who_waits_in_vain_for_a_stream_pays_for_the_question(envoy: ScriptedEnvoy) -> None:
    stream = await envoy.carry(STREAM)
    most = reserved(envoy)
    await stream.hang_up()
    outcome = await envoy.ended()
    assert outcome.kind == "aborted"
    assert outcome.cost_nanos < most


async def test_two_hundred_that_are_hung_up_on_at_once_are_all_settled(
    envoy: ScriptedEnvoy,
) -> None:
    streams = [await envoy.carry(STREAM) for _ in range(200)]
    for stream in streams:
        await stream.head(headers=SSE)
    await asyncio.gather(*(stream.hear() for stream in streams))
    for stream in streams:
        await stream.hang_up()
    await envoy.calls.held.drain(60)
    assert len(envoy.calls.desk.outcomes) == 200
    assert not envoy.calls.desk.open
    assert envoy.calls.in_flight == (0, 0)
