"""Chat completions: `POST /v1/chat/completions`.

Every field that the cost does not depend on stays raw; a body that needs no change goes as it came.
"""

from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.dialect import Asked, Assembler
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.images import MAX_IMAGES, ImagePart, read_image
from bursar_sidecar.dialects.json_fields import (
    DEPENDS_ON_BODY,
    OPTIONAL_BOOL,
    OPTIONAL_INT,
    OPTIONAL_OBJECT,
    OPTIONAL_STRING,
    STRINGS,
    Fields,
    changed,
    changed_inside,
    field,
    given,
    limit_of,
    missing,
    raw,
    shown,
    top_level,
)
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.chat_assembling import ChatAssembler
from bursar_sidecar.dialects.openai.chat_reading import ChatReading, ProviderChatReading
from bursar_sidecar.dialects.openai.dialect import OpenAIEndpoint
from bursar_sidecar.dialects.openai.request import common_changes, common_of
from bursar_sidecar.dialects.openai.usage_shape import usage_object
from bursar_sidecar.dialects.reading import Reading

MAX_CHOICES: Final = 128
"""OpenAI's own bound on `n`."""
LIMITS: Final = ("max_completion_tokens", "max_tokens")
"""The fields that set an output limit; the first is the present one."""

_TEXT_PARTS: Final = frozenset({"text", "refusal"})
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
"""Tools that the app runs itself; any other type is run, and billed, by the provider."""


# What other servers of this dialect bill beside, or fetch from elsewhere.
_FETCHING: Final = (
    "plugins",
    "search_parameters",
    "conversation",
    "previous_response_id",
    "data_sources",
)
_ODD: Final = frozenset({"modalities", "web_search_options", "tools", *_FETCHING})
"""Fields that most requests have none of, so that there is nothing to look into."""


MAX_KNOWN: Final = 256
"""Requests that are known but for their messages: as many as apps that run at the same time."""
MAX_KNOWN_FIELDS: Final = 12
MAX_KNOWN_FIELD_BYTES: Final = 64
"""Of a field that is looked at again each time instead: what tools and the like hold differs."""
_Signature = tuple[str | bytes, ...]
_known: Final[dict[_Signature | None, Facts]] = {}


def _signature(fields: Fields, named: str) -> _Signature | None:
    """All that the facts follow from but for the messages; None where that is much, or of what is
    said."""
    if len(fields) > MAX_KNOWN_FIELDS or "prediction" in fields:
        return None
    said: list[str | bytes] = [named]
    for name, value in fields.items():
        if name == "messages":
            continue
        said.append(name)
        text = bytes(value)
        if len(text) > MAX_KNOWN_FIELD_BYTES:
            return None
        said.append(text)
    return tuple(said)


class _Message(msgspec.Struct):
    content: str | None = None
    audio: Any = None


class _Part(msgspec.Struct):
    type: str = ""
    image_url: msgspec.Raw = msgspec.Raw(b"")


class _PartsMessage(msgspec.Struct):
    content: str | list[_Part] | None = None
    audio: Any = None


class _Tool(msgspec.Struct):
    type: str = ""


_text_messages = msgspec.json.Decoder(list[_Message])
_parts_messages = msgspec.json.Decoder(list[_PartsMessage])
_tools = msgspec.json.Decoder(list[_Tool] | None)


