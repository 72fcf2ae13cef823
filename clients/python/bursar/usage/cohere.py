"""Cohere: chat, embeddings, reranking and parsing, in both versions of its API.

Cohere's Python library 7.3, made from its API description: `types/usage.py`,
`usage_billed_units.py`, `api_meta.py`, `api_meta_billed_units.py`, `chat_message_end_event.py`,
`chat_stream_end_event.py`. What is billed is in `billed_units` ("The number of billed input
tokens"), what went through the model in `tokens`. `cached_tokens` are "prompt tokens that hit the
inference cache".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .counts import Usage
from .metered import Call, Dialect, Gathered, Metered, missing
from .reader import Reader, inner, text_of


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    """An answer: version 2 counts chats in `usage`, everything else in `meta`."""
    counted = answer.get("usage") if answer.get("usage") is not None else answer.get("meta")
    return Metered(
        usage=_usage(counted, call),
        model=text_of(answer, "model"),
        request_id=text_of(answer, "id", "generation_id", "response_id"),
    )


def _usage(counted: object, call: Call) -> Usage:
    if not isinstance(counted, Mapping):
        reason = "usage is missing" if counted is None else f"usage is a {type(counted).__name__}"
        return missing(reason, call)
    read = Reader()
    billed = read.section(counted, "billed_units")
    processed = read.section(counted, "tokens")
    if not any(billed.get(name) is not None for name in _BILLED):
        # An answer that tells no billed units: what was processed, which is no less.
        billed = processed
    if not any(billed.get(name) is not None for name in _BILLED):
        read.fault("billed_units are missing")
    given = read.count(billed, "input_tokens")
    pictures = read.part(billed, "image_tokens")
    texts = read.count(billed, "text_tokens")
    if given is None:
        given = (texts or 0) + pictures
        if not any(billed.get(name) is not None for name in _BILLED):
            given = call.input_bound or 0
    elif pictures and texts is not None and given != texts + pictures:
        read.fault(f"input_tokens is {given}, but its kinds are {texts + pictures}")
        given = max(given, texts + pictures)
    elif pictures and texts is None:
        # Nobody says whether the pictures are within; beside them is never too little.
        read.fault("image_tokens are within input_tokens or beside them")
        given += pictures
    cached = min(read.part(counted, "cached_tokens"), given)
    extra = {
        "image_input": min(pictures, given - cached),
        "query": read.part(billed, "search_units"),
        "classification": read.part(billed, "classifications"),
        # Pictures given are their LLM tokens where those are told, and pieces where not.
        "input_picture": 0 if pictures else read.part(billed, "images"),
        "page": read.part(billed, "pages"),
    }
    output = read.part(billed, "output_tokens")
    if read.faults:
        output = max(output, call.output_bound or 0)
    return read.usage({"input": given - cached, "cached_input": cached, "output": output}, extra)


_BILLED: Final = (
    *("input_tokens", "output_tokens", "image_tokens", "text_tokens"),
    *("search_units", "classifications", "images", "pages"),
)


def _fold(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """An event of either version: `message-end` and `stream-end` hold the usage."""
    kind = text_of(event, "type", "event_type") or name
    if kind in ("message-start", "stream-start"):
        gathered.first(event, "id", "generation_id")
    elif kind == "message-end":
        delta = inner(event, "delta")
        gathered.error = text_of(delta, "error")
        gathered.first(event, "id")
        gathered.count("usage", delta.get("usage"))
        gathered.final = delta.get("usage") is not None
    elif kind == "stream-end":
        response = inner(event, "response")
        if text_of(event, "finish_reason").startswith("ERROR"):
            gathered.error = text_of(event, "finish_reason")
        gathered.first(response, "generation_id", "response_id")
        gathered.count("meta", response.get("meta"))
        gathered.final = response.get("meta") is not None


_FIELDS: Final = (
    *("usage", "meta", "model", "id", "generation_id", "response_id"),
    *("type", "event_type", "delta", "response", "finish_reason"),
)

DIALECTS: Final = (
    Dialect("cohere_v1", _read, _FIELDS, _fold),
    Dialect("cohere_v2", _read, _FIELDS, _fold),
)
