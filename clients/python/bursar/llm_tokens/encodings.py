"""Which tokenizer a model counts with, and counting with it.

Exact where tiktoken's own table names the model; every other model is counted with the nearest
public encoding times a factor of its family, and that is an estimate.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from .bounds import upper_bound

if TYPE_CHECKING:
    import tiktoken

O200K: Final = "o200k_base"
CL100K: Final = "cl100k_base"

# Longer texts are refused: counting takes a third of a millisecond per thousand LLM tokens, and
# no request body a sidecar admits is longer.
MAX_TEXT_BYTES: Final = 32_000_000

# What tiktoken 0.14 maps (tiktoken/model.py), by the start of the name; the longest match decides.
# Its o200k_harmony (gpt-oss) has the ranks of o200k_base and more special LLM tokens.
_PUBLISHED: Final = {
    "gpt-3.5-turbo": CL100K,
    "gpt-35-turbo": CL100K,
    "gpt-4": CL100K,
    "gpt-4o": O200K,
    "gpt-4.1": O200K,
    "gpt-4.5": O200K,
    "gpt-5": O200K,
    "gpt-oss": O200K,
    "chatgpt-4o": O200K,
    "o1": O200K,
    "o3": O200K,
    "o4-mini": O200K,
    "text-embedding-3": CL100K,
    "text-embedding-ada-002": CL100K,
    "davinci-002": CL100K,
    "babbage-002": CL100K,
}


class Tokenizer(NamedTuple):
    """How a model's LLM tokens are counted."""

    encoding: str
    percent: int
    """The count with `encoding` is multiplied by so many percent; 100 where it is exact."""
    is_exact: bool
    basis: str
    """Why this encoding and factor, for people."""


class _Family(NamedTuple):
    starts: tuple[str, ...]
    percent: int
    basis: str


_OPENAI_LATER: Final = "OpenAI has published no encoding for it; counted with its newest public one"
_MEASURED: Final = "measured against o200k_base on prose, code and JSON, docs/llm-tokens.md: "

# A model whose tokenizer is not public, or does not ship with this package: its family's factor.
_FAMILIES: Final = (
    _Family(
        (
            "gpt-6",
            "gpt-audio",
            "gpt-realtime",
            "gpt-live",
            "gpt-image",
            "gpt-transcribe",
            "gpt-rosalind",
            "gpt-daybreak",
            "gpt-chat",
            "daybreak",
            "chat-latest",
            "chatgpt",
            "codex",
            "computer-use",
            "omni-moderation",
            "model-router",
            "model_router",
        ),
        100,
        _OPENAI_LATER,
    ),
    _Family(
        (
            "claude-opus-4-7",
            "claude-opus-4.7",
            "claude-opus-4-8",
            "claude-opus-4.8",
            "claude-opus-4-9",
            "claude-opus-4.9",
            "claude-opus-5",
            "claude-sonnet-5",
            "claude-haiku-5",
            "claude-fable",
            "claude-mythos",
        ),
        142,
        "Anthropic: about 30 percent more than earlier models, those taken at 109 percent",
    ),
    _Family(("claude", "anthropic.claude"), 109, _MEASURED + "Anthropic's last public tokenizer"),
    _Family(("gemini", "gemma", "learnlm"), 118, _MEASURED + "Gemma 3"),
    _Family(("deepseek",), 105, _MEASURED + "DeepSeek V3"),
    _Family(("qwen", "qwq", "qvq"), 103, _MEASURED + "Qwen 3"),
    _Family(("llama", "meta-llama", "meta.llama"), 100, _MEASURED + "Llama 3"),
    _Family(
        ("mistral", "ministral", "mixtral", "codestral", "devstral", "magistral", "pixtral"),
        106,
        _MEASURED + "Mistral's Tekken",
    ),
)
_UNKNOWN: Final = _Family((), 118, "nothing known of it; the largest factor measured but one")


class LlmTokenError(ValueError):
    """A text or a request that can't be counted; the message says why and what to do."""


@lru_cache(maxsize=1_024)  # model names repeat
def tokenizer_of(model: str) -> Tokenizer:
    """How `model` is counted. Provider prefixes (`azure/eu/`, `openrouter/openai/`), the regions of
    Bedrock (`us.`), `ft:` and what stands behind `:` or `@` are ignored."""
    name = model_family_name(model)
    known = [start for start in _PUBLISHED if _starts(name, start)]
    if known:
        return Tokenizer(_PUBLISHED[max(known, key=len)], 100, True, "tiktoken's own table")
    best, longest = _UNKNOWN, 0
    for family in _FAMILIES:
        for start in family.starts:
            if name.startswith(start) and len(start) > longest:
                best, longest = family, len(start)
    return Tokenizer(O200K, best.percent, False, best.basis)


def model_family_name(model: str) -> str:
    """The name without what says where it is served: `us.anthropic.claude-x-v1:0` is `claude-x-v1`.

    Lower case."""
    name = model.rpartition("/")[2].lower().removeprefix("ft:")
    name = name.partition(":")[0].partition("@")[0]
    for vendor in ("anthropic.", "meta.", "mistral.", "deepseek.", "openai.", "qwen.", "google."):
        before, found, rest = name.partition(vendor)
        if found and before.rstrip(".") in ("", "us", "eu", "apac", "au", "jp", "ca", "global"):
            return rest
    return name


def _starts(name: str, start: str) -> bool:
    # "o1" is not the start of "o1x", "gpt-4" not of "gpt-42"; "gpt-5" is that of "gpt-5.1".
    return name.startswith(start) and not name[len(start) : len(start) + 1].isalnum()


def encoding_of(model: str) -> tuple[str, bool]:
    """The encoding to count with, and whether it is the model's own or a stand-in."""
    tokenizer = tokenizer_of(model)
    return tokenizer.encoding, tokenizer.is_exact


def has_public_tokenizer(model: str) -> bool:
    """Whether counts for `model` are exact, and `text_bound` holds for it."""
    return tokenizer_of(model).is_exact


def count_llm_tokens(text: str, model: str) -> int:
    """How many LLM tokens `model`'s tokenizer makes of `text`.

    Exact for OpenAI's models with a public tokenizer, an estimate and no bound for others (see
    `tokenizer_of`, which says which). Counts the text alone: chat formats add framing per message
    (see `count_request_llm_tokens`). Markers of special LLM tokens inside the text count as the
    text they are. The first call loads the ranks (half a second, 80 MB for the larger encoding).
    Raises LlmTokenError when the text is none or too long.
    """
    if not isinstance(text, str):
        raise LlmTokenError(f"text is a {type(text).__name__}; expected text")
    size = upper_bound(text)
    if size > MAX_TEXT_BYTES:
        raise LlmTokenError(f"text has {size} bytes; at most {MAX_TEXT_BYTES} are counted")
    tokenizer = tokenizer_of(model)
    return scaled(len(encoding(tokenizer.encoding).encode_ordinary(text)), tokenizer)


def scaled(counted: int, tokenizer: Tokenizer) -> int:
    """A count with the encoding as the model's own, rounded up."""
    return -(-counted * tokenizer.percent // 100)


class _Definition(msgspec.Struct, frozen=True):
    pattern: str
    special: dict[str, int]
    ranks: str
    sha256: str


@cache
def encoding(name: str) -> tiktoken.Encoding:
    """One of the two encodings that ship with the package, loaded once.

    Raises LlmTokenError where its file is damaged.
    """
    # Not at the top: programs that never count must not pay for loading them (5 MB, 30 ms).
    import lzma  # noqa: PLC0415

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
