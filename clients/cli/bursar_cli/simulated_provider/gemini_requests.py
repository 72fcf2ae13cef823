"""What an app asked of the Gemini API: bytes to facts, or a refusal.

Google's Python library google-genai 3.4: `models.py` (what it writes), `types.py`.
"""

import zlib
from typing import Annotated, Any, Final, TypeVar

import msgspec

from bursar_cli.simulated_provider.requests import (
    BYTES_PER_LLM_TOKEN,
    FRAMING_LLM_TOKENS_PER_ANSWER,
    FRAMING_LLM_TOKENS_PER_MESSAGE,
    MAX_EMBEDDING_INPUTS,
    Limit,
    ProviderError,
    Unread,
    decode_body,
)

MAX_CANDIDATES: Final = 8
MOST_SEARCHES: Final = 100  # the API sets no limit
IMAGE_LLM_TOKENS: Final = 258  # of a small image, or of one tile or page
DEFAULT_DIMENSIONS: Final = 3_072


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    text: str = ""
    inline_data: dict[str, Any] | None = None
    file_data: dict[str, Any] | None = None
    function_call: Unread = Unread()
    function_response: Unread = Unread()


class _Content(msgspec.Struct, frozen=True):
    parts: list[_Part] | _Part = []
    role: str | None = None


class _ThinkingConfig(msgspec.Struct, frozen=True, rename="camel"):
    include_thoughts: bool = False


class _GenerationConfig(msgspec.Struct, frozen=True, rename="camel"):
    max_output_tokens: Limit | None = None
    candidate_count: Annotated[int, msgspec.Meta(ge=1, le=MAX_CANDIDATES)] | None = None
    thinking_config: _ThinkingConfig | None = None


class _CallingConfig(msgspec.Struct, frozen=True, rename="camel"):
    mode: str = ""
    allowed_function_names: list[str] = []


class _ToolConfig(msgspec.Struct, frozen=True, rename="camel"):
    function_calling_config: _CallingConfig = _CallingConfig()


class _Declaration(msgspec.Struct, frozen=True):
    name: str


class _Tool(msgspec.Struct, frozen=True, rename="camel"):
    function_declarations: list[_Declaration] = []
    google_search: Unread = Unread()


