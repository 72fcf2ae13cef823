"""Streams whose usage never comes: counted where that can be done in time, else by their bytes."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.counting.frames import MAX_MESSAGES_BYTES, Text
from bursar_sidecar.exchange import HIGH_WATER_BYTES
from bursar_sidecar.produced import (
    CUT_SLACK_LLM_TOKENS,
    MAX_KEPT_BYTES,
    Produced,
    samples_freely,
    visible_bound,
)
from bursar_sidecar.recount import CUT_WAITS_S, END_WAITS_S
from tests.fakes.counting import FakeCounter
from tests.fakes.sidecar_bench import CHAT, DONE, USAGE_CHUNK, Bench, chunk
from tests.fakes.wire import delivered

STREAM = {**CHAT, "stream": True}
WORDS = "the quick brown fox jumps over"
COUNTED = 6


def by_bytes(text: str) -> int:
    return len(text) + CUT_SLACK_LLM_TOKENS


async def broken_off(bench: Bench, *, by: str, **fields: object) -> int:
    """The output charged for a stream of WORDS in two chunks that was cut."""
    bench.post({**STREAM, **fields})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS[:10]) + chunk(WORDS[10:]))
    await bench.app.until(lambda: chunk(WORDS[10:]) in bench.app.body_so_far)
    bench.clock.seconds += 2.0
    if by == "provider":
        call.close()
    elif by == "reset":
        call.reset()
    else:
        bench.app.hang_up()
        await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert not outcome.usage.is_exact
    return outcome.usage.output


async def test_a_stream_that_the_provider_breaks_off_is_counted() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    output = await broken_off(bench, by="provider")
    assert output == 8 + CUT_SLACK_LLM_TOKENS  # 6 and a quarter more, rounded up
    assert counter.asked == [("o200k_base", (Text(WORDS.encode(), (10, len(WORDS))),), CUT_WAITS_S)]


async def test_when_the_app_hangs_up_the_provider_goes_on_for_a_second_at_its_pace() -> None:
    output = await broken_off(Bench(counter=FakeCounter(COUNTED)), by="app")
    assert output == 8 + 3 + 1 + CUT_SLACK_LLM_TOKENS  # half of what came in two seconds


async def test_a_reset_may_have_lost_what_was_under_way() -> None:
    output = await broken_off(Bench(counter=FakeCounter(COUNTED)), by="reset")
    assert output > 8 + CUT_SLACK_LLM_TOKENS


async def test_an_app_that_reads_too_slowly_leaves_output_unseen_and_nothing_is_counted() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    bench.post(STREAM)
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS))
    await bench.app.until(lambda: chunk(WORDS) in bench.app.body_so_far)
    bench.app.stop_reading()
    # What the app's connection takes, what is held for it, and more than that.
    much = chunk("x" * HIGH_WATER_BYTES)
    for _ in range(4):
        call.send_chunk(much)
        await delivered()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    assert (await bench.settled()).kind == "aborted"
    assert [texts for _, texts, _ in counter.asked] == [()]


@pytest.mark.parametrize("by", ["provider", "app"])
async def test_without_a_count_in_time_each_byte_is_one(by: str) -> None:
    assert await broken_off(Bench(counter=FakeCounter(None)), by=by) == by_bytes(WORDS)
    assert await broken_off(Bench(), by=by) == by_bytes(WORDS)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"50256": -100}},
        {"response_format": {"type": "json_object"}},
        {"temperature": 1.4},
        {"temperature": "hot"},
    ],
)
async def test_a_request_that_forces_the_sampling_is_charged_by_its_bytes(
    fields: dict[str, object],
) -> None:
    counter = FakeCounter(COUNTED)
    assert await broken_off(Bench(counter=counter), by="provider", **fields) == by_bytes(WORDS)
    assert [texts for _, texts, _ in counter.asked] == [()]


async def test_a_model_whose_tokenizer_is_not_public_is_charged_by_its_bytes() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter, upstream={"models": ("*",)})
    bench.post({**STREAM, "model": "openai/chat-latest"})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS, model="chat-latest"))
    call.close()
    await bench.app.until_ended()
    assert (await bench.settled()).usage.output >= by_bytes(WORDS)
    assert not counter.asked


async def test_a_model_that_answers_under_another_name_is_counted_by_that_one() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    bench.post(STREAM)
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS, model="gpt-4-0613"))
    call.close()
    await bench.app.until_ended()
    await bench.settled()
    assert [encoding for encoding, _, _ in counter.asked] == ["cl100k_base"]


async def test_a_stream_that_ends_without_usage_is_counted_and_its_end_waits_for_it() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    bench.post(STREAM)
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS) + DONE)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert answer.body.endswith(DONE)
    outcome = await bench.settled()
    assert (outcome.kind, outcome.usage.output) == ("final", 8)
    assert outcome.usage.estimate_reason == "usage is missing"
    assert [within_s for _, _, within_s in counter.asked] == [END_WAITS_S]


async def test_a_stream_with_usage_asks_nobody() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    bench.post(STREAM)
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS) + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    await bench.answered()
    assert (await bench.settled()).usage.is_exact
    assert not counter.asked


PROMPT = "Tell me all there is to tell of it. " * 300


async def input_of(bench: Bench, **fields: object) -> int:
    """The input charged for a stream that the provider broke off."""
    bench.post({**STREAM, "messages": [{"role": "user", "content": PROMPT}], **fields})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("one"))
    call.close()
    await bench.app.until_ended()
    return (await bench.settled()).usage.input


async def test_the_input_of_a_cut_stream_is_counted_too() -> None:
    counter = FakeCounter(1, asked=2_700)
    charged = await input_of(Bench(counter=counter))
    assert 2_700 < charged < 3_000
    (messages,) = counter.messages
    assert json.loads(messages) == [{"role": "user", "content": PROMPT}]


async def test_a_count_of_the_input_never_raises_what_was_reserved() -> None:
    bound = await input_of(Bench())
    assert await input_of(Bench(counter=FakeCounter(1, asked=1_000_000))) == bound
    assert await input_of(Bench(counter=FakeCounter(None))) == bound


async def test_tools_stay_at_their_bytes_beside_the_count() -> None:
    plain = await input_of(Bench(counter=FakeCounter(1, asked=2_700)))
    function = {"name": "f", "description": "x" * 500}
    tools = [{"type": "function", "function": function}]
    tooled = await input_of(Bench(counter=FakeCounter(1, asked=2_700)), tools=tools)
    assert tooled >= plain + 500


async def test_a_model_that_reasons_has_its_input_counted_and_its_output_at_the_limit() -> None:
    counter = FakeCounter(COUNTED, asked=2_700)
    bench = Bench(counter=counter)
    bench.post({**STREAM, "reasoning_effort": "high"})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk(WORDS))
    call.close()
    await bench.app.until_ended()
    assert (await bench.settled()).usage.output == STREAM["max_tokens"]
    assert [texts for _, texts, _ in counter.asked] == [()]


@pytest.mark.parametrize(
    "part", [{"type": "image_url", "image_url": {"url": "https://x"}}, {"type": "file"}]
)
async def test_input_that_is_not_all_text_is_not_counted(part: dict[str, object]) -> None:
    counter = FakeCounter(COUNTED)
    await input_of(Bench(counter=counter), messages=[{"role": "user", "content": [part]}])
    assert counter.messages == [b""]


async def test_messages_too_long_to_count_are_charged_by_their_bound() -> None:
    counter = FakeCounter(COUNTED, asked=1)
    long = [{"role": "user", "content": "x" * MAX_MESSAGES_BYTES}]
    assert await input_of(Bench(counter=counter), messages=long) > 100_000
    assert counter.messages == [b""]


async def test_an_app_that_hangs_up_before_the_stream_began_has_its_input_counted() -> None:
    counter = FakeCounter(COUNTED, asked=1)
    bench = Bench(counter=counter)
    bench.post({**STREAM, "messages": [{"role": "user", "content": PROMPT}]})
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    usage = (await bench.settled()).usage
    assert usage.input < 300
    assert usage.output == CUT_SLACK_LLM_TOKENS


async def test_choices_are_counted_each_for_itself() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    bench.post({**STREAM, "n": 2})
    call = await bench.provider.request()
    call.start_stream()
    for index, text in ((0, "one"), (1, "two"), (0, " more"), (1, " too")):
        delta = {"index": index, "delta": {"content": text}}
        call.send_chunk(b"data: " + json.dumps({"choices": [delta]}).encode() + b"\n\n")
    call.close()
    await bench.app.until_ended()
    await bench.settled()
    assert counter.asked[0][1] == (Text(b"one more", (3, 8)), Text(b"two too", (3, 7)))


async def test_what_is_not_text_counts_its_bytes_beside_the_count() -> None:
    bench = Bench(counter=FakeCounter(COUNTED))
    bench.post(STREAM)
    call = await bench.provider.request()
    call.start_stream()
    tool = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    odd = {"choices": [{"index": 0, "delta": {"tool_calls": [tool]}}]}
    call.send_chunk(chunk(WORDS) + b"data: " + json.dumps(odd).encode() + b"\n\n")
    call.close()
    await bench.app.until_ended()
    written = len(json.dumps([tool], separators=(",", ":")))
    assert (await bench.settled()).usage.output == 8 + written + CUT_SLACK_LLM_TOKENS


async def test_at_the_end_of_the_sidecar_nobody_waits_for_a_count() -> None:
    counter = FakeCounter(COUNTED)
    bench = Bench(counter=counter)
    bench.proxy.close()
    assert counter.closed


def test_beyond_its_room_nothing_is_kept() -> None:
    kept = Produced()
    kept.keep(0, "x" * MAX_KEPT_BYTES)
    kept.keep(1, "more")
    assert kept.size == MAX_KEPT_BYTES
    assert [len(text.data) for text in kept.texts()] == [MAX_KEPT_BYTES]


@pytest.mark.parametrize(
    ("fields", "free"),
    [
        (b"{}", True),
        (b'{"temperature":1,"tools":[]}', True),
        (b'{"temperature":null}', True),
        (b'{"temperature":1.01}', False),
        (b'{"temperature":"x"}', False),
        (b'{"guided_regex":"a*"}', False),
    ],
)
def test_what_forces_the_sampling_is_known(fields: bytes, free: bool) -> None:
    read = msgspec.json.decode(fields, type=dict[str, msgspec.Raw])
    assert samples_freely(read) is free


@given(
    produced=st.integers(0, 10_000),
    kept=st.integers(0, 10_000),
    counted=st.integers(0, 10_000),
    streamed=st.one_of(st.none(), st.floats(0, 1e6)),
    cut=st.booleans(),
)
def test_a_count_only_ever_lowers_what_the_bytes_say_and_never_below_itself(
    produced: int, kept: int, counted: int, streamed: float | None, cut: bool
) -> None:
    kept = min(kept, produced)
    counted = min(counted, kept)
    bound = visible_bound(
        produced, cut=cut, kept_bytes=kept, counted=counted, streamed_for_s=streamed
    )
    assert bound <= visible_bound(produced, cut=cut)
    assert bound >= counted + produced - kept + (CUT_SLACK_LLM_TOKENS if cut else 0)
