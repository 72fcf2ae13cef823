"""What sidecars must know of keys, budgets and prices, told when asked for and when it changes.

A session is told of the keys it asked for and of the budgets whose scope such a key falls under;
each later change of those is pushed. One task does it all in order, so that an older state never
overtakes a newer one. Reading again after a commit is all it does: announcements carry no data.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

import structlog

from bursar import pricing, wire
from bursar.v1 import allowances_pb2
from bursar_server.allowances.hub import Hub, LiveSession, Scope, Stream
from bursar_server.allowances.settings import LendingSettings
from bursar_server.budgets.store import BudgetRecord, budgets_by_ids, budgets_by_scopes
from bursar_server.changes import Change, ChangeKind
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError
from bursar_server.identity.store import (
    KeyRecord,
    keys_by_secret_hashes,
    organization_by_id,
)
from bursar_server.prices.store import overlay
from bursar_server.sidecars.store import sidecar_by_secret_hash

log = structlog.get_logger(__name__)

MOST_PRICE_BYTES = 256 * 1024
"""Of one part of a price book."""
RETRY_MS = 200
"""Pause before a change is read again after the database failed; tried until it is told."""

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
    snapshot_version: str, overlay_version: int, prices: Sequence[pricing.Price]
) -> list[allowances_pb2.ControlFrame]:
    """An overlay of prices in frames of bounded size, at least one."""
    parts: list[allowances_pb2.PriceBook] = [allowances_pb2.PriceBook()]
    size = 0
    for price in prices:
        message = wire.price_to_proto(price)
        size += message.ByteSize() + 8
        if size > MOST_PRICE_BYTES and parts[-1].prices:
            parts.append(allowances_pb2.PriceBook())
            size = message.ByteSize()
        parts[-1].prices.append(message)
    for number, part in enumerate(parts):
        part.snapshot_version = snapshot_version
        part.overlay_version = overlay_version
        part.part = number
        part.part_count = len(parts)
    return [allowances_pb2.ControlFrame(prices=part) for part in parts]


class PolicyDesk:
    """Answers questions about keys, and pushes what changed."""

    def __init__(self, pool: Pool, hub: Hub, clock: Clock, settings: LendingSettings) -> None:
        self._pool = pool
        self._hub = hub
        self._clock = clock
        self._settings = settings
        self._asked: dict[LiveSession, set[bytes]] = defaultdict(set)
        self._changes: list[Change] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.on_budget: Callable[[int, int], None] = lambda organization_id, budget_id: None

    def start(self) -> "asyncio.Task[None]":
        """Begin; the task ends only by a fault of the program."""
        self._task = asyncio.create_task(self._run(), name="policy-desk")
        return self._task

    async def stop(self) -> None:
        """End; what was not told is told after a reconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note(self, change: Change) -> None:
        """A committed change; listener of the change feed."""
        self._changes.append(change)
        if change.kind is ChangeKind.BUDGET:
            self.on_budget(change.organization_id, change.id)
        self._wake.set()

    def ask(self, session: LiveSession, hashes: Iterable[bytes]) -> None:
        """A sidecar asks who keys are; it is answered on its stream."""
        asked = self._asked[session]
        asked.update(hashes)
        if len(asked) + len(session.keys) > self._settings.max_subscribed_keys:
            del self._asked[session]
            session.stream.end("it asked for too many keys")
        self._wake.set()

    def forget(self, stream: Stream) -> None:
        """A stream ended."""
        for session in [s for s in self._asked if s.stream is stream]:
            del self._asked[session]

    async def greet(
        self, connection: Connection, session: LiveSession, snapshot_version: str
    ) -> list[allowances_pb2.ControlFrame]:
        """What a session is told first: the budgets of its own scope, and prices laid over the
        snapshot (all of them for a build with another snapshot)."""
        kind = "platform" if session.platform else "organization"
        own: Scope = (kind, session.organization_id)
        delta = allowances_pb2.PolicyDelta()
        await self._add_scopes(connection, session, [own], delta)
        frames = [allowances_pb2.ControlFrame(policy=delta)]
        if not session.platform:
            frames += await self._price_frames(connection, session, snapshot_version)
        return frames

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, defaultdict(set)
            changes, self._changes = self._changes, []
            try:
                await self._tell(asked, changes)
            except BursarError as error:
                log.warning("policy_retried", reason=error.reason)
                for session, hashes in asked.items():
                    self._asked[session] |= hashes
                self._changes = changes + self._changes
                self._wake.set()
                await asyncio.sleep(RETRY_MS / 1000)

    async def _tell(self, asked: dict[LiveSession, set[bytes]], changes: Sequence[Change]) -> None:
        # Listed before the first await: sessions that come later read the new state anyhow.
        sessions = list(self._hub.sessions.values())
        frames: list[tuple[LiveSession, allowances_pb2.ControlFrame]] = []
        async with transaction(self._pool, read_only=True) as connection:
            for session in sessions:
                mine = [c for c in changes if c.organization_id == session.organization_id]
                delta = allowances_pb2.PolicyDelta()
                hashes = asked.get(session, set()) | _affected(session, mine)
                await self._add_keys(connection, session, hashes, delta)
                budgets = {c.id for c in mine if c.kind is ChangeKind.BUDGET}
                if budgets:
                    await self._add_budgets(connection, session, budgets, delta)
                if delta.keys or delta.budgets or delta.removed_budget_ids:
                    delta.policy_version = await self._version(connection, session)
                    frames.append((session, allowances_pb2.ControlFrame(policy=delta)))
                if not session.platform and any(
                    c.kind is ChangeKind.PRICES
                    and c.organization_id in (session.organization_id, PLATFORM_ORGANIZATION_ID)
                    for c in changes
                ):
                    for frame in await self._price_frames(
                        connection, session, session.stream.price_snapshot_version
                    ):
                        frames.append((session, frame))
            for change in changes:
                if change.kind is ChangeKind.SIDECAR:
                    await self._check_sidecar(connection, change)
        for session, frame in frames:
            session.send(frame)

    async def _add_keys(
        self,
        connection: Connection,
        session: LiveSession,
        hashes: Collection[bytes],
        delta: allowances_pb2.PolicyDelta,
    ) -> None:
        if not hashes:
            return
        found = await keys_by_secret_hashes(connection, list(hashes))
        now = self._clock.now()
        scopes: list[Scope] = []
        for secret_hash in hashes:
            key = found.get(secret_hash)
            policy = key_policy(key, secret_hash, session.organization_id, now)
            delta.keys.append(policy)
            own = key if key is not None and policy.key_id else None
            # A refused key of ours is remembered whole: what it hangs on may be enabled again.
            if key is not None and key.organization_id == session.organization_id:
                session.keys[secret_hash] = key
            else:
                session.keys[secret_hash] = None
            if own is not None:
                scopes += scopes_of(own)
        await self._add_scopes(connection, session, scopes, delta)

    async def _add_scopes(
        self,
        connection: Connection,
        session: LiveSession,
        scopes: Iterable[Scope],
        delta: allowances_pb2.PolicyDelta,
    ) -> None:
        fresh = [scope for scope in dict.fromkeys(scopes) if scope not in session.scopes]
        if fresh:
            session.scopes.update(fresh)
            for budget in await budgets_by_scopes(connection, session.organization_id, fresh):
                if not budget.disabled:
                    session.budget_ids.add(budget.id)
                    delta.budgets.append(budget_policy(budget))
        delta.policy_version = await self._version(connection, session)

    async def _add_budgets(
        self,
        connection: Connection,
        session: LiveSession,
        budget_ids: set[int],
        delta: allowances_pb2.PolicyDelta,
    ) -> None:
        records = await budgets_by_ids(connection, session.organization_id, list(budget_ids))
        found = {budget.id: budget for budget in records}
        for budget_id in budget_ids:
            budget = found.get(budget_id)
            if budget is not None and not budget.disabled:
                if (budget.scope_kind, budget.scope_id) in session.scopes:
                    session.budget_ids.add(budget_id)
                    delta.budgets.append(budget_policy(budget))
            elif budget_id in session.budget_ids:
                session.budget_ids.discard(budget_id)
                delta.removed_budget_ids.append(budget_id)

    async def _version(self, connection: Connection, session: LiveSession) -> int:
        record = await organization_by_id(connection, session.organization_id)
        return record.policy_version if record is not None else 0

    async def _price_frames(
        self, connection: Connection, session: LiveSession, snapshot_version: str
    ) -> list[allowances_pb2.ControlFrame]:
        book = pricing.snapshot()
        version, texts = await overlay(connection, session.organization_id)
        prices = [pricing.price_from_json(text) for text in texts]
        if snapshot_version != book.version:
            # A build with another snapshot is told the whole of ours, and lays it over its own.
            names = {(price.provider, price.model) for price in prices}
            parted = (name.partition("/") for name in book.models())
            ours = (book.lookup(model, provider) for provider, _, model in parted)
            prices = [
                *(p for p in ours if p is not None and (p.provider, p.model) not in names),
                *prices,
            ]
        return price_parts(book.version, version, prices)

    async def _check_sidecar(self, connection: Connection, change: Change) -> None:
        for stream in self._hub.streams():
            if stream.sidecar_id == change.id:
                record = await sidecar_by_secret_hash(connection, stream.secret_hash)
                if record is None or record.disabled:
                    stream.end("its credential is no longer accepted")


def _affected(session: LiveSession, changes: Iterable[Change]) -> set[bytes]:
    """The hashes a session asked for that changes concern. Pure."""
    affected: set[bytes] = set()
    for change in changes:
        affected |= session.keys.keys() & set(change.secret_hashes)
        for secret_hash, key in session.keys.items():
            if key is not None and _concerns(change, key):
                affected.add(secret_hash)
    return affected


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
