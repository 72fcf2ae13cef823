"""What happens to whose calls when money is short: the `[[shortages]]` tables.

`when_short` holds for everybody; a table says otherwise for some keys, teams, projects or users. An
agent that runs at night may wait, where a person in a chat is better served with a shorter answer.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

import msgspec

from bursar_sidecar.extra_call_settings import globs, read_tables
from bursar_sidecar.setting_checks import word

WAYS: Final = ("assemble", "clamp", "wait", "refuse")
"""Of `when_short`."""
MAX_REMEMBERED: Final = 10_000
"""Spenders whose way is kept; asking the tables again is what more of them cost."""


class Named(Protocol):
    """A spender, as far as it is told apart here; "" where there is none."""

    @property
    def key(self) -> str:
        """The key's name."""
        ...

    @property
    def team(self) -> str:
        """Its team's."""
        ...

    @property
    def project(self) -> str:
        """Its project's."""
        ...

    @property
    def user(self) -> str:
        """Its user's."""
        ...


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """Some spenders, and what happens to their calls."""

    spenders: tuple[str, ...]
    """Globs over the names of keys, teams, projects and users: `teams/night-jobs`, `keys/*`."""
    when_short: str
    """For calls of those: a word of the setting of that name. The first table that names a spender
    holds."""

    def holds_for(self, spender: Named) -> bool:
        """Whether it names the key, or whose the key is."""
        names = (spender.key, spender.team, spender.project, spender.user)
        return any(fnmatchcase(name, glob) for name in names if name for glob in self.spenders)


class Shortages:
    """The way for each spender, remembered."""

    __slots__ = ("_lines", "_usual", "_ways")

    def __init__(self, usual: str, lines: tuple[Shortage, ...]) -> None:
        """`usual` is for those whom no line names."""
        self._usual = usual
        self._lines = lines
        self._ways: dict[tuple[str, str, str, str], str] = {}

    def way_of(self, spender: Named) -> str:
        """What happens to a call of theirs."""
        if not self._lines:
            return self._usual
        named = (spender.key, spender.team, spender.project, spender.user)
        way = self._ways.get(named)
        if way is None:
            if len(self._ways) >= MAX_REMEMBERED:
                self._ways.clear()
            held = (line.when_short for line in self._lines if line.holds_for(spender))
            way = self._ways[named] = next(held, self._usual)
        return way


def read_shortages(tables: Any, faults: list[str]) -> tuple[Shortage, ...]:
    """The `[[shortages]]` tables; what is wrong is added to `faults`."""
    found = read_tables("shortages", tables, _SHORTAGES, (), faults)
    return tuple(Shortage(**values) for _, values in found)


def _spenders(value: Any) -> tuple[str, ...]:
    if not value:
        raise ValueError('a list of globs, such as ["teams/night-jobs"]')
    return globs(value)


_SHORTAGES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "spenders": _spenders,
    "when_short": word(*WAYS),
}
