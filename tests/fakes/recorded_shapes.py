"""Exchanges in the shapes that SDKs and providers really send, odd ones among them.

Heads have the headers, the order and the case that official SDKs and providers behind a CDN use;
identifiers are made up. Bodies have what a re-encoding would lose: unknown fields, order, spaces,
escapes, numbers at the edge of floats, equal names in nested objects.
"""

import base64
import gzip
import json
import zlib

from tests.fakes.desk import KEY
from tests.fakes.raw_wire import AUTHORITY, Recorded

USAGE = (
    b'"usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30, "unknown": {}}'
)


def request(
    body: bytes, *headers: bytes, path: bytes = b"/v1/chat/completions", length: bool = True
) -> bytes:
    """A request as OpenAI's Python SDK writes it."""
    lines = [
        b"POST " + path + b" HTTP/1.1",
        b"Host: " + AUTHORITY.encode(),
        b"Accept-Encoding: gzip, deflate",
        b"Connection: keep-alive",
        b"Accept: application/json",
        b"Content-Type: application/json",
        b"User-Agent: OpenAI/Python 3.52.0",
        b"X-Stainless-Lang: python",
        b"x-stainless-retry-count: 0",
        b"Authorization: Bearer " + KEY.encode(),
        *headers,
    ]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join((*lines, b"", body))


def head(*framing: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    """An answer's head as OpenAI's servers behind their CDN write it."""
    lines = (
        b"HTTP/1.1 " + status,
        b"Date: Fri, 21 Nov 2025 12:00:00 GMT",
        b"Content-Type: " + kind,
        *framing,
        b"Connection: keep-alive",
        b"access-control-expose-headers: X-Request-ID",
        b"openai-organization: org-made-up",
        b"openai-processing-ms: 412",
        b"x-ratelimit-remaining-requests: 9999",
        b"x-request-id: req_made_up",
        b"Set-Cookie: __cf_bm=one; path=/; HttpOnly; Secure",
        b"Set-Cookie: _cfuvid=two; path=/; HttpOnly; Secure",
        b"X-Content-Type-Options: nosniff",
        b"Server: cloudflare",
        b"CF-RAY: 0000000000000000-FRA",
        b"X-Empty: ",
        b"X-Beyond-ASCII: \xe9\xff",
        b'alt-svc: h3=":443"; ma=86400',
    )
    return b"\r\n".join((*lines, b"", b""))


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def plain(body: bytes, *framing: bytes, status: bytes = b"200 OK") -> tuple[bytes, ...]:
    """A whole answer with its length."""
    return (head(b"Content-Length: %d" % len(body), *framing, status=status) + body,)


def chunks(*parts: bytes, trailers: bytes = b"", more: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:
    """A whole answer in chunks, each a piece of its own."""
    pieces = [chunk(part) for part in parts]
    start = head(b"Transfer-Encoding: chunked", *more)
    return (start, *pieces, b"0\r\n" + trailers + b"\r\n")


def stream(
    *events: bytes, kind: bytes = b"text/event-stream; charset=utf-8", **named: bytes
) -> tuple[bytes, ...]:
    """A stream of events, each a chunk of its own."""
    start = head(b"Transfer-Encoding: chunked", kind=kind)
    return (start, *(chunk(event) for event in events), b"0\r\n" + named.get("end", b"") + b"\r\n")


def asked(**fields: object) -> bytes:
    """A request's body, written oddly."""
    known = {"model": "gpt-4o-mini", "max_tokens": 100, **fields}
    messages = known.pop("messages", [{"role": "user", "content": "gr\u00fc\u00df Gott / \u0001"}])
    written = json.dumps(known)[:-1]
    return (
        written + ' ,\n\t"unknown_field":{"b":1e-7,"a":0.1000,"a":12345678901234567890}, '
        '"messages":' + json.dumps(messages) + "\n}\n"
    ).encode()


ANSWER = (
    b'{\n  "id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "x": 1.0e+02,\n  "choices": '
    b'[{"index": 0, "message": {"role": "assistant", "content": "gr\\u00fc\xc3\x9f \\/"}, '
    b'"finish_reason": "stop"}],  ' + USAGE + b"}\n"
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TOOL_ANSWER = (
    b'{"id":"c","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content"'
    b':null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\\n'
    b'  \\"a\\": 1 }"}}]},"finish_reason":"tool_calls"}],' + USAGE + b"}"
)
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
LOGPROBS = (
    b'{"id":"c","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content"'
    b':"a"},"logprobs":{"content":['
    + b",".join(b'{"token":"a","logprob":-%d.0e-05,"bytes":[97]}' % n for n in range(2_000))
    + b']},"finish_reason":"stop"}],'
    + USAGE
    + b"}"
)
IMAGE = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0\0\0\2\0\x08\2\0\0\0" + b"\7" * 300_000
)
VISION = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "what is it?"},
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64," + IMAGE.decode(), "detail": "high"},
            },
        ],
    }
]
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
EVENT = b'data: {"id":"c","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"%b"}}]}'
LAST = b'data: {"id":"c","choices":[],' + USAGE + b"}"
ERROR = b'{\n  "error": {"message": "Rate limit", "type": "requests", "code": null}\n}\n'

