"""Keys, budgets and prices in the words of the session stream. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from bursar import pricing, wire
from bursar.exchange import ExchangeRate
from bursar.v1 import allowances_pb2, prices_pb2
from bursar_server.allowances.hub import Scope
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change, ChangeKind
from bursar_server.identity.store import KeyRecord

MOST_FRAME_BYTES = 256 * 1024
"""Of a frame with one part of a price book."""
MOST_PRICE_BYTES = MOST_FRAME_BYTES - 1024
"""Of the prices and rates in it: versions and numbers of the frame need some room."""

_SCOPE_KINDS = {
    "platform": allowances_pb2.SCOPE_KIND_PLATFORM,
    "organization": allowances_pb2.SCOPE_KIND_ORGANIZATION,
    "team": allowances_pb2.SCOPE_KIND_TEAM,
    "project": allowances_pb2.SCOPE_KIND_PROJECT,
    "user": allowances_pb2.SCOPE_KIND_USER,
    "key": allowances_pb2.SCOPE_KIND_KEY,
}


def key_policy(
    key: KeyRecord | None, secret_hash: bytes, organization_id: int, now: datetime
) -> allowances_pb2.KeyPolicy:
    """What a sidecar of the organization is told of a key. Pure."""

    def refused(why: "allowances_pb2.KeyRefusal.ValueType") -> allowances_pb2.KeyPolicy:
        return allowances_pb2.KeyPolicy(key_hash=secret_hash, refusal=why)

    if key is None or key.organization_id != organization_id or key.secret_hash != secret_hash:
        return refused(allowances_pb2.KEY_REFUSAL_UNKNOWN)
    if key.revoked_at is not None:
        return refused(allowances_pb2.KEY_REFUSAL_REVOKED)
    if (
        key.disabled
        or key.organization_disabled
        or key.team_disabled
        or key.project_disabled
        or key.user_disabled
    ):
        return refused(allowances_pb2.KEY_REFUSAL_DISABLED)
    expires_in_ms = 0
    if key.expires_at is not None:
        expires_in_ms = int((key.expires_at - now).total_seconds() * 1000)
        if expires_in_ms <= 0:
            return refused(allowances_pb2.KEY_REFUSAL_EXPIRED)
    return allowances_pb2.KeyPolicy(
        key_hash=secret_hash,
        key_id=key.id,
        name=f"keys/{key.slug}",
        team_id=key.team_id or 0,
        team=f"teams/{key.team_slug}" if key.team_slug else "",
        project_id=key.project_id or 0,
        project=f"projects/{key.project_slug}" if key.project_slug else "",
        user_id=key.user_id or 0,
        user=f"users/{key.user_slug}" if key.user_slug else "",
        allowed_models=key.allowed_models,
        tags=key.tags,
        expires_in_ms=expires_in_ms,
    )


def scopes_of(key: KeyRecord) -> list[Scope]:
    """The scopes below the organization that a key's calls fall under."""
    links = [("team", key.team_id), ("project", key.project_id), ("user", key.user_id)]
    return [("key", key.id), *((kind, id) for kind, id in links if id is not None)]


def budget_policy(budget: BudgetRecord) -> allowances_pb2.BudgetPolicy:
    """What a sidecar is told of a budget."""
    return allowances_pb2.BudgetPolicy(
        budget_id=budget.id,
        name=f"budgets/{budget.slug}",
        display_name=budget.display_name,
        scope_kind=_SCOPE_KINDS[budget.scope_kind],
        scope_id=budget.scope_id,
        scope=budget.scope_name,
        models=budget.models,
        providers=budget.providers,
        hard=budget.hard,
        version=budget.version,
    )


def price_parts(
    snapshot_version: str,
    overlay_version: int,
    prices: Iterable[prices_pb2.Price],
    rates: Sequence[ExchangeRate] = (),
    contracts: Sequence[pricing.Contract] = (),
) -> list[allowances_pb2.ControlFrame]:
    """An overlay of prices, exchange rates and contracts in frames of bounded size, at least one.

    The contracts are those that hold or will.
    """
    parts: list[allowances_pb2.PriceBook] = [allowances_pb2.PriceBook()]
    size = 0

    def part_with(bytes_more: int) -> allowances_pb2.PriceBook:
        nonlocal size
        size += bytes_more + 8
        if size > MOST_PRICE_BYTES and size > bytes_more + 8:
            parts.append(allowances_pb2.PriceBook())
            size = bytes_more + 8
        return parts[-1]

    for rate in rates:
        told = wire.exchange_rate_to_proto(rate)
        part_with(told.ByteSize()).exchange_rates.append(told)
    for contract in contracts:
        term = wire.contract_to_proto(contract)
        part_with(term.ByteSize()).contracts.append(term)
    for message in prices:
        part_with(message.ByteSize()).prices.append(message)
    for number, part in enumerate(parts):
        part.snapshot_version = snapshot_version
        part.overlay_version = overlay_version
        part.part = number
        part.part_count = len(parts)
    return [allowances_pb2.ControlFrame(prices=part) for part in parts]


def affected(keys: Mapping[bytes, KeyRecord | None], changes: Iterable[Change]) -> set[bytes]:
    """Those of the keys a session asked for that changes concern."""
    found: set[bytes] = set()
    for change in changes:
        found |= keys.keys() & set(change.secret_hashes)
        for secret_hash, key in keys.items():
            if key is not None and _concerns(change, key):
                found.add(secret_hash)
    return found


def _concerns(change: Change, key: KeyRecord) -> bool:
    if change.kind is ChangeKind.ORGANIZATION:
        return True
    linked = {
        ChangeKind.KEY: key.id,
        ChangeKind.TEAM: key.team_id,
        ChangeKind.PROJECT: key.project_id,
        ChangeKind.USER: key.user_id,
    }
    return change.kind in linked and linked[change.kind] == change.id
