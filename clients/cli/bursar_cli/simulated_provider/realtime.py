"""Realtime sessions over a websocket, as OpenAI serves them: text alone, no sound.

A session answers `response.create` with as many words as the behaviour says, tells the usage of
each response, and is one call in the record: what its responses come to is what it bills.
"""

import base64
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import BilledUsage, Ended, ServedCalls

PATHS: Final = frozenset({b"/v1/realtime", b"/openai/v1/realtime", b"/openai/realtime"})
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_HEAD_BYTES: Final = 14  # of a frame: 2, a length of 8, a mask of 4
DEFAULT_OUTPUT: Final = 8  # LLM tokens of a response where the behaviour says nothing
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA


class ProtocolFault(Exception):
    """What a client sent is no websocket; `code` is what it is closed with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def accepting(headers: Mapping[bytes, bytes]) -> bytes:
    """The answer that takes an offer up. Raises ProviderError."""
    key = headers.get(b"sec-websocket-key", b"")
    if headers.get(b"upgrade", b"").lower() != b"websocket" or not key:
        raise ProviderError(400, "Protocol upgrades other than websockets are not supported.")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    offered = [part.strip() for part in headers.get(b"sec-websocket-protocol", b"").split(b",")]
    chosen = b"Sec-WebSocket-Protocol: realtime\r\n" if b"realtime" in offered else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, chosen)
    )


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole message of a server."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes((0x80 | opcode,)) + length + payload


class Messages:
    """Puts the messages of a client together."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._parts = bytearray()
        self._opcode = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of each message that is whole. Raises ProtocolFault."""
        self._bytes += data
        while (found := self._frame()) is not None:
            final, opcode, payload = found
            if opcode >= _CLOSE:
                yield opcode, payload
                continue
            self._opcode = opcode or self._opcode
            self._parts += payload
            if len(self._parts) > MAX_MESSAGE_BYTES:
                raise ProtocolFault(1009, "The message is too large.")
            if final:
                whole = bytes(self._parts)
                self._parts.clear()
                yield self._opcode, whole

    def _frame(self) -> tuple[bool, int, bytes] | None:
        buffered = self._bytes
        if len(buffered) < 2:
            return None
        size, at = buffered[1] & 0x7F, 2
        if not buffered[1] & 0x80:
            raise ProtocolFault(1002, "Frames of a client are masked.")
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffered) < at + width:
                return None
            size, at = int.from_bytes(buffered[at : at + width], "big"), at + width
        if size > MAX_MESSAGE_BYTES:
            raise ProtocolFault(1009, "The message is too large.")
        if len(buffered) < at + 4 + size:
            return None
        mask, payload = buffered[at : at + 4], bytes(buffered[at + 4 : at + 4 + size])
        repeated = bytes(mask) * (size // 4 + 1)
        plain = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")
        first = buffered[0]
        del buffered[: at + 4 + size]
        return bool(first & 0x80), first & 0xF, plain.to_bytes(size, "big")


class RealtimeSession:
    """One session, from the answer of 101 to its end."""

    def __init__(
        self,
        write: Callable[[bytes], None],
        close: Callable[[], None],
        record: ServedCalls,
        behaviour: Behaviour,
        *,
        call_id: str,
        response_id: str,
        model: str,
    ) -> None:
        self._write = write
        self._close = close
        self._record = record
        self._behaviour = behaviour
        self._call_id = call_id
        self._id = response_id
        self._model = model
        self._messages = Messages()
        self._input = self._output = 0
        self._asked_bytes = 0
        self._numbers = itertools.count(1)
        self._started_ns = time.time_ns()
        self._is_over = False

    def start(self) -> None:
        """Greet the app."""
        self._say("session.created", session=self._session())

    def feed(self, data: bytes) -> None:
        """More from the app."""
        try:
            for opcode, payload in self._messages.feed(data):
                if self._is_over:
                    return
                self._took(opcode, payload)
        except ProtocolFault as fault:
            self._write(frame(_CLOSE, fault.code.to_bytes(2, "big") + str(fault).encode()))
            self.over(Ended.ABORTED)
            self._close()

    def over(self, ended: Ended) -> None:
        """The session is over; told once."""
        if self._is_over:
            return
        self._is_over = True
        self._record.ended(
            call_id=self._call_id,
            response_id=self._id,
            endpoint="realtime",
            model=self._model,
            stream=True,
            ended=ended,
            http_status=101,
            billed=BilledUsage(input=self._input, output=self._output),
            usage_reported=True,
            started_ns=self._started_ns,
            ended_ns=time.time_ns(),
        )

    def going_away(self) -> None:
        """The provider is going down."""
        if not self._is_over:
            self._write(frame(_CLOSE, (1001).to_bytes(2, "big")))

    def _took(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._write(frame(_PONG, payload))
        elif opcode == _CLOSE:
            self._write(frame(_CLOSE, payload[:2]))
            self.over(Ended.COMPLETE)
            self._close()
        elif opcode in (_TEXT, _BINARY):
            self._event(payload)

    def _event(self, payload: bytes) -> None:
        try:
            event = msgspec.json.decode(payload, type=dict[str, Any])
        except msgspec.DecodeError as error:
            self._refuse(f"The event is no JSON object: {error}.")
            return
        kind = event.get("type")
        if kind == "session.update":
            self._say("session.updated", session=self._session())
        elif kind == "conversation.item.create":
            self._asked_bytes += len(payload)
            self._say("conversation.item.created", item=event.get("item"))
        elif kind == "response.create":
            self._respond()
        else:
            self._refuse(f"The event {str(kind)[:80]!r} is not known here.")

    def _respond(self) -> None:
        behaviour = self._behaviour
        given, made = behaviour.input_llm_tokens, behaviour.output_llm_tokens
        given = max(1, self._asked_bytes // 4) if given is None else given
        made = DEFAULT_OUTPUT if made is None else made
        self._input += given
        self._output += made
        named = {"response_id": f"{self._id}-{next(self._numbers)}", "item_id": "item-1"}
        place = {**named, "output_index": 0, "content_index": 0}
        self._say(
            "response.created", response={"id": named["response_id"], "status": "in_progress"}
        )
        for _ in range(made):
            self._say("response.output_text.delta", delta="word ", **place)
        self._say("response.output_text.done", text="word " * made, **place)
        usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
        self._say(
            "response.done",
            response={"id": named["response_id"], "status": "completed", "usage": usage},
        )

    def _session(self) -> dict[str, object]:
        return {"id": self._id, "type": "realtime", "object": "realtime.session",
                "model": self._model}  # fmt: skip

    def _refuse(self, message: str) -> None:
        error = {"type": "invalid_request_error", "message": message, "code": None}
        self._say("error", error=error)

    def _say(self, kind: str, **fields: object) -> None:
        event = {"type": kind, "event_id": f"event_{next(self._numbers)}", **fields}
        self._write(frame(_TEXT, msgspec.json.encode(event)))
