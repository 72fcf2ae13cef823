"""Alibaba Cloud's Model Studio (DashScope): OpenAI's shapes, and caches of two prices.

Model Studio, "Context cache": implicit hits cost a fifth of input; of an explicit cache or a
session's (`cache_type` is "ephemeral") writes cost more than input (`cache_creation_input_tokens`)
and hits a tenth (`cached_tokens`). Both are within the prompt. A response tells its writes in
`x_details`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .metered import Call, Dialect, Metered, adding
from .openai_answers import (
    CHAT_FIELDS,
    RESPONSE_FIELDS,
    fold_chat,
    fold_responses,
    identified,
    usage_in,
)
from .reader import inner, listed, text_of

_EXPLICIT: Final = "ephemeral"


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    return _with_cache(answer, inner(answer, "usage", "prompt_tokens_details"), call)


def _read_responses(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    for detail in listed(counted, "x_details"):
        told = inner(detail, "prompt_tokens_details")
        if told:
            merged = {**inner(counted, "input_tokens_details"), **told}
            answer = {**answer, "usage": {**counted, "input_tokens_details": merged}}
    return _with_cache(answer, inner(answer, "usage", "input_tokens_details"), call)


def _with_cache(answer: Mapping[str, Any], details: Mapping[str, Any], call: Call) -> Metered:
    usage = usage_in(answer, call)
    if usage.cached_input and text_of(details, "cache_type") == _EXPLICIT:
        usage = adding(usage, {"explicit_cached_input": usage.cached_input})
    return identified(answer, usage)


DIALECTS: Final = (
    Dialect("dashscope_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("dashscope_responses", _read_responses, RESPONSE_FIELDS, fold_responses),
)