class _GenerateBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Every parameter the API documents; one it does not is refused, as the provider does."""

    contents: list[_Content] | _Content
    model: str = ""
    system_instruction: _Content | None = None
    generation_config: _GenerationConfig | None = None
    tools: list[msgspec.Raw] = []
    tool_config: _ToolConfig | None = None
    cached_content: str | None = None
    labels: Unread = Unread()
    safety_settings: Unread = Unread()
    service_tier: str | None = None
    store: Unread = Unread()


class _CountBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    contents: list[_Content] | _Content = []
    generate_content_request: msgspec.Raw = msgspec.Raw()


class _EmbedBody(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    content: _Content
    model: str = ""
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: Annotated[int, msgspec.Meta(ge=1, le=DEFAULT_DIMENSIONS)] | None = None
    embed_content_config: Unread = Unread()


class _BatchEmbedBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    requests: Annotated[
        list[_EmbedBody], msgspec.Meta(min_length=1, max_length=MAX_EMBEDDING_INPUTS)
    ]


class GenerateRequest(msgspec.Struct, frozen=True):
    """Content asked for, or counted."""

    model: str
    prompt_digest: int
    input_llm_tokens: int
    output_limit: int | None
    choices: int
    shows_thoughts: bool
    most_searches: int
    forced_tool: str
    """The function that has to be called; "" where none has to."""


class EmbedRequest(msgspec.Struct, frozen=True):
    """Embeddings asked for."""

    model: str
    texts: list[bytes]
    dimensions: int
    is_batch: bool

    @property
    def input_llm_tokens(self) -> int:
        """Of all texts."""
        return sum(-(-len(text) // BYTES_PER_LLM_TOKEN) for text in self.texts)


_anything = msgspec.json.Decoder()
_generate = msgspec.json.Decoder(_GenerateBody)
_count = msgspec.json.Decoder(_CountBody)
_embed = msgspec.json.Decoder(_EmbedBody)
_batch_embed = msgspec.json.Decoder(_BatchEmbedBody)
_tool = msgspec.json.Decoder(_Tool)


# Names within these are the app's own.
_OPAQUE: Final = frozenset(
    {"args", "response", "parameters", "responseSchema", "responseJsonSchema", "labels"}
)


def _usual(value: Any) -> Any:
    """A body with the usual spelling of its names: `mime_type` means `mimeType`, and Google's own
    library writes either."""
    if isinstance(value, list):
        return [_usual(one) for one in value]
    if not isinstance(value, dict):
        return value
    spelled = {}
    for name, inner in value.items():
        first, *rest = name.split("_")
        usual = first + "".join(word.capitalize() for word in rest)
        spelled[usual] = inner if usual in _OPAQUE else _usual(inner)
    return spelled


_Body = TypeVar("_Body")


def _read(decoder: "msgspec.json.Decoder[_Body]", body: bytes) -> _Body:
    return decode_body(decoder, msgspec.json.encode(_usual(decode_body(_anything, body))))


def generate_request(model: str, body: bytes) -> GenerateRequest:
    """Read the body of `:generateContent` or `:streamGenerateContent`. Raises ProviderError."""
    asked = _read(_generate, body)
    contents = _listed(asked.contents)
    if not contents:
        raise ProviderError(400, "contents is not specified", param="contents")
    tools = [decode_body(_tool, bytes(raw)) for raw in asked.tools]
    config = asked.generation_config or _GenerationConfig()
    thinking = config.thinking_config
    if asked.system_instruction is not None:
        contents = [asked.system_instruction, *contents]
    digest, input_llm_tokens = _measured(contents, asked.tools)
    functions = [declared.name for tool in tools for declared in tool.function_declarations]
    forced = ""
    if asked.tool_config is not None and functions:
        calling = asked.tool_config.function_calling_config
        if calling.mode.upper() == "ANY":
            forced = (calling.allowed_function_names or functions)[0]
    return GenerateRequest(
        model=model,
        prompt_digest=digest,
        input_llm_tokens=input_llm_tokens,
        output_limit=config.max_output_tokens,
        choices=config.candidate_count or 1,
        shows_thoughts=thinking is not None and thinking.include_thoughts,
        most_searches=MOST_SEARCHES if any(bytes(tool.google_search) for tool in tools) else 0,
        forced_tool=forced,
    )


def count_request(model: str, body: bytes) -> GenerateRequest:
    """Read the body of `:countTokens`. Raises ProviderError."""
    asked = _read(_count, body)
    if bytes(asked.generate_content_request):
        return generate_request(model, bytes(asked.generate_content_request))
    digest, input_llm_tokens = _measured(_listed(asked.contents), [])
    return GenerateRequest(model, digest, input_llm_tokens, None, 1, False, 0, "")


def embed_request(model: str, body: bytes, *, is_batch: bool) -> EmbedRequest:
    """Read the body of `:embedContent` or `:batchEmbedContents`. Raises ProviderError."""
    asked = _read(_batch_embed, body).requests if is_batch else [_read(_embed, body)]
    texts = [b"".join(map(_text_of, _parts_of(one.content))) for one in asked]
    return EmbedRequest(
        model, texts, asked[0].output_dimensionality or DEFAULT_DIMENSIONS, is_batch
    )


def _measured(contents: list[_Content], tools: list[msgspec.Raw]) -> tuple[int, int]:
    """What stands for the prompt, and how many LLM tokens it has."""
    digest = 0
    size = sum(len(bytes(raw)) for raw in tools)
    framing = FRAMING_LLM_TOKENS_PER_MESSAGE * len(contents) + FRAMING_LLM_TOKENS_PER_ANSWER
    for content in contents:
        for part in _parts_of(content):
            text = _text_of(part)
            size += len(text)
            digest = (digest * 31 + zlib.crc32(text)) & 0xFFFFFFFF
            if part.inline_data is not None or part.file_data is not None:
                framing += IMAGE_LLM_TOKENS
    return digest, -(-size // BYTES_PER_LLM_TOKEN) + framing


def _listed(contents: list[_Content] | _Content) -> list[_Content]:
    return contents if isinstance(contents, list) else [contents]


def _parts_of(content: _Content) -> list[_Part]:
    return content.parts if isinstance(content.parts, list) else [content.parts]


def _text_of(part: _Part) -> bytes:
    return part.text.encode() + bytes(part.function_call) + bytes(part.function_response)
