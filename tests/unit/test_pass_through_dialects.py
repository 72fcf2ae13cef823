"""What goes through a sidecar in Anthropic's and Gemini's dialects, byte by byte."""

import gzip

import pytest

from tests.fakes.desk import KEY
from tests.fakes.raw_wire import AUTHORITY, RawBench, Recorded, directly, through, without
from tests.fakes.raw_wire import without_comment as without_cost

OF_REQUESTS = (b"connection:", b"accept-encoding:")
OF_ANSWERS = (b"connection:", b"keep-alive:")
OURS = (*OF_ANSWERS, b"x-bursar-", b"x-litellm-response-")
ANTHROPIC = {
    "name": "anthropic",
    "kind": "anthropic",
    "base_url": f"http://{AUTHORITY}",
    "api_key": KEY,
}
GEMINI = {**ANTHROPIC, "name": "gemini", "kind": "gemini"}


def request(target: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = (
        b"POST " + target + b" HTTP/1.1",
        b"Host: " + AUTHORITY.encode(),
        b"Accept-Encoding: gzip, deflate",
        b"Connection: keep-alive",
        b"Content-Type: application/json",
        *headers,
        b"Content-Length: %d" % len(body),
    )
    return b"\r\n".join((*lines, b"", body))


def message(body: bytes, target: bytes = b"/v1/messages") -> bytes:
    """As Anthropic's Python library writes it."""
    return request(
        target,
        body,
        b"User-Agent: Anthropic/Python 2.12.0",
        b"anthropic-version: 2023-06-01",
        b"anthropic-beta: fine-grained-tool-streaming-2025-05-14",
        b"X-Api-Key: " + KEY.encode(),
        b"X-Stainless-Helper-Method: stream",
    )


def content(body: bytes, method: bytes) -> bytes:
    """As Google's Python library writes it."""
    return request(
        b"/v1beta/models/gemini-2.5-flash:" + method,
        body,
        b"x-goog-api-client: google-genai-sdk/3.4.0 gl-python/3.11.7",
        b"x-goog-api-key: " + KEY.encode(),
    )


def answer(body: bytes, kind: bytes, *headers: bytes) -> bytes:
    lines = (
        b"HTTP/1.1 200 OK",
        b"Content-Type: " + kind,
        b"request-id: req_made_up",
        b"Server-Timing: gfet4t7; dur=412",
        b"Content-Length: %d" % len(body),
        *headers,
    )
    return b"\r\n".join((*lines, b"", body))


def streamed(*pieces: bytes) -> tuple[bytes, ...]:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nrequest-id: req_made_up\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    return (head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n")


MESSAGE = (
    b'{ "model":"claude-haiku-4-5", "max_tokens" :100,"unknown":{"b":1e-7,"a":0.10},\n'
    b' "messages":[{"role":"user","content":"gr\\u00fc\xc3\x9f Gott"}]}\n'
)
STREAMED = MESSAGE.replace(b'"max_tokens"', b'"stream": true, "max_tokens"')
USAGE = b'"usage": {"input_tokens": 10, "output_tokens": 20, "unknown": {}}'
ANSWERED = (
    b'{"id": "msg_1","model": "claude-haiku-4-5" ,"content":[{"type":"text","text":"\\/ \\u00fc"}],'
    + USAGE
    + b"}\n"
)
START = (
    b"event: message_start\n"
    b'data: {"type":"message_start","message":{"id":"msg_1","model":"claude-haiku-4-5",'
    b'"usage":{"input_tokens":10,"output_tokens":1}}      }\n\n'
)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
BLOCK = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""} }\n\n'
)
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"gr\\u00fc\xc3\x9f"}   }\n\n'
)
STOPPED = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    + USAGE
    + b"}\n\n"
)
END = b'event: message_stop\ndata: {"type":"message_stop"     }\n\n'

CONTENT = (
    b'{"contents": [{"parts": [{"text": "gr\\u00fc\xc3\x9f"}]}],\n "generationConfig":'
    b'{"temperature":1.0e0, "max_output_tokens": 100}}'
)
COUNTS = (
    b'"usageMetadata": {"promptTokenCount": 10,"candidatesTokenCount": 20,"totalTokenCount": 30}'
)
CHUNK = b'{"candidates": [{"content": {"parts": [{"text": "%b"}],"role": "model"},"index": 0%b}],'
NAMED = b'"modelVersion": "gemini-2.5-flash"}'
LAST = CHUNK % (b"\\u00fc", b',"finishReason": "STOP"') + COUNTS + b"," + NAMED
FIRST = CHUNK % (b"one", b"") + NAMED

SHAPES = {
    "a message": (ANTHROPIC, message(MESSAGE), (answer(ANSWERED, b"application/json"),)),
    "a message of a beta": (
        ANTHROPIC,
        message(MESSAGE, b"/v1/messages?beta=true&x=%2f"),
        (answer(ANSWERED, b"application/json"),),
    ),
    "a message with gzip": (
        ANTHROPIC,
        message(MESSAGE),
        (answer(gzip.compress(ANSWERED), b"application/json", b"Content-Encoding: gzip"),),
    ),
    "a streamed message": (
        ANTHROPIC,
        message(STREAMED),
        streamed(START + PING, BLOCK, PING, DELTA + DELTA, STOPPED, END),
    ),
    "content": (
        GEMINI,
        content(CONTENT, b"generateContent"),
        (answer(LAST, b"application/json; charset=UTF-8"),),
    ),
    "streamed content": (
        GEMINI,
        content(CONTENT, b"streamGenerateContent?alt=sse"),
        streamed(b"data: " + FIRST + b"\r\n\r\n", b"data: " + LAST + b"\r\n\r\n"),
    ),
    "streamed content as one array": (
        GEMINI,
        content(CONTENT, b"streamGenerateContent"),
        (answer(b"[" + FIRST + b"\n,\r\n" + LAST + b"\n]\n", b"application/json"),),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_exchange_is_the_same_through_a_sidecar_and_metered(shape: str) -> None:
    upstream, asked, answered = SHAPES[shape]
    recorded = Recorded((asked,), answered)
    bench = RawBench(upstream=upstream)
    direct, proxied = await directly(recorded), await through(recorded, bench)
    assert without(proxied.at_provider, OF_REQUESTS) == without(direct.at_provider, OF_REQUESTS)
    seen = without_cost(without(proxied.answer, OURS))
    assert seen == without(direct.answer, OF_ANSWERS)
    usage = bench.desk.only_outcome.usage
    assert (usage.is_exact, usage.input, usage.output) == (True, 10, 20)
