"""The `[[envoy_limits]]` tables: what a hit of Envoy's rate limit filters costs, and who pays it.

Envoy's filters count hits of descriptors (or requests of buckets); none of them says what a hit is
worth. A table does: which descriptors it is for, whose money they spend, and a price.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from bursar.money import ceil_to_nanos
from bursar_sidecar.credential_settings import CREDENTIAL_FIELDS, read_credential
from bursar_sidecar.extra_call_settings import MAX_AMOUNT
from bursar_sidecar.setting_checks import checked_fields, text, whole, word

MAX_LIMITS: Final = 1_000
"""Each is looked at for each descriptor that none before it is for."""
MAX_MATCHED: Final = 16
"""Entries of a descriptor that one table looks at."""
MAX_ENTRY: Final = 256
"""Characters of an entry's key, and of a value in a table."""
ANY: Final = "*"
DEFAULT_DOMAIN: Final = "bursar"
DEFAULT_KEY_ENTRY: Final = "bursar_key"
MOST_AHEAD: Final = 100
MAX_AHEAD: Final = 100_000
MAX_LEAST: Final = 100_000_000
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_AMOUNT: Final = re.compile(r"[0-9]{1,8}(\.[0-9]{1,9})?")


class EnvoyLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of hit costs, and who pays."""

    name: str
    """For people: in headers, metrics and logs."""
    match: tuple[tuple[str, str], ...]
    """Entries that a descriptor must have, key and value; `*` for any value that is not empty."""
    domain: str = DEFAULT_DOMAIN
    """The domain that the filter is configured with."""
    api_key: str = ""
    """Secret: the Bursar key that pays; "" where an entry says it."""
    api_key_file: str = ""
    """Where the key is from, if from a file: it is read again when that changes."""
    key_entry: str = ""
    """The entry whose value is the Bursar key that pays; "" where `api_key` is set."""
    provider: str
    """Whom it is bought from, for budgets, prices and reports; need not be configured here."""
    model: str = ""
    """As the price list or the app names it; "" where an entry says it, or none is meant."""
    model_entry: str = ""
    """The entry whose value is the model."""
    flat_price: str = ""
    """What a hit costs, an amount of the organization's currency; "" where hits are LLM tokens."""
    counts: str = ""
    """What hits count: "input" or "output" LLM tokens of the model, at its price."""
    when: str = "before"
    """"before" a request goes on, which then may be refused, or "after" it has ended
    (`apply_on_stream_done`), when all that is left is to charge it."""
    least_hits: int = 1
    """How many hits must be payable for a question (a hit of 0) to be answered with yes."""
    most_ahead: int = MOST_AHEAD
    """Requests that are lent to one bucket of one Envoy at a time, by the quota service."""

    @property
    def flat_nanos(self) -> int:
        """What a hit costs, where it has a price of its own."""
        return ceil_to_nanos(Decimal(self.flat_price)) if self.flat_price else 0

    def is_for(self, domain: str, entries: Mapping[str, str]) -> bool:
        """Whether a descriptor is one of these."""
        if domain != self.domain:
            return False
        return all(
            entries.get(key) == value or (value == ANY and entries.get(key))
            for key, value in self.match
        )


def read_limits(
    tables: Any, environ: Mapping[str, str], faults: list[str]
) -> tuple[EnvoyLimit, ...]:
    """The limits of a TOML file, with their keys; what is wrong is added to `faults`."""
    if not isinstance(tables, list):
        faults.append("envoy_limits: expected tables, such as [[envoy_limits]]")
        return ()
    if len(tables) > MAX_LIMITS:
        faults.append(f"envoy_limits has {len(tables)} entries; at most {MAX_LIMITS}")
        return ()
    found = [_limit(f"envoy_limits[{i}]", table, environ, faults) for i, table in enumerate(tables)]
    limits = tuple(limit for limit in found if limit is not None)
    names = [limit.name for limit in limits]
    for i, limit in enumerate(limits):
        if limit.name in names[:i]:
            faults.append(f"envoy_limits[{i}].name is {limit.name!r}; expected one of its own")
    return limits


def _limit(
    where: str, table: Any, environ: Mapping[str, str], faults: list[str]
) -> EnvoyLimit | None:
    if not isinstance(table, dict):
        faults.append(f"{where}: expected a table")
        return None
    before = len(faults)
    api_key, path = read_credential(where, table, environ, faults)
    values: dict[str, Any] = {"api_key": api_key, "api_key_file": path}
    values |= checked_fields(where, table, _CHECKS, faults, read_apart=CREDENTIAL_FIELDS)
    faults += [f"{where}.{field} is missing" for field in _WANTED if field not in table]
    if len(faults) == before:
        _check_whole(where, values, faults)
    return None if len(faults) > before else EnvoyLimit(**values)


def _check_whole(where: str, values: dict[str, Any], faults: list[str]) -> None:
    if values["api_key"]:
        if "key_entry" in values:
            faults.append(f"{where}: a key of its own or key_entry; expected one of them")
        if not values["api_key"].startswith("bk-"):
            faults.append(f"{where}: the key in it is none of Bursar's; expected bk-...")
    else:
        values.setdefault("key_entry", DEFAULT_KEY_ENTRY)
    if ("flat_price" in values) == ("counts" in values):
        faults.append(f'{where}: expected flat_price, or counts = "input" or "output"')
    if "model" in values and "model_entry" in values:
        faults.append(f"{where}: model or model_entry; expected one of them")
    if "counts" in values and "model" not in values and "model_entry" not in values:
        faults.append(f"{where}: counts needs model or model_entry, whose price it is")


def _match(value: Any) -> tuple[tuple[str, str], ...]:
    expected = 'a table of entries, such as { limit = "chat", tenant = "*" }'
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_MATCHED:
        raise ValueError(f"{expected}, of 1 to {MAX_MATCHED}")
    for key, wanted in value.items():
        if not isinstance(wanted, str) or not wanted or max(len(key), len(wanted)) > MAX_ENTRY:
            raise ValueError(f"{expected}, of at most {MAX_ENTRY} characters each")
    return tuple(value.items())


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError('a name of small letters, digits, "-" and "_", such as chat-input')
    return value


def _amount(value: Any) -> str:
    expected = f'an amount as text, such as "0.05", at most {MAX_AMOUNT}'
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value) or Decimal(value) > MAX_AMOUNT:
        raise ValueError(expected)
    return value


def _short(expected: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        found = text(expected)(value)
        if len(found) > MAX_ENTRY:
            raise ValueError(f"{expected}, at most {MAX_ENTRY} characters")
        return found

    return check


_WANTED: Final = ("name", "match", "provider")
_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "name": _name,
    "match": _match,
    "domain": _short("the filter's domain"),
    "key_entry": _short("the key of an entry"),
    "provider": _short("a provider's name"),
    "model": _short("a model's name"),
    "model_entry": _short("the key of an entry"),
    "flat_price": _amount,
    "counts": word("input", "output"),
    "when": word("before", "after"),
    "least_hits": whole(1, MAX_LEAST),
    "most_ahead": whole(1, MAX_AHEAD),
}
