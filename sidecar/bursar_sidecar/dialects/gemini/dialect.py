"""What all endpoints of the Gemini dialect share: keys, paths, errors and lists of models.

Errors: google-genai 3.4, `errors.py`, and `google.rpc.Status` in JSON. Lists: `types.py`, Model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from bursar_sidecar.dialects.dialect import (
    READS,
    Asked,
    Dialect,
    Endpoint,
    Listed,
    Refused,
    with_query,
)
from bursar_sidecar.dialects.kinds import Server

_STATUSES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_KEYS: Final = (b"key=", b"access_token=")
"""Parameters of a query that hold a credential."""
_GENERATES: Final = ["generateContent", "countTokens"]
_EMBEDS: Final = ["embedContent", "batchEmbedContents"]


class Gemini(Dialect):
    """Gemini's way to speak."""

    name = "gemini"
    key_headers = (b"x-goog-api-key",)
    # Google's own library takes every line of a stream that is no data for an answer.
    comments_in_streams = False

    def claims(self, asked: Asked) -> bool:
        named = b":" in asked.path
        return named or bool(asked.header(b"x-goog-api-key") or self.key_in_query(asked.query))

    def key_in_query(self, query: bytes) -> bytes:
        for pair in query.split(b"&"):
            if pair.startswith(b"key="):
                return unquote_to_bytes(pair[4:])
        return b""

    def without_key(self, query: bytes) -> bytes:
        return without_key(query)

    def error(self, refused: Refused) -> bytes:
        return msgspec.json.encode({"error": error_object(refused)})

    def models(self, listed: Sequence[Listed]) -> bytes:
        return msgspec.json.encode({"models": [_shown(one) for one in listed]})

    def model(self, listed: Listed) -> bytes:
        return msgspec.json.encode(_shown(listed))


def error_object(refused: Refused) -> dict[str, Any]:
    """What stands under `error`: a status with our reason, and the budgets, among its details."""
    status = _STATUSES.get(refused.status, "UNKNOWN")
    info: dict[str, Any] = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": refused.code,
        "domain": "bursar",
    }
    if refused.param is not None:
        info["metadata"] = {"field": refused.param}
    return {
        "code": refused.status,
        "message": refused.message,
        "status": status,
        "details": [info, *([dict(refused.details)] if refused.details else ())],
    }


def without_key(query: bytes) -> bytes:
    """A query without the app's own credential."""
    return b"&".join(pair for pair in query.split(b"&") if not pair.startswith(_KEYS))


def _shown(listed: Listed) -> dict[str, Any]:
    return {
        "name": f"models/{listed.model}",
        "version": "",
        "displayName": listed.model,
        "supportedGenerationMethods": _EMBEDS if "embedding" in listed.model else _GENERATES,
    }


DIALECT: Final = Gemini()


class GeminiEndpoint(Endpoint):
    """An endpoint of the dialect: a method of a model."""

    dialect = DIALECT
    method: bytes = b""

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        """The version stays the one that the app asked for."""
        version = asked.path[: asked.path.index(b"/", 1)]
        name = quote(model, safe="/-._~").encode()
        return with_query(
            b"%b/models/%b:%b" % (version, name, self.method), without_key(asked.query)
        )


class _Models(GeminiEndpoint):
    name = "models"
    rule = "models"
    methods = READS


MODELS: Final = _Models()
