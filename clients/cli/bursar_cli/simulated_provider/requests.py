"""What an app asked for: bytes of a request body to facts, or a refusal in the provider's shape."""

import zlib
from typing import Annotated, Any, Literal, TypeVar

import msgspec

MAX_CHOICES = 128  # the wire's own limit for `n`
MAX_EMBEDDING_INPUTS = 2_048  # the wire's own limit for `input`
MAX_DIMENSIONS = 3_072  # of the largest embedding model sold
FRAMING_LLM_TOKENS_PER_MESSAGE = 3  # as the chat format of OpenAI's models frames each message
FRAMING_LLM_TOKENS_PER_ANSWER = 3  # and primes the answer
BYTES_PER_LLM_TOKEN = 4  # of English prose, about; what matters is that it is always the same


class ProviderError(Exception):
    """A refusal as the provider words it: status, type, code and the parameter to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param

    def body(self) -> bytes:
        """The error as JSON, in OpenAI's shape."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )


class _StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Part(msgspec.Struct, frozen=True):
    type: str
    text: str = ""


class _Message(msgspec.Struct, frozen=True):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


Limit = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Unread = msgspec.Raw  # accepted and not looked into


class _ChatBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every parameter the API documents; one it does not is refused, as the provider does."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    user: str | None = None
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    tools: Unread = Unread()
    functions: Unread = Unread()
    response_format: Unread = Unread()
    audio: Unread = Unread()
    frequency_penalty: Unread = Unread()
    function_call: Unread = Unread()
    logit_bias: Unread = Unread()
    logprobs: Unread = Unread()
    modalities: Unread = Unread()
    moderation: Unread = Unread()
    parallel_tool_calls: Unread = Unread()
    prediction: Unread = Unread()
    presence_penalty: Unread = Unread()
    prompt_cache_key: Unread = Unread()
    prompt_cache_options: Unread = Unread()
    prompt_cache_retention: Unread = Unread()
    reasoning_effort: Unread = Unread()
    safety_identifier: Unread = Unread()
    seed: Unread = Unread()
    stop: Unread = Unread()
    store: Unread = Unread()
    temperature: Unread = Unread()
    tool_choice: Unread = Unread()
    top_logprobs: Unread = Unread()
    top_p: Unread = Unread()
    verbosity: Unread = Unread()
    web_search_options: Unread = Unread()


