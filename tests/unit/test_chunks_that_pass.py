"""Chunks of text alone, which flow as they came without being read: what is counted and kept of
them is the same as if they had been read."""

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.dialects.openai.chat_reading import ChatReading, ProviderChatReading
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

    def __init__(self) -> None:
        self.quick, self.slow = (StreamMeter(ChatReading()) for _ in "12")
        for meter in (self.quick, self.slow):
            meter.reading.kept = Produced()

    def take(self, content: bytes) -> bool:
        """One chunk; whether it passed unread."""
        passed = self.quick.passes(chunk(content))
        out = content if passed else self.quick.feed(content)
        assert out == self.slow.feed(content)
        assert said(self.quick) == said(self.slow)
        return passed


def said(meter: StreamMeter) -> tuple[object, ...]:
    reading, kept = meter.reading, meter.reading.kept
    assert isinstance(reading, ChatReading)
    assert isinstance(kept, Produced)
    fields = ("model", "service_tier", "request_id", "usage", "produced_bytes", "unreadable")
    told = tuple(getattr(reading, name) for name in fields)
    return (*told, reading.is_complete(1), set(reading.open_choices), kept.texts(), meter.held)


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
