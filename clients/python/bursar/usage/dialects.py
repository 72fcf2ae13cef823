"""All dialects by their names, and the two ways to read one: a whole answer, or a stream.

A provider's module lists its dialects; adding one is a line here (see docs/usage.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from . import (
    anthropic,
    bedrock,
    cohere,
    dashscope,
    deepseek,
    gemini,
    groq,
    mistral,
    ollama,
    openai_answers,
    openai_media,
    openrouter,
    perplexity,
    xai,
)
from .metered import Call, Dialect, Metered, Stream, decoder, missing

_FAMILIES: Final = (
    openai_answers,
    openai_media,
    anthropic,
    gemini,
    bedrock,
    mistral,
    deepseek,
    dashscope,
    xai,
    groq,
    cohere,
    perplexity,
    openrouter,
    ollama,
)

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {dialect.name: dialect for family in _FAMILIES for dialect in family.DIALECTS}
)


class UnknownDialectError(ValueError):
    """No dialect has that name; the message lists those that there are."""


def read_usage(
    dialect: str,
    answer: Mapping[str, Any] | bytes | str,
    *,
    request: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    input_bound: int | None = None,
    output_bound: int | None = None,
) -> Metered:
    """What an answer says of its call.

    `answer` is the body, decoded or not; bytes and text are decoded with exact decimals, and only
    in the fields that the dialect reads. `request` (the decoded body sent) and `headers` (the
    answer's) are needed by dialects whose answers don't say it all: `openai_images` of DALL-E,
    `openai_speech`, `mistral_ocr`, `bedrock_invoke`. `input_bound` and `output_bound` (LLM tokens)
    stand in for counts that are missing or nonsense.

    Raises UnknownDialectError, and nothing because of what a provider sent: an answer that can't
    be read, or taken at its word, makes an estimate that says why.
    """
    reading = _dialect(dialect)
    call = Call(input_bound, output_bound, request or {}, headers or {})
    decoded: object = answer
    if isinstance(answer, bytes | str):
        no_json = reading.bodiless and not _is_object(answer)
        decoded = {} if no_json else decoder(reading)(answer)
    if isinstance(decoded, str):
        return Metered(usage=missing(decoded, call))
    if not isinstance(decoded, Mapping):
        kind = type(decoded).__name__
        return Metered(usage=missing(f"the answer is a {kind}, not an object", call))
    return reading.read(decoded, call)


def _is_object(answer: bytes | str) -> bool:
    start = answer[:_LOOKED_AT].lstrip()
    return start[:1] in (b"{", "{")


_LOOKED_AT: Final = 64


def read_stream(
    dialect: str,
    *,
    request: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    input_bound: int | None = None,
    output_bound: int | None = None,
) -> Stream:
    """A reader of the events of one stream; the arguments are those of `read_usage`.

    Raises UnknownDialectError, also for a dialect that has no streams.
    """
    reading = _dialect(dialect)
    if reading.fold is None:
        streamed = ", ".join(name for name, known in DIALECTS.items() if known.fold is not None)
        raise UnknownDialectError(f"dialect {dialect[:40]!r} has no streams; {streamed} have")
    return Stream(reading, Call(input_bound, output_bound, request or {}, headers or {}))


def _dialect(name: str) -> Dialect:
    found = DIALECTS.get(name)
    if found is None:
        raise UnknownDialectError(
            f"dialect {str(name)[:40]!r} is unknown; expected one of {', '.join(DIALECTS)}"
        )
    return found
