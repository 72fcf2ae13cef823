"""The OpenAI dialect: chat completions and embeddings.

`read` turns a request body into the facts that its cost depends on; every field it does not need
stays raw. `edited` makes the few allowed changes on the top level of the body: each value that is
not changed keeps its bytes, and a body that needs no change goes as it came.
"""

import json
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeVar

import msgspec

from bursar_sidecar.dialects.images import MAX_IMAGES, ImagePart, read_image

Endpoint = Literal["chat", "embeddings"]

MAX_OUTPUT_LIMIT: Final = 100_000_000
"""LLM tokens; no model produces a thousandth of it. Above it the number is a mistake, and would
only ever be refused for its price."""
MAX_CHOICES: Final = 128
"""OpenAI's own bound on `n`."""
MAX_MODEL_LENGTH: Final = 256
MAX_TAGS: Final = 64
"""Tags of one call: every one becomes a row in reports."""
MAX_LABEL_LENGTH: Final = 256
"""Characters of a tag or a customer; they are names, not documents."""

_TEXT_PARTS: Final = frozenset({"text", "refusal"})
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
"""Tools that the app runs itself; any other type is run, and billed, by the provider."""
_LIMITS: Final = ("max_completion_tokens", "max_tokens")


class DialectError(Exception):
    """A request that can't be read; `param` names the field in the wire's own words."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's cost and routing depend on."""

    endpoint: Endpoint
    model: str
    stream: bool = False
    output_limit: int | None = None
    """LLM tokens per choice; None when the request sets none."""
    choices: int = 1
    messages: int = 0
    body_bytes: int = 0
    predicted_bytes: int = 0
    """Predicted output that the provider may bill beside the produced one."""
    service_tier: str = ""
    text_only: bool = True
    unbounded_input: str = ""
    """Why the input is not bounded by the body's bytes; "" when it is."""
    images: tuple[ImagePart, ...] = ()
    """Images, in the request or by their address; what they cost depends on the model."""
    image_bytes: int = 0
    """Bytes of the body that are images."""
    unbounded_tools: str = ""
    """Which tool the provider itself runs and bills; "" when none."""
    reasoning: bool = False
    """The request asks for reasoning, which is billed but may not be shown."""
    usage_asked: bool = False
    """The app itself asked for the usage chunk of a stream."""
    tags: tuple[str, ...] = ()
    customer: str = ""
    fields: dict[str, msgspec.Raw] = {}
    """The body's top level."""


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


T = TypeVar("T")

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text_messages = msgspec.json.Decoder(list[_Message])
_parts_messages = msgspec.json.Decoder(list[_PartsMessage])
_str = msgspec.json.Decoder(str)
_optional_str = msgspec.json.Decoder(str | None)
_optional_int = msgspec.json.Decoder(int | None)
_optional_bool = msgspec.json.Decoder(bool | None)
_optional_object = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_strings = msgspec.json.Decoder(list[str] | None)
_tools = msgspec.json.Decoder(list[_Tool] | None)
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])

_DEPENDS_ON_BODY = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read(endpoint: Endpoint, body: bytes) -> Facts:
    """The facts of a request. Raises DialectError naming the field that is wrong."""
    fields = _top_level(body)
    model = _field(fields, "model", _str, "a string")
    if model is None:
        raise DialectError("model is missing; expected a string.", "model", "missing_field")
    if not model or len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise DialectError(
            f"model {model[:40]!r} must have 1 to {MAX_MODEL_LENGTH} printable characters.", "model"
        )
    tags = (*_tags(fields, "tags", "tags"), *_metadata_tags(fields))
    checked_tags = check_tags(tags, "tags")
    customer = _field(fields, "user", _optional_str, "a string") or ""
    check_label(customer, "user")
    tier = _field(fields, "service_tier", _optional_str, "a string") or ""
    if endpoint == "embeddings":
        return Facts(
            endpoint=endpoint,
            model=model,
            messages=_embedding_inputs(fields),
            body_bytes=len(body),
            service_tier=tier,
            tags=checked_tags,
            customer=customer,
            fields=fields,
        )
    return _chat_facts(fields, model, len(body), tier, checked_tags, customer)


