"""Kinds of servers: which dialects they speak, and what differs where several speak the same.

A provider's `kind` in the settings is a name in `KINDS`; adding a server that speaks a known
dialect is a line here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """What is the same for all servers of a kind."""

    name: str
    dialects: frozenset[str]
    """Names of the dialects that they speak."""
    credential: str = "authorization: Bearer "
    """The header that carries the provider's credential, up to it."""


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("openai", frozenset({"openai"})),
            Kind("anthropic", frozenset({"anthropic"}), "x-api-key: "),
            Kind("gemini", frozenset({"gemini"}), "x-goog-api-key: "),
        )
    }
)
