"""One app's connection: HTTP/1.1 in, calls one after the other, answers out."""

import asyncio
import hashlib
import itertools
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import parse_qs

import httptools
import msgspec

from bursar_cli.simulated_provider import endpoints
from bursar_cli.simulated_provider.behaviour import (
    BEHAVIOUR_HEADER,
    CACHED_HEADERS,
    Behaviour,
    BehaviourError,
    behaviour_from_header,
)
from bursar_cli.simulated_provider.call import Call
from bursar_cli.simulated_provider.dialect import Asked, Dialect, Endpoint
from bursar_cli.simulated_provider.openai_stored import Stored
from bursar_cli.simulated_provider.realtime import PATHS as REALTIME_PATHS
from bursar_cli.simulated_provider.realtime import RealtimeSession, accepting
from bursar_cli.simulated_provider.record_pages import calls_page
from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import DEFAULT_KEPT_CALLS, Ended, ServedCalls

MAX_BODY_BYTES = 16 * 1024 * 1024  # a few times the longest context window as text
MAX_HEADERS_BYTES = 64 * 1024  # all headers of a request; ample for cookies nobody sends here
MAX_URL_BYTES = 8 * 1024
# A request over a limit is read to its end and thrown away, so that the app sees the refusal
# rather than a broken connection; up to this many bytes.
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
MAX_CALL_ID_BYTES = 256
MAX_WAITING_REQUESTS = 16  # pipelined behind the one being served; more are left unread
MAX_CONNECTIONS = 8_192  # below the usual hard limit of open files

CALL_ID_HEADER = b"x-simulate-call-id"

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}
_HEADS = {
    status: b"HTTP/1.1 %d %s\r\ncontent-length: " % (status, reason)
    for status, reason in _REASONS.items()
}
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n"


