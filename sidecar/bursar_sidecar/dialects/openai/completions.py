"""Text completions, the older endpoint: `POST /v1/completions`."""

from typing import Any, Final

import msgspec

from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.json_fields import (
    LIST,
    OPTIONAL_BOOL,
    STRING,
    Fields,
    changed,
    field,
    given,
)
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.chat import (
    Chat,
    asks_usage,
    choices_of,
    limited,
    output_limit,
    with_usage,
)
from bursar_sidecar.dialects.openai.request import common_changes, read_common

MAX_PROMPTS: Final = 2_048
"""Prompts of one request, each of which is completed; servers take fewer."""
_LIMITS: Final = ("max_tokens",)


class Completions(Chat):
    """`POST /v1/completions`; its answers are those of a chat but for where the text is."""

    name = "completions"
    assembles = False
    path = b"/completions"
    chunk_object = "text_completion"

    def read(self, asked: Asked, named: str) -> Facts:
        common = read_common(asked.body, named)
        fields = common.fields
        prompts, counted = _prompts(fields)
        # Every prompt is completed `n` times; of `best_of` all are produced, and billed.
        each = max(choices_of(fields, "n") or 1, choices_of(fields, "best_of") or 1)
        stream = bool(field(fields, "stream", OPTIONAL_BOOL, "true or false"))
        return Facts(
            model=common.model,
            stream=stream,
            output_limit=output_limit(fields, _LIMITS),
            choices=each * prompts,
            messages=prompts,
            body_bytes=len(asked.body),
            service_tier=common.service_tier,
            usage_asked=stream and asks_usage(fields),
            tags=common.tags,
            customer=common.customer,
            prompt=counted,
            fields=fields,
        )

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        changes = common_changes(facts, model)
        if facts.stream and not facts.usage_asked and server.asks_usage:
            changes["stream_options"] = with_usage(facts.fields.get("stream_options"))
        if output_limit is not None:
            changes.update(limited(facts, output_limit, _LIMITS, _LIMITS[0]))
        return changed(body, facts.fields, changes)

    def length_choice(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}


COMPLETIONS: Final = Completions()


def _prompts(fields: Fields) -> tuple[int, msgspec.Raw | None]:
    """How many prompts, and their JSON where it holds them as text."""
    if not given(fields, "prompt"):
        return 1, None  # it begins where a document would
    value = fields["prompt"]
    if bytes(memoryview(value)[:1]) != b"[":
        field(fields, "prompt", STRING, "a string or a list")
        return 1, value
    items = field(fields, "prompt", LIST, "a string or a list") or []
    if len(items) > MAX_PROMPTS and not _is_number(items[0]):
        raise DialectError(f"prompt has {len(items)} items; at most {MAX_PROMPTS}.", "prompt")
    if not items or _is_number(items[0]):
        return 1, None  # one prompt, as LLM tokens
    texts = all(bytes(memoryview(item)[:1]) == b'"' for item in items)
    return len(items), value if texts else None


def _is_number(item: msgspec.Raw) -> bool:
    return bytes(memoryview(item)[:1]).isdigit()
