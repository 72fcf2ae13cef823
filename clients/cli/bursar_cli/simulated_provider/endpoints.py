"""Which path is which dialect's endpoint, and which shape a list of models is wanted in."""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from bursar_cli.simulated_provider import anthropic, gemini, openai
from bursar_cli.simulated_provider.dialect import Dialect, Endpoint

DEFAULT_MODELS: Final = {
    "openai": (
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4.1",
        "gpt-4.1-mini",
        "o4-mini",
        "text-embedding-3-small",
        "text-embedding-3-large",
    ),
    "anthropic": ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"),
    "gemini": ("gemini-2.5-pro", "gemini-2.5-flash", "gemini-embedding-001"),
}
_EXACT: Final = {**openai.ENDPOINTS, **anthropic.ENDPOINTS}
_GEMINI_MODELS: Final = (b"/v1beta/models/", b"/v1/models/")
_LISTS: Final = (b"/v1/models", b"/v1beta/models")


def find(path: bytes) -> tuple[Endpoint, str] | None:
    """The endpoint of `path`, and the model named in it ("" where none is)."""
    exact = _EXACT.get(path)
    if exact is not None:
        return exact, ""
    deployed = openai.deployed(path)
    if deployed is not None:
        return deployed
    for prefix in _GEMINI_MODELS:
        if path.startswith(prefix):
            model, colon, method = unquote_to_bytes(path[len(prefix) :]).rpartition(b":")
            endpoint = gemini.METHODS.get(method)
            if colon and endpoint is not None:
                return endpoint, model.decode("utf-8", "replace")
    return None


def realtime_dialect(path: bytes) -> Dialect:
    """In which dialect a realtime session is asked for."""
    return openai.AZURE if path.startswith(b"/openai/") else openai.OPENAI


def lists_models(path: bytes) -> bool:
    """Whether GET of `path` lists models."""
    return path in _LISTS


def models_of(
    path: bytes, headers: Mapping[bytes, bytes], query: Mapping[str, str]
) -> tuple[Dialect, Callable[[tuple[str, ...]], bytes]]:
    """Whose list is asked for, and what writes it (with no models: the default ones)."""
    if path == b"/v1beta/models" or b"x-goog-api-key" in headers or "key" in query:
        return gemini.GEMINI, lambda models: gemini.list_models(models or DEFAULT_MODELS["gemini"])
    if b"anthropic-version" in headers:
        return anthropic.ANTHROPIC, lambda models: anthropic.list_models(
            models or DEFAULT_MODELS["anthropic"]
        )
    return openai.OPENAI, lambda models: _openai_models(models or DEFAULT_MODELS["openai"])


def _openai_models(models: tuple[str, ...]) -> bytes:
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": "simulated"} for name in models
    ]
    return msgspec.json.encode({"object": "list", "data": listed})
