"""The `usage` object of OpenAI and of those who speak its dialect.

OpenAI's Python library 3.54, whose types are made from its API description:
`types/completion_usage.py`, `types/responses/response_usage.py`,
`types/create_embedding_response.py`, `types/audio/transcription.py` (class UsageTokens). Details
are parts of the count that they detail; predictions that were rejected are in `completion_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from .counts import MAX_COUNT, PART_OF, Usage
from .metered import Call, missing
from .reader import Reader, fit_parts

_SEARCH_SIZES: Final = ("low", "medium", "high")

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)] | None


class _PlainInput(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: _Count = 0
    cache_write_tokens: _Count = 0
    audio_tokens: _Count = 0
    text_tokens: _Count = 0
    image_tokens: _Count = 0


class _PlainOutput(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: _Count = 0
    audio_tokens: _Count = 0
    text_tokens: _Count = 0
    accepted_prediction_tokens: _Count = 0
    rejected_prediction_tokens: _Count = 0


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """What nearly every answer's usage looks like: text, nothing that needs a second thought."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _PlainInput | None = None
    completion_tokens_details: _PlainOutput | None = None


_NO_INPUT_DETAILS: Final = _PlainInput()
_NO_OUTPUT_DETAILS: Final = _PlainOutput()


def _plain_usage(obj: object) -> Usage | None:
    """A quarter of the work of the full reading, which takes over where this returns None."""
    try:
        plain = msgspec.convert(obj, _Plain)
    except msgspec.ValidationError:
        return None
    prompt, output = plain.prompt_tokens, plain.completion_tokens
    given = plain.prompt_tokens_details or _NO_INPUT_DETAILS
    produced = plain.completion_tokens_details or _NO_OUTPUT_DETAILS
    cached, written = given.cached_tokens or 0, given.cache_write_tokens or 0
    reasoning = produced.reasoning_tokens or 0
    if (
        given.audio_tokens
        or given.image_tokens
        or produced.audio_tokens
        or not cached + written <= prompt <= MAX_COUNT
        or not reasoning <= output <= MAX_COUNT
        or plain.total_tokens != prompt + output
    ):
        return None
    return Usage(
        input=prompt - cached - written,
        cached_input=cached,
        cache_write_5m=written,
        output=output,
        reasoning=reasoning,
    )


def usage_from_openai(
    obj: object, *, input_bound: int | None = None, output_bound: int | None = None
) -> Usage:
    """Read an OpenAI-shaped `usage` object (chat, completions, embeddings, responses).

    `prompt_tokens` includes cached and cache-write LLM tokens, `completion_tokens` includes
    reasoning; where a provider counts reasoning beside the completion (its `total_tokens` shows
    it) it is added. A count that is missing or nonsense makes the whole usage "estimated"; it is
    then taken from `input_bound` / `output_bound` if given, and never silently as zero: callers
    without bounds must charge an estimated usage at the reservation. Raises nothing.
    """
    plain = _plain_usage(obj)
    if plain is not None:
        return plain
    return _full_usage(obj, input_bound, output_bound)


_INPUT_DETAILS: Final = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS: Final = (
    "completion_tokens_details",
    "output_tokens_details",
    "output_token_details",
)
# OpenAI's name first; the others are those of gateways and of Alibaba's Model Studio.
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_WRITES_BY_TTL: Final = (
    "cache_write_tokens_details",
    "cache_creation_by_ttl",
    "cache_creation_token_details",
    "cache_creation",
)


def _full_usage(obj: object, input_bound: int | None, output_bound: int | None) -> Usage:
    if not isinstance(obj, Mapping):
        reason = "usage is missing" if obj is None else f"usage is a {type(obj).__name__}"
        return missing(reason, Call(input_bound, output_bound))
    read = Reader()
    prompt = read.count(obj, "prompt_tokens", "input_tokens")
    if prompt is None:
        if not read.faults:
            read.fault("prompt_tokens is missing")
        prompt = input_bound or 0
    fields = _input_fields(read, obj, prompt)
    fields.update(_output_fields(read, obj, prompt, output_bound))
    extra = {name: fields.pop(name) for name in tuple(fields) if name in PART_OF}
    extra.update(_beside(read, obj))
    return read.usage(fields, extra)


