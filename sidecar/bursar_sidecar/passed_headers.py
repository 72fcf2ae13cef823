"""Which headers pass from one side to the other, which stay, and which we write ourselves. Pure.

All others pass as they came: names in their case, values in their bytes, repeated ones repeated, in
their order. A header that we write takes the place, and the name's case, of the one it replaces.
"""

from collections.abc import Sequence
from typing import Final

from bursar_sidecar.app_headers import OURS
from bursar_sidecar.content_coding import narrowed
from bursar_sidecar.http_messages import COPIED_BYTES, Headers, Request

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"content-length",
    }
)
"""Headers that concern one connection only (RFC 9110, 7.6.1), and framing, which each side does
anew."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_STAY: Final = HOP_BY_HOP | {
    b"expect",
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"x-goog-api-key",
    b"cookie",
    # The credential is the operator's, and so is what it is billed to.
    b"openai-organization",
    b"openai-project",
}
"""Of a request, beside those that `Connection` names."""
_STAY_OF_ANSWERS: Final = (HOP_BY_HOP - _FRAMING) | {
    b"x-litellm-response-cost",
    b"x-litellm-response-tokens",
}
"""Of an answer, beside those that `Connection` names and those that begin with x-bursar-."""
_STAY_BUT_TRAILER: Final = _STAY_OF_ANSWERS - {b"trailer"}
_NEVER_TRAILERS: Final = HOP_BY_HOP | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"host",
    b"set-cookie",
    b"www-authenticate",
}
"""What may not come after a body (RFC 9110, 6.5.1): framing, routing, credentials, coding."""
_NEEDED: Final = frozenset({b"content-length", b"content-encoding", b"te"})
"""What makes a request what it is, whatever its `Connection` names."""
_BODILESS: Final = frozenset({b"GET", b"HEAD", b"DELETE"})
_USUAL_CONNECTIONS: Final = frozenset({b"keep-alive", b"close"})
_CONNECTION: Final = b"connection"
MAX_KNOWN: Final = 32
"""Things kept of one head: its targets follow from models, which follow from bodies."""
_UNLIKELY_LENGTH: Final = 987_654_321_012_345
"""Stands for the content-length where the rest of a head is worked out."""
_NOTHING: Final[frozenset[bytes]] = frozenset()


def named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The headers that a peer declares to be for its connection only; names in lower case."""
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            lowered = value.lower()
            if lowered not in _USUAL_CONNECTIONS:
                named.update(part.strip() for part in lowered.split(b","))
    return frozenset(named) if named else _NOTHING


