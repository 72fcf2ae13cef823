"""`:generateContent`, `:streamGenerateContent` and `:countTokens`.

Every field that the cost does not depend on stays raw; a body that needs no change goes as it came.
"""

from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import DialectError, Facts, checked_model
from bursar_sidecar.dialects.gemini.content import read_content, read_tools
from bursar_sidecar.dialects.gemini.dialect import GeminiEndpoint
from bursar_sidecar.dialects.gemini.fields import COMMON_MODEL, PREFIX, named, section
from bursar_sidecar.dialects.gemini.reading import GenerateReading, GenerateStreamReading
from bursar_sidecar.dialects.json_fields import (
    OPTIONAL_INT,
    OPTIONAL_STRING,
    STRINGS,
    Fields,
    changed,
    field,
    given,
    limit_of,
    raw,
    shown,
    top_level,
)
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.reading import MeteredReading, Reading

MAX_CANDIDATES: Final = 8
"""The provider's own bound on `candidateCount`."""
CONFIG: Final = "generationConfig"
LIMIT: Final = "maxOutputTokens"
"""Thoughts count to it, as the API behaves (google-genai, issue 2062)."""


class Generate(GeminiEndpoint):
    """`:generateContent`."""

    name = "generateContent"
    method = b"generateContent"
    streams = False

    def read(self, asked: Asked, named: str) -> Facts:
        fields = top_level(asked.body)
        model = checked_model(named)
        check_model(fields, model)
        config = section(fields, CONFIG)
        content = read_content(fields)
        tools = read_tools(fields, model)
        return Facts(
            model=model,
            stream=self.streams,
            output_limit=_limit(config),
            choices=_choices(config),
            messages=content.pieces,
            body_bytes=len(asked.body),
            service_tier=_tier(fields),
            text_only=content.text_only and not content.images and not _asks_media(config),
            unbounded_input=content.unbounded,
            images=tuple(content.images),
            image_bytes=content.image_bytes,
            tools=tools.declared,
            unbounded_tools=tools.unbounded,
            provider_units={"search": tools.searches} if tools.searches else {},
            reasoning=_may_think(config),
            fields=fields,
        )

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        changes = model_changes(facts, model)
        config = section(facts.fields, CONFIG)
        if output_limit is not None and output_limit < (_limit(config) or output_limit + 1):
            config[named(config, LIMIT)] = raw(output_limit)
            changes[named(facts.fields, CONFIG)] = raw(config)
        return changed(body, facts.fields, changes)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return GenerateReading()


class StreamGenerate(Generate):
    """`:streamGenerateContent`."""

    name = "streamGenerateContent"
    method = b"streamGenerateContent"
    streams = True
    progressive = True

    def reading(self, facts: Facts, server: Server) -> Reading:
        return GenerateStreamReading(input_grows=bool(facts.unbounded_tools))

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        return GenerateStreamReading(input_grows=bool(facts.unbounded_tools))

    def cut_events(self, reading: Reading, usage: Usage) -> tuple[bytes, bytes]:
        if not isinstance(reading, GenerateStreamReading):
            raise TypeError(f"{reading!r} is no reading of streamed content")
        candidates = [
            {
                "content": {"parts": [{"text": ""}], "role": "model"},
                "finishReason": "MAX_TOKENS",
                "index": index,
            }
            for index in sorted(reading.open_candidates) or [0]
        ]
        chunk: dict[str, Any] = {
            "candidates": candidates,
            "usageMetadata": _told(usage),
            "modelVersion": reading.model,
            "responseId": reading.request_id,
        }
        return b"", b"data: %b\r\n\r\n" % msgspec.json.encode(chunk)


class Count(GeminiEndpoint):
    """`:countTokens`: free ("Understand and count tokens" on ai.google.dev)."""

    name = "countTokens"
    method = b"countTokens"

    def read(self, asked: Asked, named: str) -> Facts:
        return Facts(
            model=checked_model(named),
            generates=False,
            free=True,
            body_bytes=len(asked.body),
            fields=top_level(asked.body),
        )

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        changes = model_changes(facts, model)
        inner = section(facts.fields, "generateContentRequest")
        if model != facts.model and given(inner, COMMON_MODEL):
            inner[COMMON_MODEL] = raw(PREFIX + model)
            changes[named(facts.fields, "generateContentRequest")] = raw(inner)
        return changed(body, facts.fields, changes)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return MeteredReading("gemini_count", stream=False)


GENERATE: Final = Generate()
STREAM: Final = StreamGenerate()
COUNT: Final = Count()


def check_model(fields: Fields, model: str, where: str = "") -> None:
    """A body may repeat the model of its path, and name no other. Raises DialectError."""
    repeated = field(fields, COMMON_MODEL, OPTIONAL_STRING, "a string")
    if repeated and repeated.removeprefix(PREFIX) != model:
        raise DialectError(
            f"{where}model is {shown(repeated)!r}; expected that of the path, {model!r}.", "model"
        )


def model_changes(facts: Facts, model: str) -> dict[str, msgspec.Raw | None]:
    """The edit of a body that repeats the model's name."""
    if model == facts.model or not given(facts.fields, COMMON_MODEL):
        return {}
    return {COMMON_MODEL: raw(PREFIX + model)}


def _limit(config: Fields) -> int | None:
    return limit_of(config, named(config, LIMIT))


def _choices(config: Fields) -> int:
    name = named(config, "candidateCount")
    choices = field(config, name, OPTIONAL_INT, "a whole number")
    if choices is not None and not 1 <= choices <= MAX_CANDIDATES:
        raise DialectError(
            f"{name} is {shown(choices)}; expected 1 to {MAX_CANDIDATES}.", f"{CONFIG}.{name}"
        )
    return choices or 1


def _tier(fields: Fields) -> str:
    return (field(fields, named(fields, "serviceTier"), OPTIONAL_STRING, "a string") or "").lower()


def _asks_media(config: Fields) -> bool:
    """Whether the answer may hold what is not text."""
    name = named(config, "responseModalities")
    modalities = field(config, name, STRINGS, "a list of strings") or []
    speech = given(config, named(config, "speechConfig"))
    return speech or any(modality.upper() != "TEXT" for modality in modalities)


def _may_think(config: Fields) -> bool:
    thinking = section(config, "thinkingConfig", f"{CONFIG}.")
    if not thinking:
        return False  # what the model does of its own accord is known by its name
    budget = field(thinking, named(thinking, "thinkingBudget"), OPTIONAL_INT, "a whole number")
    return budget != 0


def _told(usage: Usage) -> dict[str, Any]:
    """A usage as the dialect's answers tell it: thoughts beside the candidates."""
    return {
        "promptTokenCount": usage.input_llm_tokens,
        "cachedContentTokenCount": usage.cached_input,
        "candidatesTokenCount": usage.output - usage.reasoning,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": usage.total_llm_tokens,
    }
