"""What a provider counted for one call, with one meaning whoever sent it.

`usage_from_openai` reads a `usage` object of OpenAI's shape; `read_usage` and `read_stream` read
whole answers and streams of every provider's own shape, by the name of a dialect in `DIALECTS`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from .counts import MAX_COUNT, PART_OF, Certainty, Usage, estimated
from .metered import Metered, Part, Stream
from .openai import usage_from_openai

if TYPE_CHECKING:
    from .anthropic import usage_from_anthropic
    from .dialects import DIALECTS, UnknownDialectError, read_stream, read_usage

__all__ = [
    "DIALECTS",
    "MAX_COUNT",
    "PART_OF",
    "Certainty",
    "Metered",
    "Part",
    "Stream",
    "UnknownDialectError",
    "Usage",
    "estimated",
    "read_stream",
    "read_usage",
    "usage_from_anthropic",
    "usage_from_openai",
]

# Loaded when they are first asked for: a sidecar that speaks one dialect starts without the others.
_LATER: Final = {
    "DIALECTS": "dialects",
    "UnknownDialectError": "dialects",
    "read_stream": "dialects",
    "read_usage": "dialects",
    "usage_from_anthropic": "anthropic",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = found
    return found
