"""Pictures: generations, edits and variations.

Models are billed by the piece, by size and quality (DALL-E, and most of others), or by LLM tokens
(GPT Image), whose number follows from size and quality too: OpenAI, Image generation guide, "Cost
and latency".
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from bursar.llm_tokens import input_llm_token_bound
from bursar_sidecar.dialects.facts import Media
from bursar_sidecar.dialects.forms import Form
from bursar_sidecar.dialects.openai.form_endpoint import MediaEndpoint, text, whole

MAX_PICTURES: Final = 10
"""OpenAI's own bound on `n`."""
MAX_PARTIALS: Final = 3
LLM_TOKENS_OF_PARTIAL: Final = 100
"""Of each partial picture of a stream, by the guide."""
PICTURE_LLM_TOKENS: Final[Mapping[str, Mapping[str, int]]] = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1_056, "1024x1536": 1_584, "1536x1024": 1_568},
    "high": {"1024x1024": 4_160, "1024x1536": 6_240, "1536x1024": 6_208},
}
"""Output of one picture of the models in `_KNOWN`, by quality and size."""
MOST_LLM_TOKENS: Final = max(max(sizes.values()) for sizes in PICTURE_LLM_TOKENS.values())
INPUT_PICTURE_LLM_TOKENS: Final = 65 + 4 * 129 + 6_240
"""Of one picture given: at most four tiles, and what high fidelity adds (Images and vision guide,
"Calculating costs", GPT Image models)."""
_KNOWN: Final = re.compile(r"(gpt-image-1(-mini|\.5)?(-\d{4}-\d{2}-\d{2})?|chatgpt-image-latest)")
_SIZE: Final = re.compile(r"(\d{2,5})x(\d{2,5})")
_LARGEST: Final = "1792x1024"
"""Of DALL-E's pictures; without a size they are 1024x1024."""
_BEYOND: Final = ("svg", "frame_count", "frame_duration_ms", "complexity")
"""Fields that make more than a picture of which nothing is published."""


class Images(MediaEndpoint):
    """`POST /v1/images/...`."""

    reader = "openai_images"

    def __init__(self, name: str, path: bytes, *, deployed: bool = True) -> None:
        self.name = name
        self.path = path
        self.deployed = deployed

    def media(self, model: str, given: Mapping[str, Any], form: Form | None) -> Media:
        pictures = whole(given, "n", 1, MAX_PICTURES) or 1
        partials = whole(given, "partial_images", 0, MAX_PARTIALS) or 0
        size, quality = text(given, "size"), text(given, "quality")
        drawn = size if _SIZE.fullmatch(size) else "1024x1024" if not size else _LARGEST
        sides = _SIZE.fullmatch(drawn)
        pixels = int(sides[1]) * int(sides[2]) if sides is not None else 0
        kind = quality if quality in ("hd", "standard", "low", "medium", "high") else "standard"
        named = drawn.replace("x", "-x-")
        output = None
        if _KNOWN.fullmatch(model.rpartition("/")[2]) and not any(given[name] for name in _BEYOND):
            sizes = PICTURE_LLM_TOKENS.get(quality, PICTURE_LLM_TOKENS["high"])
            each = sizes.get(size, MOST_LLM_TOKENS) + partials * LLM_TOKENS_OF_PARTIAL
            output = each * pictures
        return Media(
            units={
                f"output_picture.{kind}/{drawn}": pictures,
                "output_pixel": pictures * pixels,
            },
            input_llm_tokens=self._input(given, form) if output is not None else None,
            output_llm_tokens=output,
            unbounded_output=""
            if output is not None
            else f"how large pictures of {model!r} are in LLM tokens is not published",
            variants=(f"{kind}/{named}", named),
            told={"size": drawn, "quality": kind},
        )

    def _input(self, given: Mapping[str, Any], form: Form | None) -> int:
        prompt = text(given, "prompt").encode()
        shown = 0 if form is None else len(form.files("image", "mask", "markup"))
        return input_llm_token_bound(len(prompt), 1) + shown * INPUT_PICTURE_LLM_TOKENS


GENERATIONS: Final = Images("images/generations", b"/images/generations")
EDITS: Final = Images("images/edits", b"/images/edits")
VARIATIONS: Final = Images("images/variations", b"/images/variations", deployed=False)
