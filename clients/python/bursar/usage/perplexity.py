"""Perplexity: OpenAI's shape, with searches, citations and reasoning beside it, and the cost.

Perplexity's Python library 0.46, made from its API description: `types/shared/usage_info.py`,
`types/responses_usage.py`, `types/shared/embeddings_usage.py`. Reasoning and citations of Sonar
Deep Research stand beside prompt and completion, each at a rate of its own (docs.perplexity.ai,
"Pricing", Token Pricing): in its answers `total_tokens` is prompt and completion alone, and
`cost.output_tokens_cost` is the whole completion's. `total_cost` is what the call costs, in USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .counts import MAX_COUNT, Usage
from .metered import Call, Dialect, Metered, doubted
from .openai_answers import (
    CHAT_FIELDS,
    RESPONSE_FIELDS,
    fold_chat,
    fold_responses,
    identified,
    usage_in,
)
from .reader import Reader, inner, money_of, text_of


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    read = Reader()
    reasoning = read.part(counted, "reasoning_tokens")
    usage = usage_in(answer, call)
    if reasoning:
        usage = _with_reasoning(usage, reasoning)
    return _costed(answer, counted, _noted(usage, read))


def _with_reasoning(usage: Usage, reasoning: int) -> Usage:
    return msgspec.structs.replace(
        usage,
        output=min(usage.output + reasoning, MAX_COUNT),
        reasoning=min(usage.reasoning + reasoning, MAX_COUNT),
    )


def _noted(usage: Usage, read: Reader) -> Usage:
    return doubted(usage, "; ".join(read.faults)) if read.faults else usage


def _costed(answer: Mapping[str, Any], counted: Mapping[str, Any], usage: Usage) -> Metered:
    price = inner(counted, "cost")
    cost = money_of(price, "total_cost")
    currency = text_of(price, "currency") or "USD"
    return msgspec.structs.replace(
        identified(answer, usage),
        reported_cost=cost,
        currency=currency if cost is not None else "",
    )


def _read_responses(answer: Mapping[str, Any], call: Call) -> Metered:
    """A response of the agents' API: tools by their names, each with a number of invocations."""
    counted = inner(answer, "usage")
    read = Reader()
    details = dict(inner(counted, "input_tokens_details"))
    details.setdefault("cached_tokens", details.get("cache_read_input_tokens"))
    details.setdefault("cache_write_tokens", details.get("cache_creation_input_tokens"))
    if counted:
        answer = {**answer, "usage": {**counted, "input_tokens_details": details}}
    calls = {
        name: read.part(inner(tool), "invocation")
        for name, tool in inner(counted, "tool_calls_details").items()
        if isinstance(name, str) and len(name) <= _LONGEST_NAME and isinstance(tool, Mapping)
    }
    usage = _noted(usage_in(answer, call), read)
    extra = {
        "search" if name in _SEARCHES else f"tool_call.{name}": count
        for name, count in calls.items()
        if count
    }
    usage = msgspec.structs.replace(usage, extra={**usage.extra, **extra})
    return msgspec.structs.replace(
        _costed(answer, counted, usage),
        tool_calls={name: count for name, count in calls.items() if count},
    )


_SEARCHES: Final = frozenset({"web_search", "search_web"})
_LONGEST_NAME: Final = 64


def _read_embeddings(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    usage = usage_in(answer, call._replace(output_bound=None))
    return _costed(answer, counted, usage)


DIALECTS: Final = (
    Dialect("perplexity_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("perplexity_responses", _read_responses, RESPONSE_FIELDS, fold_responses),
    Dialect("perplexity_embeddings", _read_embeddings, ("id", "model", "usage", "error")),
)
