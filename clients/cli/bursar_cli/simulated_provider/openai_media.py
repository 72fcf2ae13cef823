"""OpenAI's pictures and sound: images, speech, transcriptions, translations."""

import base64
import re
from collections.abc import Iterator, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, Final

import msgspec

from bursar_cli.simulated_provider.dialect import Asked, Named, StreamEvent, StreamPart
from bursar_cli.simulated_provider.openai_texts import EVENTS, JSON, Unstreamed
from bursar_cli.simulated_provider.requests import (
    BYTES_PER_LLM_TOKEN,
    ProviderError,
    decode_body,
)
from bursar_cli.simulated_provider.served_calls import BilledUsage

# A picture of one grey pixel: what it shows is nobody's concern here.
PICTURE: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
SOUND: Final = b"ID3" + bytes(64)
MAX_PICTURES: Final = 10
MAX_SPOKEN: Final = 4_096  # characters, the wire's own limit
MAX_FORM_FIELDS: Final = 64

# Output of one picture of a GPT Image model, LLM tokens (image generation guide, "Cost and
# latency"): by quality, for square, portrait and landscape pictures.
PICTURE_LLM_TOKENS: Final[Mapping[str, Mapping[str, int]]] = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1_056, "1024x1536": 1_584, "1536x1024": 1_568},
    "high": {"1024x1024": 4_160, "1024x1536": 6_240, "1536x1024": 6_208},
}
AUDIO_LLM_TOKENS_PER_SECOND: Final = 10
BYTES_PER_SECOND: Final = 32_000  # 16 kHz, 16 bits, one channel

_fields = msgspec.json.Decoder(dict[str, Any])


