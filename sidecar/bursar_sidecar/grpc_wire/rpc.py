"""One rpc: the messages that came, those that leave, and what its handler may do."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, NoReturn, Protocol

import grpc
import grpc.aio

from bursar_sidecar.grpc_wire.frames import FLOW_CONTROL_ERROR, WireError
from bursar_sidecar.grpc_wire.heads import Head, Metadata
from bursar_sidecar.grpc_wire.server import Room

EOF: Final = grpc.aio.EOF  # type: ignore[attr-defined]  # not in its stubs
"""What is read when there are no more messages, as from grpc.aio."""
PREFIX_BYTES: Final = 5
"""Before a message: one for whether it is compressed, four for its length."""
WINDOW_BYTES: Final = 1 << 20
"""What may come of one rpc before somebody has read it."""
MOST_UNSENT_BYTES: Final = 1 << 20
"""What a handler may write ahead of what the other end takes, before it has to wait."""


class AbortError(Exception):
    """A handler ended its rpc with a status."""


class RefusedError(Exception):
    """What came can't be served: `code` and the message end the rpc."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Wire(Protocol):
    """The connection, to its rpcs."""

    peer: str

    def send(self, rpc: "Rpc", payload: bytes) -> None:
        """Let a message leave as soon as the windows allow."""
        ...

    def credit(self, rpc: "Rpc", octets: int) -> None:
        """So much more may come."""
        ...


