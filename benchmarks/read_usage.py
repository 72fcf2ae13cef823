"""What it takes to read an answer's usage, and to take in one chunk of a stream.

Against decoding the same JSON whole, which a reader that knows nothing of dialects does first.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from benchmarks.measuring import parsed, ratios, say, spread, title
from bursar.usage import read_stream, read_usage

MICROSECONDS = 1_000_000
WORDS = "A handful of words that an answer might well hold, said again and again. " * 30

CHAT = {
    "id": "chatcmpl-1",
    "model": "gpt-5.6",
    "choices": [{"index": 0, "message": {"content": WORDS}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 2006,
        "completion_tokens": 300,
        "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920},
        "completion_tokens_details": {"reasoning_tokens": 192},
    },
}
MESSAGE = {
    "id": "msg_1",
    "model": "claude-opus-5-5",
    "content": [{"type": "text", "text": WORDS}],
    "usage": {
        "input_tokens": 21,
        "cache_creation_input_tokens": 3000,
        "cache_read_input_tokens": 18000,
        "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000},
        "output_tokens": 393,
        "service_tier": "standard",
    },
}
GENERATED = {
    "candidates": [{"content": {"parts": [{"text": WORDS}]}, "finishReason": "STOP"}],
    "usageMetadata": {
        "promptTokenCount": 3000,
        "candidatesTokenCount": 51,
        "thoughtsTokenCount": 443,
        "totalTokenCount": 3494,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 3000}],
    },
    "modelVersion": "gemini-3.5-flash",
}
ANSWERS = {"openai_chat": CHAT, "anthropic_messages": MESSAGE, "gemini_generate": GENERATED}
CHUNK = {
    "id": "chatcmpl-1",
    "model": "gpt-5.6",
    "choices": [{"index": 0, "delta": {"content": "words"}, "finish_reason": None}],
}
DELTA = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "words"},
}
CHUNKS = {"openai_chat": CHUNK, "anthropic_messages": DELTA}


def took_us(work: Callable[[], Any], calls: int) -> float:
    """Microseconds of one call, the mean of `calls`."""
    began = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - began) * MICROSECONDS / calls


def contestants() -> dict[str, tuple[Callable[[], Any], bytes]]:
    """What is measured, by name, each with the bytes that it reads."""
    found: dict[str, tuple[Callable[[], Any], bytes]] = {}
    for dialect, answer in ANSWERS.items():
        body = msgspec.json.encode(answer)
        found[f"answer, {dialect}"] = partial(read_usage, dialect, body), body
    for dialect, chunk in CHUNKS.items():
        body = msgspec.json.encode(chunk)
        found[f"chunk, {dialect}"] = partial(read_stream(dialect).feed, body), body
    return found


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=15, calls=2_000)
    title("Reading usage")
    measured = contestants()
    took: dict[str, list[float]] = {name: [] for name in measured}
    bare: dict[str, list[float]] = {name: [] for name in measured}
    decode = msgspec.json.Decoder().decode
    for _ in range(option("repeats")):
        for name, (work, body) in measured.items():
            took[name].append(took_us(work, option("calls")))
            bare[name].append(took_us(partial(decode, body), option("calls")))
    for name in measured:
        say(name, spread(took[name]), "us")
        say(f"{name}, ratio", ratios(took[name], bare[name]), against="decoding its JSON")


if __name__ == "__main__":
    main()
