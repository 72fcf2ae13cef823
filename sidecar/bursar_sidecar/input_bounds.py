"""The most LLM tokens that a request's input can be: bytes, what the ranks prove of text, and the
providers' formulas for images. Pure; no tokenizer is loaded. docs/llm-tokens.md has the reasons.
"""

from collections import Counter
from typing import Final

from bursar.llm_tokens import (
    FRAMING_OF_TOOLS,
    has_public_tokenizer,
    image_llm_token_bound,
    input_llm_token_bound,
    text_bound,
)
from bursar_sidecar.dialects.facts import Facts

LEAST_TIGHTENED_BYTES: Final = 4_096
"""Below it the bytes bound well enough: reading the text once more costs more than it frees."""


def request_bound(facts: Facts, model: str) -> int | None:
    """LLM tokens; None where something in the request has no bound for this model."""
    if facts.unbounded_input or facts.rounds > 1:
        return None
    images = images_bound(facts, model)
    return None if images is None else images + text_and_framing_bound(facts, model)


def images_bound(facts: Facts, model: str) -> int | None:
    """LLM tokens of all images; None where the model's formula is not published."""
    total = 0
    if not facts.images:
        return total
    for image, number in Counter(facts.images).items():
        bound = image_llm_token_bound(model, image.size, image.detail)
        if bound is None:
            return None
        total += bound * number
    return total


def text_and_framing_bound(facts: Facts, model: str) -> int:
    """LLM tokens of all but the images: one a byte, or less where that is proved."""
    size = facts.body_bytes - facts.image_bytes
    bound = input_llm_token_bound(size, facts.messages) + facts.injected
    public = has_public_tokenizer(model)
    if not public and facts.tools:
        bound += FRAMING_OF_TOOLS
    prompt = facts.prompt
    if public and prompt is not None and size >= LEAST_TIGHTENED_BYTES and not facts.images:
        text = bytes(prompt)
        bound -= len(text) - text_bound(text)
    return bound


def counted_bound(facts: Facts, counted: int) -> int:
    """LLM tokens of a countable request's input, the strings of its prompt being `counted`."""
    prompt = 0 if facts.prompt is None else len(memoryview(facts.prompt))
    framing = input_llm_token_bound(facts.body_bytes - prompt, facts.messages)
    return counted + framing + facts.injected


def countable(facts: Facts) -> bool:
    """Whether counting a request's prompt bounds its input."""
    if facts.rounds > 1:
        return False
    return facts.prompt is not None and not facts.unbounded_input and not facts.images
