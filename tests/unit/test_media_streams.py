"""Streams of pictures and sound: settled on what their last event tells, else as reserved."""

import json
from typing import Any

from tests.fakes.sidecar_bench import Bench
from tests.fakes.wire import ProviderCall

USAGE = {"type": "tokens", "input_tokens": 30, "output_tokens": 5, "total_tokens": 35}
HEARD = {**USAGE, "input_token_details": {"audio_tokens": 30, "text_tokens": 0}}
HEARD_NANOS = 115_000  # gpt-4o-mini-transcribe: 30 at 3 and 5 at 5 USD a million
DRAWN = {**USAGE, "input_tokens_details": {"text_tokens": 30, "image_tokens": 0}}
DRAWN_NANOS = 350_000  # gpt-image-1: 30 at 5 and 5 at 40 USD a million
SPOKEN: dict[str, Any] = {
    "model": "gpt-4o-mini-tts",
    "voice": "alloy",
    "input": "hi",
    "stream_format": "sse",
}


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def form(**fields: str) -> bytes:
    parts = [
        f'--xx\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = '--xx\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nsound\r\n'
    return "".join((*parts, file, "--xx--\r\n")).encode()


async def transcribed(bench: Bench) -> ProviderCall:
    bench.post(
        form(model="gpt-4o-mini-transcribe", stream="true"),
        "/v1/audio/transcriptions",
        content_type="multipart/form-data; boundary=xx",
    )
    call = await bench.provider.request()
    call.start_stream()
    return call


async def test_a_transcription_tells_its_cost_before_its_last_event() -> None:
    bench = Bench()
    call = await transcribed(bench)
    said = event("transcript.text.delta", delta="hello")
    done = event("transcript.text.done", text="hello", usage=HEARD)
    for one in (said, done, b""):
        call.send_chunk(one)
    answer = await bench.answered()
    before, _, after = answer.body.partition(b": bursar ")
    assert before == said
    assert after.endswith(done)
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.usage.is_exact) == (HEARD_NANOS, True)


async def test_a_transcription_that_breaks_off_costs_what_was_reserved() -> None:
    bench = Bench()
    call = await transcribed(bench)
    call.send_chunk(event("transcript.text.delta", delta="hello"))
    call.reset()
    outcome = await bench.settled()
    (asked,) = bench.desk.calls
    # Its context window of sound and the most text, at 3 and 5 USD a million.
    assert asked.ceiling_nanos == 16_000 * 3_000 + 2_000 * 5_000
    assert (outcome.kind, outcome.cost_nanos) == ("unknown", asked.ceiling_nanos)


async def test_a_transcription_in_chunks_has_no_bound() -> None:
    bench = Bench()
    bench.post(
        form(model="gpt-4o-mini-transcribe", chunking_strategy="auto"),
        "/v1/audio/transcriptions",
        content_type="multipart/form-data; boundary=xx",
    )
    assert json.loads((await bench.answered()).body)["error"]["code"] == "unbounded_cost"


async def test_a_picture_that_streams_costs_what_its_event_tells() -> None:
    bench = Bench()
    asked = {"model": "gpt-image-1", "prompt": "x", "stream": True, "partial_images": 2}
    bench.post(asked, "/v1/images/generations")
    call = await bench.provider.request()
    call.start_stream()
    partial = event("image_generation.partial_image", b64_json="eHg=", partial_image_index=0)
    whole = event("image_generation.completed", b64_json="eHg=", usage=DRAWN)
    for one in (partial, whole, b""):
        call.send_chunk(one)
    answer = await bench.answered()
    assert answer.body.startswith(partial + whole)
    assert (await bench.settled()).cost_nanos == DRAWN_NANOS
    (reserved,) = bench.desk.calls
    assert reserved.ceiling_nanos > (6_240 + 200) * 40_000


async def test_speech_in_events_tells_its_usage_where_no_budget_asks_for_a_bound() -> None:
    bench = Bench()
    bench.desk.limit_nanos = None
    bench.post(SPOKEN, "/v1/audio/speech")
    call = await bench.provider.request()
    call.start_stream()
    sound = event("speech.audio.delta", audio="eHg=")
    done = event("speech.audio.done", usage=USAGE)
    for one in (sound, done, b""):
        call.send_chunk(one)
    answer = await bench.answered()
    assert answer.body.endswith(done)
    outcome = await bench.settled()
    assert outcome.usage.is_exact
    assert outcome.cost_nanos == 30 * 600 + 5 * 10_000


async def test_an_error_of_the_provider_costs_nothing() -> None:
    bench = Bench()
    bench.post({"model": "tts-1", "voice": "a", "input": "hi"}, "/v1/audio/speech")
    (await bench.provider.request()).send_json(b'{"error":{}}', status=500)
    assert (await bench.answered()).status == 500
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("provider_error", 0)
