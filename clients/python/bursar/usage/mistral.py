"""Mistral: chat and the like, conversations, OCR.

Mistral's Python library 3.7, made from its API description: `models/usageinfo.py`
(`prompt_audio_seconds`, `service_tier` within the usage), `conversationusageinfo.py`
(`connector_tokens`), `ocrusageinfo.py`. The library says nothing of where connectors' LLM tokens
are: they are input beside the prompt if the total says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .metered import Call, Dialect, Gathered, Metered, adding, tier_of
from .openai_answers import CHAT_FIELDS, fold_chat, identified, usage_in
from .reader import Reader, inner, text_of


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    read = Reader()
    beside = read.part(counted, "connector_tokens")
    seconds = read.seconds(counted, "prompt_audio_seconds") or 0
    prompt, total = counted.get("prompt_tokens"), counted.get("total_tokens")
    output = counted.get("completion_tokens")
    if (
        beside
        and type(prompt) is type(output) is type(total) is int
        and total == prompt + output + beside
    ):
        answer = {**answer, "usage": {**counted, "prompt_tokens": prompt + beside}}
    usage = adding(usage_in(answer, call), {"input_audio_second": seconds}, read)
    metered = identified(answer, usage)
    tier = tier_of(counted, "service_tier") or metered.service_tier
    return msgspec.structs.replace(metered, service_tier=tier)


def _fold_conversation(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """An event of a conversation: `conversation.response.done` holds the usage."""
    kind = text_of(event, "type") or name
    if kind == "conversation.response.error":
        gathered.error = text_of(event, "message", "code") or "no reason given"
    elif kind == "conversation.response.done":
        gathered.count("usage", event.get("usage"))
        gathered.final = event.get("usage") is not None


def _read_ocr(answer: Mapping[str, Any], call: Call) -> Metered:
    """OCR: pages; with an annotation asked for they cost what annotated pages do."""
    read = Reader()
    pages = read.count(inner(answer, "usage_info"), "pages_processed")
    if pages is None:
        read.fault("pages_processed is missing")
        pages = 0
    annotated = any(
        call.request.get(name) for name in ("document_annotation_format", "bbox_annotation_format")
    )
    meter = "annotated_page" if annotated else "page"
    return Metered(usage=read.usage({}, {meter: pages}), model=text_of(answer, "model"))


DIALECTS: Final = (
    Dialect("mistral_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("mistral_conversations", _read, (*CHAT_FIELDS, "type", "message"), _fold_conversation),
    Dialect("mistral_embeddings", _read, CHAT_FIELDS),
    Dialect("mistral_ocr", _read_ocr, ("usage_info", "model")),
)
