"""What sidecars must know of keys, budgets and prices, told when asked for and when it changes.

A session is told of the keys it asked for and of the budgets whose scope such a key falls under;
each later change of those is pushed. What changed is read from the rows that each change wrote in
its own transaction: an announcement only wakes, and one that is lost costs a second. All that goes
into a delta is read in one snapshot with the version it carries, so that a sidecar that
acknowledges a version has applied everything up to it.
"""

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from bursar import pricing, wire
from bursar.pricing.book import BUILT_IN_CURRENCY
from bursar.v1 import allowances_pb2, prices_pb2
from bursar_server.allowances import store
from bursar_server.allowances.hub import Hub, LiveSession, Scope, Stream
from bursar_server.allowances.policy_messages import (
    affected,
    budget_policy,
    key_policy,
    price_parts,
    scopes_of,
)
from bursar_server.allowances.settings import LendingSettings
from bursar_server.budgets.store import budgets_by_ids, budgets_by_scopes
from bursar_server.changes import Change, ChangeKind
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.errors import BursarError
from bursar_server.exchange_rates.store import rates_to_tell
from bursar_server.identity.store import KeyRecord, keys_by_secret_hashes
from bursar_server.policy.store import is_unmarked, mark_all_effective, mark_armed
from bursar_server.prices.contract_store import contracts_to_tell
from bursar_server.prices.imported import ImportedPrices
from bursar_server.prices.store import overlay
from bursar_server.sidecars.store import sidecar_by_secret_hash

log = structlog.get_logger(__name__)

RETRY_MS = 200
"""Pause before a change is read again after the database failed; tried until it is told."""
BEAT_MS = 1_000
"""How often changes are looked for that nobody announced: those of other processes, and those whose
announcement was lost."""
QUIET_GAP_MS = 200
"""Between two deltas for a session that nothing in them concerns. It is told the version for the
sake of its acknowledgement, and need not be told of each of a thousand new keys."""


@functools.cache
def _built_in() -> tuple[prices_pb2.Price, ...]:
    """All prices of the snapshot, as they travel."""
    book = pricing.snapshot()
    parted = (name.partition("/") for name in book.models())
    found = (book.lookup(model, provider) for provider, _, model in parted)
    return tuple(wire.price_to_proto(price) for price in found if price is not None)


@dataclass(slots=True)
class _Telling:
    """What one session is told, and what is known of it once it is told."""

    session: LiveSession
    version: int
    delta: allowances_pb2.PolicyDelta = field(default_factory=allowances_pb2.PolicyDelta)
    frames: list[tuple[LiveSession, allowances_pb2.ControlFrame]] = field(default_factory=list)
    keys: dict[bytes, KeyRecord | None] = field(default_factory=dict)
    scopes: set[Scope] = field(default_factory=set)
    budget_ids: set[int] = field(default_factory=set)
    gone_budget_ids: set[int] = field(default_factory=set)

    @property
    def is_empty(self) -> bool:
        """Whether only the version is news."""
        delta = self.delta
        return not (self.frames or delta.keys or delta.budgets or delta.removed_budget_ids)

    def told(self, now_ms: int) -> list[tuple[LiveSession, allowances_pb2.ControlFrame]]:
        """The frames to send, the version last; from now on the session counts as told."""
        session = self.session
        session.keys |= self.keys
        session.scopes |= self.scopes
        session.budget_ids |= self.budget_ids
        session.budget_ids -= self.gone_budget_ids
        session.policy_told, session.policy_told_at_ms = self.version, now_ms
        self.delta.policy_version = self.version
        return [*self.frames, (session, allowances_pb2.ControlFrame(policy=self.delta))]


