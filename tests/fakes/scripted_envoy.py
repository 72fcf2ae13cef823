"""An Envoy by script, over a real channel: what it says on a processing stream, in the order in
which Envoy 1.40 was seen to say it, and what an app behind it would get."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as ext_proc_grpc
from prometheus_client import CollectorRegistry

from bursar_sidecar.desk import Outcome
from bursar_sidecar.envoy import services
from bursar_sidecar.envoy.metadata import CHARGE_ID, FIELD, NAMESPACE
from bursar_sidecar.envoy.parts import Parts
from bursar_sidecar.envoy.processing import Processing
from bursar_sidecar.grpc_listening import Place
from tests.fakes.envoy_calls import EnvoyCalls
from tests.fakes.until import DEADLINE_S
from tests.fakes.wire import delivered

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # not in its stubs
DUPLEX = modes.ProcessingMode.FULL_DUPLEX_STREAMED
NONE = modes.ProcessingMode.NONE
SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}
BY_PROVIDER = {
    "response.code_details": "via_upstream",
    "response.flags": 0,
    "upstream.request_attempt_count": 1,
}
REFUSED_CONNECTION = {
    "response.code_details": "upstream_reset_before_response_started{remote_connection_failure}",
    "response.flags": 0x20,
    "upstream.request_attempt_count": 1,
}
RESET = {
    "response.code_details": "upstream_reset_before_response_started{connection_termination}",
    "response.flags": 0x40,
    "upstream.request_attempt_count": 1,
}
TIMED_OUT = {
    "response.code_details": "response_timeout",
    "response.flags": 0x4,
    "upstream.request_attempt_count": 1,
}
DENIED = {
    "response.code_details": "ext_authz_denied",
    "response.flags": 0x1000,
    "upstream.request_attempt_count": 0,
}
TOO_LARGE = {
    "response.code_details": "request_payload_too_large",
    "response.flags": 0,
    "upstream.request_attempt_count": 0,
}


class Seen:
    """What the app got."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.pieces: list[bytes] = []
        self.ended = False
        """In good order."""
        self.reset = False
        self.trailers: dict[str, str] = {}


