"""Groq: OpenAI's shape; in streams the usage is in `x_groq` of the last chunk.

Groq's Python library 1.7, made from its API description: `types/completion_usage.py` (times of
queue and work beside the counts), `types/chat/chat_completion_chunk.py` (class XGroq: `usage` only
in the final chunk, `error` where a stream was stopped early), `chat_completion.py` (there
`x_groq.usage` counts the hardware's cache and is no usage; `usage_breakdown` is of compound
systems, by model).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .metered import Call, Dialect, Gathered, Metered, Part, in_parts
from .openai import usage_from_openai
from .openai_answers import CHAT_FIELDS, fold_usage, identified, usage_in
from .reader import inner, listed, text_of


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    """An answer; of a compound system each model's usage is a part, priced at its own rates."""
    metered = identified(answer, usage_in(answer, call))
    breakdown = inner(answer, "usage_breakdown") or inner(answer, "x_groq", "usage_breakdown")
    parts = [
        Part(text_of(one, "model"), usage_from_openai(one.get("usage")))
        for one in listed(breakdown, "models")
    ]
    if parts:
        usage, several = in_parts(parts)
        metered = msgspec.structs.replace(metered, usage=usage, parts=several)
    return msgspec.structs.replace(
        metered, request_id=text_of(inner(answer, "x_groq"), "id") or metered.request_id
    )


def _fold(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    own = inner(event, "x_groq")
    if own.get("error"):
        gathered.error = text_of(own, "error") or "no reason given"
    fold_usage(gathered, event, own.get("usage") or event.get("usage"))
    if own.get("usage_breakdown"):
        gathered.note(own, "usage_breakdown")


DIALECTS: Final = (Dialect("groq_chat", _read, (*CHAT_FIELDS, "x_groq", "usage_breakdown"), _fold),)
