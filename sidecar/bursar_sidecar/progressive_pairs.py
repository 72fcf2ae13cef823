"""Which models, at which providers, may run progressive under a hard budget, and how that is known.

What ships is `progressive.toml` beside this module, a table with the evidence of each row;
operators add rows in their settings. What no row matches reserves its worst case.
"""

import tomllib
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec

from bursar_sidecar.growth import LEAST_SLACK

MAX_ROWS: Final = 200
"""Of an operator; each is matched once for each model that is met."""
MAX_SLACK: Final = 1_000_000
"""LLM tokens; more than that is no slack but a reservation."""
_CACHED_PAIRS: Final = 1_024
"""Names of models repeat, and come from apps: a bounded number is remembered."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"but": "except"}):
    """Pairs of providers and models that are alike in what is known of them."""

    providers: tuple[str, ...]
    """Globs over the names of configured providers."""
    models: tuple[str, ...]
    """Globs over the names of models, without what is before a "/"."""
    evidence: Literal["documented", "reported", "measured"]
    source: str
    """Where it is to be read."""
    known: str = ""
    but: tuple[str, ...] = ()
    """Globs of models that are left out."""
    reasoning: Literal["none", "off"] = "none"
    """"none": the models do not reason unless the request asks for it; "off": they do, unless the
    request turns it off."""
    slack: int = LEAST_SLACK
    """LLM tokens for each choice that may be billed after a hang-up."""

    def matches(self, provider: str, model: str) -> bool:
        """Whether it speaks of this model at this provider."""
        name = model.rpartition("/")[2].lower()
        return (
            any(fnmatchcase(provider, glob) for glob in self.providers)
            and any(fnmatchcase(name, glob) for glob in self.models)
            and not any(fnmatchcase(name, glob) for glob in self.but)
        )


class Pairs:
    """The rows in force: an operator's first, then those that ship."""

    def __init__(self, own: tuple[Row, ...] = ()) -> None:
        self._rows = (*own, *shipped())
        self._found: dict[tuple[str, str], Row | None] = {}

    def find(self, provider: str, model: str) -> Row | None:
        """The first row that speaks of a model at a provider; None: it reserves its worst case."""
        pair = (provider, model)
        try:
            return self._found[pair]
        except KeyError:
            pass
        row = next((row for row in self._rows if row.matches(provider, model)), None)
        if len(self._found) >= _CACHED_PAIRS:
            self._found.clear()
        self._found[pair] = row
        return row


@lru_cache(maxsize=1)
def shipped() -> tuple[Row, ...]:
    """The table that ships with the program."""
    text = files(__package__).joinpath("progressive.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text)["progressive"], tuple[Row, ...])


def read_rows(tables: Any, faults: list[str]) -> tuple[Row, ...]:
    """The `[[progressive]]` tables of the settings; adds to `faults` what is wrong with them."""
    if not isinstance(tables, list):
        faults.append("progressive: expected tables, each begun with [[progressive]]")
        return ()
    if len(tables) > MAX_ROWS:
        faults.append(f"progressive has {len(tables)} tables; at most {MAX_ROWS}")
        return ()
    rows = []
    for number, table in enumerate(tables, 1):
        where = f"progressive[{number}]"
        try:
            row = msgspec.convert(table, Row)
        except msgspec.ValidationError as error:
            faults.append(f"{where}: {error}")
            continue
        for name, globs in (("providers", row.providers), ("models", row.models)):
            if not globs or not all(globs):
                faults.append(f"{where}.{name} is {list(globs)}; expected at least one glob")
        if not row.source.strip():
            faults.append(f"{where}.source is ''; expected where its evidence is to be read")
        if not LEAST_SLACK <= row.slack <= MAX_SLACK:
            faults.append(
                f"{where}.slack is {row.slack}; expected {LEAST_SLACK} to {MAX_SLACK} LLM tokens"
            )
        rows.append(row)
    return tuple(rows)
