"""What goes through a sidecar is compared byte by byte with what goes without one."""

import gzip

import pytest

from bursar_sidecar.desk import Outcome
from tests.fakes.raw_wire import (
    RawBench,
    Recorded,
    Wire,
    directly,
    through,
    without,
    without_comment,
)
from tests.fakes.recorded_shapes import ANSWER, SHAPES, asked, chunk, head, plain, request, stream
from tests.fakes.wire import delivered

# All that we own; docs/pass-through.md says why.
OF_REQUESTS = (b"connection:", b"accept-encoding:")
OF_ANSWERS = (b"connection:", b"keep-alive:")
OURS = (*OF_ANSWERS, b"x-bursar-", b"x-litellm-response-")


def seen_by_app(wire: Wire) -> bytes:
    return without_comment(without(wire.answer, OURS))


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_exchange_is_the_same_through_a_sidecar(shape: str) -> None:
    recorded = SHAPES[shape]
    bench = RawBench()
    direct, proxied = await directly(recorded), await through(recorded, bench)
    assert without(proxied.at_provider, OF_REQUESTS) == without(direct.at_provider, OF_REQUESTS)
    assert seen_by_app(proxied) == without(direct.answer, OF_ANSWERS)
    outcome: Outcome = bench.desk.only_outcome
    assert outcome.http_status == int(direct.answer.rpartition(b"HTTP/1.1 ")[2][:3])


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_third_exchange_of_a_connection_is_the_same_too(shape: str) -> None:
    recorded = SHAPES[shape]
    bench, direct = RawBench(), await directly(recorded)
    for number in range(1, 4):
        bench.app.pieces.clear()
        await through(recorded, bench)
        assert len(bench.desk.outcomes) == number
    (provider,) = bench.provider.ends
    sent = without(provider.received[-len(provider.received) // 3 :], OF_REQUESTS)
    assert sent == without(direct.at_provider, OF_REQUESTS)
    assert seen_by_app(Wire(b"", bench.app.pieces)) == without(direct.answer, OF_ANSWERS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 997])
async def test_it_does_not_matter_where_reads_break(shape: str, size: int) -> None:
    recorded = SHAPES[shape]
    answer = b"".join(recorded.answer)
    pieces = tuple(
        answer[start : start + size] for start in range(0, min(len(answer), 9_000), size)
    )
    rest = (answer[len(b"".join(pieces)) :],)
    broken = Recorded(recorded.request, (*pieces, *rest) if rest[0] else pieces)
    proxied = seen_by_app(await through(broken))
    whole = without(answer, OF_ANSWERS)
    if b"hunked" in whole:  # sizes of chunks follow reads, what is in them does not
        assert dechunked(proxied) == dechunked(whole)
        assert proxied.partition(b"\r\n\r\n")[0] == whole.partition(b"\r\n\r\n")[0]
    else:
        assert proxied == whole


METERED = [name for name in SHAPES if b"prompt_tokens" in b"".join(SHAPES[name].answer)]
PACKED = ["an answer with gzip", "an answer with deflate, in chunks"]


@pytest.mark.parametrize("shape", [*METERED, *PACKED])
async def test_what_went_through_untouched_was_metered(shape: str) -> None:
    bench = RawBench()
    await through(SHAPES[shape], bench)
    outcome = bench.desk.only_outcome
    if shape == "an answer that only claims to be gzip":
        assert not outcome.usage.is_exact
    else:
        assert outcome.usage.is_exact
        assert outcome.usage.input == (2 if shape == "embeddings" else 10)


async def test_a_plain_request_is_the_same_to_the_last_byte() -> None:
    recorded = Recorded(
        (request(asked(stream=False)).replace(b"Connection: keep-alive\r\n", b""),),
        plain(ANSWER),
    )
    assert (await through(recorded)).at_provider == recorded.request[0]


async def test_pieces_reach_the_app_as_they_came() -> None:
    events = [b": one\n\n", b": two\n\n", b": three\n\n"]
    recorded = Recorded((request(asked(stream=True)),), stream(*events))
    proxied = await through(recorded)
    assert proxied.at_app[1:4] == [chunk(event) for event in events]


@pytest.mark.parametrize("cut", range(1, 60, 3))
async def test_events_may_break_anywhere(cut: int) -> None:
    body = b"".join(
        (b'data: {"id":"c","choices":[]}\n\n', b": hm\r\n\r\n", b"data: x\n\n", b"data: [DONE]\n\n")
    )
    pieces = [body[start : start + cut] for start in range(0, len(body), cut)]
    recorded = Recorded((request(asked(stream=True)),), stream(*pieces))
    told = dechunked((await through(recorded)).answer)
    comment = told.index(b": bursar {")
    assert told[:comment] + told[told.index(b"\n\n", comment) + 2 :] == body


def dechunked(answer: bytes) -> bytes:
    """What is in the chunks of an answer, and the trailers behind them."""
    parts = []
    rest = answer.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if not int(size, 16):
            parts.append(rest.removesuffix(b"\r\n"))
            break
        parts.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return b"".join(parts)


class TestEditedRequests:
    """What has to be edited is, and nothing beside it."""

    async def test_a_compressed_request_that_has_to_be_edited_goes_uncompressed(self) -> None:
        body = asked(stream=True)
        recorded = Recorded(
            (request(gzip.compress(body), b"Content-Encoding: gzip", b"X-After: 1"),),
            stream(b"data: [DONE]\n\n"),
        )
        proxied = await through(recorded)
        sent_head, _, sent = proxied.at_provider.partition(b"\r\n\r\n")
        assert b"content-encoding" not in sent_head.lower()
        assert b"X-After: 1" in sent_head
        assert b'"include_usage":true' in sent
        assert b"12345678901234567890" in sent
        assert b"Content-Length: %d" % len(sent) in sent_head

    async def test_a_bomb_is_refused_and_costs_nothing(self) -> None:
        bench = RawBench(max_request_bytes=1_000_000)
        bomb = gzip.compress(asked(padding="x" * 5_000_000))
        bench.app.send(request(bomb, b"Content-Encoding: gzip"))
        await bench.app.until(lambda: b"body_encoded" in bench.app.received)
        assert bench.app.received.startswith(b"HTTP/1.1 415 ")
        assert not bench.desk.calls
        assert bench.server.held_bytes == 0

    async def test_decompressed_bodies_count_as_held_until_their_answer(self) -> None:
        bench = RawBench()
        body = asked(padding="x" * 100_000)
        bench.app.send(request(gzip.compress(body), b"Content-Encoding: gzip"))
        provider = await bench.provider_end()
        await provider.until(lambda: bool(provider.pieces))
        assert bench.server.held_bytes == len(body) + len(gzip.compress(body))
        provider.send(plain(ANSWER)[0])
        await delivered()
        assert bench.server.held_bytes == 0

    @pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"nonsense"])
    async def test_what_cannot_be_read_is_refused(self, coding: bytes) -> None:
        bench = RawBench()
        bench.app.send(request(asked(), b"Content-Encoding: " + coding))
        await bench.app.until(lambda: b"body_encoded" in bench.app.received)
        assert not bench.desk.calls