def edited(
    facts: Facts,
    body: bytes,
    *,
    model: str,
    output_limit: int | None = None,
    limit_field: str = "max_completion_tokens",
) -> bytes:
    """The body to send: `model` as the provider knows it, our own fields off, usage asked for.

    `output_limit` sets a limit where the request has none, and lowers a higher one. Returns `body`
    itself when nothing has to change.
    """
    fields = facts.fields
    changes: dict[str, msgspec.Raw | None] = {}
    if model != facts.model:
        changes["model"] = _raw(model)
    if "tags" in fields:
        changes["tags"] = None
    if "metadata" in fields and b"tags" in bytes(fields["metadata"]):
        changes.update(_without_metadata_tags(fields["metadata"]))
    if facts.stream and facts.endpoint == "chat" and not facts.usage_asked:
        changes["stream_options"] = _with_usage(fields.get("stream_options"))
    if output_limit is not None:
        own = {name: limit for name in _LIMITS if (limit := _own_limit(fields, name)) is not None}
        for name, limit in own.items():
            if limit > output_limit:
                changes[name] = _raw(output_limit)
        if not own:
            changes[limit_field] = _raw(output_limit)
    if not changes:
        return body
    merged: dict[str, msgspec.Raw | None] = {**fields, **changes}
    return msgspec.json.encode({k: v for k, v in merged.items() if v is not None})


def check_tags(tags: Iterable[str], param: str) -> tuple[str, ...]:
    """Tags without repetitions, in order. Raises DialectError naming the one that is wrong."""
    unique = tuple(dict.fromkeys(tag for tag in tags if tag))
    if len(unique) > MAX_TAGS:
        raise DialectError(f"{param} has {len(unique)} tags; at most {MAX_TAGS}.", param)
    for tag in unique:
        check_label(tag, param)
    return unique


def check_label(label: str, param: str) -> None:
    """A name that goes into reports. Raises DialectError."""
    if len(label) > MAX_LABEL_LENGTH or not label.isprintable():
        raise DialectError(
            f"{param} {label[:40]!r} must have at most {MAX_LABEL_LENGTH} printable characters.",
            param,
        )


def _chat_facts(
    fields: dict[str, msgspec.Raw],
    model: str,
    body_bytes: int,
    tier: str,
    tags: tuple[str, ...],
    customer: str,
) -> Facts:
    stream = bool(_field(fields, "stream", _optional_bool, "true or false"))
    choices = _field(fields, "n", _optional_int, "a whole number")
    if choices is not None and not 1 <= choices <= MAX_CHOICES:
        raise DialectError(f"n is {_shown(choices)}; expected 1 to {MAX_CHOICES}.", "n")
    messages, unbounded, images, image_bytes = _messages(fields)
    audio = _asks_audio(fields)
    reasoning = _field(fields, "reasoning_effort", _optional_str, "a string") or "none"
    predicted = fields.get("prediction")
    return Facts(
        endpoint="chat",
        model=model,
        stream=stream,
        output_limit=_output_limit(fields),
        choices=choices or 1,
        messages=messages,
        body_bytes=body_bytes,
        predicted_bytes=len(memoryview(predicted)) if predicted is not None else 0,
        service_tier=tier,
        text_only=not unbounded and not audio and not images,
        unbounded_input=unbounded,
        images=tuple(images),
        image_bytes=image_bytes,
        unbounded_tools=_provider_tools(fields),
        reasoning=reasoning != "none" or "reasoning" in fields or "thinking" in fields,
        usage_asked=stream and _asks_usage(fields),
        tags=tags,
        customer=customer,
        fields=fields,
    )


