"""Clamped calls on the data path: the output limit goes down in the body, and the app is told."""

import json
from typing import Any

import pytest

from tests.fakes.desk import FakeDesk
from tests.fakes.sidecar_bench import (
    CHAT,
    COST_NANOS,
    DONE,
    USAGE_CHUNK,
    Bench,
    chat_answer,
    chunk,
    error_of,
)

INPUT_AND_300 = 250_000
"""Nanos: more than the input and 300 LLM tokens of output cost, less than 1,000 of output."""


def desk() -> FakeDesk:
    return FakeDesk(INPUT_AND_300)


async def sent(bench: Bench, **fields: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The body that went upstream, and the headers of the answer."""
    bench.post({**CHAT, **fields})
    call = await bench.provider.request()
    if fields.get("stream"):
        call.start_stream()
        call.send_chunk(chunk("four") + USAGE_CHUNK + DONE)
        call.send_chunk(b"")
    else:
        call.send_json(chat_answer())
    answer = await bench.answered()
    assert answer.status == 200
    await bench.settled()
    body: dict[str, Any] = json.loads(call.requests[0])
    return body, answer.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_apps_own_limit_is_lowered_and_announced(field: str, stream: bool) -> None:
    bench = Bench(desk())
    fields = {"max_tokens": None, field: 1_000, "stream": stream}
    body, headers = await sent(bench, **fields)
    lowered = int(headers["x-bursar-clamped-output"])
    assert 256 <= lowered < 1_000
    assert body[field] == lowered
    assert "x-bursar-max-output" not in headers
    call = bench.desk.calls[0]
    assert call.least_nanos <= INPUT_AND_300 < call.ceiling_nanos
    assert bench.desk.settled_nanos == COST_NANOS


async def test_both_limits_are_lowered_and_a_lower_one_stays() -> None:
    body, headers = await sent(Bench(desk()), max_tokens=100, max_completion_tokens=1_000)
    assert body["max_completion_tokens"] == int(headers["x-bursar-clamped-output"])
    assert body["max_tokens"] == 100


async def test_where_the_app_set_none_a_limit_is_set() -> None:
    fields = {k: v for k, v in CHAT.items() if k != "max_tokens"}
    bench = Bench(desk())
    bench.post(fields)
    call = await bench.provider.request()
    call.send_json(chat_answer())
    answer = await bench.answered()
    lowered = int(answer.headers["x-bursar-clamped-output"])
    assert json.loads(call.requests[0])["max_completion_tokens"] == lowered


async def test_every_choice_is_clamped_alike() -> None:
    one, headers = await sent(Bench(FakeDesk(2 * INPUT_AND_300)), max_tokens=2_000)
    assert one["max_tokens"] == int(headers["x-bursar-clamped-output"])
    two, _ = await sent(Bench(FakeDesk(2 * INPUT_AND_300)), max_tokens=2_000, n=2)
    assert two["max_tokens"] == pytest.approx(one["max_tokens"] / 2, rel=0.05)


async def test_a_call_that_fits_goes_as_it_came() -> None:
    bench = Bench(desk())
    raw = json.dumps(CHAT).encode()
    bench.post(raw)
    call = await bench.provider.request()
    call.send_json(chat_answer())
    assert "x-bursar-clamped-output" not in (await bench.answered()).headers
    assert call.requests[0] == raw


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"when_short": "wait"}, {"max_tokens": 1_000}),
        ({}, {"max_tokens": 1_000, "reasoning_effort": "low"}),
        ({}, {"max_tokens": 1_000, "n": 8}),
    ],
)
async def test_what_may_not_be_clamped_or_not_so_far_is_refused(
    settings: dict[str, str], fields: dict[str, Any]
) -> None:
    bench = Bench(desk(), **settings)
    bench.post({**CHAT, **fields})
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (402, "budget_exhausted")


async def test_a_cut_clamped_stream_is_estimated_within_what_was_reserved() -> None:
    bench = Bench(desk())
    bench.post({**CHAT, "max_tokens": 1_000, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("four" * 400))
    call.reset()
    await bench.settled()
    assert bench.desk.settled_nanos <= INPUT_AND_300
