"""A usage as answers of the dialect tell it."""

from typing import Any

from bursar.usage import Usage


def usage_object(usage: Usage) -> dict[str, Any]:
    """A usage as the dialect's answers tell it."""
    return {
        "prompt_tokens": usage.input_llm_tokens,
        "completion_tokens": usage.output,
        "total_tokens": usage.total_llm_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
