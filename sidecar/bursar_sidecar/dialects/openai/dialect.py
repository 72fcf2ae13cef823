"""What all endpoints of the OpenAI dialect share: its errors, and its lists of models."""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

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
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.kinds import Server


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

AZURE: Final = b"/openai/"
AZURE_V1: Final = b"/openai/v1/"


class OpenAIEndpoint(Endpoint):
    """An endpoint of the dialect."""

    dialect = DIALECT
    path: bytes
    """After the version: `/chat/completions`."""
    deployed = True
    """At Azure a deployment has it under its own path."""

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        if server.kind.deployments:
            return self._azure_target(asked, model, server)
        query = asked.query
        if query and asked.path.startswith(AZURE):
            # Of Azure alone: elsewhere the version is in the base URL.
            query = b"&".join(p for p in query.split(b"&") if not p.startswith(b"api-version="))
        return with_query(self.path, query)

    def _azure_target(self, asked: Asked, model: str, server: Server) -> bytes:
        """Azure has two paths for a thing: one of a version in the query, one without."""
        versioned = asked.path.startswith(AZURE) and not asked.path.startswith(AZURE_V1)
        if not versioned and not server.api_version:
            return with_query(AZURE_V1 + self.path[1:], asked.query)
        query = asked.query if versioned else b"api-version=" + server.api_version.encode()
        deployment = b""
        if not model.strip("."):  # no name of a deployment, but a way to another path
            raise DialectError(f"model {model!r} is no name of a deployment.", "model")
        if self.deployed:
            deployment = b"deployments/" + quote(model, safe="").encode() + b"/"
        return with_query(AZURE + deployment + self.path[1:], query)


class _Models(OpenAIEndpoint):
    name = "models"
    path = b"/models"
    deployed = False
    rule = "models"
    methods = READS


MODELS: Final = _Models()