class Chat(OpenAIEndpoint):
    """`POST /v1/chat/completions`."""

    name = "chat"
    progressive = True
    assembles = True
    path = b"/chat/completions"
    chunk_object = "chat.completion.chunk"

    def read(self, asked: Asked, named: str) -> Facts:
        fields = top_level(asked.body)
        signature = _signature(fields, named)
        known = _known.get(signature)
        if known is not None:
            texts = _texts_in(fields)
            if texts is not None:
                return msgspec.structs.replace(
                    known,
                    messages=texts,
                    body_bytes=len(asked.body),
                    prompt=fields["messages"],
                    fields=fields,
                )
        facts = self._read(asked, fields, named)
        if signature is not None and facts.text_only and not facts.unbounded_input:
            if len(_known) >= MAX_KNOWN:
                _known.clear()
            _known[signature] = msgspec.structs.replace(facts, prompt=None, fields={})
        return facts

    def _read(self, asked: Asked, fields: Fields, named: str) -> Facts:
        common = common_of(fields, named)
        stream = bool(field(fields, "stream", OPTIONAL_BOOL, "true or false"))
        messages, unbounded, images, image_bytes = _messages(fields)
        reasoning = field(fields, "reasoning_effort", OPTIONAL_STRING, "a string") or "none"
        predicted = fields.get("prediction")
        odd = not _ODD.isdisjoint(fields)
        return Facts(
            model=common.model,
            stream=stream,
            output_limit=output_limit(fields, LIMITS),
            choices=choices_of(fields, "n") or 1,
            messages=messages,
            body_bytes=len(asked.body),
            predicted_bytes=len(memoryview(predicted)) if predicted is not None else 0,
            service_tier=common.service_tier,
            text_only=not unbounded and not images and not (odd and _asks_audio(fields)),
            unbounded_input=unbounded,
            images=tuple(images),
            image_bytes=image_bytes,
            tools="tools" in fields or "functions" in fields,
            unbounded_tools=_provider_tools(fields) if odd else "",
            reasoning=reasoning != "none" or "reasoning" in fields or "thinking" in fields,
            usage_asked=stream and asks_usage(fields),
            tags=common.tags,
            customer=common.customer,
            prompt=fields["messages"],
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
        if facts.stream and bytes(facts.fields.get("stream", b"")) != b"true":
            changes["stream"] = raw(True)  # it is to be assembled
        if facts.stream and not facts.usage_asked and server.asks_usage:
            changes["stream_options"] = with_usage(facts.fields.get("stream_options"))
        if output_limit is not None:
            changes.update(limited(facts, output_limit, LIMITS, server.limit_field))
        return changed(body, facts.fields, changes)

    def reading(self, facts: Facts, server: Server) -> Reading:
        reader = server.kind.readers.get(self.name)
        return ChatReading() if reader is None else ProviderChatReading(reader, stream=False)

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        withhold = facts.stream and not facts.usage_asked and server.asks_usage
        reader = server.kind.readers.get(self.name)
        if reader is None:
            return ChatReading(withhold_usage=withhold)
        return ProviderChatReading(reader, stream=True, withhold_usage=withhold)

    def cut_events(self, reading: Reading, usage: Usage) -> tuple[bytes, bytes]:
        if not isinstance(reading, ChatReading):
            raise TypeError(f"{reading!r} is no reading of a chat completion")
        head = {
            "id": reading.request_id,
            "object": self.chunk_object,
            "created": reading.created if isinstance(reading.created, int) else 0,
            "model": reading.model,
        }
        events: list[dict[str, Any]] = [
            {**head, "choices": [self.length_choice(index)]}
            for index in sorted(reading.open_choices)
        ]
        if not reading.withholds_usage:
            events.append({**head, "choices": [], "usage": usage_object(usage)})
        return b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events), DONE

    def assembler(self) -> Assembler:
        return ChatAssembler()

    def length_choice(self, index: int) -> dict[str, Any]:
        """The choice of a chunk that says: as long as it could be."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}


DONE: Final = b"data: [DONE]\n\n"
CHAT: Final = Chat()


def choices_of(fields: Fields, name: str) -> int | None:
    """How many choices a field asks for; None where it is not there."""
    choices = field(fields, name, OPTIONAL_INT, "a whole number")
    if choices is not None and not 1 <= choices <= MAX_CHOICES:
        raise DialectError(f"{name} is {shown(choices)}; expected 1 to {MAX_CHOICES}.", name)
    return choices


def output_limit(fields: Fields, names: tuple[str, ...]) -> int | None:
    """LLM tokens that each choice may have by those fields; None where the request sets no
    limit."""
    # Both given: which one the provider follows is its affair; the larger bounds either.
    return max((limit for name in names if (limit := limit_of(fields, name))), default=None)


def limited(
    facts: Facts, output_limit: int, names: tuple[str, ...], limit_field: str
) -> dict[str, msgspec.Raw | None]:
    """The edits by which no choice has more than so many LLM tokens."""
    own = {name: limit for name in names if (limit := limit_of(facts.fields, name))}
    changes: dict[str, msgspec.Raw | None] = {
        name: raw(output_limit) for name, limit in own.items() if limit > output_limit
    }
    if not own:
        changes[limit_field] = raw(output_limit)
    return changes


def asks_usage(fields: Fields) -> bool:
    """Whether the app asks for the event that tells a stream's usage."""
    options = field(fields, "stream_options", OPTIONAL_OBJECT, "an object") or {}
    try:
        return bool(field(options, "include_usage", OPTIONAL_BOOL, "true or false"))
    except DialectError as error:
        raise DialectError(error.message, "stream_options.include_usage") from None