class RequestWriter:
    """Writes the requests to one provider."""

    __slots__ = ("_base", "_handled", "_own")

    def __init__(self, authority: bytes, base: bytes, own: Sequence[bytes]) -> None:
        """`base` comes before every target; `own` are the lines ("name: value") of the operator:
        its credential and its headers. Of two with one name the last counts."""
        self._base = base
        self._own: dict[bytes, tuple[bytes, bytes]] = {b"host": (b"Host", authority)}
        for line in own:
            name, _, value = line.partition(b": ")
            self._own[name.lower()] = (name, value)
        self._handled = frozenset(self._own) | _STAY | {b"accept-encoding", b"content-encoding"}

    def pieces(
        self, target: bytes, request: Request, body: bytes, *, packed: bool
    ) -> tuple[bytes, ...]:
        """A whole request as it goes over the wire, in as many pieces as save a copy.

        `body` is `request.body` itself where nothing was edited. `packed`: the answer may come
        compressed; one that has to be edited may not.
        """
        coded = True
        if request.encoded is not None:
            coded = body is request.body
            body = request.encoded if coded else body
        head = self._known_head(target, request, len(body), packed=packed, coded=coded)
        if len(body) < COPIED_BYTES:
            return (head + body,)
        return (head, body)

    def _known_head(
        self, target: bytes, request: Request, size: int, *, packed: bool, coded: bool
    ) -> bytes:
        """The head, but for its content-length worked out once for all requests with the same."""
        if not size:
            return self._head(target, request, size, packed=packed, coded=coded)
        key = ("written", target, packed, coded)
        known = request.known.get(key)
        if known is None or known[0] is not self:
            head = self._head(target, request, _UNLIKELY_LENGTH, packed=packed, coded=coded)
            before, found, after = head.partition(b": %d\r\n" % _UNLIKELY_LENGTH)
            if not found or b"%d" % _UNLIKELY_LENGTH in after:
                return self._head(target, request, size, packed=packed, coded=coded)
            if len(request.known) >= MAX_KNOWN:
                request.known.clear()
            known = request.known[key] = (self, before, after)
        return b"%b: %d\r\n%b" % (known[1], size, known[2])

    def _head(
        self, target: bytes, request: Request, size: int, *, packed: bool, coded: bool
    ) -> bytes:
        handled = self._handled
        missing = self._own.copy()
        if size or request.method not in _BODILESS:
            missing[b"content-length"] = (b"Content-Length", b"%d" % size)
        lines = [b"%b %b%b HTTP/1.1\r\n" % (request.method, self._base, target)]
        accepts = False
        named = _NOTHING
        for (name, value), written in zip(request.headers, request.names, strict=True):
            if name not in handled:
                if not name.startswith(OURS):
                    lines.append(b"%b: %b\r\n" % (written, value))
            elif name in missing:
                lines.append(b"%b: %b\r\n" % (written, missing.pop(name)[1]))
            elif name == b"accept-encoding":
                accepts = True
                value = narrowed(value) if packed else b"identity"
                lines.append(b"%b: %b\r\n" % (written, value))
            elif name == b"content-encoding":
                if coded:
                    lines.append(b"%b: %b\r\n" % (written, value))
            elif name == b"connection" and value.lower() not in _USUAL_CONNECTIONS:
                named = named_by_connection(request.headers)
            elif name == b"te" and request.wants_trailers:
                lines.append(b"%b: trailers\r\nConnection: TE\r\n" % written)
        if named:
            named = named - self._own.keys() - _NEEDED
            lines = [line for line in lines if line.partition(b":")[0].lower() not in named]
        if not accepts or b"accept-encoding" in named:
            lines.append(b"Accept-Encoding: identity\r\n")
        lines += [b"%b: %b\r\n" % line for line in missing.values()]
        lines.append(b"\r\n")
        return b"".join(lines)


def withheld(headers: Headers) -> list[bytes]:
    """The names of a request's headers that no provider gets, but for those of one connection;
    names in lower case, each once, in their order."""
    names = dict.fromkeys(name for name, _ in headers)
    return [
        name
        for name in names
        if (name in _STAY and name not in HOP_BY_HOP) or name.startswith(OURS)
    ]


def _without(headers: Headers, named: frozenset[bytes]) -> Headers:
    return [pair for pair in headers if pair[0].lower() not in named]


def answer_headers(headers: Headers, names: Sequence[bytes], *, trailers: bool) -> Headers:
    """Of a provider's answer, what the app gets: all but what is for one connection, and what we
    say ourselves. Its framing is among it, for as long as the body stays as it is.

    `headers` with names in lower case, `names` as they came; `trailers`: the app wants them told.
    """
    stay = _STAY_OF_ANSWERS if not trailers else _STAY_BUT_TRAILER
    passed = [
        (written, value)
        for (name, value), written in zip(headers, names, strict=True)
        if name not in stay and not name.startswith(b"x-bursar-")
    ]
    if _CONNECTION not in dict(headers):
        return passed
    named = named_by_connection(headers)
    return _without(passed, named - _FRAMING) if named else passed


def passed_trailers(trailers: Headers) -> Headers:
    """Fields after a body that the app may get; names as they came."""
    return [pair for pair in trailers if pair[0].lower() not in _NEVER_TRAILERS]


def without_length(headers: Headers) -> Headers:
    """Headers of an answer whose body does not stay as it is."""
    return _without(headers, frozenset({b"content-length"}))
