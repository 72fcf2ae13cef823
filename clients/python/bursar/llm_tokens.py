"""Counting LLM tokens offline: bounds that cost nothing, and exact counts where they are needed.

What the provider reports always wins. Two things are needed besides:

- Bounds, for reserving before a call and for billing a stream that ended without a usage. A
  byte-level tokenizer never makes more LLM tokens of a text than it has UTF-8 bytes, so the number
  of bytes is one. Nothing shorter is: of base64 or rare scripts a tokenizer makes almost a token
  per byte, and a quarter of the bytes, the usual rule of thumb, is far below the truth there.
- Counts, for quotes and reports: `count_llm_tokens`, with the ranks of OpenAI's tokenizers, which
  ship with the package (nothing is ever downloaded). Loading them takes half a second and 80 MB,
  so nothing is loaded before the first count; programs that must stay small use the bounds.
"""

from __future__ import annotations

import base64
import hashlib
import lzma
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import tiktoken

O200K: Final = "o200k_base"
CL100K: Final = "cl100k_base"

# Longer texts are refused: counting takes a third of a millisecond per thousand LLM tokens, and
# no request body a sidecar admits is longer.
MAX_TEXT_BYTES: Final = 32_000_000

# OpenAI's models whose tokenizer is public, by the start of their name; the longest match decides.
_PREFIXES: Final = {
    "gpt-3.5": CL100K,
    "gpt-35": CL100K,
    "gpt-4": CL100K,
    "gpt-4o": O200K,
    "gpt-4.1": O200K,
    "gpt-4.5": O200K,
    "gpt-5": O200K,
    "gpt-oss": O200K,
    "chatgpt-4o": O200K,
    "o1": O200K,
    "o3": O200K,
    "o4": O200K,
    "text-embedding-3": CL100K,
    "text-embedding-ada-002": CL100K,
    "davinci-002": CL100K,
    "babbage-002": CL100K,
}


class LlmTokenError(ValueError):
    """A text that can't be counted; the message says why and what to do."""


def upper_bound(text: str | bytes) -> int:
    """The most LLM tokens that any byte-level tokenizer can make of a text: its UTF-8 bytes."""
    if isinstance(text, bytes):
        return len(text)
    return len(text.encode("utf-8", "surrogatepass"))


def estimate_output_llm_tokens(utf8_bytes: int) -> int:
    """An upper bound on the LLM tokens behind so many bytes of produced text.

    For streams that ended without a usage: an LLM token is at least one byte, so the true count of
    what was seen is never more. What a provider produced but never sent is not in it. Raises
    ValueError on a negative count.
    """
    if isinstance(utf8_bytes, bool) or not isinstance(utf8_bytes, int) or utf8_bytes < 0:
        raise ValueError(f"utf8_bytes is {utf8_bytes!r}; expected a whole number >= 0")
    return utf8_bytes


def encoding_of(model: str) -> tuple[str, bool]:
    """The encoding to count with, and whether it is the model's own or a stand-in.

    `provider/` and fine-tuning prefixes are ignored. Models whose tokenizer is not public are
    counted as if by the newest public one; the count is then an estimate and no bound.
    """
    name = model.rpartition("/")[2].lower().removeprefix("ft:")
    known = [prefix for prefix in _PREFIXES if name.startswith(prefix)]
    if not known:
        return O200K, False
    return _PREFIXES[max(known, key=len)], True


def count_llm_tokens(text: str, model: str) -> int:
    """How many LLM tokens `model`'s tokenizer makes of `text`.

    Exact for OpenAI's models with a public tokenizer, an estimate for others (see `encoding_of`).
    Counts the text alone: chat formats add framing per message. Markers of special LLM tokens
    inside the text count as the text they are. The first call loads the ranks (half a second,
    80 MB for the larger encoding). Raises LlmTokenError when the text is none or too long.
    """
    if not isinstance(text, str):
        raise LlmTokenError(f"text is a {type(text).__name__}; expected text")
    size = upper_bound(text)
    if size > MAX_TEXT_BYTES:
        raise LlmTokenError(f"text has {size} bytes; at most {MAX_TEXT_BYTES} are counted")
    return len(_encoding(encoding_of(model)[0]).encode_ordinary(text))


class _Definition(msgspec.Struct, frozen=True):
    pattern: str
    special: dict[str, int]
    ranks: str
    sha256: str


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    # Not at the top: programs that never count must not pay for loading it (5 MB, 30 ms).
    import tiktoken  # noqa: PLC0415

    data = resources.files("bursar").joinpath("data")
    definitions = msgspec.json.decode(
        data.joinpath("encodings.json").read_bytes(), type=dict[str, _Definition]
    )
    definition = definitions[name]
    ranks = lzma.decompress(data.joinpath(definition.ranks).read_bytes())
    found = hashlib.sha256(ranks).hexdigest()
    if found != definition.sha256:
        raise LlmTokenError(
            f"the ranks of {name} are damaged (sha256 {found}, expected {definition.sha256}): "
            "install the package again"
        )
    pairs = (line.split() for line in ranks.splitlines() if line)
    return tiktoken.Encoding(
        name=name,
        pat_str=definition.pattern,
        mergeable_ranks={base64.b64decode(piece): int(rank) for piece, rank in pairs},
        special_tokens=definition.special,
    )
