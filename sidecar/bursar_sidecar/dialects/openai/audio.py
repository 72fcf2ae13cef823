"""Sound: speech, transcriptions, translations.

Speech is billed by the character, or in LLM tokens that its answer does not tell and nothing
bounds. What is heard is billed by the second, or in LLM tokens that the model's limits bound.
"""

from collections.abc import Mapping
from typing import Any, Final

from bursar.llm_tokens import input_llm_token_bound
from bursar_sidecar.dialects.facts import DialectError, Media
from bursar_sidecar.dialects.forms import Form
from bursar_sidecar.dialects.json_fields import missing
from bursar_sidecar.dialects.openai.form_endpoint import MediaEndpoint, text
from bursar_sidecar.dialects.openai.sound import duration_bound_s

MAX_SPOKEN: Final = 1_000_000
"""Characters; OpenAI takes 4,096, others more."""


class Speech(MediaEndpoint):
    """`POST /v1/audio/speech`: sound that flows through as it comes, its cost known before."""

    name = "audio/speech"
    path = b"/audio/speech"
    reader = "openai_speech"
    ends = "speech.audio.done"
    known_before = True

    def media(self, model: str, given: Mapping[str, Any], form: Form | None) -> Media:
        spoken = text(given, "input")
        if not 1 <= len(spoken) <= MAX_SPOKEN:
            raise DialectError(f"input must have 1 to {MAX_SPOKEN} characters.", "input")
        told = spoken + text(given, "instructions")
        return Media(
            units={"input_character": len(spoken)},
            input_llm_tokens=input_llm_token_bound(len(told.encode()), 1),
            unbounded_output="how long speech becomes is not bounded by its text",
            told={"input": spoken},
        )


class Transcriptions(MediaEndpoint):
    """`POST /v1/audio/transcriptions` and `/translations`."""

    reader = "openai_transcription"
    ends = "transcript.text.done"

    def __init__(self, name: str, path: bytes) -> None:
        self.name = name
        self.path = path

    def media(self, model: str, given: Mapping[str, Any], form: Form | None) -> Media:
        files = [] if form is None else form.files("file")
        if form is None or not files:
            raise missing("file", "a file with sound")
        if len(files) > 1:
            raise DialectError("The field 'file' is given twice.", "file", "duplicate_field")
        seconds = duration_bound_s(form.value(files[0]))
        # In chunks a model hears more than it takes at once.
        chunked = given["chunking_strategy"] is not None or any(
            part.name.startswith("chunking_strategy") for part in form.parts
        )
        return Media(
            units={"input_second": seconds} if seconds is not None else {},
            unbounded_units=""
            if seconds is not None
            else "how long the sound is cannot be told from its file",
            unbounded_output="sound that is heard in chunks has no bound in LLM tokens"
            if chunked
            else "",
        )


SPEECH: Final = Speech()
TRANSCRIPTIONS: Final = Transcriptions("audio/transcriptions", b"/audio/transcriptions")
TRANSLATIONS: Final = Transcriptions("audio/translations", b"/audio/translations")
