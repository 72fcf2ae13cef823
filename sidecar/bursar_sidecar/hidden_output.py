"""Models that reason before they answer. Pure."""

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

HIDDEN_OUTPUT_MODELS: Final = (
    "o1*",
    "o3*",
    "o4*",
    "gpt-5*",
    "gpt-oss*",
    "codex*",
    "*reason*",
    "*thinking*",
    "deepseek-r*",
    "grok-3-mini*",
    "grok-4*",
    "gemini-2.5*",
    "gemini-[3-9]*",
    "qwq*",
    "magistral*",
)
"""Families that reason before they answer: what they produce is billed but not all shown, so that
the bytes seen of a cut answer bound nothing."""


@lru_cache(maxsize=1_024)  # model names repeat; matching all globs costs more than the rest here
def reasons(model: str) -> bool:
    """Whether a model, by its name, produces what is billed and not all shown."""
    name = model.rpartition("/")[2].lower()
    return any(fnmatchcase(name, glob) for glob in HIDDEN_OUTPUT_MODELS)
