"""The OpenAI dialect: what OpenAI's API and the many servers that speak like it take and answer.

dialect.py: errors and lists of models. request.py: what its requests have in common. chat.py,
embeddings.py: one endpoint each. chat_reading.py: what answers say.
"""

from collections.abc import Mapping
from typing import Final

from bursar_sidecar.dialects.dialect import Endpoint, Found
from bursar_sidecar.dialects.openai.chat import CHAT
from bursar_sidecar.dialects.openai.dialect import DIALECT, MODELS
from bursar_sidecar.dialects.openai.embeddings import EMBEDDINGS

__all__ = ["CHAT", "DIALECT", "EMBEDDINGS", "EXACT", "MODELS", "naming"]

EXACT: Final[Mapping[bytes, Endpoint]] = {
    b"/v1/chat/completions": CHAT,
    b"/v1/embeddings": EMBEDDINGS,
    b"/v1/models": MODELS,
}
_ONE_MODEL: Final = b"/v1/models/"


def naming(path: bytes) -> Found | None:
    """The endpoint of a path that names something."""
    if path.startswith(_ONE_MODEL):
        return Found(MODELS, path[len(_ONE_MODEL) :].decode("latin-1"))
    return None
