"""What a request's contents hold: what bounds their LLM tokens, and what only the model's context
window does.

google-genai 3.4, `types.py`: Part, Blob, FileData, Tool. Documentation on ai.google.dev: "Image
understanding" (images cost by tiles), "Video understanding", "Audio understanding", "Document
understanding" (by seconds and pages, which bytes do not tell), "Grounding with Google Search",
Pricing (since Gemini 3 each query is billed, before each prompt).
"""

import re
from typing import Any, Final

import msgspec

from bursar.llm_tokens import MAX_HEADER_BYTES, data_url_image_size
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.gemini.fields import named, section
from bursar_sidecar.dialects.images import MAX_IMAGES, ImagePart
from bursar_sidecar.dialects.json_fields import LIST, STRING, Fields, field, given, shown, top_level

_READ_BASE64: Final = MAX_HEADER_BYTES * 4 // 3 + 512
"""Of an image's data: what tells its size, in base64."""
_IN_THE_BODY: Final = frozenset(
    {
        "text",
        "thought",
        "thoughtSignature",
        "functionCall",
        "executableCode",
        "codeExecutionResult",
        "partMetadata",
        "videoMetadata",
    }
)
"""Parts that hold all that the model is given of them."""
_SEARCHES: Final = ("googleSearch", "googleSearchRetrieval")
_GENERATION: Final = re.compile(r"gemini-(\d{1,3})")
FIRST_BILLED_BY_QUERY: Final = 3
"""The generation since which each query of a search is billed, and their number has no bound."""

_parts = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_contents = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


class Content:
    """What was found in a request's contents and system instruction."""

    __slots__ = ("image_bytes", "images", "pieces", "text_only", "unbounded")

    def __init__(self) -> None:
        self.pieces = 0
        """Contents and parts, each framed by LLM tokens of its own."""
        self.unbounded = ""
        """Why the body does not bound the input; "" when it does."""
        self.images: list[ImagePart] = []
        self.image_bytes = 0
        self.text_only = True

    def add_content(self, content: dict[str, msgspec.Raw]) -> None:
        """One content with its parts. Raises DialectError."""
        self.pieces += 1
        if not given(content, "parts"):
            return
        for part in _one_or_more(content, "parts"):
            self._add_part(part)

    def _add_part(self, part: dict[str, msgspec.Raw]) -> None:
        self.pieces += 1
        for name in part:
            usual = _usual(name)
            if not given(part, name):
                continue
            if usual == "inlineData":
                self._add_data(section(part, usual))
            elif usual == "functionResponse":
                if "parts" in section(part, usual):
                    self._beyond("a function's response holds more than text")
            elif usual not in _IN_THE_BODY:
                self._beyond(f"contents hold {shown(usual)!r}")

    def _add_data(self, data: Fields) -> None:
        kind = field(data, named(data, "mimeType"), STRING, "a string") or ""
        if kind.startswith("text/"):
            return  # base64 of a text has more bytes than the text
        self.text_only = False
        if not kind.startswith("image/") or len(self.images) >= MAX_IMAGES or "data" not in data:
            self._beyond(f"contents hold {shown(kind)!r}")
            return
        self.image_bytes += len(memoryview(data["data"]))
        start = bytes(memoryview(data["data"])[:_READ_BASE64]).replace(b"\\/", b"/").strip(b'"')
        size = None
        if b"\\" not in start and kind.isascii():
            size = data_url_image_size(f"data:{kind};base64,{start.decode('latin-1')}")
        self.images.append(ImagePart(size))

    def _beyond(self, why: str) -> None:
        self.unbounded = why
        self.text_only = False


def read_content(fields: Fields) -> Content:
    """What `contents` and `systemInstruction` hold. Raises DialectError naming what is wrong."""
    found = Content()
    if given(fields, "contents"):
        for content in _one_or_more(fields, "contents"):
            found.add_content(content)
    instruction = section(fields, "systemInstruction")
    if instruction:
        found.add_content(instruction)
    if given(fields, named(fields, "cachedContent")):
        found._beyond("the request refers to cached content")
    return found


class Tools(msgspec.Struct, frozen=True):
    """What tools may add to a call."""

    declared: bool = False
    searches: int = 0
    unbounded: str = ""
    """What has no bound; "" when all has."""


def read_tools(fields: Fields, model: str) -> Tools:
    """What `tools` allows. Raises DialectError."""
    if not given(fields, "tools"):
        return Tools()
    searches = 0
    unbounded = ""
    for raw in field(fields, "tools", LIST, "a list of tools") or ():
        tool = top_level(bytes(raw))
        for name in tool:
            usual = _usual(name)
            if usual == "functionDeclarations" or not given(tool, name):
                continue
            if usual in _SEARCHES and not _bills_queries(model):
                searches = 1
            else:
                unbounded = f"tools: {shown(usual)}"
    return Tools(True, searches, unbounded)


def _bills_queries(model: str) -> bool:
    generation = _GENERATION.search(model)
    return generation is None or int(generation[1]) >= FIRST_BILLED_BY_QUERY


def _one_or_more(fields: Fields, name: str) -> list[dict[str, msgspec.Raw]]:
    """A list of objects, or a single one, which the provider takes as well."""
    decoder: msgspec.json.Decoder[Any] = _contents if name == "contents" else _parts
    if bytes(memoryview(fields[name])[:1]) == b"{":
        return [top_level(bytes(fields[name]))]
    found = field(fields, name, decoder, "a list of objects")
    if found is None:
        raise DialectError(f"{name} is null; expected a list of objects.", name)
    checked: list[dict[str, msgspec.Raw]] = found
    return checked


def _usual(name: str) -> str:
    """A name in the usual spelling: `inline_data` as `inlineData`."""
    first, *rest = name.split("_")
    return first + "".join(word[:1].upper() + word[1:] for word in rest)
