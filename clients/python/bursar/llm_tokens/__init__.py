"""Counting LLM tokens offline: bounds that cost nothing, and counts where they are needed.

What the provider reports always wins. Two things are needed besides:

- Bounds, for reserving before a call and for billing a stream that ended without a usage
  (`bounds`, `images`). A byte-level tokenizer never makes more LLM tokens of a text than it has
  UTF-8 bytes, so the number of bytes is one; a quarter of it, the usual rule of thumb, is none: of
  base64 or rare scripts a tokenizer makes almost an LLM token per byte.
- Counts, for quotes, reports and streams that were cut (`encodings`, `requests`), with the ranks of
  OpenAI's tokenizers, which ship with the package (nothing is ever downloaded). Loading them takes
  half a second and 80 MB, so nothing is loaded before the first count; programs that must stay
  small use the bounds.

docs/llm-tokens.md says what is exact, what is an estimate, and where each rule comes from.
"""

from .bounds import (
    FRAMING_OF_TOOLS,
    FRAMING_PER_MESSAGE,
    FRAMING_PER_REQUEST,
    estimate_output_llm_tokens,
    input_llm_token_bound,
    text_bound,
    upper_bound,
)
from .encodings import (
    CL100K,
    MAX_TEXT_BYTES,
    O200K,
    LlmTokenError,
    Tokenizer,
    count_llm_tokens,
    encoding,
    encoding_of,
    has_public_tokenizer,
    tokenizer_of,
)
from .image_sizes import MAX_HEADER_BYTES, data_url_image_size, image_size
from .images import MAX_PIXELS_A_SIDE, ImageCount, count_image_llm_tokens, image_llm_token_bound
from .requests import RequestCount, count_request_llm_tokens

__all__ = [
    "CL100K",
    "FRAMING_OF_TOOLS",
    "FRAMING_PER_MESSAGE",
    "FRAMING_PER_REQUEST",
    "MAX_HEADER_BYTES",
    "MAX_PIXELS_A_SIDE",
    "MAX_TEXT_BYTES",
    "O200K",
    "ImageCount",
    "LlmTokenError",
    "RequestCount",
    "Tokenizer",
    "count_image_llm_tokens",
    "count_llm_tokens",
    "count_request_llm_tokens",
    "data_url_image_size",
    "encoding",
    "encoding_of",
    "estimate_output_llm_tokens",
    "has_public_tokenizer",
    "image_llm_token_bound",
    "image_size",
    "input_llm_token_bound",
    "text_bound",
    "tokenizer_of",
    "upper_bound",
]
