"""`POST /v1/messages`, plain and streamed, and `POST /v1/messages/count_tokens`.

Every field that the cost does not depend on stays raw; a body that needs no change goes as it came.
"""

from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.anthropic.assembling import MessageAssembler
from bursar_sidecar.dialects.anthropic.content import read_content
from bursar_sidecar.dialects.anthropic.dialect import AnthropicEndpoint
from bursar_sidecar.dialects.anthropic.reading import MessageReading, MessageStreamReading
from bursar_sidecar.dialects.anthropic.server_tools import read_tools, units_of
from bursar_sidecar.dialects.anthropic.usage_shape import told
from bursar_sidecar.dialects.dialect import Asked, Assembler, with_query
from bursar_sidecar.dialects.facts import (
    MAX_OUTPUT_LIMIT,
    DialectError,
    Facts,
    check_label,
    check_tags,
    checked_model,
)
from bursar_sidecar.dialects.json_fields import (
    OPTIONAL_BOOL,
    OPTIONAL_INT,
    OPTIONAL_OBJECT,
    OPTIONAL_STRING,
    STRING,
    STRINGS,
    Fields,
    changed,
    changed_inside,
    field,
    given,
    missing,
    raw,
    shown,
    top_level,
)
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.reading import MeteredReading, Reading

LIMIT: Final = "max_tokens"
"""The field that sets the output limit; thinking counts to it ("Extended thinking" on
platform.claude.com)."""
_SHOWS_ALL_UNLESS_TOLD: Final = ("claude-instant*", "claude-[123]*", "claude-*-3*", "claude-*-4*")
"""Models that think only where the request says so; later ones may decide by themselves ("Adaptive
thinking" on platform.claude.com)."""
FAST: Final = "fast"
"""The speed that has rates of its own."""


