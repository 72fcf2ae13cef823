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
from .metered import Call, Dialect, Metered, adding, named_calls
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
    usage = adding(usage_in(answer, call), {}, read)
    if reasoning:
        usage = msgspec.structs.replace(
            usage,
            output=min(usage.output + reasoning, MAX_COUNT),
            reasoning=min(usage.reasoning + reasoning, MAX_COUNT),
        )
    return _costed(answer, counted, usage)


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
    told = inner(counted, "tool_calls_details")
    calls = named_calls(read, {name: inner(told, name).get("invocation") for name in told}, "")
    extra: dict[str, int] = {}
    for name, count in calls.items():
        meter = "search" if name in _SEARCHES else f"tool_call.{name}"
        extra[meter] = extra.get(meter, 0) + count
    usage = adding(usage_in(answer, call), extra, read)
    return msgspec.structs.replace(
        _costed(answer, counted, usage),
        tool_calls=calls,
    )


_SEARCHES: Final = frozenset({"web_search", "search_web"})


def _read_embeddings(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    usage = usage_in(answer, call._replace(output_bound=None))
    return _costed(answer, counted, usage)


DIALECTS: Final = (
    Dialect("perplexity_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("perplexity_responses", _read_responses, RESPONSE_FIELDS, fold_responses),
    Dialect("perplexity_embeddings", _read_embeddings, ("id", "model", "usage", "error")),
)