SHAPES: dict[str, Recorded] = {
    "plain, with its length": Recorded((request(asked()),), plain(ANSWER)),
    "plain, in chunks": Recorded(
        (request(asked()),), chunks(ANSWER[:1], ANSWER[1:90], ANSWER[90:])
    ),
    "plain, an answer byte by byte": Recorded(
        (request(asked()),), tuple(bytes([byte]) for byte in plain(ANSWER)[0])
    ),
    "a request byte by byte": Recorded(
        tuple(bytes([byte]) for byte in request(asked())), plain(ANSWER)
    ),
    "an answer with gzip": Recorded(
        (request(asked()),), plain(gzip.compress(ANSWER), b"Content-Encoding: gzip")
    ),
    "an answer with deflate, in chunks": Recorded(
        (request(asked()),), chunks(zlib.compress(ANSWER), more=(b"content-encoding: DEFLATE",))
    ),
    "an answer that only claims to be gzip": Recorded(
        (request(asked()),), plain(ANSWER, b"Content-Encoding: gzip")
    ),
    "an answer with a coding nobody asked for": Recorded(
        (request(asked()),), plain(b"\x0b\x02\x80brotli\x03", b"Content-Encoding: br")
    ),
    "a request with gzip": Recorded(
        (request(gzip.compress(asked()), b"Content-Encoding: gzip"),), plain(ANSWER)
    ),
    "a request with deflate": Recorded(
        (request(zlib.compress(asked()), b"content-encoding: Deflate"),), plain(ANSWER)
    ),
    "tool calls": Recorded((request(asked(tools=TOOLS)),), plain(TOOL_ANSWER)),
    "structured outputs": Recorded((request(asked(response_format=SCHEMA)),), plain(ANSWER)),
    "log probabilities": Recorded(
        (request(asked(logprobs=True, top_logprobs=5)),), chunks(LOGPROBS[:9_000], LOGPROBS[9_000:])
    ),
    "an image": Recorded((request(asked(messages=VISION)),), plain(ANSWER)),
    "embeddings": Recorded(
        (
            request(
                b'{"input" : ["a","b"],"model":"text-embedding-3-small", "dimensions":5}',
                path=b"/v1/embeddings",
            ),
        ),
        plain(b'{"data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":2,"total_tokens":2}}'),
    ),
    "a query with odd escapes": Recorded(
        (request(asked(), path=b"/v1/chat/completions?api-version=2024%2D01&x=%2f&&y=a+b%20"),),
        plain(ANSWER),
    ),
    "repeated and unknown headers": Recorded(
        (
            request(
                asked(),
                b"X-Repeated: 1",
                b"x-repeated: 2",
                b"X-REPEATED: 1",
                b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                b"X-Empty: ",
                b"X-Beyond-ASCII: \xe9",
                b"OpenAI-Beta: assistants=v2",
            ),
        ),
        plain(ANSWER),
    ),
    "a stream": Recorded(
        (request(asked(**STREAMED)),),
        stream(EVENT % b"one\n\n"[:3] + b"\n\n", LAST + b"\n\n", b"data: [DONE]\n\n"),
    ),
    "a stream with comments, keep-alives, names, ids and times": Recorded(
        (request(asked(**STREAMED)),),
        stream(
            b": welcome\n\n",
            b"event: delta\nid: 7\nretry: 1000\n" + EVENT % b"x" + b"\n\n",
            b":\n\n",
            b": keep-alive\n\n",
            b"data\n\n",
            b'data: {"unknown": [1,\ndata: 2]}\n\n',
            EVENT % b"y" + b"\n\n" + EVENT % b"z" + b"\n\n",
            LAST + b"\n\n",
            b"data: [DONE]\n\n",
        ),
    ),
    "a stream with carriage returns": Recorded(
        (request(asked(**STREAMED)),),
        stream(
            b"\xef\xbb\xbf" + EVENT % b"x" + b"\r\n\r\n",
            EVENT % b"y" + b"\r\r",
            LAST + b"\r\n\r\n",
            b"data: [DONE]\r\n\r\n",
        ),
    ),
    "a stream of tool calls": Recorded(
        (request(asked(tools=TOOLS, **STREAMED)),),
        stream(
            b'data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"i",'
            b'"function":{"name":"f","arguments":"{\\"a"}}]}}]}\n\n',
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n',
            LAST + b"\n\n",
            b"data: [DONE]\n\n",
        ),
    ),
    "a stream with an error in it": Recorded(
        (request(asked(**STREAMED)),),
        stream(EVENT % b"x" + b"\n\n", b'data: {"error":{"message":"no"}}\n\n'),
    ),
    "a stream without its last event": Recorded(
        (request(asked(**STREAMED)),), stream(EVENT % b"x" + b"\n\n", LAST + b"\n\n")
    ),
    "a stream of another kind": Recorded(
        (request(asked(**STREAMED)),), stream(ANSWER[:50], ANSWER[50:], kind=b"application/json")
    ),
    "trailers that the app asked for": Recorded(
        (request(asked(), b"TE: trailers", b"Connection: TE"),),
        chunks(ANSWER, trailers=b"X-Sum: 1\r\nx-sum: 2\r\n", more=(b"Trailer: X-Sum",)),
    ),
    "trailers after a stream": Recorded(
        (request(asked(**STREAMED), b"te: trailers", b"Connection: TE"),),
        stream(LAST + b"\n\n", b"data: [DONE]\n\n", end=b"X-Sum: 1\r\n"),
    ),
    "an interim answer": Recorded(
        (request(asked()),),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nX-Y: z\r\n\r\n", *plain(ANSWER)),
    ),
    "a reason of its own": Recorded((request(asked()),), plain(ANSWER, status=b"200 Fine By Me")),
    "no reason at all": Recorded((request(asked()),), plain(ANSWER, status=b"200 ")),
    "an unusual status": Recorded((request(asked()),), plain(ANSWER, status=b"299 Odd")),
    "a refusal": Recorded(
        (request(asked()),),
        plain(ERROR, b"Retry-After: 7", b"x-should-retry: true", status=b"429 Too Many Requests"),
    ),
    "a refusal with gzip": Recorded(
        (request(asked()),),
        plain(gzip.compress(ERROR), b"Content-Encoding: gzip", status=b"500 Oops"),
    ),
    "a redirection": Recorded(
        (request(asked()),),
        plain(b"", b"Location: https://e/x?y", status=b"307 Temporary Redirect"),
    ),
    "nothing new": Recorded(
        (request(asked()),), (b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nX-A: b\r\n\r\n',)
    ),
    "nothing": Recorded((request(asked()),), (b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",)),
}