class ImagesAnswer:
    """Pictures: LLM tokens of a GPT Image model, else pieces."""

    def __init__(self, asked: Asked) -> None:
        """Raises ProviderError."""
        form = form_of(asked.body)
        self.model = asked.path_model or str(form.get("model") or "dall-e-2")
        self.stream = str(form.get("stream", "")).lower() == "true"
        self.content_type = EVENTS if self.stream else JSON
        self._behaviour = asked.behaviour
        self._pictures = int(form.get("n") or 1)
        if not 1 <= self._pictures <= MAX_PICTURES:
            raise ProviderError(400, f"'n' must be 1 to {MAX_PICTURES}.", param="n")
        size, quality = str(form.get("size") or "auto"), str(form.get("quality") or "auto")
        self._by_llm_token = self.model.startswith("gpt-image")
        usual = PICTURE_LLM_TOKENS.get(quality, PICTURE_LLM_TOKENS["high"])
        self._each = usual.get(size, max(usual.values()))
        prompt = str(form.get("prompt") or "")
        self._input = -(-len(prompt.encode()) // BYTES_PER_LLM_TOKEN) + 3

    @property
    def tells_usage(self) -> bool:
        """Whether the usage is in the answer."""
        return self._by_llm_token and not self._behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        pictures = [{"b64_json": base64.b64encode(PICTURE).decode()}] * self._pictures
        answer: dict[str, Any] = {"created": named.created_s, "data": pictures}
        if self.tells_usage:
            answer["usage"] = self._usage()
        return msgspec.json.encode(answer)

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """The one event that a picture is finished with."""
        done: dict[str, Any] = {
            "type": "image_generation.completed",
            "b64_json": base64.b64encode(PICTURE).decode(),
            "created_at": named.created_s,
            "size": "1024x1024",
            "quality": "low",
            "background": "opaque",
            "output_format": "png",
        }
        if self.tells_usage:
            done["usage"] = self._usage()
        text = b"event: image_generation.completed\ndata: %s\n\n" % msgspec.json.encode(done)
        yield StreamEvent(text, self._each, StreamPart.OUTPUT)

    def error_event(self, error: ProviderError) -> bytes:
        """The event that ends a stream which fails."""
        return b"data: %s\n\n" % error.body()

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        if not self._by_llm_token:
            return BilledUsage(pictures=self._pictures)
        return BilledUsage(input=self._input, output=self._each * self._pictures)

    def _usage(self) -> dict[str, Any]:
        billed = self.billed(None)
        return {
            "input_tokens": billed.input,
            "input_tokens_details": {"text_tokens": billed.input, "image_tokens": 0},
            "output_tokens": billed.output,
            "total_tokens": billed.input + billed.output,
        }


class SpeechAnswer(Unstreamed):
    """Speech, billed by the character."""

    content_type = b"audio/mpeg"
    tells_usage = False

    def __init__(self, asked: Asked) -> None:
        """Raises ProviderError."""
        fields = decode_body(_fields, asked.body)
        self.model = asked.path_model or str(fields.get("model") or "")
        self._spoken = str(fields.get("input") or "")
        if not 1 <= len(self._spoken) <= MAX_SPOKEN:
            text = f"'input' must have 1 to {MAX_SPOKEN} characters."
            raise ProviderError(400, text, param="input")

    def body(self, named: Named) -> bytes:
        """The sound."""
        return SOUND

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        return BilledUsage(characters=len(self._spoken))


class TranscriptionAnswer(Unstreamed):
    """A transcription: seconds of sound, or LLM tokens of the models that are billed so."""

    def __init__(self, asked: Asked) -> None:
        """Raises ProviderError."""
        form = form_of(asked.body)
        sound = form.get("file")
        if not isinstance(sound, bytes):
            raise ProviderError(400, "Missing required parameter: 'file'.", param="file")
        self.model = asked.path_model or str(form.get("model") or "")
        self._behaviour = asked.behaviour
        self._format = str(form.get("response_format") or "json")
        self.content_type = JSON if "json" in self._format else b"text/plain"
        self._seconds = max(1, -(-len(sound) // BYTES_PER_SECOND))
        self._by_llm_token = "transcribe" in self.model

    @property
    def tells_usage(self) -> bool:
        """Whether the usage is in the answer."""
        return "json" in self._format and not self._behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        if not self.content_type.endswith(b"json"):
            return b"the words that were said\n"
        answer: dict[str, Any] = {"text": "the words that were said"}
        billed = self.billed(None)
        if not self.tells_usage:
            return msgspec.json.encode(answer)
        if self._by_llm_token:
            answer["usage"] = {
                "type": "tokens",
                "input_tokens": billed.input,
                "input_token_details": {"audio_tokens": billed.input, "text_tokens": 0},
                "output_tokens": billed.output,
                "total_tokens": billed.input + billed.output,
            }
        else:
            answer["usage"] = {"type": "duration", "seconds": self._seconds}
        return msgspec.json.encode(answer)

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        if self._by_llm_token:
            heard = self._seconds * AUDIO_LLM_TOKENS_PER_SECOND
            return BilledUsage(input=heard, output=6)
        return BilledUsage(seconds=self._seconds)


_BOUNDARY: Final = re.compile(rb"--([^\r\n]{1,200})\r\n")


def form_of(body: bytes) -> dict[str, Any]:
    """The fields of a form, files as bytes; a body of JSON is taken as it is. Raises
    ProviderError."""
    begins = _BOUNDARY.match(body)
    if begins is None:
        fields: dict[str, Any] = decode_body(_fields, body)
        return fields
    head = b'content-type: multipart/form-data; boundary="%s"\r\n\r\n' % begins[1]
    parts = list(BytesParser(policy=HTTP).parsebytes(head + body).iter_parts())
    if len(parts) > MAX_FORM_FIELDS:
        raise ProviderError(400, f"The form has more than {MAX_FORM_FIELDS} fields.")
    fields = {}
    for part in parts:
        name = part.get_param("name", header="content-disposition")
        value = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(value, bytes):
            is_file = part.get_filename() is not None
            fields[name] = value if is_file else value.decode("utf-8", "replace")
    return fields
