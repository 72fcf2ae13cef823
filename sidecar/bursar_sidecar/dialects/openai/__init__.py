"""The OpenAI dialect: what OpenAI's API and the many servers that speak like it take and answer.

dialect.py: errors, paths, lists of models. request.py: what its requests have in common. One module
for each endpoint, or a few of them; `*_reading.py`: what answers say.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from bursar_sidecar.dialects.dialect import Endpoint, Found
from bursar_sidecar.dialects.openai.audio import SPEECH, TRANSCRIPTIONS, TRANSLATIONS
from bursar_sidecar.dialects.openai.chat import CHAT
from bursar_sidecar.dialects.openai.completions import COMPLETIONS
from bursar_sidecar.dialects.openai.dialect import DIALECT, MODELS, OpenAIEndpoint
from bursar_sidecar.dialects.openai.embeddings import EMBEDDINGS
from bursar_sidecar.dialects.openai.images import EDITS, GENERATIONS, VARIATIONS
from bursar_sidecar.dialects.openai.moderations import MODERATIONS
from bursar_sidecar.dialects.openai.responses import RESPONSES
from bursar_sidecar.dialects.openai.stored import STORED

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "DIALECT",
    "EMBEDDINGS",
    "EXACT",
    "GENERATIONS",
    "MODELS",
    "MODERATIONS",
    "RESPONSES",
    "SPEECH",
    "STORED",
    "TRANSCRIPTIONS",
    "naming",
]

_ENDPOINTS: Final[tuple[OpenAIEndpoint, ...]] = (
    CHAT,
    COMPLETIONS,
    RESPONSES,
    EMBEDDINGS,
    MODERATIONS,
    GENERATIONS,
    EDITS,
    VARIATIONS,
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    MODELS,
)
_DEPLOYMENTS: Final = b"/openai/deployments/"
_VERSIONS: Final = (b"/v1", b"/openai/v1")


def _exact() -> Mapping[bytes, Endpoint]:
    table: dict[bytes, Endpoint] = {}
    for endpoint in _ENDPOINTS:
        for version in _VERSIONS:
            table[version + endpoint.path] = endpoint
        if not endpoint.deployed:
            table[b"/openai" + endpoint.path] = endpoint
    return table


EXACT: Final = _exact()
_DEPLOYED: Final = {endpoint.path: endpoint for endpoint in _ENDPOINTS if endpoint.deployed}


def naming(path: bytes) -> Found | None:
    """The endpoint of a path that names something: a deployment of Azure's, a model."""
    if path.startswith(_DEPLOYMENTS):
        deployment, slash, rest = path[len(_DEPLOYMENTS) :].partition(b"/")
        endpoint = _DEPLOYED.get(slash + rest)
        if endpoint is None or not deployment:
            return None
        return Found(endpoint, unquote_to_bytes(deployment).decode("utf-8", "replace"))
    stored = _stored(path)
    if stored is not None:
        return stored
    for version in _VERSIONS:
        one_model = version + b"/models/"
        if path.startswith(one_model):
            return Found(
                MODELS, unquote_to_bytes(path[len(one_model) :]).decode("utf-8", "replace")
            )
    return None


_STORED_PATH: Final = re.compile(rb"(?:/openai/v1|/openai|/v1)((?:/[A-Za-z0-9_-]{1,128}){1,3})")
"""Nothing in an id may lead to another path: no dots, nothing quoted."""


def _stored(path: bytes) -> Found | None:
    matched = _STORED_PATH.fullmatch(path)
    if matched is None:
        return None
    exact = STORED.get(matched[1])
    if exact is not None:
        return Found(exact, "")
    parts = matched[1].split(b"/")
    if len(parts) < 3:
        return None
    endpoint = STORED.get(b"/".join((*parts[:2], b"*", *parts[3:])))
    return None if endpoint is None else Found(endpoint, parts[2].decode())
