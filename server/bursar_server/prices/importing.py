"""Takes a published list over as the layer `imported`: reads it whole, compares, writes at once."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import structs

from bursar.pricing import Price, PriceBook, PriceError, price_from_json, snapshot
from bursar.pricing.comparing import Place, PriceChange, compare
from bursar.pricing.lists import ImportedList, plain, read_list
from bursar.wire import WireError, price_from_proto, price_to_proto
from bursar_server.changes import Change, ChangeKind
from bursar_server.database.pool import Connection
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, Status, failed_precondition
from bursar_server.identity.store import record_change
from bursar_server.prices import import_rules, import_store, store
from bursar_server.prices.import_rules import Limits
from bursar_server.prices.import_store import ListRecord

CLEARED: Final = "none"
"""Begins the version of a list that was taken back."""


class Outcome(msgspec.Struct, frozen=True):
    """What an import did, or would do."""

    read: ImportedList
    previous_version: str
    changes: list[PriceChange]
    left: frozenset[tuple[str, str]]
    """Provider and model of the prices that are not on the list any more."""
    refusals: list[str]
    unchanged: bool
    change: Change | None
    """To be announced once the transaction is over; None: nothing was written."""


async def read(data: bytes, form: str, at: datetime) -> ImportedList:
    """The list that a file is. Raises INVALID_ARGUMENT (PRICE_LIST_INVALID)."""
    try:
        # A second of arithmetic for the longest known list: not in the server's own loop.
        return await asyncio.to_thread(_read, data, form, at)
    except PriceError as error:
        raise BursarError(
            Status.INVALID_ARGUMENT,
            "PRICE_LIST_INVALID",
            f"the list is not taken over, nothing has changed: {error}",
            metadata={"fault": str(error)[:500]},
        ) from error


def _read(data: bytes, form: str, at: datetime) -> ImportedList:
    """Raises PriceError, also for a price that sidecars would not have as it is here."""
    read = read_list(data, snapshot(), at, form)
    for price in read.prices:
        where = f"{price.provider}/{price.model}"[:120]
        try:
            told = price_from_proto(price_to_proto(price))
        except WireError as error:
            raise PriceError(f"{where}: {error}") from error
        if plain(told) != plain(price):
            raise PriceError(f"{where} has conditions that can't be told to sidecars")
    return read


class Plan(msgspec.Struct, frozen=True):
    """What taking a list over would do, and to which rows."""

    outcome: Outcome
    rows: dict[Place, tuple[int, Price]]
    """The imported prices in force, with their ids."""
    basis: ListRecord | None
    """The list they are of."""


async def plan(
    connection: Connection, organization_id: int, read: ImportedList, limits: Limits
) -> Plan:
    """Compare a list with what stands. The connection is in a transaction of one snapshot."""
    basis = await import_store.imported_list(connection, organization_id)
    previous = basis.version if basis is not None else ""
    rows: dict[Place, tuple[int, Price]] = {}
    if previous == read.version:
        same = Outcome(read, previous, [], frozenset(), [], unchanged=True, change=None)
        return Plan(same, rows, basis)
    for row_id, text in await import_store.imported_prices(connection, organization_id):
        price = price_from_json(text)
        rows[_place(price)] = (row_id, price)
    below = snapshot()
    if organization_id != PLATFORM_ORGANIZATION_ID:
        texts = await import_store.imported_prices(connection, PLATFORM_ORGANIZATION_ID)
        below = below.with_overlay([price_from_json(text) for _, text in texts], "")
    old = {place: price for place, (_, price) in rows.items()}
    changes, left = await asyncio.to_thread(_compare, old, read.prices, below)
    outcome = Outcome(
        read=read,
        previous_version="" if previous.startswith(f"{CLEARED}@") else previous,
        changes=import_rules.ordered(changes),
        left=left,
        refusals=import_rules.refusals(changes, len(left), len(_models(old)), limits),
        unchanged=False,
        change=None,
    )
    return Plan(outcome, rows, basis)


async def take_over(
    connection: Connection,
    organization_id: int,
    planned: Plan,
    source: str,
    limits: Limits,
    *,
    force: bool,
) -> Outcome:
    """Put a list in force as planned; planned anew if another one was meanwhile. The connection is
    in a transaction of its own, which is short: other changes of the organization wait for it.

    Raises FAILED_PRECONDITION (PRICE_CHANGE_REFUSED) where the limits refuse it and `force` is not
    given; nothing is written then.
    """
    await import_store.lock_prices(connection, organization_id)
    read = planned.outcome.read
    if await import_store.imported_list(connection, organization_id) != planned.basis:
        planned = await plan(connection, organization_id, read, limits)
    outcome = planned.outcome
    if outcome.unchanged:
        return outcome
    if outcome.refusals and not force:
        raise failed_precondition(
            "PRICE_CHANGE_REFUSED",
            f"the list is not taken over, nothing has changed: {'; '.join(outcome.refusals)}",
            {"version": read.version, "first": outcome.refusals[0][:500]},
        )
    list_id, at = await _write(connection, organization_id, planned, source)
    told = f"{read.version} from {source or 'a file'}: {len(read.prices)} prices, "
    told += f"{len(outcome.changes)} models changed"
    if outcome.refusals:
        told += f", although {outcome.refusals[0]}"
    await import_store.insert_event(connection, organization_id, "prices_imported", told, at)
    change = Change(organization_id, ChangeKind.PRICES, list_id)
    await record_change(connection, change)
    return structs.replace(outcome, change=change)


async def _write(
    connection: Connection, organization_id: int, planned: Plan, source: str
) -> tuple[int, datetime]:
    """End what changes and begin what is new; returns the list's id, and when that was."""
    read, rows = planned.outcome.read, planned.rows
    new = {_place(price): price for price in read.prices}
    kept = {p for p, (_, price) in rows.items() if p in new and plain(price) == plain(new[p])}
    at = await store.time_of_change(connection)
    await store.raise_overlay_version(connection, organization_id)
    list_id = await import_store.replace_imported(
        connection,
        organization_id,
        read.version,
        source,
        ended=[row_id for place, (row_id, _) in rows.items() if place not in kept],
        begun=[
            structs.replace(price, price_version=read.version)
            for place, price in new.items()
            if place not in kept
        ],
        at=at,
    )
    return list_id, at


