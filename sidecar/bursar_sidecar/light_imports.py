"""Keeps out of memory what dependencies import on the chance that it is of use, and here is not.

- rich: structlog imports it where it is installed, for tracebacks on a terminal: 4 MB and a quarter
  of the start, in a process that logs JSON. greenlet: structlog looks for it; nothing here has any.
- typing_extensions: 7 MB, for a few names that the standard library has too. What it does not have
  is taken from the real one, which is loaded then.
- http.server, wsgiref, urllib.request and with them email: prometheus_client brings servers of its
  own and pushes to a gateway, none of which is used here: 1.4 MB. Whoever else asks for these gets
  the real ones.
"""

import importlib
import sys
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, TypeVar

_UNUSED: Final = ("rich", "greenlet")
_TYPING: Final = "typing_extensions"
_SERVERS: Final = ("http.server", "wsgiref.simple_server", "urllib.request", "urllib.error")
T = TypeVar("T", bound=Callable[..., Any])


def override(method: T) -> T:
    """`typing.override`, which the standard library has from Python 3.12 on."""
    return method


class LightTyping(ModuleType):
    """Stands for typing_extensions."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "override":
            return override
        if hasattr(typing, name):
            return getattr(typing, name)
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        if sys.modules.get(_TYPING) is self:
            del sys.modules[_TYPING]
        return importlib.import_module(_TYPING)


class Nothing(ModuleType):
    """Stands for a module while another takes names from it that it will not use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _metrics_without_servers() -> None:
    stand_ins = [name for name in _SERVERS if name not in sys.modules]
    for name in stand_ins:
        sys.modules[name] = Nothing(name)
    try:
        importlib.import_module("prometheus_client")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def lighten() -> None:
    """To be called before anything else is imported."""
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: "can't be imported"
    sys.modules.setdefault(_TYPING, LightTyping(_TYPING))
    if "prometheus_client" not in sys.modules:
        _metrics_without_servers()