class PolicyDesk:
    """Answers questions about keys, and pushes what changed."""

    def __init__(self, pool: Pool, hub: Hub, clock: Clock, settings: LendingSettings) -> None:
        self._pool = pool
        self._hub = hub
        self._clock = clock
        self._settings = settings
        self._asked: dict[LiveSession, set[bytes]] = defaultdict(set)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_behind = False
        """Whether a session waits to be told a version that does not concern it."""
        self._handed_on: dict[int, int] = {}
        """By organization: the version up to which changed budgets were handed on."""
        self._looked_at_ms = 0
        self._imported = ImportedPrices()
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
        if change.kind is ChangeKind.BUDGET:
            self.on_budget(change.organization_id, change.id)
        self._wake.set()

    def ask(self, session: LiveSession, hashes: Iterable[bytes]) -> None:
        """A sidecar asks who keys are; it is answered on its stream."""
        asked = self._asked[session]
        asked.update(hashes)
        session.is_asking = True
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
        """What a session is told first: prices laid over the snapshot (all of them for a build with
        another snapshot), and the budgets of its own scope. The connection is in a transaction of
        one snapshot."""
        organization_id = session.organization_id
        versions = await store.policy_versions(connection, [organization_id])
        await self._catch_up(connection, organization_id, versions[organization_id])
        telling = _Telling(session, versions[organization_id])
        if not session.platform:
            telling.frames = [
                (session, frame)
                for frame in await self._price_frames(connection, session, snapshot_version)
            ]
        kind = "platform" if session.platform else "organization"
        await self._add_scopes(connection, telling, [(kind, organization_id)])
        return [frame for _, frame in telling.told(self._clock.monotonic_ms())]

    async def _catch_up(self, connection: Connection, organization_id: int, version: int) -> None:
        """Hand on what changed while no session of the organization was here: such a session is
        told the present state, so that nobody would look for an announcement that was lost."""
        known = self._handed_on.get(organization_id)
        if known is None:
            stale = await store.budgets_with_stale_windows(
                connection, self._clock.now(), organization_id
            )
            for owner_id, budget_id in stale:
                self.on_budget(owner_id, budget_id)
            self._handed_on[organization_id] = version
        elif known < version:
            changes = await store.policy_changes(connection, {organization_id: known})
            self._hand_on({organization_id: version}, changes)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                pause_ms = QUIET_GAP_MS if self._is_behind else BEAT_MS
                async with asyncio.timeout(pause_ms / 1000):
                    await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, defaultdict(set)
            try:
                if await self._tell(asked):
                    await self._mark_effective()
            except BursarError as error:
                log.warning("policy_retried", reason=error.reason)
                for session, hashes in asked.items():
                    self._asked[session] |= hashes
                self._wake.set()
                await asyncio.sleep(RETRY_MS / 1000)

    async def _mark_effective(self) -> None:
        """Write down which changes and budgets no sidecar can be ignorant of.

        Not the writer's to do, and safe beside it: only people read what is written here, the
        writer decides nothing by it; and it follows from rows that are committed, so that any
        process may write it, one that lost the shard too. It is written once: of two that write,
        the first one counts.
        """
        valid_for = timedelta(milliseconds=self._settings.valid_for_ms)
        async with transaction(self._pool) as connection:
            await mark_all_effective(connection, self._clock.now(), valid_for)
            await mark_armed(connection, self._clock.now(), valid_for)

    async def _tell(self, asked: Mapping[LiveSession, Collection[bytes]]) -> bool:
        """Answer what was asked, and tell each session what changed since it was told. Returns
        whether it was seen, by a look a beat, that something is to be marked."""
        # One that is not greeted yet reads the new state anyhow.
        sessions = [s for s in self._hub.sessions.values() if s.policy_told is not None]
        now_ms = self._clock.monotonic_ms()
        looks = now_ms - self._looked_at_ms >= BEAT_MS
        if not sessions and not looks:
            return False
        tellings: list[_Telling] = []
        async with transaction(self._pool, read_only=True) as connection:
            # Here, for the sake of a transaction less: mostly there is nothing to write.
            unmarked = looks and await is_unmarked(connection)
            versions = await store.policy_versions(
                connection, {session.organization_id for session in sessions}
            )
            changes = await self._changes(connection, sessions, versions)
            for session in sessions:
                telling = await self._telling(
                    connection,
                    session,
                    versions.get(session.organization_id, 0),
                    changes.get(session.organization_id, []),
                    asked.get(session, ()),
                )
                if telling is not None:
                    tellings.append(telling)
        if looks:
            self._looked_at_ms = now_ms
        self._is_behind = False
        for telling in tellings:
            if telling.is_empty and now_ms - telling.session.policy_told_at_ms < QUIET_GAP_MS:
                self._is_behind = True
                continue
            for session, frame in telling.told(now_ms):
                session.send(frame)
            telling.session.is_asking = telling.session in self._asked
        self._hand_on(versions, changes)
        return unmarked

    async def _changes(
        self,
        connection: Connection,
        sessions: Collection[LiveSession],
        versions: Mapping[int, int],
    ) -> dict[int, list[tuple[int, Change]]]:
        """By organization, (version, change) since the oldest version that a session was told."""
        oldest: dict[int, int] = {}
        for session in sessions:
            told = session.policy_told or 0
            id = session.organization_id
            # It was greeted, and what was missed before that was handed on then.
            oldest[id] = min(told, oldest.get(id, told), self._handed_on[id])
        oldest = {id: told for id, told in oldest.items() if told < versions.get(id, 0)}
        return await store.policy_changes(connection, oldest) if oldest else {}

    def _hand_on(
        self, versions: Mapping[int, int], changes: Mapping[int, list[tuple[int, Change]]]
    ) -> None:
        """Changed budgets, to whoever lends from them: their announcement may have been lost."""
        for id, version in versions.items():
            before = self._handed_on[id]
            for at, change in changes.get(id, ()):
                if at > before and change.kind is ChangeKind.BUDGET:
                    self.on_budget(id, change.id)
            self._handed_on[id] = version

    async def _telling(
        self,
        connection: Connection,
        session: LiveSession,
        version: int,
        changes: Collection[tuple[int, Change]],
        asked: Collection[bytes],
    ) -> _Telling | None:
        """What is news for a session; None: nothing, or its stream was ended."""
        told = session.policy_told or 0
        if version == told and not asked:
            return None
        mine = [change for at, change in changes if at > told]
        if len(mine) != version - told:
            # What it missed is not on record any more, or the database went back to an older
            # state: it begins anew and is told all there is.
            session.stream.end("its policy is not one that changes are known of")
            return None
        telling = _Telling(session, version)
        await self._add_keys(connection, telling, {*asked, *affected(session.keys, mine)})
        budget_ids = {change.id for change in mine if change.kind is ChangeKind.BUDGET}
        if budget_ids:
            await self._add_budgets(connection, telling, budget_ids)
        if any(change.kind is ChangeKind.PRICES for change in mine):
            await self._add_prices(connection, telling)
        sidecar_id = session.stream.sidecar_id
        if any(c.kind is ChangeKind.SIDECAR and c.id == sidecar_id for c in mine):
            await self._check_credential(connection, session.stream)
        return telling

    async def _add_keys(
        self, connection: Connection, telling: _Telling, hashes: Collection[bytes]
    ) -> None:
        if not hashes:
            return
        found = await keys_by_secret_hashes(connection, list(hashes))
        now = self._clock.now()
        organization_id = telling.session.organization_id
        scopes: list[Scope] = []
        for secret_hash in hashes:
            key = found.get(secret_hash)
            policy = key_policy(key, secret_hash, organization_id, now)
            telling.delta.keys.append(policy)
            own = key if key is not None and policy.key_id else None
            # A refused key of ours is remembered whole: what it hangs on may be enabled again.
            ours = key is not None and key.organization_id == organization_id
            telling.keys[secret_hash] = key if ours else None
            if own is not None:
                scopes += scopes_of(own)
        await self._add_scopes(connection, telling, scopes)

    @staticmethod
    async def _add_scopes(
        connection: Connection, telling: _Telling, scopes: Iterable[Scope]
    ) -> None:
        session = telling.session
        fresh = [scope for scope in dict.fromkeys(scopes) if scope not in session.scopes]
        if fresh:
            telling.scopes.update(fresh)
            for budget in await budgets_by_scopes(connection, session.organization_id, fresh):
                if not budget.disabled:
                    telling.budget_ids.add(budget.id)
                    telling.delta.budgets.append(budget_policy(budget))

    @staticmethod
    async def _add_budgets(connection: Connection, telling: _Telling, budget_ids: set[int]) -> None:
        session = telling.session
        records = await budgets_by_ids(connection, session.organization_id, list(budget_ids))
        found = {budget.id: budget for budget in records}
        for budget_id in budget_ids - telling.budget_ids:
            budget = found.get(budget_id)
            if budget is not None and not budget.disabled:
                if (budget.scope_kind, budget.scope_id) in session.scopes:
                    telling.budget_ids.add(budget_id)
                    telling.delta.budgets.append(budget_policy(budget))
            elif budget_id in session.budget_ids:
                telling.gone_budget_ids.add(budget_id)
                telling.delta.removed_budget_ids.append(budget_id)

    async def _add_prices(self, connection: Connection, telling: _Telling) -> None:
        """Prices of the platform concern all the sessions of the stream."""
        session = telling.session
        targets = [session]
        if session.platform:
            targets = [s for s in session.stream.sessions.values() if not s.platform]
        for target in targets:
            snapshot_version = target.stream.price_snapshot_version
            for frame in await self._price_frames(connection, target, snapshot_version):
                telling.frames.append((target, frame))

    async def _price_frames(
        self, connection: Connection, session: LiveSession, snapshot_version: str
    ) -> list[allowances_pb2.ControlFrame]:
        book = pricing.snapshot()
        version, texts = await overlay(connection, session.organization_id)
        imported = await self._imported.messages(connection, session.organization_id)
        prices = [
            *imported,
            *(wire.price_to_proto(pricing.price_from_json(text)) for text in texts),
        ]
        if snapshot_version != book.version:
            # A build with another snapshot is told the whole of ours, and lays it over its own.
            prices = [*_built_in(), *prices]
        # What is built in is priced in dollars.
        currencies = {BUILT_IN_CURRENCY, *(price.currency for price in prices)}
        contracts = await contracts_to_tell(connection, session.organization_id)
        currencies.update(contract.currency for contract in contracts if contract.currency)
        rates = await rates_to_tell(
            connection, session.organization_id, session.currency, currencies, self._clock.now()
        )
        return price_parts(book.version, version, prices, rates, contracts)

    @staticmethod
    async def _check_credential(connection: Connection, stream: Stream) -> None:
        record = await sidecar_by_secret_hash(connection, stream.secret_hash)
        if record is None or record.disabled:
            stream.end("its credential is no longer accepted")
        else:
            stream.drain(wanted=record.draining)
