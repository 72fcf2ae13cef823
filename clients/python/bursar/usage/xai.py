"""xAI: OpenAI's shapes, with its own counts of sources and tools, and the cost of the call.

docs.x.ai, "Cost Tracking", How it works: `cost_in_usd_ticks` is what was billed, all discounts and
tools included; 1 USD is 10^10 ticks (also `cost.py` of its Python library xai-sdk 1.21). "Pricing",
Tool Invocation Costs: web and X searches have one price, code execution, attachment and collection
searches others. In chat completions reasoning is beside `completion_tokens`, and the total shows
it; in responses it is within `output_tokens`. Both are read as the total says. `num_sources_used`
counts live-search sources (`usage.proto` of xai-proto, message SamplingUsage).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from .metered import Call, Dialect, Metered, adding, named_calls
from .openai_answers import (
    CHAT_FIELDS,
    RESPONSE_FIELDS,
    fold_chat,
    fold_responses,
    identified,
    usage_in,
)
from .reader import Reader, inner, text_of

TICKS_OF_USD: Final = 10
"""1 USD is ten to this power of ticks."""
# 10^9 USD: see `MAX_COST`.
_MOST_TICKS: Final = 10**19

_SEARCHES: Final = frozenset({"web_search", "x_search"})
_FREE: Final = frozenset({"mcp"})


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    read = Reader()
    details = read.section(counted, "server_side_tool_usage_details")
    calls = named_calls(read, details, "_calls")
    if not details and read.part(counted, "num_server_side_tools_used"):
        read.fault("tools were used, and not told which")
    extra = {"search": sum(calls.get(name, 0) for name in _SEARCHES)}
    for name, count in calls.items():
        if name == "file_search":
            extra[name] = count
        elif name not in _SEARCHES | _FREE:
            extra[f"tool_call.{name}"] = count
    usage = adding(usage_in(answer, call), extra, read)
    return msgspec.structs.replace(
        identified(answer, usage),
        reported_cost=_cost(counted),
        currency="USD" if _cost(counted) is not None else "",
        tool_calls=calls,
    )


def _cost(counted: Mapping[str, Any]) -> Decimal | None:
    ticks = counted.get("cost_in_usd_ticks")
    if type(ticks) is not int or not 0 <= ticks <= _MOST_TICKS:
        return None
    return Decimal(ticks).scaleb(-TICKS_OF_USD)


def _read_images(answer: Mapping[str, Any], call: Call) -> Metered:
    """Pictures: counted by the piece; the usage has but the cost."""
    pictures = answer.get("data")
    read = Reader()
    if not isinstance(pictures, list | tuple) or not pictures:
        read.fault("no pictures")
        pictures = ()
    cost = _cost(inner(answer, "usage"))
    return Metered(
        usage=read.usage({}, {"output_picture": len(pictures)}),
        model=text_of(answer, "model") or text_of(call.request, "model"),
        reported_cost=cost,
        currency="USD" if cost is not None else "",
    )


DIALECTS: Final = (
    Dialect("xai_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("xai_responses", _read, RESPONSE_FIELDS, fold_responses),
    Dialect("xai_images", _read_images, ("usage", "data", "model")),
)
