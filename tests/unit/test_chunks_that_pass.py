"""Chunks of text alone, which flow as they came without being read: what is counted and kept of
them is the same as if they had been read."""

import copy
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.dialects.anthropic.reading import MessageStreamReading
from bursar_sidecar.dialects.openai.chat_reading import ChatReading, ProviderChatReading
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.meter import StreamMeter
from bursar_sidecar.produced import Produced
from bursar_sidecar.upstream_connection import UpstreamConnection
from tests.fakes.raw_wire import RawBench
from tests.fakes.recorded_shapes import asked, head, request
from tests.fakes.wire import delivered

TEXTS = st.text(alphabet='ab "\\é\x07{},:', max_size=6)


def event(text: str, *, padding: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    said: dict[str, Any] = {"id": "c-1", "model": "m", "choices": [choice], **fields}
    if padding is not None:
        said["obfuscation"] = padding
    return b"data: %b\n\n" % json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


class Both:
    """One meter that lets chunks pass, and one that reads them all."""

    def __init__(self, reading: Callable[[], Reading] = ChatReading) -> None:
        self.quick, self.slow = (StreamMeter(reading()) for _ in "12")
        for meter in (self.quick, self.slow):
            meter.reading.kept = Produced()

    def take(self, content: bytes) -> bool:
        """One chunk; whether it passed unread."""
        passed = self.quick.passes(chunk(content))
        out = content if passed else self.quick.feed(content)
        assert out == self.slow.feed(content)
        assert said(self.quick) == said(self.slow)
        return passed


def said(meter: StreamMeter) -> dict[str, object]:
    """All that a meter and its reading know, but for what is known of the next event."""
    reading, kept = meter.reading, meter.reading.kept
    assert isinstance(kept, Produced)
    told: dict[str, object] = {"texts": kept.texts(), "held": meter.held, "tail": meter._tail}
    for kind in type(reading).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if name not in ("kept", "usual", "_learned", "_stream"):
                told[name] = copy.copy(getattr(reading, name))
    return {**told, "complete": reading.is_complete(1), "output": reading.output_told()}


FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
TOLD = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
EVENTS = st.one_of(
    st.builds(event, TEXTS),
    st.builds(event, TEXTS, padding=st.text("xyz", max_size=4)),
    st.builds(event, TEXTS, model=st.sampled_from(["m", "n"])),
    st.builds(event, TEXTS, service_tier=st.sampled_from(["flex", "default"])),
    st.sampled_from([FINISH, TOLD, b": ping\n\n", b"data: {}\n\n", b"data: [DONE]\n\n"]),
    st.sampled_from([event("a")[:-9], event("a") + event("b"), b'data: {"choices":1}\n\n']),
)


@given(st.lists(EVENTS, max_size=12))
def test_whatever_passes_unread_says_the_same_as_when_it_is_read(events: list[bytes]) -> None:
    both = Both()
    for one in events:
        both.take(one)


@pytest.mark.parametrize("padding", [None, "x"])
def test_from_the_second_event_of_text_on_they_pass(padding: str | None) -> None:
    both = Both()
    assert not both.take(event("one", padding=padding))
    assert both.take(event("", padding=padding))
    assert both.take(event("three", padding=padding and ""))
    assert not both.take(event('"', padding=padding))
    assert not both.take(event("é", padding=padding))
    assert both.take(event("four", padding=padding))
    assert not both.take(FINISH)
    assert both.quick.reading.is_complete(1)


@pytest.mark.parametrize(
    "framed",
    [
        chunk(event("b"))[1:],
        chunk(event("b"))[:-1],
        b"0" + chunk(event("b")),
        chunk(event("b")) + chunk(event("c")),
        chunk(event("b")).replace(b"\r\n", b";x=y\r\n", 1),
        chunk(event("b") + event("c")),
        chunk(event("b") + b"\n"),
        chunk(event("b")[:-1]),
        event("b"),
        b"",
    ],
)
def test_what_is_not_exactly_one_chunk_of_one_event_is_left_to_the_parser(framed: bytes) -> None:
    both = Both()
    both.take(event("a"))
    assert both.quick.passes(chunk(event("b")))
    before = said(both.quick)
    assert not both.quick.passes(framed)
    assert said(both.quick) == before


def message_event(kind: str, blanks: str = "", **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {data[:-1]}{blanks}}}\n\n".encode()