class ScriptedStream:
    """One request, from ext_proc's point of view."""

    def __init__(self, stub: ext_proc_grpc.ExternalProcessorStub) -> None:
        self.call: Any = stub.Process()
        self.request: Any = None
        """What was answered to the request's head."""
        self.seen = Seen()
        self._present: dict[str, str] = {}
        self._trailers: dict[str, str] = {}
        self._first = True

    async def ask(
        self,
        charge_id: str,
        *,
        path: str = "/v1/chat/completions",
        body_mode: Any = DUPLEX,
        **headers: str,
    ) -> Any:
        """The request's head; gives what is answered to it."""
        message = ext_proc.ProcessingRequest()
        message.protocol_config.response_body_mode = body_mode
        told = {":method": "POST", ":path": path, "content-length": "77", **headers}
        _fill(message.request_headers.headers, told)
        self._metadata(message, charge_id)
        self._first = False
        await self.call.write(message)
        self.request = await self.call.read()
        return self.request

    async def head(
        self,
        status: int = 200,
        headers: Mapping[str, str] = JSON,
        *,
        attributes: Mapping[str, Any] = BY_PROVIDER,
        end: bool = False,
        charge_id: str = "",
    ) -> None:
        """An answer's head."""
        message = ext_proc.ProcessingRequest()
        if self._first:
            message.protocol_config.response_body_mode = DUPLEX
            self._metadata(message, charge_id)
            self._first = False
        self._present = dict(headers)
        self.seen.status = status
        _fill(message.response_headers.headers, {":status": str(status), **headers})
        message.response_headers.end_of_stream = end
        if attributes:
            message.attributes["envoy.filters.http.ext_proc"].update(attributes)
        await self.call.write(message)

    async def body(self, data: bytes = b"", *, end: bool = False) -> None:
        """A part of the answer's body; an empty one ends it, as Envoy tells the end of chunks."""
        message = ext_proc.ProcessingRequest()
        message.response_body.body = data
        message.response_body.end_of_stream = end or not data
        await self.call.write(message)

    async def trailers(self, **trailers: str) -> None:
        """What comes after the body."""
        message = ext_proc.ProcessingRequest()
        self._trailers = trailers
        _fill(message.response_trailers.trailers, trailers)
        await self.call.write(message)

    async def hear(self) -> bool:
        """The next thing that is answered, as the app sees it; False: Envoy will end the stream."""
        answer = await self.call.read()
        assert answer is not EOF, "the sidecar ended the stream: the answer would flow on"
        seen, kind = self.seen, answer.WhichOneof("response")
        assert not seen.ended, f"{kind} after the end"
        if kind == "immediate_response":
            self._immediate(answer.immediate_response)
            return False
        if kind == "response_headers":
            assert not seen.headers, "the head is answered twice"
            assert answer.response_headers.response.status == 0
            seen.headers = self._changed(answer.response_headers.response.header_mutation)
            seen.status = int(seen.headers.pop(":status", seen.status))
        elif kind == "response_body":
            assert seen.headers, "the body before the head"
            part = answer.response_body.response.body_mutation.streamed_response
            seen.body += part.body
            seen.pieces.append(part.body)
            seen.ended = part.end_of_stream
        elif kind == "response_trailers":
            self._present = self._trailers
            seen.trailers = self._changed(answer.response_trailers.header_mutation)
            seen.ended = True
        return not seen.ended

    async def answered(self) -> Seen:
        """All that the app gets; then Envoy ends the stream."""
        while await self.hear():
            pass
        await self.close()
        return self.seen

    async def close(self) -> None:
        """Envoy is done with the request."""
        await self.call.done_writing()
        assert await self.call.read() is EOF
        await delivered()

    async def hang_up(self) -> None:
        """The app is gone, or the provider broke off: Envoy does not say."""
        self.call.cancel()

    def _immediate(self, answer: Any) -> None:
        if self.seen.headers:
            self.seen.reset = True
            return
        self.seen.status = answer.status.code
        self._present = {}
        self.seen.headers = self._changed(answer.headers)
        self.seen.body = answer.body
        self.seen.ended = True

    def _changed(self, mutation: Any) -> dict[str, str]:
        found = dict(self._present)
        for name in mutation.remove_headers:
            found.pop(name, None)
        for option in mutation.set_headers:
            name, value = option.header.key, option.header.raw_value.decode()
            found[name] = f"{found[name]}, {value}" if option.append_action == 0 else value
        return found

    def _metadata(self, message: Any, charge_id: str) -> None:
        if charge_id:
            message.metadata_context.filter_metadata[NAMESPACE].update(
                {FIELD: {CHARGE_ID: charge_id, "spender": "keys/k-1"}}
            )


class ScriptedEnvoy:
    """Its side of the channel, and the service it speaks to."""

    def __init__(self, calls: EnvoyCalls, stub: ext_proc_grpc.ExternalProcessorStub) -> None:
        self.calls = calls
        self._stub = stub
        self.registry = CollectorRegistry()
        self.service = Processing(
            Parts(calls.settings, calls.proxy, calls.desk, calls.clock, calls.held, self.registry)
        )

    def stream(self) -> ScriptedStream:
        """For one request."""
        return ScriptedStream(self._stub)

    async def carry(
        self, body: bytes, *, edited: bytes | None = None, body_mode: Any = DUPLEX
    ) -> ScriptedStream:
        """A chat call that Check has let go on, up to where Envoy sends it."""
        charge_id = await self.calls.admit(body=body)
        held = self.calls.held.held(charge_id)
        assert held is not None
        held.edited = edited
        stream = self.stream()
        await stream.ask(charge_id, body_mode=body_mode)
        return stream

    async def ended(self) -> Outcome:
        """How the one call ended, once it has."""
        await self.calls.held.drain(DEADLINE_S)
        return self.calls.desk.only_outcome

    def counted(self, name: str, **labels: str) -> float:
        """A counter of the service's own."""
        return self.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def scripted_envoy(calls: EnvoyCalls, directory: Path) -> AsyncIterator[ScriptedEnvoy]:
    """An Envoy before the service, over a socket in `directory`."""
    address = f"unix:{directory / 'proc.sock'}"
    server = services.server(Place("envoy_address", address, "0600", "", "", ""))
    async with grpc.aio.insecure_channel(address) as channel:
        made = ScriptedEnvoy(calls, ext_proc_grpc.ExternalProcessorStub(channel))
        server.add(made.service.name, made.service.methods())
        await server.start([made.service.name])
        yield made
    await server.stop(0)
    await delivered()


def _fill(headers: Any, told: Mapping[str, str]) -> None:
    for name, value in told.items():
        one = headers.headers.add(key=name)
        one.raw_value = value.encode()
