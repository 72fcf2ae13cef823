"""Tools that the provider runs itself: what they may add to a call, and which have no bound.

Anthropic's Python library 2.12: `types/tool_union_param.py`, the `..._param.py` of each tool, and
`types/beta/message_create_params.py`. Documentation on platform.claude.com: "Web search tool" and
"Web fetch tool" (`max_uses` bounds what runs within one request, results are billed as input),
"Server tools" (the model is run again after each use).
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.json_fields import (
    LIST,
    OPTIONAL_INT,
    OPTIONAL_STRING,
    STRING,
    Fields,
    field,
    given,
    shown,
    top_level,
)

MAX_TOOL_USES: Final = 1_000
"""Of `max_uses`; the bound of such a call would be beyond any budget."""
INJECTED_BY_TOOL: Final = 4_096
"""LLM tokens of a definition that the provider keeps itself: the largest that is documented (the
computer's, with its part of the system prompt) has under 1,500."""

_CLIENT_FAMILIES: Final = ("bash_", "text_editor_", "computer_", "memory_", "browser_toolset_")
"""Tools that the app runs, of which the provider keeps the definition."""
_SEARCH: Final = "web_search_"
_FETCH: Final = "web_fetch_"
_UNBOUNDED_FIELDS: Final = (
    "mcp_servers",  # servers whose tools are run as often as the model wishes
    "container",  # code runs, billed by the hour
    "fallbacks",  # other models answer, at their own rates
    "compaction",  # a summary is made beside the answer, by rules of its own
)


class ServerTools(NamedTuple):
    """What tools may add to a call."""

    declared: bool = False
    injected: int = 0
    """LLM tokens of definitions that the request only names."""
    rounds: int = 1
    """How often the model may be run."""
    searches: int = 0
    unbounded: str = ""
    """What has no bound; "" when all has."""


def read_tools(fields: Fields) -> ServerTools:
    """What `tools` and the fields beside it allow. Raises DialectError naming what is wrong."""
    unbounded = next((name for name in _UNBOUNDED_FIELDS if given(fields, name)), "")
    if given(fields, "context_management") and b"compact" in bytes(fields["context_management"]):
        unbounded = "context_management"
    injected = searches = 0
    rounds = 1
    tools = _listed(fields)
    for raw in tools:
        # One that is named twice could be read in two ways: the provider's bound is not ours.
        tool = top_level(bytes(raw))
        kind = field(tool, "type", OPTIONAL_STRING, "a string") or "custom"
        if kind == "custom":
            continue
        if kind.startswith(_CLIENT_FAMILIES):
            injected += INJECTED_BY_TOOL
        elif kind.startswith((_SEARCH, _FETCH)):
            uses = _uses(tool)
            if uses is None:
                unbounded = f"tools: {shown(kind)} without max_uses"
                continue
            rounds += uses
            injected += INJECTED_BY_TOOL
            searches += uses if kind.startswith(_SEARCH) else 0
        else:
            unbounded = f"tools: {shown(kind)}"
    return ServerTools(bool(tools), injected, rounds, searches, unbounded)


def units_of(tools: ServerTools) -> Mapping[str, int]:
    """What is billed beside LLM tokens, at most, by meter."""
    return {"search": tools.searches} if tools.searches else {}


def _listed(fields: Fields) -> list[msgspec.Raw]:
    if not given(fields, "tools"):
        return []
    return field(fields, "tools", LIST, "a list of tools") or []


def _uses(tool: Mapping[str, msgspec.Raw]) -> int | None:
    uses = field(tool, "max_uses", OPTIONAL_INT, "a whole number")
    if uses is not None and not 1 <= uses <= MAX_TOOL_USES:
        name = field(tool, "name", STRING, "a string") or "a tool"
        raise DialectError(
            f"max_uses of {shown(name)} is {shown(uses)}; expected 1 to {MAX_TOOL_USES}.", "tools"
        )
    return uses
