"""Connections that break, on either side, at every stage: one settlement or none at all, nothing
held afterwards, and an app that is never given half an answer for a whole one."""

import pytest

from tests.fakes.raw_wire import RawBench
from tests.fakes.recorded_shapes import ANSWER, asked, chunks, plain, request, stream
from tests.fakes.wire import delivered

EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20}}\n\n'
DONE = b"data: [DONE]\n\n"

PLAIN = plain(ANSWER)[0]
CHUNKED = b"".join(chunks(ANSWER[:50], ANSWER[50:]))
STREAM = b"".join(stream(EVENT, USAGE, DONE))
ANSWERS = {"with its length": PLAIN, "in chunks": CHUNKED, "a stream": STREAM}


def stages(answer: bytes) -> dict[str, int]:
    """Places where an answer may break off, as numbers of bytes."""
    body = answer.index(b"\r\n\r\n") + 4
    return {
        "before a byte": 0,
        "in the status line": 7,
        "in a header": 60,
        "before the head's last byte": body - 1,
        "after the head": body,
        "in the body": body + 30,
        "before the last byte": len(answer) - 1,
    }


@pytest.mark.parametrize("stage", stages(PLAIN))
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("reset", [True, False])
async def test_a_provider_that_breaks_off(kind: str, stage: str, *, reset: bool) -> None:
    answer, bench = ANSWERS[kind], RawBench()
    bench.app.send(request(asked(stream=kind == "a stream")))
    provider = await bench.provider_end()
    await provider.until(lambda: bool(provider.pieces))
    at = stages(answer)[stage]
    provider.send(answer[:at])
    await delivered()
    assert provider.transport is not None
    if reset:
        provider.transport.abort()
    else:
        provider.transport.close()
    await delivered()
    outcome = bench.desk.only_outcome
    received = bench.app.received
    if received.startswith(b"HTTP/1.1 502 "):
        assert outcome.kind == "unknown"
        assert b"provider_broke" in received
    elif DONE in received:
        # All but the end of the chunks: the money was settled on the provider's own count.
        assert (outcome.kind, outcome.usage.is_exact) == ("final", True)
        assert bench.app.ended
    else:
        assert received.startswith(b"HTTP/1.1 200 ")
        assert outcome.kind == "aborted"
        assert bench.app.ended
    assert not received.endswith(b"\r\n0\r\n\r\n")
    assert bench.server.held_bytes == 0


@pytest.mark.parametrize("reset", [True, False])
async def test_a_provider_that_closes_after_its_answer_has_answered(*, reset: bool) -> None:
    bench = RawBench()
    bench.app.send(request(asked()))
    provider = await bench.provider_end()
    await provider.until(lambda: bool(provider.pieces))
    provider.send(PLAIN)
    await bench.app.until(lambda: bench.app.received.endswith(ANSWER))
    assert provider.transport is not None
    if reset:
        provider.transport.abort()
    else:
        provider.transport.close()
    await delivered()
    assert bench.desk.only_outcome.usage.is_exact
    assert not bench.app.ended


REQUEST = request(asked(stream=True), b"Expect: 100-continue")
BODY_AT = REQUEST.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize("at", [0, 9, 40, BODY_AT - 1, BODY_AT, BODY_AT + 20, len(REQUEST) - 1])
@pytest.mark.parametrize("reset", [True, False])
async def test_an_app_that_breaks_off_before_its_request_is_whole(at: int, *, reset: bool) -> None:
    bench = RawBench()
    bench.app.send(REQUEST[:at])
    await delivered()
    assert bench.app.transport is not None
    if reset:
        bench.app.transport.abort()
    else:
        bench.app.transport.close()
    await delivered()
    assert bench.server.held_bytes == 0
    assert not bench.desk.calls
    assert not bench.provider.ends


@pytest.mark.parametrize("stage", stages(STREAM))
@pytest.mark.parametrize("reset", [True, False])
async def test_an_app_that_breaks_off_during_a_stream(stage: str, *, reset: bool) -> None:
    bench = RawBench()
    bench.app.send(request(asked(stream=True)))
    provider = await bench.provider_end()
    await provider.until(lambda: bool(provider.pieces))
    provider.send(STREAM[: stages(STREAM)[stage]])
    await delivered()
    assert bench.app.transport is not None
    if reset:
        bench.app.transport.abort()
    else:
        bench.app.transport.close()
    await provider.until(lambda: provider.ended)
    await delivered()
    outcome = bench.desk.only_outcome
    if stage == "before the last byte":
        assert (outcome.kind, outcome.usage.is_exact) == ("final", True)
    else:
        assert outcome.kind == "aborted"
        assert outcome.cost_nanos > 0
    assert bench.server.held_bytes == 0


async def test_an_app_that_shuts_its_half_has_hung_up() -> None:
    bench = RawBench()
    bench.app.send(request(asked(stream=True)))
    provider = await bench.provider_end()
    await provider.until(lambda: bool(provider.pieces))
    assert bench.app.transport is not None
    bench.app.transport.write_eof()
    await provider.until(lambda: provider.ended)
    assert bench.desk.only_outcome.kind == "aborted"


async def test_an_answer_before_the_request_was_read_is_told_and_its_connection_not_used() -> None:
    bench = RawBench()
    bench.app.send(request(asked()))
    provider = await bench.provider_end()
    assert provider.transport is not None
    provider.transport.pause_reading()
    refusal = plain(b'{"error":{"message":"too large"}}', status=b"413 Content Too Large")[0]
    provider.send(refusal)
    await bench.app.until(lambda: b"too large" in bench.app.received)
    assert bench.app.received.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert bench.desk.only_outcome.kind == "provider_error"
    bench.app.send(request(asked()))
    await delivered()
    assert len(bench.provider.ends) == 2


async def test_a_request_sent_ahead_waits_for_the_end_of_the_stream_before() -> None:
    bench = RawBench()
    bench.app.send(request(asked(stream=True)) + request(asked()))
    provider = await bench.provider_end()
    await provider.until(lambda: provider.received.count(b"POST ") == 1)
    provider.send(STREAM[:-5])
    await delivered()
    assert len(bench.desk.calls) == 1, "the second may not begin inside the first one's answer"
    provider.send(STREAM[-5:])
    await provider.until(lambda: provider.received.count(b"POST ") == 2)
    provider.send(PLAIN)
    await bench.app.until(lambda: bench.app.received.endswith(ANSWER))
    assert bench.app.received.count(b"HTTP/1.1 200 OK") == 2
