"""What all endpoints of the OpenAI dialect share: its errors, and its lists of models."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bursar_sidecar.dialects.dialect import READS, Dialect, Endpoint, Listed, Refused


class OpenAI(Dialect):
    """OpenAI's way to speak."""

    name = "openai"
    key_headers = (b"x-api-key", b"api-key")

    def error(self, refused: Refused) -> bytes:
        return msgspec.json.encode({"error": error_object(refused)})

    def models(self, listed: Sequence[Listed]) -> bytes:
        return msgspec.json.encode({"object": "list", "data": [_shown(model) for model in listed]})

    def model(self, listed: Listed) -> bytes:
        return msgspec.json.encode(_shown(listed))


def error_object(refused: Refused) -> dict[str, Any]:
    """What stands under `error`, in a body or in an event."""
    return {
        "message": refused.message,
        "type": refused.kind,
        "param": refused.param,
        "code": refused.code,
        **refused.details,
    }


def _shown(listed: Listed) -> dict[str, Any]:
    return {"id": listed.model, "object": "model", "created": 0, "owned_by": listed.provider}


DIALECT: Final = OpenAI()


class OpenAIEndpoint(Endpoint):
    """An endpoint of the dialect."""

    dialect = DIALECT

    def error_event(self, refused: Refused) -> bytes:
        """OpenAI's libraries raise what stands under `error` of any event."""
        return b"data: " + DIALECT.error(refused) + b"\n\n"


class _Models(OpenAIEndpoint):
    name = "models"
    rule = "models"
    methods = READS


MODELS: Final = _Models()
