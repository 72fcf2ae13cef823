"""Pictures and sound of OpenAI's API (and of those who speak its dialect).

OpenAI's Python library 3.54, whose types are made from its API description:
`types/images_response.py`, `types/image_gen_completed_event.py`,
`types/audio/transcription_create_response.py`, `transcription_verbose.py`,
`transcription_text_done_event.py`, `speech_create_params.py`.

DALL-E's answers, and those of others that bill by the piece, count nothing: what was made is in
`data`, in which size and quality in the request. A picture is counted by the piece and, where its
size is told, in pixels; a price list has one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypedDict

import msgspec

from .counts import Usage
from .metered import Call, Dialect, Gathered, Metered, Part, error_of, in_parts, missing
from .openai import usage_from_openai
from .openai_answers import identified, picture_usage, usage_in
from .reader import Reader, inner, text_of

_SIZE: Final = re.compile(r"(\d{2,5})x(\d{2,5})")
_QUALITY: Final = re.compile(r"[a-z]{1,12}")


def _read_images(answer: Mapping[str, Any], call: Call) -> Metered:
    """Pictures: LLM tokens of a GPT Image model, else pieces and pixels.

    `svg_usage` is of another model, "separate from image rendering usage".
    """
    model = text_of(answer, "model") or text_of(call.request, "model")
    counted = answer.get("usage")
    if counted is None:
        return _pieces(answer, call, model)
    usage = (
        picture_usage(counted, call) if isinstance(counted, Mapping) else None
    ) or usage_from_openai(
        counted, input_bound=call.input_bound, output_bound=call.output_bound or None
    )
    drawing = inner(answer, "svg_usage")
    parts: list[Part] = [Part("", usage)]
    if drawing:
        reasoning = {"reasoning_tokens": drawing.get("reasoning_tokens")}
        told = {**drawing, "output_tokens_details": reasoning}
        parts.append(Part(text_of(drawing, "model") or "svg", usage_from_openai(told)))
    usage, several = in_parts(parts)
    return Metered(usage=usage, parts=several, model=model)


def _pieces(answer: Mapping[str, Any], call: Call, model: str) -> Metered:
    pictures = answer.get("data")
    if not isinstance(pictures, list | tuple) or not pictures:
        reason = error_of(answer)
        return Metered(
            usage=missing(f"no pictures ({reason})" if reason else "no pictures", call),
            model=model,
        )
    size = text_of(answer, "size") or text_of(call.request, "size")
    quality = text_of(answer, "quality") or text_of(call.request, "quality")
    sides, known = _SIZE.fullmatch(size), _QUALITY.fullmatch(quality)
    variant = "/".join([quality] * bool(known) + [size] * bool(sides))
    extra = {f"output_picture.{variant}" if variant else "output_picture": len(pictures)}
    listed_as: tuple[str, ...] = ()
    if sides is not None:
        extra["output_pixel"] = len(pictures) * int(sides[1]) * int(sides[2])
        named = f"{sides[1]}-x-{sides[2]}/{model}"
        listed_as = (f"{quality}/{named}", named) if known else (named,)
    usage = Reader().usage({}, extra)
    return Metered(usage=usage, model=model, listed_as=listed_as if model else ())


def _fold_images(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    kind = text_of(event, "type") or name
    gathered.error = gathered.error or error_of(event)
    if kind.endswith(".completed"):
        gathered.note(event, "size", "quality", "svg_usage")
        gathered.count("usage", event.get("usage"))
        gathered.final = gathered.answer.get("usage") is not None


def _read_transcription(answer: Mapping[str, Any], call: Call) -> Metered:
    """A transcription: LLM tokens, or seconds of sound, a begun one counted whole.

    `usage.type` says which ("tokens" or "duration"). An older `verbose_json` has no usage but the
    `duration`. Audio LLM tokens are a part of the input.
    """
    counted = answer.get("usage")
    read = Reader()
    if isinstance(counted, Mapping) and text_of(counted, "type") != "duration":
        usage = usage_in(answer, call)
    elif isinstance(counted, Mapping) or (counted is None and answer.get("duration") is not None):
        source = counted if isinstance(counted, Mapping) else answer
        seconds = read.seconds(source, "seconds", "duration")
        if seconds is None:
            read.fault("seconds is missing")
        usage = read.usage({"input": 0}, {"input_second": seconds or 0})
    else:
        usage = usage_in(answer, call)
    metered = identified(answer, usage)
    model = metered.model or text_of(call.request, "model")
    return msgspec.structs.replace(metered, model=model)


def _fold_transcription(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    gathered.error = gathered.error or error_of(event)
    if (text_of(event, "type") or name).endswith(".done"):
        gathered.count("usage", event.get("usage"))
        gathered.final = event.get("usage") is not None


def _read_speech(answer: Mapping[str, Any], call: Call) -> Metered:
    """Speech: characters of the request's `input`, or LLM tokens where a stream's end tells them.

    The answer itself is sound.
    """
    model = text_of(call.request, "model")
    if answer.get("usage") is not None:
        return Metered(usage=usage_in(answer, call), model=model)
    spoken = call.request.get("input")
    if not isinstance(spoken, str):
        return Metered(usage=missing("the request's input is no text", call), model=model)
    return Metered(usage=Usage(extra={"input_character": len(spoken)}), model=model)


_IMAGE_FIELDS: Final = (
    *("usage", "svg_usage", "size", "quality", "model", "type", "error"),
    "data",
)


class _Picture(TypedDict):
    """A picture of which nothing is decoded."""


_ONLY_HOW_MANY: Final = (("data", list[_Picture]),)
_SOUND_FIELDS: Final = ("usage", "duration", "model", "type", "error")

DIALECTS: Final = (
    Dialect("openai_images", _read_images, _IMAGE_FIELDS, _fold_images, _ONLY_HOW_MANY),
    Dialect("openai_transcription", _read_transcription, _SOUND_FIELDS, _fold_transcription),
    Dialect("openai_speech", _read_speech, _SOUND_FIELDS, _fold_transcription, bodiless=True),
)
