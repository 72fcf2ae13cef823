"""What chat completions, whole or streamed, say of themselves."""

import re
from typing import Any, ClassVar, Final

import msgspec

from bursar import usage as readers
from bursar.usage import Usage, usage_from_openai
from bursar_sidecar.dialects.reading import LAST, PASS, WITHHOLD, Reading, Usual, cut_at

_NOT_PRODUCED: Final = frozenset({"role", "index", "id", "type"})


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    index: Any = 0


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    created: Any = None
    service_tier: str | None = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None


class _LooseAnswer(msgspec.Struct):
    id: Any = None
    model: Any = None
    service_tier: Any = None
    choices: Any = None
    usage: Any = None


_answer = msgspec.json.Decoder(_Answer)
_loose_answer = msgspec.json.Decoder(_LooseAnswer)
_PADDING: Final = re.compile(rb'"obfuscation":"([ !#-\[\]-~]*)"')
"""OpenAI's, so that the length of an event tells nothing of its text."""
MAX_LEARNED: Final = 8
"""Events of a stream that are looked at for what repeats in them."""
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class ChatReading(Reading):
    """A chat completion, or a text completion of the older endpoint."""

    __slots__ = (
        "_ended",
        "_ended_at",
        "_fell",
        "_learned",
        "_told_at",
        "created",
        "open_choices",
        "withholds_usage",
    )

    learns: ClassVar[bool] = True
    """An event of text says nothing but its text, so that the next one need not be read."""

    def __init__(self, *, withhold_usage: bool = False) -> None:
        super().__init__()
        self.withholds_usage = withhold_usage
        """The app did not ask for the event that tells the usage."""
        self.created: object = None
        """As the answer says it."""
        self._ended = self._ended_at = 0
        self.open_choices: set[int] = set()
        """Choices that have begun and not ended."""
        self._told_at = 0
        """Bytes that had been produced when the usage was told."""
        self._fell = ""
        """Which count went down within the stream; "" while none did."""
        self._learned = 0

    def note(self, payload: bytes) -> int:
        if payload == b"[DONE]":
            return LAST
        try:
            answer = _answer.decode(payload)
        except _UNREADABLE:
            self._note_odd(payload)
            return PASS
        if answer.id and not self.request_id:
            self.request_id = answer.id
            self.created = answer.created
        usual, self.usual = self.usual, None
        if answer.model and answer.model != self.model:
            self.model = answer.model
            usual = None
        if answer.service_tier and answer.service_tier != self.service_tier:
            self.service_tier = answer.service_tier
            usual = None
        choices = answer.choices
        if choices and len(choices) == 1 and answer.usage is None:
            # Nearly always a chunk is one piece of one choice's text, of which this is all.
            choice = choices[0]
            delta, index = choice.delta, choice.index
            if delta and len(delta) == 1 and choice.finish_reason is None and index == 0:
                text = delta.get("content")
                if type(text) is str and choice.message is None and choice.text is None:
                    ascii_only = text.isascii()
                    size = len(text) if ascii_only else len(text.encode("utf-8", "replace"))
                    self.produced_bytes += size
                    if size and self.kept is not None:
                        self.kept.keep(0, text)
                    self.open_choices.add(0)
                    if usual is None and ascii_only and self._learned < MAX_LEARNED:
                        usual = self._learn(payload, text)
                    self.usual = usual
                    return PASS
        finished = False
        for choice in choices or ():
            index = choice.index if isinstance(choice.index, int) else 0
            delta, text = choice.delta, choice.text
            if delta is not None:
                self.produced_bytes += content_bytes(delta)
                text = delta.get("content")
            if choice.message is not None or choice.text is not None:
                self.produced_bytes += content_bytes(choice.message) + _size(choice.text)
            if self.kept is not None and isinstance(text, str) and text:
                self.kept.keep(index, text)
            if choice.finish_reason is None:
                self.open_choices.add(index)
            else:
                finished = True
                self.open_choices.discard(index)
                self._ended += 1
                self._ended_at = self.produced_bytes
        if answer.usage is None:
            return PASS
        self._tell(answer.usage)
        self.usage_is_final = not choices or (finished and not self.open_choices)
        return WITHHOLD if self.withholds_usage and not answer.choices else PASS

    def _learn(self, payload: bytes, text: str) -> Usual | None:
        """The event cut at its text; None where it can't be told for certain where that is."""
        self._learned += 1
        cut = cut_at(payload, b"content", text) if self.learns else None
        if cut is None:
            return None
        before, after = cut
        padding = _PADDING.search(after)
        if padding is None:
            return Usual(before, after)
        return Usual(before, after[: padding.start(1)], after[padding.end(1) :])

    def is_complete(self, choices: int) -> bool:
        # A server that goes on behind the end of its last choice is not believed.
        ended = self._ended >= choices and self.produced_bytes == self._ended_at
        return ended or self.usage_is_final

    def unflow(self, payload: bytes) -> None:
        try:
            answer = _answer.decode(payload)
        except _UNREADABLE:
            return
        for choice in answer.choices or ():
            if choice.finish_reason is not None:
                self.open_choices.add(choice.index if isinstance(choice.index, int) else 0)

    def _note_odd(self, payload: bytes) -> None:
        # Some field has another type than the dialect says: all of it counts as produced, and of
        # the rest we take what can be read.
        self.produced_bytes += len(payload)
        self.usual = None
        try:
            answer = _loose_answer.decode(payload)
        except _UNREADABLE:
            self.unreadable = "an answer that is not valid JSON"
            return
        if isinstance(answer.id, str) and not self.request_id:
            self.request_id = answer.id
        if isinstance(answer.model, str):
            self.model = answer.model
        if isinstance(answer.service_tier, str):
            self.service_tier = answer.service_tier
        if answer.usage is not None:
            self._tell(answer.usage)
            self.usage_is_final = not answer.choices

    def _tell(self, usage: object) -> None:
        """Each usage replaces the one before: counts are of all so far. One that went down
        contradicts what it was, and the higher one is kept."""
        known = self.usage
        if isinstance(known, dict) and isinstance(usage, dict):
            for name, before in known.items():
                now = usage.get(name)
                if now is None:
                    usage = {**usage, name: before}
                elif type(before) is type(now) is int and now < before:
                    self._fell = self._fell or f"{str(name)[:40]} fell within the stream"
                    usage = {**usage, name: before}
        self.usage = usage
        self._told_at = self.produced_bytes

    def is_counted(self, *, cut: bool) -> bool:
        """Not what was told on the way, of less than has come by now."""
        if self.produced_bytes != self._told_at:
            return False
        return self.usage_is_final or not (cut or self.open_choices)

    def output_told(self) -> int:
        if not isinstance(self.usage, dict):
            return 0
        told = usage_from_openai(self.usage)
        return told.output if told.is_exact else 0

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        usage = super().counted(input_bound, output_bound)
        if not self._fell:
            return usage
        return msgspec.structs.replace(
            usage,
            input=usage.input + max(0, input_bound - usage.input_llm_tokens),
            output=max(usage.output, output_bound or 0),
            certainty="estimated",
            estimate_reason=self._fell,
        )


