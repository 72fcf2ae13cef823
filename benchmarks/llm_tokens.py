"""What bounds and counts of LLM tokens cost, against decoding the JSON of the same request.

A request with prose and code of this repository, one with an image of a megabyte, and a stream's
text as the counting process gets it. Times are of this process's CPU; the same bytes in turn.
"""

import asyncio
import base64
import json
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.measuring import parsed, ratios, resident_mb, say, spread, title
from bursar.llm_tokens import O200K, count_request_llm_tokens, encoding, text_bound
from bursar_sidecar.counting.counter import SharedCounter, StartedProcess
from bursar_sidecar.counting.frames import Text
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.openai import CHAT
from bursar_sidecar.http_messages import Request
from bursar_sidecar.input_bounds import request_bound

MODEL = "gpt-4o"
ROOT = Path(__file__).parents[1]
MICROSECONDS = 1_000_000
IMAGE_BYTES = 1_000_000


def read(body: bytes) -> Facts:
    """The facts of a chat request."""
    return CHAT.read(Request(b"POST", b"/", [], body), "")


def prose() -> str:
    """Some twenty kilobytes of what people send: prose and code."""
    files = ("docs/lending.md", "sidecar/bursar_sidecar/attempt.py")
    return "\n".join((ROOT / name).read_text() for name in files)


def request(content: Any) -> bytes:
    """A chat request in JSON."""
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": MODEL, "messages": messages}, separators=(",", ":")).encode()


def image_request() -> bytes:
    """A request with a picture of a megabyte."""
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 2_000, 1_500)
    data = base64.b64encode(head + bytes(IMAGE_BYTES)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    return request([{"type": "text", "text": "What is this?"}, part])


def cpu_us(work: Callable[[], Any], calls: int) -> float:
    """CPU microseconds of one call, the mean of `calls`."""
    began = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - began) * MICROSECONDS / calls


def in_process(repeats: int) -> None:
    """Bounds and counts in this process."""
    body, pictured, text = request(prose()), image_request(), prose()
    facts = read(body)
    messages = bytes(facts.fields["messages"])
    tokenizer = encoding(O200K)
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "json": (lambda: msgspec.json.decode(body), 200),
        "text bound": (lambda: text_bound(messages), 200),
        "facts and bound": (
            lambda: request_bound(read(body), MODEL),
            200,
        ),
        "bare tiktoken": (lambda: tokenizer.encode_ordinary(text), 5),
        "count of the request": (lambda: count_request_llm_tokens(body), 5),
        "json, image": (lambda: msgspec.json.decode(pictured), 20),
        "facts and bound, image": (
            lambda: request_bound(read(pictured), MODEL),
            20,
        ),
    }
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, (work, calls) in works.items():
            took[name].append(cpu_us(work, calls))
    kilobytes = len(body) / 1_000
    say("request", f"{kilobytes:.1f}", "kB")
    for name in ("json", "text bound", "facts and bound", "bare tiktoken", "count of the request"):
        say(name, spread([us / kilobytes for us in took[name]]), "us/kB")
    say("text bound, ratio", ratios(took["text bound"], took["json"]), against="decoding the JSON")
    counted = ratios(took["count of the request"], took["json"])
    say("count of the request, ratio", counted, against="decoding the JSON")
    bare = ratios(took["count of the request"], took["bare tiktoken"])
    say("count of the request, ratio", bare, against="bare tiktoken of its text", target="<= 1.1")
    bound = ratios(took["facts and bound, image"], took["json, image"])
    say("facts and bound with an image, ratio", bound, against="decoding the JSON")
    truth = count_request_llm_tokens(body).llm_tokens
    most = request_bound(facts, MODEL) or 0
    say("bound over the truth", f"{most / truth:.2f}")
    say("bytes over the truth", f"{len(body) / truth:.2f}")
    say(
        "bound of the image",
        request_bound(read(pictured), MODEL),
        "LLM tokens",
    )


async def through_the_process(repeats: int) -> None:
    """A stream's text, counted by the counting process: the first count, then others."""
    pieces = prose()[:8_000]
    with tempfile.TemporaryDirectory() as directory:
        started = StartedProcess(Path(directory))
        counter = SharedCounter(started.connect, time.monotonic)
        took: list[float] = []
        for number in range(repeats + 1):
            data = f"{number} {pieces}".encode()
            ends = tuple(range(5, len(data), 5))
            began = time.perf_counter()
            assert await counter.count(O200K, (Text(data, ends),), b"", 60.0) is not None
            took.append((time.perf_counter() - began) * 1_000)
        say("first count, the process's start included", f"{took[0]:.0f}", "ms")
        say("count of 8 kB in pieces of 5 B, round trip", spread(took[1:]), "ms")
        say("memory of the counting process", f"{resident_mb(started.running()[0]):.0f}", "MB")
        counter.close()


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=15)
    title("LLM tokens: bounds and counts")
    in_process(option("repeats"))
    asyncio.run(through_the_process(option("repeats")))


if __name__ == "__main__":
    main()
