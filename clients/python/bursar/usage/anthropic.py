"""Anthropic's Messages API, whole answers and streams, and its endpoint that only counts.

Anthropic's Python library 2.12, whose types are made from its API description: `types/usage.py`,
`message_delta_usage.py` ("cumulative"), `raw_message_delta_event.py` ("Total input tokens in a
request is the summation of `input_tokens`, `cache_creation_input_tokens`, and
`cache_read_input_tokens`"), `output_tokens_details.py` ("Always <= `output_tokens`"),
`server_tool_usage.py`, `types/beta/beta_usage.py` and the entries of `iterations`.

Documentation on platform.claude.com: "Compaction at a token threshold", Understanding usage (to get
what is billed, sum across all entries of `iterations`; the top level leaves compactions out);
"Advisor tool", Usage and billing (an advisor is billed at its own model's rates and is in
`iterations` alone; of several iterations the top level has the input of the first only); "Token
counting", Pricing and rate limits (free to use); "Pricing", Web fetch tool ("no additional charges
beyond standard token costs").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .counts import Usage
from .metered import (
    Call,
    Dialect,
    Gathered,
    Metered,
    Part,
    counting,
    doubted,
    error_of,
    in_parts,
    missing,
    named_calls,
    tier_of,
)
from .reader import Reader, inner, text_of

_OWN_MODEL: Final = ("message", "compaction")


def read_messages(answer: Mapping[str, Any], call: Call) -> Metered:
    """A message. Speed "fast" is its service tier: it has rates of its own in every tier."""
    reported = answer.get("usage")
    error = error_of(answer)
    if reported is None and error:
        return _named(answer, missing(f"usage is missing from an error ({error})", call))
    usage, parts = _sampled(reported, call)
    counted: Mapping[str, Any] = reported if isinstance(reported, Mapping) else {}
    speed = tier_of(counted, "speed")
    return msgspec.structs.replace(
        _named(answer, usage),
        parts=parts,
        service_tier=speed or tier_of(counted, "service_tier"),
        region=tier_of(counted, "inference_geo"),
        tool_calls=named_calls(Reader(), inner(counted, "server_tool_use"), "_requests"),
    )


def _named(answer: Mapping[str, Any], usage: Usage) -> Metered:
    return Metered(usage=usage, model=text_of(answer, "model"), request_id=text_of(answer, "id"))


def _sampled(reported: object, call: Call) -> tuple[Usage, tuple[Part, ...]]:
    """The usage, and its samplings where the top level does not hold all of them."""
    whole = usage_from_anthropic(
        reported, input_bound=call.input_bound, output_bound=call.output_bound
    )
    if not isinstance(reported, Mapping) or not reported.get("iterations"):
        return whole, ()
    read = Reader()
    parts = []
    for entry in read.items(reported, "iterations"):
        kind = text_of(entry, "type")
        model = text_of(entry, "model")
        if kind not in _OWN_MODEL and not model:
            read.fault(f"an iteration of type {kind[:40]!r} names no model")
        parts.append(Part(model, usage_from_anthropic(entry)))
    if read.faults or not parts:
        return doubted(whole, "; ".join(read.faults)), ()
    kinds = {text_of(entry, "type") for entry in reported["iterations"]}
    if kinds == {"message"} and not any(part.model for part in parts):
        # Turns of the call's own model, which the top level sums up, or else holds the first of.
        only = in_parts(parts)[0]
        if _same(only, whole):
            return whole, ()
        if len(parts) == 1:
            more = max(whole, only, key=lambda usage: usage.total_llm_tokens)
            return doubted(more, "the only iteration says otherwise"), ()
    if whole.extra:
        # Searches are counted once, at the top level.
        first = msgspec.structs.replace(parts[0].usage, extra=whole.extra)
        parts[0] = Part(parts[0].model, first)
    summed, several = in_parts(parts)
    return (summed if whole.is_exact else doubted(summed, whole.estimate_reason)), several


def _same(summed: Usage, whole: Usage) -> bool:
    return all(getattr(summed, name) == getattr(whole, name) for name in _SUMMED)


# Reasoning and the lifetime of writes are broken down at the top level only.
_SUMMED: Final = ("input", "cached_input", "output")


def usage_from_anthropic(
    obj: object, *, input_bound: int | None = None, output_bound: int | None = None
) -> Usage:
    """Read the `usage` of a message: cached and cache-write LLM tokens stand beside the input.

    `cache_creation` breaks the writes down by time-to-live; what it does not claim was written for
    five minutes, the default. Thinking is in `output_tokens`. Searches of the server's own tool are
    counted, fetches cost nothing. Raises nothing; see `usage_from_openai` for what makes an
    estimate and for the bounds.
    """
    call = Call(input_bound, output_bound)
    if not isinstance(obj, Mapping):
        return missing(
            "usage is missing" if obj is None else f"usage is a {type(obj).__name__}", call
        )
    read = Reader()
    given, output = read.count(obj, "input_tokens"), read.count(obj, "output_tokens")
    for name, count in (("input_tokens", given), ("output_tokens", output)):
        if count is None and obj.get(name) is None:
            read.fault(f"{name} is missing")
    cached = read.part(obj, "cache_read_input_tokens")
    written = read.count(obj, "cache_creation_input_tokens")
    by_ttl = read.section(obj, "cache_creation")
    write_5m = read.part(by_ttl, "ephemeral_5m_input_tokens")
    write_1h = read.part(by_ttl, "ephemeral_1h_input_tokens")
    if written is not None and write_5m + write_1h > written:
        read.fault(f"cache writes by time-to-live exceed their sum ({written})")
    write_5m += max(0, (written or 0) - write_5m - write_1h)
    if given is None:
        given = max(0, (input_bound or 0) - cached - write_5m - write_1h)
    reasoning = read.part(read.section(obj, "output_tokens_details"), "thinking_tokens")
    if output is None:
        output = max(output_bound or 0, reasoning)
    return read.usage(
        {
            "input": given,
            "cached_input": cached,
            "cache_write_5m": write_5m,
            "cache_write_1h": write_1h,
            "output": output,
            "reasoning": reasoning,
        },
        {"search": read.part(read.section(obj, "server_tool_use"), "web_search_requests")},
    )


def _fold(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """An event: `message_start` holds the message so far, `message_delta` cumulative counts."""
    kind = text_of(event, "type") or name
    if kind == "error":
        gathered.error = error_of(event) or "no reason given"
    elif kind == "message_start":
        message = inner(event, "message")
        gathered.first(message, "id", "model")
        gathered.count("usage", message.get("usage"))
    elif kind == "message_delta":
        gathered.count("usage", event.get("usage"))
        # A delta without a reason to stop is one of several, as server tools send them.
        stopped = inner(event, "delta").get("stop_reason") is not None
        gathered.final = gathered.final or (stopped and event.get("usage") is not None)
    if kind in ("message_delta", "message_stop"):
        # Bedrock sends the same events, and its own counts with the last one.
        gathered.note(event, "amazon-bedrock-invocationMetrics")


FIELDS: Final = (
    *("id", "model", "usage", "error", "type", "message", "delta"),
    "amazon-bedrock-invocationMetrics",
)

DIALECTS: Final = (
    Dialect("anthropic_messages", read_messages, FIELDS, _fold),
    Dialect("anthropic_count", counting("input_tokens"), ("input_tokens", "error")),
)

fold_messages: Final = _fold