def delta(text: str, *, blanks: str = "", index: int = 0, kind: str = "text_delta") -> bytes:
    name = "text" if kind == "text_delta" else "partial_json"
    said = {"type": kind, name: text}
    return message_event("content_block_delta", blanks, index=index, delta=said)


MESSAGE = {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 3, "output_tokens": 1}}
MESSAGE_EVENTS = st.one_of(
    st.builds(delta, TEXTS, blanks=st.text(" ", max_size=3), index=st.integers(0, 1)),
    st.builds(delta, TEXTS, kind=st.just("input_json_delta")),
    st.sampled_from(
        [
            message_event("message_start", message=MESSAGE),
            message_event("content_block_start", index=1, content_block={"type": "text"}),
            message_event("content_block_stop", index=0),
            message_event("message_delta", delta={"stop_reason": "end_turn"}),
            message_event("message_stop"),
            message_event("ping"),
            delta("a")[:-9],
            delta("a") + delta("b"),
            delta("a").replace(b"\ndata", b"\nid: 1\ndata"),
            b'data: {"type":5}\n\n',
        ]
    ),
)


@given(st.lists(MESSAGE_EVENTS, max_size=12))
def test_messages_that_pass_unread_say_the_same_as_when_they_are_read(events: list[bytes]) -> None:
    both = Both(MessageStreamReading)
    for one in events:
        both.take(one)


@pytest.mark.parametrize("blanks", ["", "   "])
def test_from_the_second_delta_of_text_on_messages_pass(blanks: str) -> None:
    both = Both(MessageStreamReading)
    assert not both.take(message_event("message_start", message=MESSAGE))
    assert not both.take(delta("one", blanks=blanks))
    assert both.take(delta("two", blanks=blanks))
    assert both.take(delta(" {three}", blanks=" "))
    assert not both.take(delta('a "quote"'))
    assert not both.take(delta("{}", kind="input_json_delta"))
    assert both.take(delta("four"))
    assert not both.take(message_event("content_block_stop", index=0))
    assert not both.take(delta("five"))


def test_a_text_that_is_the_name_of_another_field_is_no_place_to_cut() -> None:
    both = Both()
    odd = event("a", extra={"content": "a"})
    assert not both.take(odd)
    assert not both.take(odd)


def test_a_provider_with_a_reader_of_its_own_has_every_event_read() -> None:
    meter = StreamMeter(ProviderChatReading("mistral_chat", stream=True))
    meter.feed(event("a"))
    assert not meter.passes(chunk(event("b")))


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("cut", [1, 3, 4, 20, -3, -1])
async def test_the_parser_goes_on_behind_chunks_that_it_has_not_seen(cut: int) -> None:
    bench = RawBench()
    bench.app.send(request(asked(stream=True, stream_options={"include_usage": True})))
    provider = await bench.provider_end()
    await provider.until(lambda: b"stream_options" in provider.received)
    await delivered()
    assert provider.transport is not None
    assert provider.transport.peer is not None
    upstream = cast(UpstreamConnection, provider.transport.peer.protocol)
    started = head(b"Transfer-Encoding: chunked", kind=b"text/event-stream")
    chunks = [chunk(event(text)) for text in ("one", "two", "three", "four", "five", "six")]
    split = chunk(event("split"))
    reads = [started, *chunks[:3], split[:cut], split[cut:], *chunks[3:5]]
    reads += [chunks[5] + chunk(FINISH), chunk(USAGE), chunk(DONE) + b"0\r\n\r\n"]
    for read in reads:
        upstream.data_received(read)
    await delivered()
    body = bench.app.received.partition(b"\r\n\r\n")[2]
    cost = body[body.index(b": bursar") : body.index(DONE)]
    framed = cost[:-2][: -len(b"%x\r\n" % len(DONE))]
    shown = body.replace(b"%x\r\n%b\r\n" % (len(framed), framed), b"")
    assert (
        shown
        == b"".join(chunks[:3])
        + split
        + b"".join(chunks[3:])
        + chunk(FINISH)
        + chunk(USAGE)
        + chunk(DONE)
        + b"0\r\n\r\n"
    )
    outcome = bench.desk.only_outcome
    assert outcome.usage.is_exact
    assert outcome.usage.output == 2