def _texts_in(fields: Fields) -> int | None:
    """How many messages; None where they are not text alone."""
    value = fields.get("messages")
    if value is None:
        return None
    try:
        messages = _text_messages.decode(value)
    except (*DEPENDS_ON_BODY, ValueError):
        return None
    for message in messages:
        if message.audio is not None:
            return None
    return len(messages)


_Input = tuple[int, str, list[ImagePart], int]


def _messages(fields: Fields) -> _Input:
    """How many messages; why their input is not bounded by bytes and images ("" when it is); the
    images; and how many bytes those are."""
    value = fields.get("messages")
    if value is None:
        raise missing("messages", "a list of messages")
    try:
        texts = _text_messages.decode(value)
    except msgspec.ValidationError:
        return _parts_in_messages(fields)
    except (*DEPENDS_ON_BODY, ValueError):
        raise DialectError("messages is not a list of messages.", "messages") from None
    if any(message.audio is not None for message in texts):
        return len(texts), "messages refer to earlier audio", [], 0
    return len(texts), "", [], 0


def _parts_in_messages(fields: Fields) -> _Input:
    messages = field(fields, "messages", _parts_messages, "a list of messages")
    unbounded = ""
    images: list[ImagePart] = []
    parts = image_bytes = 0
    for message in messages or ():
        if message.audio is not None:
            unbounded = "messages refer to earlier audio"
        if isinstance(message.content, list):
            parts += len(message.content)
            for part in message.content:
                size = len(memoryview(part.image_url))
                if part.type == "image_url" and size and len(images) < MAX_IMAGES:
                    images.append(read_image(part.image_url))
                    image_bytes += size
                elif part.type not in _TEXT_PARTS:
                    unbounded = f"messages hold content of type {shown(part.type)!r}"
    return len(messages or ()) + parts, unbounded, images, image_bytes


def _asks_audio(fields: Fields) -> bool:
    modalities = field(fields, "modalities", STRINGS, "a list of strings") or []
    return any(modality != "text" for modality in modalities)


def _provider_tools(fields: Fields) -> str:
    if given(fields, "web_search_options"):
        return "web_search_options"
    for tool in field(fields, "tools", _tools, "a list of tools") or ():
        if tool.type not in _CLIENT_TOOLS:
            return f"tools: {shown(tool.type)}"
    for name in _FETCHING:
        if given(fields, name):
            return name
    return ""


def with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """`stream_options` that ask for the usage too."""
    known = OPTIONAL_OBJECT.decode(options) if options is not None else None
    if options is None or known is None:
        return raw({"include_usage": True})
    return changed_inside(options, known, {"include_usage": raw(True)})