def _input_fields(read: Reader, obj: Mapping[str, Any], prompt: int) -> dict[str, int]:
    details = read.section(obj, *_INPUT_DETAILS)
    cached = read.part(details, "cached_tokens")
    if not cached:
        # DeepSeek's name beside prompt_tokens; Anthropic's name as gateways pass it on.
        cached = read.part(obj, "prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = max(read.part(details, name) for name in _WRITTEN)
    if not written:
        written = read.part(obj, "cache_creation_input_tokens")
    by_ttl = read.section(details, *_WRITES_BY_TTL) or read.section(obj, "cache_creation")
    # Half an hour is OpenAI's default, billed like Anthropic's five minutes at the base write rate.
    write_5m = read.part(by_ttl, "ephemeral_5m_input_tokens")
    write_5m += read.part(by_ttl, "ttl_30m_tokens", "ephemeral_30m_input_tokens")
    write_12h = read.part(by_ttl, "ttl_12h_tokens", "ephemeral_12h_input_tokens")
    write_1h = read.part(by_ttl, "ephemeral_1h_input_tokens") + write_12h
    # What no time-to-live claims was written at the provider's default, the short one.
    if written and write_5m + write_1h > written:
        read.fault(f"cache writes by time-to-live exceed their sum ({written})")
    write_5m += max(0, written - write_5m - write_1h)
    fresh = prompt - cached - write_5m - write_1h
    if fresh < 0:
        read.fault(f"cached and cache-write counts exceed prompt_tokens ({prompt}) by {-fresh}")
        fresh = 0
    cached_kinds = read.section(details, "cached_tokens_details")
    cached_parts = {
        "cached_audio_input": read.part(cached_kinds, "audio_tokens"),
        "cached_image_input": read.part(cached_kinds, "image_tokens"),
    }
    for kind in ("audio_tokens", "image_tokens"):
        told, from_cache = details.get(kind), cached_kinds.get(kind)
        if type(told) is type(from_cache) is int and from_cache > told:
            read.fault(f"cached {kind} ({from_cache}) exceed {kind} ({told})")
    fit_parts(read, cached_parts, cached, "cached_tokens", overlap=0)
    # A kind's count includes those of its LLM tokens that came from the cache.
    parts = {
        "audio_input": read.part(details, "audio_tokens") - cached_parts["cached_audio_input"],
        "image_input": read.part(details, "image_tokens") - cached_parts["cached_image_input"],
        "video_input": read.part(details, "video_tokens"),
    }
    fit_parts(read, parts, fresh, "prompt_tokens", overlap=prompt - fresh)
    return {
        "input": fresh,
        "cached_input": cached,
        "cache_write_5m": write_5m,
        "cache_write_1h": write_1h,
        "cache_write_12h": write_12h,
        **cached_parts,
        **parts,
    }


def _output_fields(
    read: Reader, obj: Mapping[str, Any], prompt: int, bound: int | None
) -> dict[str, int]:
    details = read.section(obj, *_OUTPUT_DETAILS)
    total = read.count(obj, "total_tokens")
    known_faults = len(read.faults)
    output = read.count(obj, "completion_tokens", "output_tokens")
    if output is None:
        # Embeddings have no completion: their total equals the prompt.
        embedding = bound is None and len(read.faults) == known_faults
        if not (embedding and total in (None, prompt)):
            if len(read.faults) == known_faults:
                read.fault("completion_tokens is missing")
            output = bound or 0
        else:
            output = 0
    reasoning = read.part(details, "reasoning_tokens")
    if reasoning and total is not None and total == prompt + output + reasoning:
        output += reasoning
    elif reasoning > output:
        read.fault(f"reasoning_tokens ({reasoning}) exceed completion_tokens ({output})")
        output += reasoning
    elif total is not None and total != prompt + output and not read.faults:
        read.fault(f"total_tokens is {total}, but prompt and completion are {prompt + output}")
        # Some count in the total alone what they don't break down: all beyond the prompt is output.
        output = max(output, total - prompt)
    parts = {
        "audio_output": read.part(details, "audio_tokens"),
        "image_output": read.part(details, "image_tokens"),
        "video_output": read.part(details, "video_tokens"),
    }
    fit_parts(read, parts, output - reasoning, "completion_tokens", overlap=0)
    return {"output": output, "reasoning": reasoning, **parts}


def _beside(read: Reader, obj: Mapping[str, Any]) -> dict[str, int]:
    """What search models count beside the LLM tokens (Perplexity's names, and xAI's last one)."""
    found = {
        "citation": read.part(obj, "citation_tokens"),
        "search": read.part(obj, "num_search_queries"),
        "search_source": read.part(obj, "num_sources_used"),
    }
    size = obj.get("search_context_size")
    if size in _SEARCH_SIZES:
        found[f"request.{size}"] = 1
    return found
