"""Upper bounds on LLM tokens, from bytes alone: no tokenizer is loaded, no text is taken apart.

Why `text_bound` holds, for the tokenizers whose ranks ship with the package (a property test tries
it against both, on text made to break it):

1. A byte-pair encoding ends when no two adjacent LLM tokens of a piece can be merged, so no two
   adjacent ones together spell an LLM token.
2. Every pair of `_LETTERS` is an LLM token (a test tries all 361). In a run of m of these letters
   no two LLM tokens of a single letter stand side by side, and the most there can be is one, two,
   one, two letters ...: (2m + 1) / 3. Each run but the first begins behind another byte.
3. The text is cut into pieces before it is encoded; inside a run of letters that happens only
   behind an apostrophe ("don't"), which adds a third (no text was found that needs it).
4. Every run of up to 79 spaces is an LLM token, so of two adjacent ones of spaces alone the sum is
   80 or more: at most 1 + 2 (s // 80) in a piece of s spaces. A run of spaces is cut at most once,
   before its last: 2 + 2 (s // 80), which is no more than s less two for each four and two for each
   eight of them.
5. An LLM token that holds any other byte is counted with that byte.
"""

from typing import Final

# Chat formats wrap every message in a handful of LLM tokens (role, separators) and prime the
# answer with a few more: 3 to 4 and 3 in OpenAI's published formats. Other providers' templates
# differ, so the bound is generous; it only has to be no less than the truth.
FRAMING_PER_MESSAGE: Final = 16
FRAMING_PER_REQUEST: Final = 64
FRAMING_OF_TOOLS: Final = 1_024
"""What a request with tools adds besides the tools: Anthropic's instructions on how to use them are
the longest that are published, 159 to 530 LLM tokens by model."""

# The largest set of frequent letters of which every pair is an LLM token in both encodings.
_LETTERS: Final = b"abcdefghilmnoprstuw"


def upper_bound(text: str | bytes) -> int:
    """The most LLM tokens that any byte-level tokenizer can make of a text: its UTF-8 bytes."""
    if isinstance(text, bytes):
        return len(text)
    return len(text.encode("utf-8", "surrogatepass"))


def text_bound(data: bytes) -> int:
    """The most LLM tokens that o200k_base or cl100k_base make of UTF-8 text, or of JSON strings.

    Of JSON it bounds the strings' contents: an escape is at least two bytes, the first of them a
    backslash, and stands for one character. Never more than the number of bytes; about five sixths
    of it for prose, less for indented code. Takes some two nanoseconds a byte.
    """
    others = len(data.translate(None, _LETTERS))
    letters = len(data) - others
    if b"    " in data:
        others -= 2 * data.count(b"    ") + 2 * data.count(b"        ")
    thirds = 2 * letters + min(letters, others + 1) + data.count(b"'")
    return min(len(data), others - (-thirds // 3))


def input_llm_token_bound(body_bytes: int, messages: int) -> int:
    """The most LLM tokens a request body of so many bytes can hold.

    An LLM token of a byte-level tokenizer stands for at least one byte of text, so the body's
    UTF-8 length bounds its content; the format adds framing per message. Holds for content inside
    the request, not for what the request only refers to (files, stored prompts, images by URL).
    """
    if body_bytes < 0 or messages < 0:
        raise ValueError(f"body_bytes ({body_bytes}) and messages ({messages}) must be >= 0")
    return body_bytes + FRAMING_PER_MESSAGE * messages + FRAMING_PER_REQUEST


def estimate_output_llm_tokens(utf8_bytes: int) -> int:
    """An upper bound on the LLM tokens behind so many bytes of produced text.

    For streams that ended without a usage: an LLM token is at least one byte, so the true count of
    what was seen is never more. What a provider produced but never sent is not in it. Raises
    ValueError on a negative count.
    """
    if isinstance(utf8_bytes, bool) or not isinstance(utf8_bytes, int) or utf8_bytes < 0:
        raise ValueError(f"utf8_bytes is {utf8_bytes!r}; expected a whole number >= 0")
    return utf8_bytes
