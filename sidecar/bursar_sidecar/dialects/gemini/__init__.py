"""The Gemini dialect: Google's own API for generating, embedding and counting.

Google's Python library google-genai 3.4 (`models.py` writes the requests, `types.py` reads the
answers) says what travels; documentation on ai.google.dev, what it costs. The model stands in the
path, and the method behind it: `/v1beta/models/gemini-2.5-flash:generateContent`.

dialect.py: errors and lists of models. fields.py: names in both spellings. content.py: what bounds
the input. generate.py, embed.py: the endpoints. reading.py: what answers say.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from bursar_sidecar.dialects.dialect import Endpoint, Found
from bursar_sidecar.dialects.gemini.dialect import DIALECT, MODELS
from bursar_sidecar.dialects.gemini.embed import BATCH_EMBED, EMBED
from bursar_sidecar.dialects.gemini.generate import COUNT, GENERATE, STREAM

__all__ = [
    "BATCH_EMBED",
    "COUNT",
    "DIALECT",
    "EMBED",
    "EXACT",
    "GENERATE",
    "MODELS",
    "STREAM",
    "naming",
]

EXACT: Final[Mapping[bytes, Endpoint]] = {b"/v1beta/models": MODELS, b"/v1/models": MODELS}
_UNDER: Final = (b"/v1beta/models/", b"/v1/models/")
_METHODS: Final[Mapping[bytes, Endpoint]] = {
    b"generateContent": GENERATE,
    b"streamGenerateContent": STREAM,
    b"embedContent": EMBED,
    b"batchEmbedContents": BATCH_EMBED,
    b"countTokens": COUNT,
}


def naming(path: bytes) -> Found | None:
    """The endpoint of a path that names a model."""
    for under in _UNDER:
        if path.startswith(under):
            name = unquote_to_bytes(path[len(under) :])
            model, colon, method = name.rpartition(b":")
            if not colon:
                return Found(MODELS, name.decode("utf-8", "replace"))
            endpoint = _METHODS.get(method)
            if endpoint is not None:
                return Found(endpoint, model.decode("utf-8", "replace"))
    return None
