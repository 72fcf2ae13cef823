"""DeepSeek: OpenAI's shape, with the cache's hits and misses beside the prompt that they make up.

DeepSeek API reference, "Create Chat Completion", usage: `prompt_tokens` equals
`prompt_cache_hit_tokens + prompt_cache_miss_tokens`, `total_tokens` is prompt and completion, and
`completion_tokens_details.reasoning_tokens` is within the completion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .metered import Call, Dialect, Metered, doubted
from .openai_answers import CHAT_FIELDS, fold_chat, identified, usage_in
from .reader import Reader, inner


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = inner(answer, "usage")
    usage = usage_in(answer, call)
    read = Reader()
    hit = read.count(counted, "prompt_cache_hit_tokens")
    miss = read.count(counted, "prompt_cache_miss_tokens")
    prompt = read.count(counted, "prompt_tokens")
    if None not in (hit, miss, prompt) and (hit or 0) + (miss or 0) != prompt:
        read.fault(f"cache hits ({hit}) and misses ({miss}) are not the prompt ({prompt})")
    if read.faults and usage.is_exact:
        usage = doubted(usage, "; ".join(read.faults))
    return identified(answer, usage)


DIALECTS: Final = (
    Dialect("deepseek_chat", _read, CHAT_FIELDS, fold_chat),
    Dialect("deepseek_completions", _read, CHAT_FIELDS, fold_chat),
)