async def test_another_method_is_told_which_are_served() -> None:
    bench = RawBench()
    bench.app.send(b"DELETE /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n")
    await bench.app.until(lambda: b"\r\n\r\n" in bench.app.received)
    assert bench.app.received.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nallow: POST\r\n" in bench.app.received


class TestWhatWeOwn:
    """The declared list, each of it."""

    async def test_an_accept_encoding_is_narrowed_to_what_can_be_read_along(self) -> None:
        all_of_them = request(asked()).replace(b"gzip, deflate", b"gzip;q=0.9, br, zstd, deflate")
        proxied = await through(Recorded((all_of_them,), plain(ANSWER)))
        assert b"\r\nAccept-Encoding: gzip;q=0.9, deflate\r\n" in proxied.at_provider

    async def test_streams_are_asked_for_without_compression(self) -> None:
        proxied = await through(Recorded((request(asked(stream=True)),), stream(b"data: x\n\n")))
        assert b"\r\nAccept-Encoding: identity\r\n" in proxied.at_provider

    async def test_what_a_connection_header_names_stays_with_its_connection(self) -> None:
        recorded = Recorded(
            (request(asked(), b"Connection: X-Mine, close", b"X-Mine: 1", b"X-Other: 2"),),
            plain(ANSWER, b"Connection: x-theirs", b"X-Theirs: 1", b"X-More: 2"),
        )
        proxied = await through(recorded)
        assert b"X-Mine" not in proxied.at_provider
        assert b"X-Other: 2" in proxied.at_provider
        assert b"X-Theirs" not in proxied.answer
        assert b"X-More: 2" in proxied.answer

    async def test_a_connection_header_cannot_take_off_what_is_ours_or_frames_the_body(
        self,
    ) -> None:
        named = b"Connection: host, authorization, content-length, content-encoding, te"
        body = gzip.compress(asked())
        proxied = await through(
            Recorded((request(body, named, b"Content-Encoding: gzip"),), plain(ANSWER))
        )
        for kept in (
            b"Host: ",
            b"Authorization: Bearer ",
            b"Content-Length: ",
            b"Content-Encoding",
        ):
            assert kept in proxied.at_provider
        assert proxied.at_provider.endswith(body)

    async def test_a_chunked_request_goes_with_its_length(self) -> None:
        body = asked()
        chunked = request(b"", b"Transfer-Encoding: chunked", length=False)
        pieces = (chunked, chunk(body[:7]), chunk(body[7:]), b"0\r\nX-Trailer: 1\r\n\r\n")
        proxied = await through(Recorded(pieces, plain(ANSWER)))
        assert proxied.at_provider.endswith(b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b"hunked" not in proxied.at_provider
        assert b"X-Trailer" not in proxied.at_provider

    async def test_an_expectation_is_met_here(self) -> None:
        body = asked()
        whole = request(body, b"Expect: 100-continue")
        first, rest = whole[: -len(body)], body
        bench = RawBench()
        bench.app.send(first)
        await bench.app.until(lambda: bench.app.received == b"HTTP/1.1 100 Continue\r\n\r\n")
        bench.app.send(rest)
        provider = await bench.provider_end()
        await provider.until(lambda: provider.received.endswith(body))
        assert b"Expect" not in provider.received

    async def test_a_cookie_and_what_is_for_us_stay_here(self) -> None:
        mine = (b"Cookie: a=b", b"X-Bursar-Tags: t", b"X-LiteLLM-Tags: u", b"x-api-key: bk-x")
        proxied = await through(Recorded((request(asked(), *mine),), plain(ANSWER)))
        for line in mine:
            assert line.partition(b":")[0] not in proxied.at_provider

    async def test_a_provider_cannot_speak_for_us(self) -> None:
        forged = (b"X-Bursar-Cost: 0", b"x-litellm-response-cost: 0", b"X-LiteLLM-Model-Id: m")
        answer = (await through(Recorded((request(asked()),), plain(ANSWER, *forged)))).answer
        assert answer.lower().count(b"\r\nx-bursar-cost: ") == 1
        assert answer.lower().count(b"\r\nx-litellm-response-cost: ") == 1
        assert forged[2] in answer

    async def test_trailers_are_dropped_where_nobody_asked(self) -> None:
        start = head(b"Transfer-Encoding: chunked", b"Trailer: X-Sum")
        answer = (start, chunk(ANSWER), b"0\r\nX-Sum: 1\r\n\r\n")
        proxied = await through(Recorded((request(asked()),), answer))
        assert b"X-Sum" not in proxied.answer
        assert proxied.answer.endswith(chunk(ANSWER) + b"0\r\n\r\n")

    async def test_trailers_never_change_the_head(self) -> None:
        start = head(b"Transfer-Encoding: chunked")
        end = b"0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n"
        asking = request(asked(), b"TE: trailers")
        proxied = await through(Recorded((asking,), (start, chunk(ANSWER), end)))
        assert proxied.answer.endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")

    async def test_an_old_app_gets_a_length_instead_of_chunks(self) -> None:
        old = request(asked()).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        start = head(b"Transfer-Encoding: chunked")
        proxied = await through(Recorded((old,), (start, chunk(ANSWER), b"0\r\n\r\n")))
        assert b"hunked" not in proxied.answer
        assert b"\r\ncontent-length: %d\r\n" % len(ANSWER) in proxied.answer
        assert proxied.answer.endswith(ANSWER)

    async def test_an_old_provider_ends_with_its_connection(self) -> None:
        bench = RawBench()
        bench.app.send(request(asked()))
        provider = await bench.provider_end()
        provider.send(b"HTTP/1.0 200 OK\r\nX-Old: 1\r\n\r\n" + ANSWER)
        assert provider.transport is not None
        provider.transport.close()
        await bench.app.until(lambda: bench.app.received.endswith(ANSWER))
        assert bench.app.received.startswith(b"HTTP/1.1 200 OK\r\nX-Old: 1\r\n")
        assert b"content-length: %d\r\n" % len(ANSWER) in bench.app.received
        assert bench.desk.only_outcome.usage.is_exact


async def test_a_compressed_stream_is_metered_and_not_touched() -> None:
    events = (
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20}}\n\n',
        b"data: [DONE]\n\n",
    )
    packed = gzip.compress(b"".join(events))
    start = head(
        b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", kind=b"text/event-stream"
    )
    recorded = Recorded(
        (request(asked(stream=True)),),
        (start, chunk(packed[:30]), chunk(packed[30:]), b"0\r\n\r\n"),
    )
    bench = RawBench()
    direct, proxied = await directly(recorded), await through(recorded, bench)
    assert without(proxied.answer, OURS) == without(direct.answer, OF_ANSWERS)
    outcome = bench.desk.only_outcome
    assert outcome.usage.is_exact
    assert outcome.usage.output == 20


async def test_a_compressed_stream_that_cannot_be_read_is_charged_in_full() -> None:
    start = head(
        b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", kind=b"text/event-stream"
    )
    recorded = Recorded((request(asked(stream=True)),), (start, chunk(b"not gzip"), b"0\r\n\r\n"))
    bench = RawBench()
    assert (await through(recorded, bench)).answer.endswith(chunk(b"not gzip") + b"0\r\n\r\n")
    outcome = bench.desk.only_outcome
    assert not outcome.usage.is_exact
    assert outcome.usage.output == 100