class _EmbeddingsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    input: str | list[Any]
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    encoding_format: str | None = None
    user: str | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion asked for."""

    model: str
    prompt_digest: int
    """Stands for the prompt wherever an answer is derived from it."""
    input_llm_tokens: int
    output_limit: int | None
    """LLM tokens of each choice; None where the request set no limit."""
    choices: int
    stream: bool
    include_usage: bool
    service_tier: str
    forced_tool: str = ""
    """The tool that has to be called; "" where none has to."""


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """Embeddings asked for."""

    model: str
    inputs: list[bytes]
    input_llm_tokens: int
    dimensions: int
    base64: bool


class _Function(msgspec.Struct, frozen=True):
    name: str


class _Tool(msgspec.Struct, frozen=True):
    function: _Function | None = None


_choice = msgspec.json.Decoder(_Tool | str | None)
_tools = msgspec.json.Decoder(list[_Tool])
_chat_decoder = msgspec.json.Decoder(_ChatBody)
_embeddings_decoder = msgspec.json.Decoder(_EmbeddingsBody)
_Body = TypeVar("_Body")

DEFAULT_DIMENSIONS = 1_536


def chat_request(body: bytes) -> ChatRequest:
    """Read the body of `POST /v1/chat/completions`. Raises ProviderError."""
    asked = decode_body(_chat_decoder, body)
    if asked.stream_options is not None and not asked.stream:
        raise ProviderError(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise ProviderError(
            400,
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
        )
    digest = 0
    prompt_bytes = len(bytes(asked.tools)) + len(bytes(asked.functions))
    for message in asked.messages:
        text = _text_of(message)
        prompt_bytes += len(text)
        digest = (digest * 31 + zlib.crc32(text)) & 0xFFFFFFFF
    framing = FRAMING_LLM_TOKENS_PER_MESSAGE * len(asked.messages) + FRAMING_LLM_TOKENS_PER_ANSWER
    return ChatRequest(
        model=asked.model,
        prompt_digest=digest,
        input_llm_tokens=-(-prompt_bytes // BYTES_PER_LLM_TOKEN) + framing,
        output_limit=asked.max_completion_tokens or asked.max_tokens,
        choices=asked.n or 1,
        stream=bool(asked.stream),
        include_usage=asked.stream_options is not None and bool(asked.stream_options.include_usage),
        service_tier="default" if asked.service_tier in (None, "auto") else asked.service_tier,
        forced_tool=_forced_tool(asked),
    )


def _forced_tool(asked: _ChatBody) -> str:
    """By its name, or any: then the first."""
    if not bytes(asked.tool_choice) or not bytes(asked.tools):
        return ""
    choice = decode_body(_choice, bytes(asked.tool_choice))
    tools = decode_body(_tools, bytes(asked.tools))
    if isinstance(choice, _Tool):
        return "" if choice.function is None else choice.function.name
    named = [tool.function.name for tool in tools if tool.function is not None]
    return named[0] if choice == "required" and named else ""


def embeddings_request(body: bytes) -> EmbeddingsRequest:
    """Read the body of `POST /v1/embeddings`. Raises ProviderError."""
    asked = decode_body(_embeddings_decoder, body)
    if asked.encoding_format not in (None, "float", "base64"):
        raise ProviderError(
            400,
            f"Invalid value: {asked.encoding_format!r}. Supported values are: 'float', 'base64'.",
            param="encoding_format",
        )
    inputs, llm_tokens = _embedding_inputs(asked.input)
    return EmbeddingsRequest(
        model=asked.model,
        inputs=inputs,
        input_llm_tokens=llm_tokens,
        dimensions=asked.dimensions or DEFAULT_DIMENSIONS,
        base64=asked.encoding_format == "base64",
    )


def decode_body(decoder: "msgspec.json.Decoder[_Body]", body: bytes) -> _Body:
    """The body of a request, checked. Raises ProviderError naming what is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProviderError(400, f"The body of the request is not valid JSON: {error}.") from None
    except RecursionError:
        raise ProviderError(400, "The body of the request is nested too deeply.") from None


def _validation_error(text: str) -> ProviderError:
    """The decoder's fault (`... - at `$.n``), told as the provider tells it."""
    fault, _, path = text.partition(" - at `$")
    param = path.rstrip("`").lstrip(".") or None
    quoted = fault.partition("`")[2].partition("`")[0]
    if "unknown field" in fault:
        name = f"{param}.{quoted}" if param else quoted
        return ProviderError(400, f"Unrecognized request argument supplied: {name}")
    if "missing required field" in fault:
        name = f"{param}.{quoted}" if param else quoted
        return ProviderError(400, f"Missing required parameter: '{name}'.", param=name)
    if param is None:
        return ProviderError(400, f"The body of the request is not as expected: {fault}.")
    return ProviderError(400, f"Invalid value for '{param}': {fault}.", param=param)


def _text_of(message: _Message) -> bytes:
    """All of a message that counts as prompt, as UTF-8."""
    content = message.content
    if isinstance(content, str):
        text = content
    elif content is None:
        text = ""
    else:
        text = "".join(part.text for part in content)
    return text.encode() + (message.name or "").encode() + bytes(message.tool_calls)


def _embedding_inputs(given: str | list[Any]) -> tuple[list[bytes], int]:
    items: list[Any] = [given] if isinstance(given, str) else given
    if items and all(type(item) is int for item in items):
        items = [items]  # one input, given as LLM token ids
    if not 1 <= len(items) <= MAX_EMBEDDING_INPUTS:
        raise ProviderError(
            400, f"'input' must hold 1 to {MAX_EMBEDDING_INPUTS} items.", param="input"
        )
    inputs: list[bytes] = []
    llm_tokens = 0
    for item in items:
        if isinstance(item, str) and item:
            text = item.encode()
            llm_tokens += -(-len(text) // BYTES_PER_LLM_TOKEN)
        elif isinstance(item, list) and item and all(type(part) is int for part in item):
            text = msgspec.json.encode(item)
            llm_tokens += len(item)
        else:
            raise ProviderError(
                400,
                "'input' must be a string, an array of strings, or of LLM token ids; none empty.",
                param="input",
            )
        inputs.append(text)
    return inputs, llm_tokens
