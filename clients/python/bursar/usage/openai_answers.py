"""Answers of OpenAI's API, and of Azure's, that hold text: whole ones and streams.

OpenAI's Python library 3.54, whose types are made from its API description:
`types/chat/chat_completion.py`, `chat_completion_chunk.py`, `types/completion.py`,
`types/create_embedding_response.py`, `types/moderation_create_response.py`,
`types/responses/response.py` (classes Response and ToolUsage) and its events. With
`stream_options.include_usage` usage is in the last chunk, whose `choices` are empty; others send
it with every chunk, each replacing the one before.
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
    adding,
    error_of,
    in_parts,
    missing,
    tier_of,
)
from .openai import usage_from_openai
from .reader import Reader, inner, listed, text_of

CHAT_FIELDS: Final = ("id", "model", "service_tier", "usage", "choices", "error")


def read_chat(answer: Mapping[str, Any], call: Call) -> Metered:
    """A chat completion, or a text completion of the older endpoint."""
    return identified(answer, usage_in(answer, call))


def usage_in(answer: Mapping[str, Any], call: Call) -> Usage:
    """The `usage` object of an answer; an estimate that names the error where there is one."""
    reported = answer.get("usage")
    error = error_of(answer)
    if reported is None and error:
        return missing(f"usage is missing from an error ({error})", call)
    return usage_from_openai(
        reported, input_bound=call.input_bound, output_bound=call.output_bound or None
    )


def identified(answer: Mapping[str, Any], usage: Usage) -> Metered:
    """`usage` with what an OpenAI-shaped answer says of the call."""
    return Metered(
        usage=usage,
        model=text_of(answer, "model"),
        request_id=text_of(answer, "id"),
        service_tier=tier_of(answer, "service_tier"),
    )


def fold_chat(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """A chunk: final once usage came with or after the end of all choices."""
    fold_usage(gathered, event, event.get("usage"))


def fold_usage(gathered: Gathered, event: Mapping[str, Any], usage: object) -> None:
    """`fold_chat` for a provider that keeps `usage` in a place of its own."""
    gathered.error = gathered.error or error_of(event)
    gathered.first(event, "id")
    gathered.note(event, "model", "service_tier")
    finished = gathered.choices(event, "choices", "finish_reason")
    if usage is not None:
        gathered.count("usage", usage)
        gathered.final = finished or not event.get("choices")
    elif not finished:
        # More is being written than was counted.
        gathered.final = False


def _read_embeddings(answer: Mapping[str, Any], call: Call) -> Metered:
    """Embeddings: `usage` has no completion, and the total is the prompt."""
    return identified(answer, usage_in(answer, call._replace(output_bound=None)))


def _read_moderation(answer: Mapping[str, Any], call: Call) -> Metered:
    """A moderation, which is free and counts nothing.

    OpenAI, Moderation guide (first paragraph): "The moderation endpoint is free to use".
    """
    if error_of(answer):
        return identified(answer, missing(f"an error ({error_of(answer)})", call))
    return identified(answer, Usage())


RESPONSE_FIELDS: Final = (
    *("id", "model", "service_tier", "usage", "output", "tool_usage", "tools", "error"),
    *("type", "response", "code", "message"),
)
_LAST_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed")


def read_responses(answer: Mapping[str, Any], call: Call) -> Metered:
    """A response of the Responses API: LLM tokens, and what its hosted tools cost beside them.

    `tool_usage` (class ToolUsage) counts billable searches, opening a page not among them, and the
    LLM tokens of pictures, which are the picture model's and not in `usage`. Where it is left out
    the calls in `output` are counted. A code interpreter bills by container, whatever the number of
    its calls; a container of an earlier response is counted again (never too little).
    """
    read = Reader()
    calls = _hosted_calls(read, answer)
    if calls["image_generation"] and not inner(answer, "tool_usage", "image_gen"):
        read.fault("pictures were made whose LLM tokens are not told")
    extra = {
        "search": calls["web_search"],
        "tool_session": calls.pop("container"),
        "file_search": calls["file_search"],
    }
    usage = adding(usage_in(answer, call), extra, read)
    metered = identified(answer, usage)
    picture = picture_usage(inner(answer, "tool_usage", "image_gen"), call)
    if picture is not None:
        usage, parts = in_parts([Part("", usage), Part(_picture_model(answer), picture)])
        metered = msgspec.structs.replace(metered, usage=usage, parts=parts)
    return msgspec.structs.replace(
        metered, tool_calls={name: count for name, count in calls.items() if count}
    )


def _hosted_calls(read: Reader, answer: Mapping[str, Any]) -> dict[str, int]:
    calls = {"web_search": 0, "file_search": 0, "image_generation": 0, "code_interpreter": 0}
    containers = set()
    for item in listed(answer, "output"):
        kind = text_of(item, "type").removesuffix("_call")
        if kind not in calls or item.get("status") == "failed":
            continue
        if kind == "web_search" and text_of(inner(item, "action"), "type") not in ("", "search"):
            continue
        calls[kind] += 1
        if kind == "code_interpreter":
            containers.add(text_of(item, "container_id"))
    billable = read.count(inner(answer, "tool_usage", "web_search"), "num_requests")
    if billable is not None:
        calls["web_search"] = billable
    calls["container"] = len(containers)
    return calls


def picture_usage(counted: Mapping[str, Any], call: Call) -> Usage | None:
    """The LLM tokens of pictures made (classes ToolUsageImageGen, ImagesResponse Usage).

    Without a breakdown all output is pictures (`types/image_gen_completed_event.py`: "The number
    of image tokens in the output image"). None where nothing was made.
    """
    if not counted or not any(counted.get(name) for name in _PICTURE_COUNTS):
        return None
    renamed = dict(counted)
    cached = inner(counted, "cached_tokens_details")
    details = dict(inner(counted, "input_tokens_details"))
    if counted.get("cached_tokens") is not None:
        details["cached_tokens"] = counted["cached_tokens"]
        details["cached_tokens_details"] = {"image_tokens": cached.get("cached_image_tokens")}
    if details:
        renamed["input_tokens_details"] = details
    if counted.get("output_tokens_details") is None:
        renamed["output_tokens_details"] = {"image_tokens": counted.get("output_tokens")}
    return usage_from_openai(
        renamed, input_bound=call.input_bound, output_bound=call.output_bound or None
    )


_PICTURE_COUNTS: Final = ("input_tokens", "output_tokens", "total_tokens")


def _picture_model(answer: Mapping[str, Any]) -> str:
    for tool in listed(answer, "tools"):
        if tool.get("type") == "image_generation":
            return text_of(tool, "model") or "image_generation"
    return "image_generation"


def fold_responses(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """An event: the last one holds the whole response, whether completed, incomplete or failed."""
    kind = text_of(event, "type") or name
    if kind == "error":
        gathered.error = text_of(event, "code", "message") or "no reason given"
        return
    response = inner(event, "response")
    if not response:
        return
    if kind in _LAST_EVENTS:
        gathered.error = gathered.error or error_of(response)
        gathered.answer = dict(response)
        gathered.final = response.get("usage") is not None
    elif not gathered.final:
        gathered.note(response, "id", "model", "service_tier")


_EMBEDDING_FIELDS: Final = ("id", "model", "usage", "error")

DIALECTS: Final = (
    Dialect("openai_chat", read_chat, CHAT_FIELDS, fold_chat),
    Dialect("openai_completions", read_chat, CHAT_FIELDS, fold_chat),
    Dialect("openai_responses", read_responses, RESPONSE_FIELDS, fold_responses),
    Dialect("openai_embeddings", _read_embeddings, _EMBEDDING_FIELDS),
    Dialect("openai_moderation", _read_moderation, ("id", "model", "error")),
    # Azure adds content filters, in a first chunk without choices' usage and in every choice.
    Dialect("azure_openai_chat", read_chat, CHAT_FIELDS, fold_chat),
    Dialect("azure_openai_completions", read_chat, CHAT_FIELDS, fold_chat),
    Dialect("azure_openai_responses", read_responses, RESPONSE_FIELDS, fold_responses),
    Dialect("azure_openai_embeddings", _read_embeddings, _EMBEDDING_FIELDS),
    # vLLM, `continuous_usage_stats`: usage with every chunk, of all that was written so far.
    Dialect("vllm_chat", read_chat, CHAT_FIELDS, fold_chat),
    Dialect("vllm_completions", read_chat, CHAT_FIELDS, fold_chat),
)
