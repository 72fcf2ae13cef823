"""Requests as a dialect's endpoints read and edit them, without a proxy around."""

from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import KINDS, Server
from bursar_sidecar.dialects.openai import CHAT, COMPLETIONS, EMBEDDINGS, MODERATIONS, RESPONSES
from bursar_sidecar.http_messages import Request

ENDPOINTS: dict[str, Endpoint] = {
    endpoint.name: endpoint for endpoint in (CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS, MODERATIONS)
}


OPENAI = Server(kind=KINDS["openai"], limit_field="max_completion_tokens", asks_usage=True)


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
    kind: str = "openai",
) -> bytes:
    """A chat request as it is sent."""
    server = Server(kind=KINDS[kind], limit_field=limit_field, asks_usage=KINDS[kind].asks_usage)
    return CHAT.edited(facts, body, model=model, server=server, output_limit=output_limit)
