"""What an app asked of Anthropic's Messages API: bytes to facts, or a refusal.

Anthropic's Python library 2.12: `types/message_create_params.py`, `types/beta/` of the same.
"""

import zlib
from typing import Annotated, Any, Final, Literal

import msgspec

from bursar_cli.simulated_provider.requests import (
    BYTES_PER_LLM_TOKEN,
    FRAMING_LLM_TOKENS_PER_ANSWER,
    FRAMING_LLM_TOKENS_PER_MESSAGE,
    Limit,
    ProviderError,
    Unread,
    decode_body,
)

IMAGE_LLM_TOKENS: Final = 1_568  # of the largest image that is not scaled down
DOCUMENT_LLM_TOKENS: Final = 3_000  # of one page, the most that is documented
UNLIMITED_SEARCHES: Final = 100  # where a search tool sets no `max_uses`


class _Block(msgspec.Struct, frozen=True):
    type: str
    text: str = ""
    thinking: str = ""
    content: Unread = Unread()
    input: Unread = Unread()
    cache_control: dict[str, Any] | None = None


class _Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(msgspec.Struct, frozen=True):
    name: str = ""
    type: str | None = None
    max_uses: int | None = None
    cache_control: dict[str, Any] | None = None


class _ToolChoice(msgspec.Struct, frozen=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""


class _Thinking(msgspec.Struct, frozen=True):
    type: Literal["enabled", "adaptive", "disabled"]
    llm_tokens: Annotated[int, msgspec.Meta(ge=1_024)] | None = msgspec.field(
        default=None, name="budget_tokens"
    )


class _CountBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What counting takes, and a message besides."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    system: str | list[_Block] = ""
    tools: list[msgspec.Raw] = []
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    cache_control: dict[str, Any] | None = None
    context_management: Unread = Unread()
    mcp_servers: Unread = Unread()
    output_config: Unread = Unread()
    output_format: Unread = Unread()
    speed: str | None = None


class _MessageBody(_CountBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every parameter the API documents; one it does not is refused, as the provider does."""

    max_tokens: Limit
    stream: bool = False
    metadata: dict[str, str | None] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    billing_policy: Unread = Unread()
    compaction: Unread = Unread()
    container: Unread = Unread()
    diagnostics: Unread = Unread()
    fallbacks: Unread = Unread()
    inference_geo: Unread = Unread()
    stop_sequences: Unread = Unread()
    temperature: Unread = Unread()
    thread: Unread = Unread()
    top_k: Unread = Unread()
    top_p: Unread = Unread()


class MessageRequest(msgspec.Struct, frozen=True):
    """A message asked for, or, where `output_limit` is 0, what it would be made of."""

    model: str
    prompt_digest: int
    input_llm_tokens: int
    output_limit: int
    stream: bool
    writes_cache: bool
    most_searches: int
    forced_tool: str
    """The tool that has to be called; "" where none has to."""
    thinks: bool
    """Whether thinking is shown, in a summary."""


_messages = msgspec.json.Decoder(_MessageBody)
_counts = msgspec.json.Decoder(_CountBody)
_tool = msgspec.json.Decoder(_Tool)


def message_request(body: bytes) -> MessageRequest:
    """Read the body of `POST /v1/messages`. Raises ProviderError."""
    asked = decode_body(_messages, body)
    return _facts(asked, asked.max_tokens, stream=asked.stream)


def count_request(body: bytes) -> MessageRequest:
    """Read the body of `POST /v1/messages/count_tokens`. Raises ProviderError."""
    return _facts(decode_body(_counts, body), 0, stream=False)


def _facts(asked: _CountBody, output_limit: int, *, stream: bool) -> MessageRequest:
    tools = [decode_body(_tool, bytes(raw)) for raw in asked.tools]
    budget = asked.thinking.llm_tokens if asked.thinking is not None else None
    if output_limit and budget is not None and budget >= output_limit:
        raise ProviderError(
            400, "`max_tokens` must be greater than `thinking.budget_tokens`.", param="max_tokens"
        )
    searching = [tool for tool in tools if (tool.type or "").startswith("web_search")]
    blocks = [] if isinstance(asked.system, str) else list(asked.system)
    texts = [asked.system.encode()] if isinstance(asked.system, str) else []
    texts += [bytes(raw) for raw in asked.tools]
    for message in asked.messages:
        if isinstance(message.content, str):
            texts.append(message.content.encode())
        else:
            blocks += message.content
    texts += [_text_of(block) for block in blocks]
    digest = 0
    for text in texts:
        digest = (digest * 31 + zlib.crc32(text)) & 0xFFFFFFFF
    framing = FRAMING_LLM_TOKENS_PER_MESSAGE * len(asked.messages) + FRAMING_LLM_TOKENS_PER_ANSWER
    by_kind = {"image": IMAGE_LLM_TOKENS, "document": DOCUMENT_LLM_TOKENS}
    framing += sum(by_kind.get(block.type, 0) for block in blocks)
    own = [tool.name for tool in tools if tool.type in (None, "custom")]
    choice = asked.tool_choice
    forced = ""
    if choice is not None and own and choice.type in ("any", "tool"):
        forced = choice.name if choice.type == "tool" else own[0]
        if forced not in own:
            raise ProviderError(400, f"tool_choice: {forced!r} is no tool.", param="tool_choice")
    marked = [block.cache_control for block in blocks] + [tool.cache_control for tool in tools]
    return MessageRequest(
        model=asked.model,
        prompt_digest=digest,
        input_llm_tokens=-(-sum(map(len, texts)) // BYTES_PER_LLM_TOKEN) + framing,
        output_limit=output_limit,
        stream=stream,
        writes_cache=any(marked) or asked.cache_control is not None,
        most_searches=sum(tool.max_uses or UNLIMITED_SEARCHES for tool in searching),
        forced_tool=forced,
        thinks=asked.thinking is not None and asked.thinking.type != "disabled",
    )


def _text_of(block: _Block) -> bytes:
    return (block.text + block.thinking).encode() + bytes(block.content) + bytes(block.input)
