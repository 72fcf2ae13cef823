"""The names that LiteLLM's map has for prices: what, threshold, service tier, size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from .model import Meter

SUFFIX_TIERS: Final = {
    "batches": "batch",
    "flex": "flex",
    "priority": "priority",
    "ultrafast": "ultrafast",
    "balanced": "balanced",
    "decisions": "decisions",
}

FIELD: Final = re.compile(
    r"(?P<what>[a-z_]+?(?:_above_(?:1|12)hr|_1k_calls)?)"
    r"(?:_above_(?P<above>\d+)(?P<kilo>k?)_tokens)?"
    rf"(?:_(?P<tier>{'|'.join(SUFFIX_TIERS)}))?"
)

METERS: Final[Mapping[str, Meter]] = {
    "input_cost_per_token": Meter.INPUT,
    "output_cost_per_token": Meter.OUTPUT,
    "output_cost_per_reasoning_token": Meter.REASONING,
    "cache_read_input_token_cost": Meter.CACHED_INPUT,
    "explicit_cache_read_input_token_cost": Meter.EXPLICIT_CACHED_INPUT,
    "cache_read_input_audio_token_cost": Meter.CACHED_AUDIO_INPUT,
    "cache_read_input_image_token_cost": Meter.CACHED_IMAGE_INPUT,
    "cache_creation_input_token_cost": Meter.CACHE_WRITE_5M,
    "cache_creation_input_token_cost_above_1hr": Meter.CACHE_WRITE_1H,
    "cache_creation_input_token_cost_above_12hr": Meter.CACHE_WRITE_12H,
    "cache_creation_input_audio_token_cost": Meter.CACHE_WRITE_AUDIO,
    "input_cost_per_audio_token": Meter.AUDIO_INPUT,
    "output_cost_per_audio_token": Meter.AUDIO_OUTPUT,
    "input_cost_per_image_token": Meter.IMAGE_INPUT,
    "output_cost_per_image_token": Meter.IMAGE_OUTPUT,
    "input_cost_per_video_token": Meter.VIDEO_INPUT,
    "output_cost_per_video_token": Meter.VIDEO_OUTPUT,
    "citation_cost_per_token": Meter.CITATION,
    "input_cost_per_request": Meter.REQUEST,
    "input_cost_per_query": Meter.QUERY,
    "input_cost_per_text_message": Meter.TEXT_MESSAGE,
    "google_maps_grounding_cost_per_query": Meter.MAPS_QUERY,
    "code_interpreter_cost_per_session": Meter.TOOL_SESSION,
    "ocr_cost_per_page": Meter.PAGE,
    "annotation_cost_per_page": Meter.ANNOTATED_PAGE,
    "ocr_cost_per_credit": Meter.CREDIT,
    "input_cost_per_character": Meter.INPUT_CHARACTER,
    "output_cost_per_character": Meter.OUTPUT_CHARACTER,
    "input_cost_per_second": Meter.INPUT_SECOND,
    "output_cost_per_second": Meter.OUTPUT_SECOND,
    "input_cost_per_audio_per_second": Meter.INPUT_AUDIO_SECOND,
    "input_cost_per_video_per_second": Meter.INPUT_VIDEO_SECOND,
    "output_cost_per_video_per_second": Meter.OUTPUT_VIDEO_SECOND,
    "input_cost_per_image": Meter.INPUT_PICTURE,
    "output_cost_per_image": Meter.OUTPUT_PICTURE,
    "input_cost_per_pixel": Meter.INPUT_PIXEL,
    "output_cost_per_pixel": Meter.OUTPUT_PIXEL,
    "file_search_cost_per_1k_calls": Meter.FILE_SEARCH,
    "cost_per_second": Meter.CAPACITY_SECOND,
}

# Fields that are for more than one unit.
PER: Final = {"file_search_cost_per_1k_calls": 1000}

# Sizes, resolutions and intervals that the map writes behind the field's name.
VARIANT_FIELD: Final = re.compile(
    r"(?P<what>output_cost_per_image|output_cost_per_second)_(?P<variant>[0-9][0-9.]*[a-zA-Z]*)"
    r"|(?P<interval>input_cost_per_video_per_second)_(?P<above>above_[0-9]+s_interval)"
)
