"""Counting a whole request: text, chat format, tools, images, audio, files.

The rules are those of OpenAI's cookbook ("How to count tokens with tiktoken"): three LLM tokens
around each message, one more for a name, three that prime the answer, and a price list of the
pieces of a tool. What no provider publishes is estimated, and `RequestCount.reasons` says what.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from .encodings import (
    MAX_TEXT_BYTES,
    LlmTokenError,
    Tokenizer,
    encoding,
    model_family_name,
    scaled,
    tokenizer_of,
)
from .image_sizes import data_url_image_size, image_size
from .images import count_image_llm_tokens
from .media import audio_llm_tokens, file_llm_tokens

PER_MESSAGE: Final = 3
PER_NAME: Final = 1
PER_ANSWER: Final = 3

# The cookbook's, for one function: its start, the start of its properties, each property, the start
# of a list of values, each value; once behind all functions.
_FUNCTION_START: Final = 7
_FUNCTION_START_CL100K: Final = 10
_PROPERTIES_START: Final = 3
_PROPERTY: Final = 3
_ENUM_START: Final = -3
_ENUM_ITEM: Final = 3
_FUNCTIONS_END: Final = 12

_MAX_DEPTH: Final = 32
"""Of schemas and contents within each other; providers refuse far shallower ones."""
_FRAMING_KNOWN: Final = ("gpt-3.5-turbo", "gpt-35-turbo", "gpt-4", "gpt-4o")
"""The cookbook states its framing for these."""


class RequestCount(msgspec.Struct, frozen=True):
    """The LLM tokens of a request's input, by what they are for."""

    llm_tokens: int
    """The sum of all below."""
    is_exact: bool
    """Text by the model's own tokenizer, and all else by a published rule for this model."""
    text: int = 0
    framing: int = 0
    tools: int = 0
    images: int = 0
    audio: int = 0
    files: int = 0
    reasons: tuple[str, ...] = ()
    """Why it is an estimate, in words for people; empty when it is exact."""


def count_request_llm_tokens(
    body: bytes | str | Mapping[str, Any], model: str | None = None
) -> RequestCount:
    """The input LLM tokens of a request to a chat or an embeddings endpoint.

    `body` is the JSON of the request, or what it decodes to, in OpenAI's or Anthropic's shape;
    `model` defaults to the one it names. Loads the model's encoding at the first call (half a
    second, 80 MB). Raises LlmTokenError, naming the field, where the body is no such request.
    """
    request = _decoded(body)
    name = model if model is not None else request.get("model")
    if not isinstance(name, str):
        raise LlmTokenError("model is missing; expected a string")
    counter = _Counter(name)
    if "messages" in request:
        counter.chat(request)
    elif "input" in request or "prompt" in request:
        field = "input" if "input" in request else "prompt"
        counter.inputs(request[field], field)
    else:
        raise LlmTokenError("messages is missing; expected a list (or input of embeddings)")
    return counter.result()


