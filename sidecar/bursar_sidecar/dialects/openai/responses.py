"""Responses: `POST /v1/responses`, and the free paths of one that was stored.

What a response is made from may lie at the provider: an earlier response, a conversation, files.
Such input is bounded by the model's context window, or refused under a hard budget.
"""

from typing import Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.images import MAX_IMAGES, ImagePart, read_image
from bursar_sidecar.dialects.json_fields import (
    DEPENDS_ON_BODY,
    OPTIONAL_BOOL,
    OPTIONAL_INT,
    STRING,
    Fields,
    changed,
    field,
    given,
    limit_of,
    raw,
    shown,
)
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.dialect import OpenAIEndpoint
from bursar_sidecar.dialects.openai.request import common_changes, read_common
from bursar_sidecar.dialects.openai.responses_reading import ResponsesReading, WholeResponseReading
from bursar_sidecar.dialects.reading import Reading

_LIMIT: Final = "max_output_tokens"
_MESSAGE_ITEMS: Final = frozenset({"", "message"})
_OWN_ITEMS: Final = frozenset(
    {
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    }
)
"""Items that are all in the request, as text."""
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "refusal", "text"})
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
"""Tools that the app runs itself; all others are run, billed or described by the provider."""
_SEARCH: Final = "web_search"
"""How the types of the provider's search begin. `max_tool_calls` bounds how often it runs, and
after each time the model reads on (`types/responses/response_create_params.py`)."""
MAX_TOOL_CALLS: Final = 128
"""In one response; beyond it no ceiling fits into any budget."""
_HELD: Final = ("previous_response_id", "conversation")
"""Fields by which input is taken from what the provider keeps."""
_RUN: Final = ("prompt", "context_management", "search_parameters", "plugins")
"""Fields by which the provider runs more than was asked for: a stored prompt brings tools of its
own, a compaction samples once more."""


class _Part(msgspec.Struct):
    type: str = ""
    image_url: msgspec.Raw = msgspec.Raw(b"")
    detail: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: str | list[_Part] | None = None
    output: str | list[_Part] | None = None


class _Tool(msgspec.Struct):
    type: str = ""


class _Reasoning(msgspec.Struct):
    effort: str | None = None


_items = msgspec.json.Decoder(list[_Item])
_tools = msgspec.json.Decoder(list[_Tool] | None)
_reasoning = msgspec.json.Decoder(_Reasoning | None)


class Responses(OpenAIEndpoint):
    """`POST /v1/responses`."""

    name = "responses"
    path = b"/responses"
    progressive = True
    deployed = False

    def read(self, asked: Asked, named: str) -> Facts:
        common = read_common(asked.body, named)
        fields = common.fields
        found = _Input()
        found.read(fields)
        unbounded_tools, searches = _provider_tools(fields)
        background = field(fields, "background", OPTIONAL_BOOL, "true or false")
        reasoning = field(fields, "reasoning", _reasoning, "an object") or _Reasoning()
        return Facts(
            model=common.model,
            stream=bool(field(fields, "stream", OPTIONAL_BOOL, "true or false")),
            output_limit=limit_of(fields, _LIMIT),
            messages=found.pieces,
            body_bytes=len(asked.body),
            service_tier=common.service_tier,
            text_only=not found.unbounded and not found.images,
            unbounded_input=found.unbounded,
            images=tuple(found.images),
            image_bytes=found.image_bytes,
            tools="tools" in fields,
            unbounded_tools=unbounded_tools,
            rounds=1 + searches,
            provider_units={"search": searches} if searches else {},
            untold_cost="background responses are answered before they are made"
            if background
            else "",
            reasoning=(reasoning.effort or "none") != "none",
            usage_asked=True,
            tags=common.tags,
            customer=common.customer,
            prompt=fields.get("input"),
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
        if output_limit is not None and (facts.output_limit or output_limit + 1) > output_limit:
            changes[_LIMIT] = raw(output_limit)
        return changed(body, facts.fields, changes)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return WholeResponseReading(server.kind.readers.get(self.name, _READER))

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        return ResponsesReading(server.kind.readers.get(self.name, _READER))

    def cut_events(self, reading: Reading, usage: Usage) -> tuple[bytes, bytes]:
        if not isinstance(reading, ResponsesReading):
            raise TypeError(f"{reading!r} is no reading of a response")
        return b"", reading.incomplete_event(usage)


_READER: Final = "openai_responses"
RESPONSES: Final = Responses()


class _Input:
    """What the input of a response is made of."""

    def __init__(self) -> None:
        self.pieces = 1
        self.unbounded = ""
        self.images: list[ImagePart] = []
        self.image_bytes = 0

    def read(self, fields: Fields) -> None:
        """Raises DialectError."""
        for name in _HELD:
            if given(fields, name):
                self.unbounded = f"{name} stands for input that the provider keeps"
        if not given(fields, "input"):
            return
        value = fields["input"]
        if bytes(memoryview(value)[:1]) != b"[":
            field(fields, "input", STRING, "a string or a list of items")
            return
        try:
            items = _items.decode(value)
        except msgspec.ValidationError:
            # Some item has another shape than the known ones.
            self.unbounded = self.unbounded or "input holds items of an unknown shape"
            return
        except (*DEPENDS_ON_BODY, ValueError):
            raise DialectError("input is not a list of items.", "input") from None
        for item in items:
            self._read_item(item)

    def _read_item(self, item: _Item) -> None:
        self.pieces += 1
        if item.type not in _MESSAGE_ITEMS and item.type not in _OWN_ITEMS:
            self.unbounded = f"input holds items of type {shown(item.type)!r}"
        for content in (item.content, item.output):
            for part in content if isinstance(content, list) else ():
                self._read_part(part)

    def _read_part(self, part: _Part) -> None:
        self.pieces += 1
        size = len(memoryview(part.image_url))
        is_image = part.type == "input_image" and size > len(b"null")
        if is_image and len(self.images) < MAX_IMAGES:
            image = read_image(part.image_url)
            self.images.append(ImagePart(image.size, part.detail or "auto"))
            self.image_bytes += size
        elif part.type not in _TEXT_PARTS:
            self.unbounded = f"input holds content of type {shown(part.type)!r}"


def _provider_tools(fields: Fields) -> tuple[str, int]:
    """Which tool has no bound, "" when none; and how many searches there may be."""
    limit = field(fields, "max_tool_calls", OPTIONAL_INT, "a whole number")
    if limit is not None and not 0 <= limit <= MAX_TOOL_CALLS:
        text = f"max_tool_calls is {shown(limit)}; expected 0 to {MAX_TOOL_CALLS}."
        raise DialectError(text, "max_tool_calls")
    searches = 0
    for tool in field(fields, "tools", _tools, "a list of tools") or ():
        if limit is not None and tool.type.startswith(_SEARCH):
            searches = limit
        elif tool.type not in _CLIENT_TOOLS:
            return f"tools: {shown(tool.type)}", 0
    for name in _RUN:
        if given(fields, name):
            return name, 0
    return "", searches