class Provider:
    """What all connections share: settings, the record, the numbering of calls."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        seed: str | None = None,
        models: tuple[str, ...] = (),
        require_api_key: bool = False,
        kept_calls: int = DEFAULT_KEPT_CALLS,
    ) -> None:
        """`seed` fixes every id and every draw; without it each start draws its own.

        `models`, if any, are the only ones served.
        """
        self.behaviour = behaviour
        self.models = models
        self.require_api_key = require_api_key
        self.calls = ServedCalls(kept_calls)
        self.stored = Stored()
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.drained = asyncio.Event()
        # Ids must differ between two lives of an unseeded provider: a ledger keeps them.
        self._seed = secrets.token_hex(16) if seed is None else seed
        self._numbers = itertools.count(1)
        self._from_header: dict[bytes, Behaviour] = {}

    def behaviour_for(self, header: bytes | None) -> Behaviour:
        """The behaviour of a call with this `x-simulate` header. Raises ProviderError."""
        if header is None:
            return self.behaviour
        known = self._from_header.get(header)
        if known is None:
            try:
                known = behaviour_from_header(header, self.behaviour)
            except BehaviourError as error:
                raise ProviderError(400, str(error), param=BEHAVIOUR_HEADER) from None
            if len(self._from_header) >= CACHED_HEADERS:
                self._from_header.clear()
            self._from_header[header] = known
        return known

    def identify(self, call_id: str | None, prefix: str) -> tuple[str, str, float]:
        """A call's id, the id of its answer, and its draw in [0, 1).

        The draw depends on the seed, the call's id and how often that id was served before, so
        that it is the same whatever runs beside it.
        """
        number = next(self._numbers)
        call_id = call_id or f"sim-{number}"
        source = f"{self._seed}\0{call_id}\0{self.calls.attempts(call_id)}"
        drawn = hashlib.blake2b(source.encode(), digest_size=8).digest()
        named = hashlib.blake2b(f"{self._seed}\0{number}".encode(), digest_size=12).hexdigest()
        return call_id, f"{prefix}-{named}", int.from_bytes(drawn, "big") / 2**64


class _Incoming(msgspec.Struct, eq=False):
    """A request as far as it was read."""

    method: bytes = b""
    target: bytes = b""
    headers: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    """By name in lower case; the last of equal ones."""
    call_id: str | None = None
    keep_alive: bool = True
    expects_continue: bool = False
    header_bytes: int = 0
    body_bytes: int = 0
    body: list[bytes] = msgspec.field(default_factory=list)
    fault: ProviderError | None = None


class Connection(asyncio.Protocol):
    """Reads requests, serves them in order, and tells the call when the app hung up."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._incoming = _Incoming()
        self._waiting: deque[_Incoming] = deque()
        self._call: Call | None = None
        self._session: RealtimeSession | None = None
        self._keep_alive = True
        self._is_serving = False
        self._is_paused = False
        self._is_closing = False

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._provider.connections) >= MAX_CONNECTIONS:
            self.send(503, ProviderError(503, "Too many connections.").body())
            self.close()
            return
        self._provider.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._provider.connections.discard(self)
        if self._provider.is_draining and not self._provider.connections:
            self._provider.drained.set()
        self._waiting.clear()
        if self._call is not None:
            self._call.gone()
        if self._session is not None:
            self._session.over(Ended.CANCELLED)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._session is not None:
            self._session.feed(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(ProviderError(400, f"The request is not valid HTTP: {error}."))

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._call is not None:
            self._call.resume()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._incoming = _Incoming()

    def on_url(self, url: bytes) -> None:
        incoming = self._incoming
        if len(incoming.target) + len(url) > MAX_URL_BYTES:
            self._fault(ProviderError(400, f"The URL is longer than {MAX_URL_BYTES} bytes."))
        else:
            incoming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        incoming = self._incoming
        incoming.header_bytes += len(name) + len(value)
        if incoming.header_bytes > MAX_HEADERS_BYTES:
            text = f"The headers are longer than {MAX_HEADERS_BYTES} bytes."
            self._fault(ProviderError(431, text))
            if incoming.header_bytes > MAX_DISCARDED_BYTES:
                self._fail(ProviderError(431, text))
            return
        name = name.lower()
        incoming.headers[name] = value
        if name == CALL_ID_HEADER:
            if not 1 <= len(value) <= MAX_CALL_ID_BYTES or not value.isascii():
                text = f"{CALL_ID_HEADER.decode()}: expected 1 to {MAX_CALL_ID_BYTES} ASCII bytes."
                self._fault(ProviderError(400, text, param=CALL_ID_HEADER.decode()))
            else:
                incoming.call_id = value.decode()
        elif name == b"expect":
            incoming.expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        incoming = self._incoming
        incoming.method = self._parser.get_method()
        incoming.keep_alive = self._parser.should_keep_alive()
        if incoming.expects_continue and incoming.fault is None and not self._is_serving:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        incoming = self._incoming
        incoming.body_bytes += len(body)
        if incoming.body_bytes <= MAX_BODY_BYTES and incoming.fault is None:
            incoming.body.append(body)
            return
        incoming.body.clear()
        error = ProviderError(413, f"The body is longer than {MAX_BODY_BYTES} bytes.")
        self._fault(error)
        if incoming.body_bytes > MAX_DISCARDED_BYTES:
            self._fail(error)

    def on_message_complete(self) -> None:
        if self._is_closing or self._parser.should_upgrade():
            return
        self._waiting.append(self._incoming)
        if self._is_serving:
            if len(self._waiting) >= MAX_WAITING_REQUESTS and self._transport is not None:
                self._transport.pause_reading()
            return
        self._serve_waiting()

    # What a call asks for.

    def send(
        self,
        status: int,
        body: bytes,
        headers: bytes = b"content-type: application/json\r\n",
        *,
        cut: int | None = None,
    ) -> None:
        """Write a whole answer, or with `cut` only the first so many bytes of its body."""
        ending = b"" if self._keep_alive else b"connection: close\r\n"
        head = b"%s%d\r\n%s%s\r\n" % (_HEADS[status], len(body), headers, ending)
        self._write(head + (body if cut is None else body[:cut]))

    def send_stream_head(self, headers: bytes) -> None:
        """Write the head of an answer whose length is not known yet."""
        ending = b"" if self._keep_alive else b"connection: close\r\n"
        self._write(b"%s%s%s\r\n" % (_STREAM_HEAD, headers, ending))

    def send_stream_data(self, data: bytes) -> None:
        """Write a part of such an answer."""
        self._write(b"%x\r\n%s\r\n" % (len(data), data))

    def send_stream_end(self) -> None:
        """End such an answer."""
        self._write(b"0\r\n\r\n")

    def close(self) -> None:
        """Close once what was written has left."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()

    def is_paused(self) -> bool:
        """Whether the network takes no more for now."""
        return self._is_paused

    def finished(self) -> None:
        """The call is over."""
        self._call = None
        self._finish()

    def drain(self) -> None:
        """Close when the call being served is over; at once if there is none."""
        self._keep_alive = False
        if self._session is not None:
            self._session.going_away()
        elif not self._is_serving:
            self.close()

    # Our own.

    def _switch(self, rest: bytes) -> None:
        """A websocket is wanted, behind whatever is being served."""
        incoming, provider = self._incoming, self._provider
        path, _, query = incoming.target.partition(b"?")
        asked = _last_of_each(query)
        try:
            if self._is_serving or path not in REALTIME_PATHS:
                raise ProviderError(400, "Protocol upgrades are not supported here.")
            self._admit(endpoints.realtime_dialect(path), incoming.headers, asked)
            behaviour = provider.behaviour_for(incoming.headers.get(BEHAVIOUR_HEADER.encode()))
            answer = accepting(incoming.headers)
        except ProviderError as error:
            self._fail(error)
            return
        call_id, response_id, _ = provider.identify(incoming.call_id, "sess")
        provider.calls.started()
        self._session = RealtimeSession(
            self._write,
            self.close,
            provider.calls,
            behaviour,
            call_id=call_id,
            response_id=response_id,
            model=asked.get("model") or asked.get("deployment") or "gpt-realtime",
        )
        self._write(
            answer.replace(b"\r\n\r\n", b"\r\nx-request-id: %b\r\n\r\n" % response_id.encode())
        )
        self._session.start()
        if rest:
            self._session.feed(rest)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _fault(self, error: ProviderError) -> None:
        """Remember what is wrong with the request being read: it is refused at its end."""
        if self._incoming.fault is None:
            self._incoming.fault = error

    def _fail(self, error: ProviderError) -> None:
        """Refuse a request that can't be read to its end, so neither can what follows it."""
        self._keep_alive = False
        if not self._is_serving:
            self.send(error.status, error.body())
        self.close()

    def _serve_waiting(self) -> None:
        # A loop, not a recursion: answers given at once come back here.
        while self._waiting and not self._is_serving and not self._is_closing:
            incoming = self._waiting.popleft()
            self._is_serving = True
            self._keep_alive = incoming.keep_alive and not self._provider.is_draining
            self._serve(incoming)

    def _finish(self) -> None:
        self._is_serving = False
        if self._is_closing:
            return
        if not self._keep_alive:
            self.close()
            return
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._serve_waiting)
        elif self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def _serve(self, incoming: _Incoming) -> None:
        if incoming.fault is not None:
            self._keep_alive = False
            self._refuse(incoming.fault)
            return
        path, _, query = incoming.target.partition(b"?")
        found = endpoints.find(path)
        route = _ROUTES.get(path)
        if found is not None and incoming.method == b"POST":
            self._serve_call(incoming, *found, _last_of_each(query))
        elif incoming.method == b"GET" and endpoints.lists_models(path):
            self._models(incoming, path, _last_of_each(query))
        elif route is not None and incoming.method in route:
            route[incoming.method](self, incoming, query)
        elif found is not None or route is not None:
            allowed = ", ".join(sorted(method.decode() for method in route or (b"POST",)))
            self._refuse(ProviderError(405, f"Not allowed here; expected {allowed}."))
        elif stored := self._provider.stored.answer(incoming.method, path, b"".join(incoming.body)):
            self.send(*stored)
            self._finish()
        else:
            text = f"Invalid URL ({incoming.method.decode()} {path.decode('latin-1')})"
            self._refuse(ProviderError(404, text, code="unknown_url"))

    def _refuse(self, error: ProviderError) -> None:
        self.send(error.status, error.body())
        self._finish()

    def _admit(
        self, dialect: Dialect, headers: Mapping[bytes, bytes], query: Mapping[str, str]
    ) -> None:
        """Raises ProviderError where the provider would turn a call away unread."""
        if self._provider.require_api_key:
            dialect.check_key(headers, query)
        dialect.check_headers(headers)

    def _serve_call(
        self, incoming: _Incoming, endpoint: Endpoint, path_model: str, query: Mapping[str, str]
    ) -> None:
        provider = self._provider
        provider.calls.started()
        call_id, response_id, draw = provider.identify(incoming.call_id, endpoint.id_prefix)
        call = Call(
            connection=self,
            record=provider.calls,
            call_id=call_id,
            response_id=response_id,
            endpoint=endpoint,
            behaviour=provider.behaviour,
            draw=draw,
        )
        self._call = call
        try:
            self._admit(endpoint.dialect, incoming.headers, query)
            asked_behaviour = incoming.headers.get(BEHAVIOUR_HEADER.encode())
            call.behaviour = provider.behaviour_for(asked_behaviour)
            body = b"".join(incoming.body)
            answer = endpoint.read(Asked(body, call.behaviour, path_model, query))
            if provider.models and answer.model not in provider.models:
                text = f"The model {answer.model!r} does not exist, or not for you."
                raise ProviderError(404, text, code="model_not_found", param="model")
        except ProviderError as error:
            call.refuse(error)
            return
        call.start(answer)

    def _models(self, incoming: _Incoming, path: bytes, query: Mapping[str, str]) -> None:
        dialect, listed = endpoints.models_of(path, incoming.headers, query)
        try:
            self._admit(dialect, incoming.headers, query)
            self.send(200, listed(self._provider.models))
        except ProviderError as error:
            self.send(error.status, dialect.error_body(error, ""))
        self._finish()

    def _list_calls(self, incoming: _Incoming, query: bytes) -> None:
        try:
            asked = parse_qs(query.decode("latin-1"), keep_blank_values=True)
            as_lines = b"application/x-ndjson" in incoming.headers.get(b"accept", b"")
            page = calls_page(self._provider.calls, asked, as_lines=as_lines)
        except ProviderError as error:
            self._refuse(error)
            return
        self.send(200, page.body, b"content-type: %s\r\n" % page.content_type)
        self._finish()

    def _clear_calls(self, incoming: _Incoming, query: bytes) -> None:
        self._provider.calls.clear()
        self.send(200, b"{}")
        self._finish()

    def _totals(self, incoming: _Incoming, query: bytes) -> None:
        self.send(200, msgspec.json.encode(self._provider.calls.totals()))
        self._finish()

    def _health(self, incoming: _Incoming, query: bytes) -> None:
        self.send(200, b'{"status":"serving"}')
        self._finish()


def _last_of_each(query: bytes) -> dict[str, str]:
    """The parameters of a query; of one given more than once the last."""
    if not query:
        return {}
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    return {name: values[-1] for name, values in given.items()}


_Route = Callable[[Connection, _Incoming, bytes], None]
_ROUTES: dict[bytes, dict[bytes, _Route]] = {
    b"/simulated/calls": {b"GET": Connection._list_calls, b"DELETE": Connection._clear_calls},
    b"/simulated/totals": {b"GET": Connection._totals},
    b"/healthz": {b"GET": Connection._health},
    b"/readyz": {b"GET": Connection._health},
}