class Messages(AnthropicEndpoint):
    """`POST /v1/messages`."""

    name = "messages"
    progressive = True
    assembles = True

    def read(self, asked: Asked, named: str) -> Facts:
        fields = top_level(asked.body)
        model = _model(fields)
        content = read_content(fields)
        tools = read_tools(fields)
        unbounded = content.unbounded
        if given(fields, "thread"):
            unbounded = "a thread refers to earlier messages"
        tags, customer = _labels(fields)
        return Facts(
            model=model,
            stream=bool(field(fields, "stream", OPTIONAL_BOOL, "true or false")),
            output_limit=_output_limit(fields),
            messages=content.pieces,
            body_bytes=len(asked.body),
            service_tier=_tier(fields),
            dearer_tier=_tier(fields) == FAST,
            # Documents and images are billed as text is.
            text_only=True,
            unbounded_input=unbounded,
            images=tuple(content.images),
            image_bytes=content.image_bytes,
            tools=tools.declared,
            unbounded_tools=tools.unbounded,
            rounds=tools.rounds,
            provider_units=units_of(tools),
            injected=tools.injected,
            reasoning=_may_think(fields, model),
            tags=tags,
            customer=customer,
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
        changes = _changes(facts, model)
        if facts.stream and bytes(facts.fields.get("stream", b"")) != b"true":
            changes["stream"] = raw(True)  # it is to be assembled
        if output_limit is not None and output_limit < (facts.output_limit or 0):
            changes[LIMIT] = raw(output_limit)
        return changed(body, facts.fields, changes)

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        return with_query(b"/v1/messages", asked.query)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return MessageReading()

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        grows = facts.rounds > 1 or bool(facts.unbounded_tools)
        return MessageStreamReading(input_grows=grows)

    def cut_events(self, reading: Reading, usage: Usage) -> tuple[bytes, bytes]:
        if not isinstance(reading, MessageStreamReading):
            raise TypeError(f"{reading!r} is no reading of a streamed message")
        events: list[dict[str, Any]] = []
        if not reading.begun:
            events.append({"type": "message_start", "message": _empty_message(reading, usage)})
        if reading.open_block is not None:
            events.append({"type": "content_block_stop", "index": reading.open_block})
        if not reading.stopped:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": told(usage)})
        return b"".join(map(_event, events)), _event({"type": "message_stop"})

    def assembler(self) -> Assembler:
        return MessageAssembler()


class Count(AnthropicEndpoint):
    """`POST /v1/messages/count_tokens`: free ("Token counting" on platform.claude.com, Pricing)."""

    name = "count_tokens"

    def read(self, asked: Asked, named: str) -> Facts:
        fields = top_level(asked.body)
        tags, customer = _labels(fields)
        return Facts(
            model=_model(fields),
            generates=False,
            free=True,
            body_bytes=len(asked.body),
            tags=tags,
            customer=customer,
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
        return changed(body, facts.fields, _changes(facts, model))

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        return with_query(b"/v1/messages/count_tokens", asked.query)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return MeteredReading("anthropic_count", stream=False)


MESSAGES: Final = Messages()
COUNT: Final = Count()


def _model(fields: Fields) -> str:
    model = field(fields, "model", STRING, "a string")
    if model is None:
        raise missing("model", "a string")
    return checked_model(model)


def _output_limit(fields: Fields) -> int:
    limit: int | None = field(fields, LIMIT, OPTIONAL_INT, "a whole number")
    if limit is None:
        raise missing(LIMIT, "a whole number; the Messages API demands it")
    # 0 only fills the cache.
    if not 0 <= limit <= MAX_OUTPUT_LIMIT:
        raise DialectError(f"{LIMIT} is {shown(limit)}; expected 0 to {MAX_OUTPUT_LIMIT}.", LIMIT)
    return limit


def _tier(fields: Fields) -> str:
    speed = field(fields, "speed", OPTIONAL_STRING, "a string")
    if speed == FAST:
        return FAST
    tier = field(fields, "service_tier", OPTIONAL_STRING, "a string") or ""
    return "default" if tier == "standard_only" else tier


def _may_think(fields: Fields, model: str) -> bool:
    thinking = field(fields, "thinking", OPTIONAL_OBJECT, "an object")
    if thinking is None:
        name = model.rpartition("/")[2].lower()
        return not any(fnmatchcase(name, glob) for glob in _SHOWS_ALL_UNLESS_TOLD)
    return field(thinking, "type", STRING, "a string") != "disabled"


def _labels(fields: Fields) -> tuple[tuple[str, ...], str]:
    """(tags, customer): our own `tags`, at the top or in `metadata`; its `user_id`."""
    metadata = field(fields, "metadata", OPTIONAL_OBJECT, "an object") or {}
    try:
        customer = field(metadata, "user_id", OPTIONAL_STRING, "a string") or ""
        inner = field(metadata, "tags", STRINGS, "a list of strings") or ()
    except DialectError as error:
        raise DialectError(f"metadata.{error.message}", f"metadata.{error.param}") from None
    check_label(customer, "metadata.user_id")
    outer = field(fields, "tags", STRINGS, "a list of strings") or ()
    return check_tags((*outer, *inner), "tags"), customer


def _changes(facts: Facts, model: str) -> dict[str, msgspec.Raw | None]:
    """The edits that every request gets: the model's own name, and our fields taken off."""
    changes: dict[str, msgspec.Raw | None] = {}
    fields = facts.fields
    if model != facts.model:
        changes["model"] = raw(model)
    if "tags" in fields:
        changes["tags"] = None
    if "metadata" in fields and b"tags" in bytes(fields["metadata"]):
        metadata = OPTIONAL_OBJECT.decode(fields["metadata"]) or {}
        if "tags" in metadata:
            rest = changed_inside(fields["metadata"], metadata, {"tags": None})
            changes["metadata"] = None if len(metadata) == 1 else rest
    return changes


def _empty_message(reading: Reading, usage: Usage) -> dict[str, Any]:
    return {
        "id": reading.request_id,
        "type": "message",
        "role": "assistant",
        "model": reading.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": told(usage),
    }


def _event(event: dict[str, Any]) -> bytes:
    data = msgspec.json.encode(event)
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)