class ProviderChatReading(ChatReading):
    """A chat of a provider that tells more than OpenAI does, or in another place: its usage by the
    provider's own reader of `bursar.usage`."""

    __slots__ = ("_body", "_stream", "_usage_name")

    learns = False

    def __init__(self, usage_name: str, *, stream: bool, withhold_usage: bool = False) -> None:
        super().__init__(withhold_usage=withhold_usage)
        self._usage_name = usage_name
        self._body = b""
        self._stream = readers.read_stream(usage_name) if stream else None

    def note(self, payload: bytes) -> int:
        verdict = super().note(payload)
        if self._stream is not None and verdict != LAST:
            self._stream.feed(payload)
            if self._stream.is_final:
                self.usage, self.usage_is_final = self._stream, True
        return verdict

    def whole(self, body: bytes) -> None:
        super().whole(body)
        self._body = body

    def is_counted(self, *, cut: bool) -> bool:
        """The provider's own reader knows which counts are its last."""
        return self.usage_is_final or not cut

    def output_told(self) -> int:
        told = None if self._stream is None else self._stream.counted()
        return 0 if told is None else told.output

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        if self._stream is not None:
            return self._stream.metered(input_bound=input_bound, output_bound=output_bound).usage
        return readers.read_usage(
            self._usage_name, self._body, input_bound=input_bound, output_bound=output_bound
        ).usage


def content_bytes(produced: dict[str, Any] | None) -> int:
    """UTF-8 bytes of what a delta or message holds: text, refusal, reasoning, tool calls, audio."""
    if not produced:
        return 0
    size = 0
    for name, value in produced.items():
        if value is None or name in _NOT_PRODUCED:
            continue
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif value:
            size += len(msgspec.json.encode(value))
    return size


def _size(text: str | None) -> int:
    return 0 if text is None else len(text.encode("utf-8", "replace"))
