"""Large bodies: whole, unchanged, and held no more often than needed."""

import base64
import json

from bursar_sidecar.answering import MAX_CHUNKS
from bursar_sidecar.http_messages import Request
from bursar_sidecar.passed_headers import RequestWriter
from tests.fakes.raw_wire import RawBench
from tests.fakes.recorded_shapes import ANSWER, head, plain, request
from tests.fakes.wire import delivered

MIB = 1024 * 1024
ASKED = b'{"model":"gpt-4o-mini","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}'
READ_BYTES = 256 * 1024
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0\0\0\2\0\x08\2\0\0\0"


def vision(size: int) -> bytes:
    image = base64.b64encode(PNG + b"\7" * (size * 3 // 4 - 1_000)).decode()
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + image}}
    messages = [{"role": "user", "content": [part]}]
    fields = {"model": "gpt-4o-mini", "max_tokens": 9, "messages": messages}
    return json.dumps(fields, separators=(",", ":")).encode()


async def sent_through(bench: RawBench, body: bytes) -> bytes:
    """What the provider gets of a body that comes in pieces, as from a socket."""
    most = 0
    whole = request(body)
    for start in range(0, len(whole), READ_BYTES):
        bench.connection.data_received(whole[start : start + READ_BYTES])
        most = max(most, bench.server.held_bytes)
    provider = await bench.provider_end()
    await provider.until(lambda: sum(map(len, provider.pieces)) >= len(body))
    assert most == len(body)
    provider.send(plain(ANSWER)[0])
    await bench.app.until(lambda: bench.app.received.endswith(ANSWER))
    await delivered()
    assert bench.server.held_bytes == 0
    return provider.received.partition(b"\r\n\r\n")[2]


async def test_fifty_megabytes_of_images_go_through_unchanged() -> None:
    body = vision(50 * MIB)
    assert 49 * MIB < len(body) <= 50 * MIB
    assert await sent_through(RawBench(), body) == body


async def test_one_byte_more_than_the_limit_is_refused_before_it_is_read() -> None:
    bench = RawBench()
    head_, _, _ = request(b"x").partition(b"\r\n\r\n")
    bench.app.send(head_.replace(b"Length: 1", b"Length: %d" % (50 * MIB + 1)) + b"\r\n\r\n")
    await bench.app.until(lambda: bench.app.ended)
    assert bench.app.received.startswith(b"HTTP/1.1 413 ")


async def test_a_context_of_a_million_llm_tokens_goes_through_unchanged() -> None:
    text = "".join(f"word{number} " for number in range(800_000))
    messages = [{"role": "user", "content": text}]
    fields = {"model": "gpt-4.1-mini", "max_tokens": 9, "messages": messages}
    body = json.dumps(fields).encode()
    assert len(body) > 7 * MIB
    assert await sent_through(RawBench(), body) == body


async def test_an_answer_of_fifty_megabytes_comes_back_unchanged() -> None:
    bench = RawBench()
    fields = b'{"model":"text-embedding-3-small","input":"x"}'
    bench.app.send(request(fields, path=b"/v1/embeddings"))
    provider = await bench.provider_end()
    await provider.until(lambda: provider.received.endswith(fields))
    vectors = b"[" + b"0.0123456789," * (4 * MIB) + b"1]"
    usage = b'"usage":{"prompt_tokens":1,"total_tokens":1}'
    body = b'{"data":[{"embedding":' + vectors + b"}]," + usage + b"}"
    assert len(body) > 50 * MIB
    whole = head(b"Content-Length: %d" % len(body)) + body
    for start in range(0, len(whole), READ_BYTES):
        provider.send(whole[start : start + READ_BYTES])
    await bench.app.until(lambda: sum(map(len, bench.app.pieces)) > len(body))
    assert bench.app.received.partition(b"\r\n\r\n")[2] == body
    assert bench.desk.only_outcome.usage.is_exact


def test_a_large_body_is_not_copied_to_be_sent() -> None:
    body = b"x" * MIB
    asked = Request(b"POST", b"/v1/x", [(b"content-length", b"%d" % len(body))], body)
    writer = RequestWriter(b"provider.test", b"/v1", [b"authorization: Bearer k"])
    pieces = writer.pieces(b"/x", asked, body, packed=True)
    assert len(pieces) == 2
    assert pieces[1] is body


async def test_an_answer_in_too_many_chunks_is_not_held() -> None:
    bench = RawBench()
    bench.app.send(request(ASKED))
    provider = await bench.provider_end()
    await provider.until(lambda: provider.received.endswith(ASKED))
    provider.send(head(b"Transfer-Encoding: chunked"))
    for _ in range(MAX_CHUNKS // 1_000 + 1):
        provider.send(b"1\r\nx\r\n" * 1_000)
    await bench.app.until(lambda: bool(bench.app.pieces))
    provider.send(b"0\r\n\r\n")
    await bench.app.until(lambda: bench.app.pieces[-1].endswith(b"0\r\n\r\n"))
    assert bench.app.received.count(b"1\r\nx\r\n") == MAX_CHUNKS + 1_000
    assert bench.desk.only_outcome.usage.estimate_reason == "an answer too large to read"
