"""Bursar's public library: exact prices for LLM calls, without a server.

    >>> import bursar
    >>> usage = {"prompt_tokens": 1200, "completion_tokens": 340,
    ...          "prompt_tokens_details": {"cached_tokens": 1000}}
    >>> bursar.cost("gpt-4o", usage)
    Decimal('0.00515000')

Money is exact: decimals while a price is applied, whole nanos (billionths of a currency's unit)
everywhere else. The modules below it: `money`, `usage`, `pricing`, `llm_tokens`; `v1` holds the
generated messages and stubs of the gRPC services, `client` the client over them.
"""

from .llm_tokens import count_llm_tokens, count_request_llm_tokens
from .pricing.library import (
    LlmTokenRates,
    UnknownModelError,
    UsageError,
    cost,
    cost_per_llm_token,
    quote,
    register_model,
)

__all__ = [
    "LlmTokenRates",
    "UnknownModelError",
    "UsageError",
    "cost",
    "cost_per_llm_token",
    "count_llm_tokens",
    "count_request_llm_tokens",
    "quote",
    "register_model",
]
