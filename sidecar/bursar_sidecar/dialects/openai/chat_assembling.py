"""A plain chat completion made of the chunks of a streamed one.

What a chunk says of the answer (id, model, tier, fingerprint) is taken from the first that says it;
deltas are joined: text is appended, calls of tools and of the older function are joined by their
index, lists (log probabilities, annotations) are extended. The result has the fields that the plain
answer has, in the provider's order: `message` with `role`, `content`, `refusal` and whatever else
came, and `usage` as the provider told it.
"""

from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.openai.usage_shape import usage_object

_ANSWER: Final = ("id", "object", "created", "model")
_OWN: Final = frozenset({"choices", "usage", "obfuscation", *_ANSWER})
"""Fields of a chunk that are not passed on as they are."""
_APPENDED: Final = frozenset(
    {
        "content",
        "refusal",
        "reasoning",
        "reasoning_content",
        "arguments",
        "input",
        "data",
        "transcript",
    }
)
"""Fields of a delta whose texts are pieces; of all others the last one stands."""


class ChatAssembler:
    """Makes a `chat.completion`."""

    def __init__(self) -> None:
        self.error = b""
        """The data of the event by which the provider told of an error."""
        self._answer: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: object = None

    def feed(self, payload: bytes) -> None:
        """The data of one event, in order."""
        if payload == b"[DONE]":
            return
        try:
            chunk = msgspec.json.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            return  # the reading has said so, and charges for it
        if not isinstance(chunk, dict):
            return
        if chunk.get("error") is not None:
            self.error = payload
            return
        for name, value in chunk.items():
            if (name in _ANSWER or name not in _OWN) and self._answer.get(name) is None:
                self._answer[name] = value
        if chunk.get("usage") is not None:
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        for part in choices if isinstance(choices, list) else ():
            if isinstance(part, dict):
                self._join(part)

    def body(self, cut: Usage | None = None) -> bytes:
        """The answer. `cut`: the stream was cut, and so much is charged for it."""
        choices = []
        for index in sorted(self._choices or {0: {}}):
            choice = self._choices.get(index) or _begun(index)
            if cut is not None and choice["finish_reason"] is None:
                choice["finish_reason"] = "length"
            choices.append(choice)
        # Libraries insist on these, also where a server left them out.
        least = {"id": "", "object": "", "created": 0, "model": ""}
        answer = {name: self._answer.get(name) or least[name] for name in _ANSWER}
        answer["object"] = "chat.completion"
        answer["choices"] = choices
        usage = self._usage if cut is None else usage_object(cut)
        if usage is not None:
            answer["usage"] = usage
        answer.update((k, v) for k, v in self._answer.items() if k not in answer)
        return msgspec.json.encode(answer)

    def _join(self, part: dict[str, Any]) -> None:
        index = part.get("index")
        index = index if isinstance(index, int) else 0
        choice = self._choices.setdefault(index, _begun(index))
        delta = part.get("delta")
        if isinstance(delta, dict):
            _joined(choice["message"], delta)
        logprobs = part.get("logprobs")
        if isinstance(logprobs, dict):
            kept = choice["logprobs"] or {}
            for name, value in logprobs.items():
                before = kept.get(name)
                kept[name] = [*before, *value] if before and isinstance(value, list) else value
            choice["logprobs"] = kept
        if part.get("finish_reason") is not None:
            choice["finish_reason"] = part["finish_reason"]
        for name, value in part.items():
            if name not in ("index", "delta", "logprobs", "finish_reason"):
                choice[name] = value


def _begun(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _joined(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """A delta joined to what came before it."""
    for name, value in delta.items():
        before = whole.get(name)
        if value is None and name in whole:
            continue
        if name == "tool_calls" and isinstance(value, list):
            whole[name] = _joined_calls(before if isinstance(before, list) else [], value)
        elif name in _APPENDED and isinstance(value, str) and isinstance(before, str):
            whole[name] = before + value
        elif isinstance(value, dict) and isinstance(before, dict):
            _joined(before, value)
        elif isinstance(value, list) and isinstance(before, list):
            whole[name] = [*before, *value]
        else:
            whole[name] = value


def _joined_calls(calls: list[dict[str, Any]], parts: list[Any]) -> list[dict[str, Any]]:
    """Calls of tools, each part joined to the call that its index names."""
    for part in parts:
        if not isinstance(part, dict):
            continue
        index = part.get("index")
        place = index if isinstance(index, int) and 0 <= index < len(calls) else len(calls)
        fields = {name: value for name, value in part.items() if name != "index"}
        if place == len(calls):
            calls.append(fields)
            continue
        _joined(calls[place], fields)
    return calls
