"""The opening of a websocket (RFC 6455, 4): whether one is asked for, as whom, for which model.

Pure. Browsers can't set headers on a websocket, so that a key also comes as a subprotocol (OpenAI)
or in the query (Azure, Gemini). Wherever it comes, it stays here, with what names an account.
"""

import base64
import binascii
import hashlib
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from bursar_sidecar.dialects.facts import DialectError, checked_model
from bursar_sidecar.http_messages import Headers, Request

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NONCE_BYTES: Final = 16
VERSION: Final = b"13"
_PROTOCOL: Final = b"sec-websocket-protocol"
KEY_PROTOCOL: Final = b"openai-insecure-api-key."
"""What comes before a key among the subprotocols, as OpenAI's libraries for browsers send it."""
_KEPT_PROTOCOLS: Final = (KEY_PROTOCOL, b"openai-organization.", b"openai-project.")
_KEY_HEADERS: Final = (b"x-api-key", b"api-key", b"x-goog-api-key")
KEY_PARAMETERS: Final = frozenset({b"key", b"api-key"})
"""Of a query: Gemini's, Azure's."""
_KEPT_PARAMETERS: Final = KEY_PARAMETERS | {b"access_token", b"authorization"}
_MODEL_PARAMETERS: Final = frozenset({b"model", b"deployment"})
_SWITCHING: Final = frozenset({b"upgrade", b"connection"})


class Offer(NamedTuple):
    """An app's wish for a websocket."""

    request: Request
    """To be served instead of the app's: with its key as a bearer's, and nowhere else."""
    nonce: bytes
    """Its `Sec-WebSocket-Key`."""
    model: str
    """What the address names; "" where it names none."""


def is_offer(request: Request) -> bool:
    """Whether a request asks for a websocket; what asks for another protocol, or in HTTP/1.0, is
    served as if it had not (RFC 9110, 7.8)."""
    if request.method != b"GET" or request.http_1_0:
        return False
    return _told(request.headers, b"upgrade") == [b"websocket"] and b"upgrade" in _told(
        request.headers, b"connection"
    )


def read_offer(request: Request) -> Offer:
    """What is asked for. Raises DialectError naming the header or parameter that is wrong."""
    for name in (b"content-length", b"transfer-encoding"):
        if request.header(name) not in (b"", b"0"):
            raise DialectError("A request for a websocket has no body.", name.decode())
    versions = _values(request.headers, b"sec-websocket-version")
    if versions != [VERSION]:
        raise DialectError("sec-websocket-version must be 13.", "sec-websocket-version")
    nonces = _values(request.headers, b"sec-websocket-key")
    if len(nonces) != 1 or not _is_nonce(nonces[0]):
        raise DialectError(
            "sec-websocket-key must be given once, 16 bytes in base64.", "sec-websocket-key"
        )
    return Offer(_keyed(request), nonces[0], _model(_parameters(request)))


def accepted(nonce: bytes, headers: Headers) -> bool:
    """Whether an answer of 101 takes that very offer up; names in lower case."""
    digest = hashlib.sha1(nonce + _GUID, usedforsecurity=False).digest()
    expected = base64.b64encode(digest)
    return (
        _values(headers, b"sec-websocket-accept") == [expected]
        and _told(headers, b"upgrade") == [b"websocket"]
        and b"upgrade" in _told(headers, b"connection")
    )


class _Parameter(NamedTuple):
    raw: bytes
    name: bytes
    """In lower case: some servers read it so."""
    value: bytes


def _parameters(request: Request) -> "list[_Parameter]":
    return [_parameter(pair) for pair in request.query.split(b"&")] if request.query else []


def _parameter(pair: bytes) -> _Parameter:
    name, _, value = pair.partition(b"=")
    plain = [unquote_to_bytes(part.replace(b"+", b" ")) for part in (name, value)]
    return _Parameter(pair, plain[0].strip().lower(), plain[1])


def _model(pairs: list[_Parameter]) -> str:
    named = [pair for pair in pairs if pair.name in _MODEL_PARAMETERS]
    if not named:
        return ""
    if len(named) > 1:
        raise DialectError("The address names a model more than once.", "model")
    return checked_model(named[0].value.decode("utf-8", "replace"))


def _keyed(request: Request) -> Request:
    key = presented_key(request)
    headers: Headers = []
    names: list[bytes] = []
    for (name, value), written in zip(request.headers, request.names, strict=True):
        if name in (b"authorization", b"te") or name in _KEY_HEADERS:
            continue
        if name == _PROTOCOL:
            value = _protocols_passed(value)
            if not value:
                continue
        headers.append((name, value))
        names.append(written)
    if key:
        headers.append((b"authorization", b"Bearer " + key))
        names.append(b"Authorization")
    kept = [pair.raw for pair in _parameters(request) if pair.name not in _KEPT_PARAMETERS]
    target = request.path + (b"?" + b"&".join(kept) if kept else b"")
    return Request(request.method, target, headers, b"", names=names, keep_alive=False)


def presented_key(request: Request) -> bytes:
    """The first key that an offer shows, b"" where there is none."""
    scheme, _, bearer = request.header(b"authorization").partition(b" ")
    if scheme.lower() == b"bearer" and bearer.strip():
        return bearer.strip()
    for name in _KEY_HEADERS:
        if found := request.header(name).strip():
            return found
    for value in _values(request.headers, _PROTOCOL):
        for part in value.split(b","):
            if part.strip().startswith(KEY_PROTOCOL):
                return part.strip().removeprefix(KEY_PROTOCOL)
    for pair in _parameters(request):
        if pair.name in KEY_PARAMETERS and pair.value:
            return pair.value
    return b""


def _protocols_passed(value: bytes) -> bytes:
    parts = [part.strip() for part in value.split(b",")]
    passed = [part for part in parts if part and not part.startswith(_KEPT_PROTOCOLS)]
    return value if len(passed) == len(parts) else b", ".join(passed)


def switching(headers: Headers) -> Headers:
    """Headers of an answer of 101 as the app gets them: with what takes its offer up, and without
    a framing, which such an answer has none of."""
    framing = (b"content-length", b"transfer-encoding")
    passed = [pair for pair in headers if pair[0].lower() not in (*_SWITCHING, *framing)]
    return [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), *passed]


def _is_nonce(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _NONCE_BYTES
    except (binascii.Error, ValueError):
        return False


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value.strip() for name, value in headers if name == wanted]


def _told(headers: Headers, wanted: bytes) -> list[bytes]:
    """The members of a header's list, in lower case."""
    found = [
        part.strip().lower() for value in _values(headers, wanted) for part in value.split(b",")
    ]
    return [part for part in found if part]