async def clear(connection: Connection, organization_id: int) -> tuple[int, Change | None]:
    """Take the imported list back; returns how many prices ended, and the change to announce."""
    await import_store.lock_prices(connection, organization_id)
    rows = await import_store.imported_prices(connection, organization_id)
    if not rows:
        return 0, None
    at = await store.time_of_change(connection)
    counter = await store.raise_overlay_version(connection, organization_id)
    list_id = await import_store.replace_imported(
        connection,
        organization_id,
        f"{CLEARED}@{counter}",
        "taken back",
        ended=[row_id for row_id, _ in rows],
        begun=(),
        at=at,
    )
    change = Change(organization_id, ChangeKind.PRICES, list_id)
    await record_change(connection, change)
    return len(rows), change


def _compare(
    old: Mapping[Place, Price], prices: Iterable[Price], below: PriceBook
) -> tuple[list[PriceChange], frozenset[tuple[str, str]]]:
    """What changes for calls, and what left the list: where a list has no price of a model, the
    one below it holds."""
    new = {_place(price): price for price in prices}
    standing = {}
    for place in old.keys() | new.keys():
        price = below.lookup(place[1], place[0])
        if price is not None and price.is_priced:
            standing[place] = price
    left = frozenset(_models(old) - _models(new))
    return compare({**standing, **old}, {**standing, **new}), left


def _models(places: Iterable[Place]) -> set[tuple[str, str]]:
    return {(provider, model) for provider, model, _ in places}


def _place(price: Price) -> Place:
    return price.provider, price.model, price.effective_at
