"""What we say on one processing stream: in order, in few messages, never past its end.

Owns: that pieces which wait for the same moment go as one message, that no more than a bounded
amount waits, and that nothing follows the last word. Envoy's side of the bargain, seen on 1.40:
after our `end_of_stream` it takes what the provider still sends as not sent, and cuts it off; but
were the rpc to *end* before Envoy itself ends it, Envoy would go on without us and let the rest of
the answer flow, so that it is always Envoy that ends the rpc.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Final, Protocol

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.envoy import header_changes
from bursar_sidecar.http_messages import Headers

MAX_PIECE_BYTES: Final = 64 * 1024
"""Of a body in one message, as Envoy's documentation of FULL_DUPLEX_STREAMED recommends."""
HIGH_WATER_BYTES: Final = 256 * 1024
"""What may wait for Envoy before the answer is held back; Envoy makes the provider wait by
itself when the app reads slowly, so that little does."""


class Rpc(Protocol):
    """What is needed of the rpc."""

    def write(self, message: ext_proc.ProcessingResponse) -> Awaitable[None]:
        """Hand a message over."""
        ...


class Conversation:
    """Our half of one stream. `say`, `body` and `end` never wait; `run` writes."""

    __slots__ = ("_drain_waiter", "_pieces", "_said", "_waiting_bytes", "_waker", "_whole", "over")

    def __init__(self) -> None:
        self._said: deque[ext_proc.ProcessingResponse] = deque()
        self._pieces: deque[bytes] = deque()
        """Of the body, behind what is in `_said`; none larger than goes into a message."""
        self._whole = False
        """The body ends with `_pieces`."""
        self._waiting_bytes = 0
        self._waker: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self.over = False
        """The last word is said, or Envoy is gone: nothing is said any more."""

    @property
    def paused(self) -> bool:
        """Envoy takes less than we say."""
        return self._waiting_bytes > HIGH_WATER_BYTES

    async def drain(self) -> None:
        """Wait until Envoy has taken what waits, or is gone."""
        if self.paused and not self.over:
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter

    def say(self, message: ext_proc.ProcessingResponse) -> None:
        """A message, behind all that was said before."""
        if self.over:
            return
        while self._pieces:
            self._said.append(self._body_message())
        self._said.append(message)
        self._wake()

    def body(self, piece: bytes) -> None:
        """More of the answer's body."""
        if self.over or not piece:
            return
        if len(piece) <= MAX_PIECE_BYTES:
            self._pieces.append(piece)
        else:
            starts = range(0, len(piece), MAX_PIECE_BYTES)
            self._pieces.extend([piece[at : at + MAX_PIECE_BYTES] for at in starts])
        self._waiting_bytes += len(piece)
        self._wake()

    def end(self) -> None:
        """The answer's body ends here; nothing follows."""
        if self.over:
            return
        self._whole = self.over = True
        self._wake()

    def immediate(self, status: int, headers: Headers, body: bytes) -> None:
        """An answer of ours instead of all that is still to come; where the app has got a part of
        an answer, Envoy resets its request. The last word."""
        if self.over:
            return
        message = ext_proc.ProcessingResponse()
        answer = message.immediate_response
        answer.status.code = status
        answer.body = body
        header_changes.change(answer.headers, [], headers)
        self.say(message)
        self.over = True

    def gone(self) -> None:
        """Envoy has ended the rpc."""
        self.over = True
        self._said.clear()
        self._pieces.clear()
        self._whole = False
        self._took(self._waiting_bytes)
        self._wake()

    async def run(self, rpc: Rpc) -> None:
        """Write what is said as it is said, until all is. Raises what the rpc raises."""
        while True:
            message = self._next()
            if message is not None:
                await rpc.write(message)
            elif self.over:
                return
            else:
                self._waker = asyncio.get_running_loop().create_future()
                await self._waker

    def _next(self) -> ext_proc.ProcessingResponse | None:
        if self._said:
            return self._said.popleft()
        if self._pieces or self._whole:
            return self._body_message()
        return None

    def _body_message(self) -> ext_proc.ProcessingResponse:
        """As much of what waits as goes into one message."""
        pieces, taken, size = self._pieces, [], 0
        while pieces and size + len(pieces[0]) <= MAX_PIECE_BYTES:
            piece = pieces.popleft()
            taken.append(piece)
            size += len(piece)
        message = ext_proc.ProcessingResponse()
        part = message.response_body.response.body_mutation.streamed_response
        part.body = taken[0] if len(taken) == 1 else b"".join(taken)
        if self._whole and not pieces:
            self._whole = False
            part.end_of_stream = True
        self._took(size)
        return message

    def _took(self, size: int) -> None:
        self._waiting_bytes -= size
        waiter = self._drain_waiter
        if waiter is not None and not self.paused:
            self._drain_waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _wake(self) -> None:
        waker, self._waker = self._waker, None
        if waker is not None and not waker.done():
            waker.set_result(None)
