"""A usage as the dialect's answers tell it."""

from typing import Any

from bursar.usage import Usage


def told(usage: Usage) -> dict[str, Any]:
    """The `usage` of a message: what was read from a cache, or written to it, beside the input."""
    return {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    }
