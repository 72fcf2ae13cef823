"""Requests as a dialect's endpoints read and edit them, without a proxy around."""

from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.openai import CHAT, EMBEDDINGS
from bursar_sidecar.http_messages import Request

ENDPOINTS: dict[str, Endpoint] = {"chat": CHAT, "embeddings": EMBEDDINGS}


def read(endpoint: str, body: bytes, named: str = "") -> Facts:
    """The facts of a request to an endpoint of the OpenAI dialect, by the endpoint's name."""
    return ENDPOINTS[endpoint].read(Request(b"POST", b"/", [], body), named)


def edited(
    facts: Facts,
    body: bytes,
    *,
    model: str,
    output_limit: int | None = None,
    limit_field: str = "max_completion_tokens",
) -> bytes:
    """A chat request as it is sent."""
    return CHAT.edited(facts, body, model=model, output_limit=output_limit, limit_field=limit_field)
