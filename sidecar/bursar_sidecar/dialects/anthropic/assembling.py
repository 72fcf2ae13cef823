"""A plain message made of the events of a streamed one.

The message is the one that `message_start` holds; each block of content is as it was opened, with
its deltas joined: text, thinking and a tool's input are pieces, citations a list, all else stands
as it last came. `message_delta` adds why it stopped, and its counts go over the earlier ones.
"""

from typing import Any, Final

import msgspec

from bursar.usage import Usage
from bursar_sidecar.dialects.anthropic.usage_shape import told

_PIECES: Final = {"text_delta": "text", "thinking_delta": "thinking"}
"""Deltas whose text is appended, by the field of the block."""
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class MessageAssembler:
    """Makes a message."""

    def __init__(self) -> None:
        self.error = b""
        """The data of the event by which the provider told of an error."""
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        """A tool's input, as far as it has come, by its block."""

    def feed(self, payload: bytes) -> None:
        """The data of one event, in order."""
        try:
            event = msgspec.json.decode(payload)
        except _UNREADABLE:
            return  # the reading has said so, and charges for it
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if kind == "error":
            self.error = payload
        elif kind == "message_start":
            message = event.get("message")
            self._message = dict(message) if isinstance(message, dict) else {}
        elif kind == "message_delta":
            self._end(event)
        elif isinstance(kind, str) and kind.startswith("content_block_"):
            self._add(kind, event)

    def body(self, cut: Usage | None = None) -> bytes:
        """The answer. `cut`: the stream was cut, and so much is charged for it."""
        message = {"type": "message", "role": "assistant", **self._message}
        for index in list(self._inputs):
            self._close(index)
        message["content"] = [self._blocks[index] for index in sorted(self._blocks)]
        if cut is not None:
            if message.get("stop_reason") is None:
                message.update(stop_reason="max_tokens", stop_sequence=None)
            message["usage"] = told(cut)
        return msgspec.json.encode(message)

    def _end(self, event: dict[str, Any]) -> None:
        delta, usage = event.get("delta"), event.get("usage")
        if isinstance(delta, dict):
            self._message.update(delta)
        if isinstance(usage, dict):
            known = self._message.get("usage")
            counted = {name: count for name, count in usage.items() if count is not None}
            self._message["usage"] = {**(known if isinstance(known, dict) else {}), **counted}

    def _add(self, kind: str, event: dict[str, Any]) -> None:
        index = event.get("index")
        if not isinstance(index, int):
            return
        opened, delta = event.get("content_block"), event.get("delta")
        if kind == "content_block_start" and isinstance(opened, dict):
            self._blocks[index] = opened
        elif kind == "content_block_delta" and isinstance(delta, dict):
            self._join(index, self._blocks.setdefault(index, {}), delta)
        elif kind == "content_block_stop":
            self._close(index)

    def _join(self, index: int, block: dict[str, Any], delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        name = _PIECES.get(kind) if isinstance(kind, str) else None
        if name is not None:
            block[name] = f"{block.get(name) or ''}{delta.get(name) or ''}"
        elif kind == "input_json_delta":
            self._inputs[index] = self._inputs.get(index, "") + str(delta.get("partial_json") or "")
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        else:
            block.update((field, value) for field, value in delta.items() if field != "type")

    def _close(self, index: int) -> None:
        """A tool's input is an object once all of it is there; of a cut one nothing is made up."""
        pieces = self._inputs.pop(index, "")
        if pieces:
            try:
                self._blocks[index]["input"] = msgspec.json.decode(pieces)
            except _UNREADABLE:
                return
