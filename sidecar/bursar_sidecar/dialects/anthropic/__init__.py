"""The Anthropic dialect: the Messages API, and its endpoint that counts.

Anthropic's Python library 2.12 (`types/message_create_params.py` and its like under `types/beta/`)
says what requests hold; documentation on platform.claude.com, what it costs.

dialect.py: errors and lists of models. content.py: what bounds the input. server_tools.py: what the
provider runs by itself. messages.py: the endpoints. reading.py, usage_shape.py: what streams say,
and are told. assembling.py: a plain message of a streamed one.
"""

from collections.abc import Mapping
from typing import Final

from bursar_sidecar.dialects.anthropic.dialect import DIALECT, MODELS
from bursar_sidecar.dialects.anthropic.messages import COUNT, MESSAGES
from bursar_sidecar.dialects.dialect import Endpoint, Found

__all__ = ["COUNT", "DIALECT", "EXACT", "MESSAGES", "MODELS", "naming"]

EXACT: Final[Mapping[bytes, Endpoint]] = {
    b"/v1/messages": MESSAGES,
    b"/v1/messages/count_tokens": COUNT,
    b"/v1/models": MODELS,
}
_ONE_MODEL: Final = b"/v1/models/"


def naming(path: bytes) -> Found | None:
    """The endpoint of a path that names something."""
    if path.startswith(_ONE_MODEL):
        return Found(MODELS, path[len(_ONE_MODEL) :].decode("latin-1"))
    return None