def _decoded(body: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(body, Mapping):
        return body
    if len(body) > MAX_TEXT_BYTES:
        raise LlmTokenError(f"body has {len(body)} bytes; at most {MAX_TEXT_BYTES} are counted")
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LlmTokenError(f"body is not valid JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise LlmTokenError(f"body is a {type(decoded).__name__}; expected a JSON object")
    return decoded


class _Counter:
    def __init__(self, model: str) -> None:
        self._model = model
        self._tokenizer: Tokenizer = tokenizer_of(model)
        self._encode: Callable[[str], list[int]] = encoding(
            self._tokenizer.encoding
        ).encode_ordinary
        self._plain = 0  # counted with the encoding, before the family's factor
        self.framing = self.tools = self.images = self.audio = self.files = 0
        self._reasons: dict[str, None] = {}
        if not self._tokenizer.is_exact:
            self._estimate(f"tokenizer: {self._tokenizer.basis}")

    def result(self) -> RequestCount:
        text = scaled(self._plain, self._tokenizer)
        parts = self.framing + self.tools + self.images + self.audio + self.files
        return RequestCount(
            llm_tokens=text + parts,
            is_exact=not self._reasons,
            text=text,
            framing=self.framing,
            tools=self.tools,
            images=self.images,
            audio=self.audio,
            files=self.files,
            reasons=tuple(self._reasons),
        )

    def inputs(self, value: object, field: str) -> None:
        """Embeddings, and completions: a text, a list of texts, or LLM tokens as numbers."""
        if isinstance(value, str):
            self._text(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, int) and not isinstance(item, bool):
                    self.framing += 1
                elif isinstance(item, str | list):
                    self.inputs(item, field)
                else:
                    raise LlmTokenError(f"{field} holds a {type(item).__name__}; expected text")
        else:
            raise LlmTokenError(f"{field} is a {type(value).__name__}; expected text or a list")

    def chat(self, request: Mapping[str, Any]) -> None:
        name = model_family_name(self._model)
        if not name.startswith(_FRAMING_KNOWN) or name.startswith("gpt-4.5"):
            self._estimate("framing: not published for this model; that of gpt-4o")
        messages = request["messages"]
        if not isinstance(messages, list):
            raise LlmTokenError(f"messages is a {type(messages).__name__}; expected a list")
        for index, message in enumerate(messages):
            if not isinstance(message, dict):
                raise LlmTokenError(
                    f"messages[{index}] is a {type(message).__name__}; expected an object"
                )
            self._message(message)
        self.framing += PER_ANSWER
        if request.get("system"):  # Anthropic's
            self.framing += PER_MESSAGE
            self._content(request["system"], 0)
        self._tools(request)
        shape = request.get("response_format")
        if isinstance(shape, dict) and shape.get("type") == "json_schema":
            self.tools += self._count_json(shape.get("json_schema"))
            self._estimate("response_format: how the schema is shown to the model is not published")

    def _message(self, message: Mapping[str, Any]) -> None:
        self.framing += PER_MESSAGE
        for field, value in message.items():
            if value is None:
                continue
            if field == "content":
                self._content(value, 0)
            elif field == "name":
                self._text(str(value))
                self.framing += PER_NAME
            elif field in ("tool_calls", "function_call"):
                self._calls(value)
            elif isinstance(value, str) and field != "tool_call_id":
                self._text(value)

    def _calls(self, value: object) -> None:
        # The format of earlier calls is not published; each is taken as a message.
        self._estimate("tool calls: their framing is not published")
        for call in value if isinstance(value, list) else [value]:
            self.framing += PER_MESSAGE
            function = call.get("function", call) if isinstance(call, dict) else {}
            for part in (function.get("name"), function.get("arguments")):
                if isinstance(part, str):
                    self._text(part)

    def _content(self, content: object, depth: int) -> None:
        if isinstance(content, str):
            self._text(content)
        elif isinstance(content, list):
            if depth > _MAX_DEPTH:
                raise LlmTokenError(f"content is nested deeper than {_MAX_DEPTH}")
            for part in content:
                self._part(part, depth)

    def _part(self, part: object, depth: int) -> None:
        if isinstance(part, str):
            self._text(part)
            return
        if not isinstance(part, dict):
            return
        kind = part.get("type")
        if kind in ("image_url", "input_image", "image"):
            self._image(part)
        elif kind == "input_audio":
            sound = part.get("input_audio")
            counted = audio_llm_tokens(sound if isinstance(sound, dict) else {}, self._model)
            self.audio += counted
            self._estimate("audio: LLM tokens by its length, which is guessed for compressed sound")
        elif kind in ("file", "input_file", "document"):
            self.files += file_llm_tokens(part)
            self._estimate("files: what a provider makes of a file is not published")
        elif kind == "tool_result":
            self._content(part.get("content"), depth + 1)
        elif kind == "tool_use":
            self._text(str(part.get("name", "")))
            self._plain += self._count_json(part.get("input"))
        else:
            for field in ("text", "refusal", "thinking"):
                if isinstance(part.get(field), str):
                    self._text(part[field])

    def _image(self, part: Mapping[str, Any]) -> None:
        size, detail = image_of(part)
        image = count_image_llm_tokens(self._model, size, detail)
        self.images += image.llm_tokens
        if not image.is_published:
            self._estimate(f"images: {image.basis}")

    def _tools(self, request: Mapping[str, Any]) -> None:
        functions = list(_functions(request))
        if not functions:
            return
        for function in functions:
            self._function(function)
        self.tools += _FUNCTIONS_END
        self._estimate("tools: the cookbook's rule, which OpenAI calls an estimate")

    def _function(self, function: Mapping[str, Any]) -> None:
        old = self._tokenizer.encoding == "cl100k_base"
        self.tools += _FUNCTION_START_CL100K if old else _FUNCTION_START
        described = str(function.get("description") or "").removesuffix(".")
        self.tools += self._count(f"{function.get('name', '')}:{described}")
        self._properties(function.get("parameters") or function.get("input_schema"), 0)

    def _properties(self, schema: object, depth: int) -> None:
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            return
        self.tools += _PROPERTIES_START
        for name, value in properties.items():
            field = value if isinstance(value, dict) else {}
            self.tools += _PROPERTY
            values = field.get("enum")
            if isinstance(values, list):
                self.tools += _ENUM_START
                for item in values:
                    self.tools += _ENUM_ITEM + self._count(str(item))
            described = str(field.get("description") or "").removesuffix(".")
            self.tools += self._count(f"{name}:{field.get('type', '')}:{described}")
            self._properties(field, depth + 1)
            self._properties(field.get("items"), depth + 1)

    def _text(self, text: str) -> None:
        self._plain += self._count(text)

    def _count(self, text: str) -> int:
        return len(self._encode(text))

    def _count_json(self, value: object) -> int:
        return self._count(msgspec.json.encode(value).decode()) if value is not None else 0

    def _estimate(self, reason: str) -> None:
        self._reasons[reason] = None


def image_of(part: Mapping[str, Any]) -> tuple[tuple[int, int] | None, str]:
    """Size (None where the part tells none) and detail of an image part, in any known shape."""
    detail = part.get("detail", "auto")
    source = part.get("image_url", part.get("source"))
    size = None
    if isinstance(source, str):
        size = data_url_image_size(source)
    elif isinstance(source, dict):
        detail = source.get("detail", detail)
        if isinstance(source.get("url"), str):
            size = data_url_image_size(source["url"])
        elif isinstance(source.get("data"), str):
            size = data_url_image_size(f"data:;base64,{source['data']}")
        elif isinstance(source.get("bytes"), bytes):
            size = image_size(source["bytes"])
    return size, detail if isinstance(detail, str) else "auto"


def _functions(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for field in ("tools", "functions"):
        for tool in request.get(field) or ():
            if isinstance(tool, dict):
                inner = tool.get("function")
                yield inner if isinstance(inner, dict) else tool
