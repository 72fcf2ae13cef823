"""Answers an app through Envoy: what the proxy would write to a connection is said on a stream.

no head yet --send--> an answer of ours, and Envoy ends the request
the provider's head is here --start--> its headers, changed --write, finish--> body and end
                            --send--> the same with a whole body
started --cut--> Envoy resets the app's request
"""

from collections.abc import Iterable

from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.envoy import header_changes
from bursar_sidecar.envoy.conversation import Conversation
from bursar_sidecar.http_messages import Headers, Heir, Request, Responder

_FAILED = 500


class _EnvoysConnection:
    """What a Responder asks of a connection: here it is Envoy's, and takes no bytes."""

    lost = False
    draining = False
    peer = ""
    may_switch = False

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    @property
    def write_paused(self) -> bool:
        return self._conversation.paused

    @write_paused.setter
    def write_paused(self, paused: bool) -> None:
        raise AttributeError("follows from what waits for Envoy")

    def write(self, data: bytes) -> None:
        raise RuntimeError(f"{len(data)} bytes for a connection of Envoy's")

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def hold(self, size: int) -> bool:
        return size >= 0

    def hand_over(self, make: Heir) -> None:
        return None

    async def drain(self) -> None:
        await self._conversation.drain()


class CarriedResponder(Responder):
    """The app's side of a call that Envoy carries."""

    ends_provider = True
    __slots__ = ("_bodiless", "_conversation", "_present", "_skips_body", "_trailers")

    def __init__(
        self, conversation: Conversation, request: Request, *, skips_body: bool = False
    ) -> None:
        """`skips_body`: Envoy was told to let the body of the answer flow by itself."""
        super().__init__(_EnvoysConnection(conversation), request)
        self._conversation = conversation
        self._present: Headers | None = None
        self._bodiless = False
        self._skips_body = skips_body
        self._trailers: Headers | None = None

    def head_is_here(self, headers: Headers, *, bodiless: bool) -> None:
        """Envoy holds the head of an answer until it is told how to go on; with `:status`."""
        self._present = headers
        self._bodiless = bodiless

    def trailers_are_here(self, trailers: Headers) -> None:
        """Envoy holds the trailers."""
        self._trailers = trailers

    def interim(self, status: int, headers: Headers, reason: bytes | None = None) -> None:
        """Envoy passes interim answers on by itself."""

    def send(self, status: int, headers: Headers, body: bytes, reason: bytes | None = None) -> None:
        """The whole answer at once."""
        self.started = self.finished = True
        has_place = not body or not (self._bodiless or self._skips_body)
        if self._present is None or not has_place:
            self._conversation.immediate(status, headers, body)
            return
        self._say_head(self._present, status, headers)
        self._say_body(body)
        self._say_end([])

    def start(self, status: int, headers: Headers, reason: bytes | None = None) -> None:
        """Begin a streamed answer."""
        self.started = True
        if self._present is None:
            raise RuntimeError("an answer without a head was begun")
        self._say_head(self._present, status, headers)

    def write(self, data: bytes) -> None:
        """More of a streamed answer."""
        self._say_body(data)

    def finish(self, trailers: Headers | None = None) -> None:
        """End a streamed answer."""
        self.finished = True
        self._say_end(trailers or [])

    def cut(self) -> None:
        """Have Envoy reset the app's request."""
        self.finished = True
        self._conversation.immediate(_FAILED, [], b"")

    def _say_head(self, present: Headers, status: int, headers: Headers) -> None:
        message = ext_proc.ProcessingResponse()
        answer = message.response_headers.response
        answer.SetInParent()
        wanted = [(b":status", b"%d" % status), *headers]
        header_changes.change(answer.header_mutation, present, wanted)
        self._conversation.say(message)

    def _say_body(self, data: bytes) -> None:
        if not self._bodiless and not self._skips_body:
            self._conversation.body(data)

    def _say_end(self, trailers: Headers) -> None:
        if self._bodiless or self._skips_body:
            self._conversation.over = True
        elif self._trailers is None:
            self._conversation.end()
        else:
            message = ext_proc.ProcessingResponse()
            answer = message.response_trailers
            answer.SetInParent()
            header_changes.change(answer.header_mutation, self._trailers, trailers)
            self._conversation.say(message)
            self._conversation.over = True
