"""OpenRouter: OpenAI's shape, and what the call costs.

openrouter.ai, documentation, "Usage Accounting": every answer has `usage`, a stream in its last
message; `cost` is "the total amount charged to your account", in credits, whose "base currency is
US dollars" (FAQ, What purchase options exist?); `cost_details.upstream_inference_cost` is what the
provider behind it charges, and applies to requests with a key of one's own (`is_byok`). Cached and
written LLM tokens are in `prompt_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .metered import Call, Dialect, Metered, adding, tier_of
from .openai_answers import (
    CHAT_FIELDS,
    RESPONSE_FIELDS,
    fold_chat,
    fold_responses,
    identified,
    read_responses,
    usage_in,
)
from .reader import Reader, inner, money_of


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    metered = identified(answer, usage_in(answer, call))
    read = Reader()
    searches = read.part(inner(counted, "server_tool_use"), "web_search_requests")
    usage = adding(metered.usage, {"search": searches}, read)
    return _costed(msgspec.structs.replace(metered, usage=usage), counted)


def _read_responses(answer: Mapping[str, Any], call: Call) -> Metered:
    return _costed(read_responses(answer, call), inner(answer, "usage"))


def _costed(metered: Metered, counted: Mapping[str, Any]) -> Metered:
    cost = money_of(counted, "cost")
    upstream = money_of(inner(counted, "cost_details"), "upstream_inference_cost")
    return msgspec.structs.replace(
        metered,
        service_tier=metered.service_tier or tier_of(counted, "service_tier"),
        reported_cost=cost,
        upstream_cost=upstream if counted.get("is_byok") is True else None,
        currency="USD" if cost is not None else "",
    )


DIALECTS: Final = (
    Dialect("openrouter_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("openrouter_completions", _read, CHAT_FIELDS, fold_chat),
    Dialect("openrouter_responses", _read_responses, RESPONSE_FIELDS, fold_responses),
)