class Rpc:
    """A stream of HTTP/2 that is an rpc; also the context that its handler gets."""

    __slots__ = (
        "_came",
        "_claimed",
        "_deserializer",
        "_needed",
        "_owed",
        "_parts",
        "_parts_bytes",
        "_reader",
        "_room",
        "_serializer",
        "_wire",
        "_writer",
        "answered",
        "code",
        "details",
        "ending",
        "half_closed",
        "head",
        "number",
        "task",
        "trailing",
        "unsent",
        "unsent_bytes",
        "window",
    )  # fmt: skip

    def __init__(self, wire: Wire, number: int, head: Head, *, window: int, room: Room) -> None:
        self.number = number
        self.head = head
        self.task: asyncio.Task[None] | None = None
        self.half_closed = False
        """The other end has said all."""
        self.answered = False
        """The head of the answer has left."""
        self.window = window
        """What the other end takes of this stream, in octets. Settings can make it negative."""
        self.unsent: deque[bytes | memoryview] = deque()
        """Pieces that wait for a window."""
        self.unsent_bytes = 0
        self.ending = False
        """The handler has ended: after what is unsent come the trailers."""
        self.code = grpc.StatusCode.OK
        self.details = ""
        self.trailing: Metadata = ()
        self._wire = wire
        self._room = room
        self._claimed = 0
        self._parts: list[bytes] = []
        """Of a message that is not whole."""
        self._parts_bytes = 0
        self._needed = 0
        """With so many bytes there is more to know."""
        self._came: deque[bytes] = deque()
        self._owed = 0
        """Octets that came and that the other end was not yet given back."""
        self._deserializer: Callable[[bytes], Any] = bytes
        self._serializer: Callable[[Any], bytes] = bytes
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # What came: the connection's side.

    def take(self, data: bytes) -> None:
        """A part of the stream of messages. Raises RefusedError, and WireError where more comes
        than was given leave to."""
        self._owed += len(data)
        if self._owed > WINDOW_BYTES:
            raise WireError(FLOW_CONTROL_ERROR, f"stream {self.number} exceeds its window")
        if self._parts:
            self._parts.append(data)
            self._parts_bytes += len(data)
            if self._parts_bytes < self._needed:
                self._give_back()
                return
            data = b"".join(self._parts)
            self._leave()
        rest = self._cut(data)
        self._parts, self._parts_bytes = ([rest], len(rest)) if rest else ([], 0)
        if self._came and self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if rest or not self._came:
            self._give_back()

    def _cut(self, data: bytes) -> bytes:
        """Take out the messages that are whole; returns the rest."""
        at, end = 0, len(data)
        self._needed = PREFIX_BYTES
        while end - at >= PREFIX_BYTES:
            size = PREFIX_BYTES + int.from_bytes(data[at + 1 : at + PREFIX_BYTES], "big")
            if size - PREFIX_BYTES > self._room.max_message_bytes:
                raise RefusedError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"a message of {size - PREFIX_BYTES} bytes, expected at most "
                    f"{self._room.max_message_bytes}",
                )
            if data[at]:
                raise RefusedError(
                    grpc.StatusCode.UNIMPLEMENTED, "a compressed message, expected none"
                )
            if size > end - at:
                self._expect(size)
                break
            self._came.append(data[at + PREFIX_BYTES : at + size])
            at += size
        return data[at:]

    def _expect(self, size: int) -> None:
        self._needed = size
        if size > WINDOW_BYTES and not self._claimed:
            if not self._room.claim(size):
                raise RefusedError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "too many large messages at a time"
                )
            self._claimed = size

    def _leave(self) -> None:
        self._room.leave(self._claimed)
        self._claimed = 0

    def end(self) -> None:
        """Nothing more comes. Raises RefusedError."""
        self.half_closed = True
        if self._parts:
            raise RefusedError(grpc.StatusCode.INTERNAL, "the stream ended within a message")
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def drop(self) -> None:
        """Nobody takes anything any more."""
        self.unsent.clear()
        self.unsent_bytes = 0
        self._leave()
        self.left()

    def left(self) -> None:
        """Something that waited has left."""
        if self._writer is not None and self.unsent_bytes <= MOST_UNSENT_BYTES:
            if not self._writer.done():
                self._writer.set_result(None)
            self._writer = None

    def _give_back(self) -> None:
        """Let more come, where that is worth a frame."""
        if self._owed >= WINDOW_BYTES // 2 and not self.half_closed:
            self._wire.credit(self, self._owed)
            self._owed = 0

    # The handler's side.

    async def serve(self, handler: Any) -> None:
        """Run a `grpc.RpcMethodHandler`. Raises what it raises, AbortError and RefusedError."""
        self._serializer = handler.response_serializer or bytes
        self._deserializer = handler.request_deserializer or bytes
        request = self._messages() if handler.request_streaming else await self._only()
        if not handler.response_streaming:
            behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
            await self.write(await behaviour(request, self))
            return
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        answers = behaviour(request, self)
        if not hasattr(answers, "__aiter__"):
            await answers
            return
        async for answer in answers:
            await self.write(answer)

    async def _only(self) -> Any:
        message = await self.read()
        if message is EOF:
            raise RefusedError(grpc.StatusCode.INTERNAL, "a request without a message")
        return message

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    async def _next(self) -> bytes | None:
        while not self._came:
            if self.half_closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
            self._reader = None
        message = self._came.popleft()
        if not self._came:
            self._give_back()
        return message

    # What a handler may do: as much of grpc.aio.ServicerContext as services of ours use.

    async def read(self) -> Any:
        """The next message; EOF when there are no more."""
        message = await self._next()
        if message is None:
            return EOF
        try:
            return self._deserializer(message)
        except Exception as error:
            raise RefusedError(grpc.StatusCode.INTERNAL, "the message can't be read") from error

    async def write(self, message: Any) -> None:
        """Send one; waits while too much of what was sent before is not taken."""
        payload = self._serializer(message)
        self._wire.send(self, (len(payload)).to_bytes(PREFIX_BYTES, "big") + payload)
        while self.unsent_bytes > MOST_UNSENT_BYTES:
            if self._writer is None:
                self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the rpc with a status. Always raises."""
        self.code, self.details, self.trailing = code, details, tuple(trailing_metadata)
        raise AbortError

    def invocation_metadata(self) -> Metadata:
        """The request's headers."""
        return self.head.metadata

    def peer(self) -> str:
        """Who asks."""
        return self._wire.peer
