"""What a request's messages hold: what bounds their LLM tokens, and what only the model's context
window does.

Anthropic's Python library 2.12: `types/content_block_param.py` and the sources of images and
documents. A page of a document is billed as text and as an image, both of sizes that its bytes do
not tell ("PDF support" on platform.claude.com).
"""

from typing import Final

import msgspec

from bursar.llm_tokens import MAX_HEADER_BYTES, data_url_image_size
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.images import MAX_IMAGES, ImagePart
from bursar_sidecar.dialects.json_fields import (
    DEPENDS_ON_BODY,
    STRING,
    Fields,
    field,
    given,
    missing,
    shown,
)

MAX_NESTING: Final = 4
"""Blocks within blocks: a tool's result holds a document that holds text. Deeper ones are bounded
by the context window."""
_READ_BASE64: Final = MAX_HEADER_BYTES * 4 // 3 + 512
"""Of an image's data: what tells its size, in base64."""

_IN_THE_BODY: Final = frozenset(
    {
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "server_tool_use",
        "mcp_tool_use",
        "web_search_tool_result",
        "search_result",
        "compaction",
        "fallback",
        "mid_conv_system",
        "tool_reference",
    }
)
"""Blocks that hold all that the model is given of them."""
_HOLDERS: Final = frozenset({"tool_result", "mcp_tool_result"})
"""Blocks that hold others."""


class _TextMessage(msgspec.Struct):
    content: str


_text_messages = msgspec.json.Decoder(list[_TextMessage])
_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_blocks = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Content:
    """What was found in a request's messages and system prompt."""

    __slots__ = ("image_bytes", "images", "pieces", "unbounded")

    def __init__(self) -> None:
        self.pieces = 0
        """Messages and blocks, each framed by LLM tokens of its own."""
        self.unbounded = ""
        """Why the body does not bound the input; "" when it does."""
        self.images: list[ImagePart] = []
        self.image_bytes = 0

    def add_block(self, block: dict[str, msgspec.Raw], depth: int) -> None:
        """One block of content. Raises DialectError."""
        self.pieces += 1
        kind = field(block, "type", STRING, "a string") or ""
        if kind == "image":
            self._add_image(block)
        elif kind == "document":
            self._add_document(block, depth)
        elif kind in _HOLDERS:
            self._add_held(block, depth)
        elif kind not in _IN_THE_BODY:
            self.unbounded = f"messages hold content of type {shown(kind)!r}"

    def _add_held(self, holder: dict[str, msgspec.Raw], depth: int) -> None:
        content = holder.get("content")
        if content is None or bytes(memoryview(content)[:1]) != b"[":
            return
        if depth >= MAX_NESTING:
            self.unbounded = "messages hold content within content within content"
            return
        for block in field(holder, "content", _blocks, "a string or a list of blocks") or ():
            self.add_block(block, depth + 1)

    def _add_image(self, block: dict[str, msgspec.Raw]) -> None:
        source = field(block, "source", _object, "an object") or {}
        kind = field(source, "type", STRING, "a string") or ""
        if kind not in ("base64", "url", "file") or len(self.images) >= MAX_IMAGES:
            self.unbounded = "messages hold images of a kind that is not known"
            return
        size = None
        if kind == "base64" and "data" in source:
            self.image_bytes += len(memoryview(source["data"]))
            size = _size_of(source)
        self.images.append(ImagePart(size))

    def _add_document(self, block: dict[str, msgspec.Raw], depth: int) -> None:
        source = field(block, "source", _object, "an object") or {}
        kind = field(source, "type", STRING, "a string") or ""
        if kind == "content":
            self._add_held(source, depth)
        elif kind != "text":
            self.unbounded = "messages hold documents"


def _size_of(source: dict[str, msgspec.Raw]) -> tuple[int, int] | None:
    media_type = field(source, "media_type", STRING, "a string") or ""
    start = bytes(memoryview(source["data"])[:_READ_BASE64]).replace(b"\\/", b"/").strip(b'"')
    if b"\\" in start or not media_type.isascii():
        return None  # no base64; it has the size of the largest
    return data_url_image_size(f"data:{media_type};base64,{start.decode('latin-1')}")


def read_content(fields: Fields) -> Content:
    """What `messages` and `system` hold. Raises DialectError naming the field that is wrong."""
    found = Content()
    if given(fields, "system") and bytes(memoryview(fields["system"])[:1]) == b"[":
        for block in field(fields, "system", _blocks, "a string or a list of blocks") or ():
            found.add_block(block, 1)
    value = fields.get("messages")
    if value is None:
        raise missing("messages", "a list of messages")
    try:
        found.pieces += len(_text_messages.decode(value))
    except msgspec.ValidationError:
        _add_messages(found, fields)
    except (*DEPENDS_ON_BODY, ValueError):
        raise DialectError("messages is not a list of messages.", "messages") from None
    return found


def _add_messages(found: Content, fields: Fields) -> None:
    for message in field(fields, "messages", _messages, "a list of messages") or ():
        found.pieces += 1
        content = message.get("content")
        if content is not None and bytes(memoryview(content)[:1]) == b"[":
            blocks = field(message, "content", _blocks, "a string or a list of blocks")
            for block in blocks or ():
                found.add_block(block, 1)