def _top_level(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        fields = _fields_decoder.decode(body)
    except msgspec.ValidationError:
        raise DialectError("The body must be a JSON object.", code="invalid_json") from None
    except (*_DEPENDS_ON_BODY, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DialectError(f"The body is not valid JSON: {reason}", code="invalid_json") from None
    # Which of two equal fields counts differs between parsers, so that a limit we read might not
    # be the one the provider reads. A body as long as its compact form has no field twice.
    compact = 1 + sum(len(name) + len(memoryview(raw)) + 4 for name, raw in fields.items())
    if len(body) != compact:
        _refuse_doubles(body)
    return fields


def _refuse_doubles(body: bytes) -> None:
    doubled: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        # Called for inner objects first: what stands at the end is the top level's answer.
        names = [name for name, _ in pairs]
        doubled[:] = (
            [name for name in names if names.count(name) > 1]
            if (len(set(names)) != len(names))
            else []
        )

    try:
        json.loads(body, object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        raise DialectError(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if doubled:
        raise DialectError(
            f"The field {doubled[0][:40]!r} is given twice.", doubled[0][:40], "duplicate_field"
        )


def _field(
    fields: dict[str, msgspec.Raw],
    name: str,
    decoder: "msgspec.json.Decoder[T]",
    expected: str,
) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (*_DEPENDS_ON_BODY, ValueError):
        shown = _shown(bytes(raw).decode("utf-8", "replace"))
        raise DialectError(f"{name} is {shown}; expected {expected}.", name) from None


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _output_limit(fields: dict[str, msgspec.Raw]) -> int | None:
    limits: list[int] = []
    for name in _LIMITS:
        limit = _own_limit(fields, name)
        if limit is None:
            continue
        if not 1 <= limit <= MAX_OUTPUT_LIMIT:
            raise DialectError(
                f"{name} is {_shown(limit)}; expected 1 to {MAX_OUTPUT_LIMIT}.", name
            )
        limits.append(limit)
    # Both given: which one the provider follows is its affair; the larger bounds either.
    return max(limits, default=None)


def _own_limit(fields: dict[str, msgspec.Raw], name: str) -> int | None:
    return _field(fields, name, _optional_int, "a whole number")


_Input = tuple[int, str, list[ImagePart], int]


def _messages(fields: dict[str, msgspec.Raw]) -> _Input:
    """How many messages; why their input is not bounded by bytes and images ("" when it is); the
    images; and how many bytes those are."""
    raw = fields.get("messages")
    if raw is None:
        raise DialectError(
            "messages is missing; expected a list of messages.", "messages", "missing_field"
        )
    try:
        texts = _text_messages.decode(raw)
    except msgspec.ValidationError:
        return _parts_in_messages(fields)
    except (*_DEPENDS_ON_BODY, ValueError):
        raise DialectError("messages is not a list of messages.", "messages") from None
    if any(message.audio is not None for message in texts):
        return len(texts), "messages refer to earlier audio", [], 0
    return len(texts), "", [], 0


def _parts_in_messages(fields: dict[str, msgspec.Raw]) -> _Input:
    messages = _field(fields, "messages", _parts_messages, "a list of messages")
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
                    unbounded = f"messages hold content of type {_shown(part.type)!r}"
    return len(messages or ()) + parts, unbounded, images, image_bytes


def _asks_audio(fields: dict[str, msgspec.Raw]) -> bool:
    modalities = _field(fields, "modalities", _strings, "a list of strings") or []
    return any(modality != "text" for modality in modalities)


def _provider_tools(fields: dict[str, msgspec.Raw]) -> str:
    if "web_search_options" in fields and bytes(fields["web_search_options"]) != b"null":
        return "web_search_options"
    for tool in _field(fields, "tools", _tools, "a list of tools") or ():
        if tool.type not in _CLIENT_TOOLS:
            return f"tools: {_shown(tool.type)}"
    for name in ("plugins", "search_parameters", "conversation", "previous_response_id"):
        # What other servers of this dialect bill beside, or fetch from elsewhere.
        if name in fields and bytes(fields[name]) != b"null":
            return name
    return ""


def _asks_usage(fields: dict[str, msgspec.Raw]) -> bool:
    options = _field(fields, "stream_options", _optional_object, "an object") or {}
    try:
        return bool(_field(options, "include_usage", _optional_bool, "true or false"))
    except DialectError as error:
        raise DialectError(error.message, "stream_options.include_usage") from None


def _tags(fields: dict[str, msgspec.Raw], name: str, param: str) -> list[str]:
    try:
        return _field(fields, name, _strings, "a list of strings") or []
    except DialectError as error:
        raise DialectError(error.message, param) from None


def _metadata_tags(fields: dict[str, msgspec.Raw]) -> list[str]:
    if "metadata" not in fields:
        return []
    metadata = _field(fields, "metadata", _optional_object, "an object") or {}
    return _tags(metadata, "tags", "metadata.tags")


def _embedding_inputs(fields: dict[str, msgspec.Raw]) -> int:
    raw = fields.get("input")
    if raw is None:
        raise DialectError(
            "input is missing; expected a string or a list.", "input", "missing_field"
        )
    if bytes(memoryview(raw)[:1]) != b"[":
        _field(fields, "input", _str, "a string or a list")
        return 1
    items = _field(fields, "input", _raw_list, "a string or a list")
    return len(items or [])


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    known = _optional_object.decode(options) if options is not None else None
    return _raw({**(known or {}), "include_usage": True})


def _without_metadata_tags(metadata: msgspec.Raw) -> dict[str, msgspec.Raw | None]:
    known = _optional_object.decode(metadata) or {}
    if "tags" not in known:
        return {}
    rest = {name: raw for name, raw in known.items() if name != "tags"}
    return {"metadata": _raw(rest) if rest else None}
