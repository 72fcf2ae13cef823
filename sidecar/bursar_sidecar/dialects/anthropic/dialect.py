"""What all endpoints of the Anthropic dialect share: its errors, and its lists of models.

Errors: "Errors" on platform.claude.com, `types/shared/error_object.py` of Anthropic's Python
library 2.12. Lists: `types/model_info.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from bursar_sidecar.dialects.dialect import READS, Asked, Dialect, Endpoint, Listed, Refused

_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_CREATED: Final = "1970-01-01T00:00:00Z"
"""What the provider's own list has where the day of release is not known."""


class Anthropic(Dialect):
    """Anthropic's way to speak."""

    name = "anthropic"
    request_id_headers = frozenset({b"request-id"})

    def claims(self, asked: Asked) -> bool:
        return bool(asked.header(b"anthropic-version"))

    def error(self, refused: Refused) -> bytes:
        return msgspec.json.encode(error_object(refused))

    def models(self, listed: Sequence[Listed]) -> bytes:
        data = [_shown(one) for one in listed]
        ends = {
            "first_id": listed[0].model if listed else None,
            "last_id": listed[-1].model if listed else None,
        }
        return msgspec.json.encode({"data": data, "has_more": False, **ends})

    def model(self, listed: Listed) -> bytes:
        return msgspec.json.encode(_shown(listed))


def error_object(refused: Refused) -> dict[str, Any]:
    """An error as bodies and events have it; our reason and the budgets stand beside the message,
    where apps' libraries keep what they don't know."""
    kind = _TYPES.get(refused.status)
    if kind is None:
        kind = "api_error" if refused.status >= 500 else "invalid_request_error"
    error: dict[str, Any] = {
        "type": kind,
        "message": refused.message,
        "code": refused.code,
        **refused.details,
    }
    if refused.param is not None:
        error["param"] = refused.param
    return {"type": "error", "error": error}


def _shown(listed: Listed) -> dict[str, Any]:
    named = {"id": listed.model, "display_name": listed.model}
    return {"type": "model", **named, "created_at": _CREATED}


DIALECT: Final = Anthropic()


class AnthropicEndpoint(Endpoint):
    """An endpoint of the dialect."""

    dialect = DIALECT


class _Models(AnthropicEndpoint):
    name = "models"
    rule = "models"
    methods = READS


MODELS: Final = _Models()
