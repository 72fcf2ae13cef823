"""A client that costs little: raw HTTP/1.1 over kept connections, one call at a time on each."""

import asyncio
import json
import time
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import urlsplit

STREAM_END = b"0\r\n\r\n"
MODEL = "gpt-4o-mini"
OUTPUT_LLM_TOKENS = 100
CHUNKS = 20
CHUNK_DELAY_MS = 1
"""Between the chunks of a stream: each is read and written by itself, as from a real model."""
READ_LIMIT_BYTES = 1 << 20
LENGTHS = (10, 9, 12, 10, 40, 7, 11)
"""Sentences; some of these requests are as long as others, most are not."""


def requests(api_key: str, *, stream: bool, chunks: int = CHUNKS, **behaves: object) -> list[bytes]:
    """Chat completions of several lengths: apps never send the same bytes twice."""
    return [
        request(api_key, stream=stream, sentences=sentences, chunks=chunks) for sentences in LENGTHS
    ]


def request(
    api_key: str, *, stream: bool, sentences: int = 10, chunks: int = CHUNKS, **behaves: object
) -> bytes:
    """A chat completion; as a stream its answer comes in so many chunks. The simulated provider
    `behaves` so."""
    output = max(OUTPUT_LLM_TOKENS, chunks)
    body = {
        "model": MODEL,
        "max_tokens": output,
        "messages": [
            {"role": "system", "content": "You are terse. " * 10},
            {"role": "user", "content": "Say what you would say. " * sentences},
        ],
    }
    behaviour = {
        "output_llm_tokens": output,
        "chunk_llm_tokens": output // chunks,
        "chunk_delay_ms": CHUNK_DELAY_MS,
        **behaves,
    }
    if stream:
        body["stream"] = True
    data = json.dumps(body, separators=(",", ":")).encode()  # as the official SDK writes it
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {api_key}\r\ncontent-type: application/json\r\n"
        f"user-agent: benchmark/1\r\nx-simulate: {json.dumps(behaviour)}\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Caller:
    """Connections to one address, each busy with one call after the other."""

    def __init__(self, address: str, concurrency: int) -> None:
        parts = urlsplit(address)
        self._host, self._port = parts.hostname, parts.port
        self._concurrency = concurrency
        self._connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> "Caller":
        for _ in range(self._concurrency):
            self._connections.append(
                await asyncio.open_connection(self._host, self._port, limit=READ_LIMIT_BYTES)
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, writer in self._connections:
            writer.close()

    async def calls(self, message: bytes | Sequence[bytes], count: int) -> list[float]:
        """Send `message`, or several in turn, so often; the milliseconds each call took, to its
        last byte."""
        messages = (message,) if isinstance(message, bytes) else message
        left = count
        took: list[float] = []

        async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                sent = messages[left % len(messages)]
                began = time.perf_counter()
                writer.write(sent)
                await _answer(reader)
                took.append((time.perf_counter() - began) * 1_000)

        await asyncio.gather(*(work(*connection) for connection in self._connections))
        return took


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"expected status 200, got {head[:200]!r}")
    length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    if length:
        await reader.readexactly(int(length))
    else:
        await reader.readuntil(STREAM_END)
