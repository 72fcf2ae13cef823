"""The rpcs on budgets: each translates, runs one transaction, and answers."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final

from bursar.v1 import budgets_pb2
from bursar_server.budgets import messages, raises, store
from bursar_server.budgets.arming import arming_message
from bursar_server.budgets.raise_service import ADMIN, RaiseService
from bursar_server.budgets.rules import ScopeKind
from bursar_server.budgets.store import BudgetRecord, NewBudget
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import already_exists, failed_precondition, invalid, not_found
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import (
    hold_policy,
    hold_spender,
    record_change,
    resolve_organization,
)
from bursar_server.names import (
    format_name,
    masked_fields,
    new_slug,
    page_size,
    page_token_after,
    parse_name,
    place_of_page,
    validate_display_name,
    validate_text,
)
from bursar_server.request_ids import content_hash, remember, remembered

# A waiting call names each of its budgets in one frame, which holds 64 of them; it has five
# scopes in its own organization.
MOST_BUDGETS_OF_A_SCOPE: Final = 12

# Who holds a budget is told to people; an answer has to stay below what gRPC carries (4 MB).
MOST_HOLDERS: Final = 1000

MOST_CHARACTERS_OF_A_REASON: Final = 500


class BudgetService(RaiseService):
    """Budgets of an organization."""

    def __init__(
        self,
        pool: Pool,
        feed: ChangeFeed,
        clock: Clock,
        applied: Callable[[int, int], Awaitable[None]],
        reserved: Callable[[int, int], int | None] = lambda session_epoch, window_id: None,
        *,
        valid_for_ms: int = 30_000,
        is_connected: Callable[[int], bool] = lambda session_epoch: False,
    ) -> None:
        """`applied` waits until a committed change of (organization, budget) holds for its
        windows, or a bounded time: they belong to whoever lends from them. `reserved` tells what a
        session last said is set aside of a window, `is_connected` whether it has a stream.
        `valid_for_ms` is how long sidecars are told that policy holds."""
        super().__init__(pool, feed, clock, applied)
        self._valid_for = timedelta(milliseconds=valid_for_ms)
        self._is_connected = is_connected
        self._reserved = reserved

    async def GetBudget(
        self, request: budgets_pb2.GetBudgetRequest, context: object
    ) -> budgets_pb2.Budget:
        """One budget and how it stands."""
        slug = parse_name("budgets", request.name)
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            record = await store.budget_by_slug(connection, organization.id, slug)
            if record is None:
                raise not_found("budget", request.name)
            windows = await store.current_windows(
                connection, organization.id, [record.id], self._clock.now()
            )
            standing = windows.get(record.id)
            holders = (
                await store.holders(connection, organization.id, standing.window_id, MOST_HOLDERS)
                if standing
                else []
            )
            reserved = {
                holder.session_epoch: self._reserved(holder.session_epoch, standing.window_id)
                for holder in holders
                if standing
            }
            raised = await _raises(connection, organization, [record])
            now = self._clock.now()
            budget = messages.budget_message(
                record, organization.name, standing, now, raised, holders, reserved
            )
            arming = await arming_message(
                connection, record, now, self._valid_for, self._is_connected
            )
            if arming is not None:
                budget.arming.CopyFrom(arming)
            return budget

    async def ListBudgets(
        self, request: budgets_pb2.ListBudgetsRequest, context: object
    ) -> budgets_pb2.ListBudgetsResponse:
        """A page of them, by name."""
        size = page_size(request.page_size)
        after = place_of_page(request.page_token, request)
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            scope = None
            if request.scope:
                scope = await _find_scope(
                    connection, organization, request.scope, "scope", hold=False
                )
            records = await store.budget_page(
                connection, organization.id, after_slug=after, scope=scope, size=size + 1
            )
            shown = await self._budgets(connection, organization, records[:size])
        following = page_token_after(records[size - 1].slug, request) if len(records) > size else ""
        return budgets_pb2.ListBudgetsResponse(budgets=shown, next_page_token=following)

    async def CreateBudget(
        self, request: budgets_pb2.CreateBudgetRequest, context: object
    ) -> budgets_pb2.Budget:
        """Makes one; sidecars know within a second."""
        asked = request.budget
        slug = parse_name("budgets", asked.name, "budget.name") if asked.name else new_slug("b")
        if not asked.HasField("limit"):
            raise invalid("budget.limit", "", "an amount, zero or more")
        if not asked.HasField("window"):
            raise invalid("budget.window", "", "calendar, every, from_first_call or lifetime")
        models, providers = messages.read_selector(asked.selector, "budget.selector")
        window = messages.read_window(asked.window, "budget.window")
        enforcement = messages.read_enforcement(asked.enforcement, "budget.enforcement")
        display_name = validate_display_name(asked.display_name, "budget.display_name") or slug
        content = content_hash(request)
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(
                connection, asked.organization, "budget.organization"
            )
            memory = (organization.id, request.request_id, "CreateBudget", content)
            known = await remembered(connection, *memory)
            if known is not None:
                record = await _existing(connection, organization, known)
                return (await self._budgets(connection, organization, [record]))[0]
            limit_nanos = messages.read_limit(asked.limit, "budget.limit", organization.currency)
            await hold_policy(connection, organization.id)
            kind, scope_id = await _find_scope(
                connection, organization, asked.scope, "budget.scope", hold=True
            )
            if not asked.disabled:
                await _refuse_crowd(connection, organization.id, kind, scope_id, asked.scope)
            new = NewBudget(
                organization_id=organization.id,
                slug=slug,
                display_name=display_name,
                scope_kind=kind,
                scope_id=scope_id,
                models=models,
                providers=providers,
                limit_nanos=limit_nanos,
                window=window,
                enforcement=enforcement,
                disabled=asked.disabled,
            )
            budget_id = await store.insert_budget(connection, new, actor=ADMIN)
            name = format_name("budgets", slug)
            if budget_id is None:
                raise already_exists("budget", name)
            await remember(connection, *memory, name)
            change = Change(organization.id, ChangeKind.BUDGET, budget_id)
            await record_change(connection, change)
            record = await _existing(connection, organization, name)
            answer = (await self._budgets(connection, organization, [record]))[0]
        self._feed.publish(change)
        return answer

    async def UpdateBudget(
        self, request: budgets_pb2.UpdateBudgetRequest, context: object
    ) -> budgets_pb2.Budget:
        """Changes one: a raised limit works at once, a lowered one stops grants at once."""
        asked = request.budget
        slug = parse_name("budgets", asked.name, "budget.name")
        messages.refuse_immutable(list(request.update_mask.paths))
        fields = masked_fields(request.update_mask, messages.CHANGEABLE)
        if "limit" in fields and not asked.HasField("limit"):
            raise invalid("budget.limit", "", "an amount, zero or more")
        display_name = validate_display_name(asked.display_name, "budget.display_name")
        change: Change | None = None
        try:
            async with transaction(self._pool) as connection:
                organization = await resolve_organization(
                    connection, asked.organization, "budget.organization"
                )
                await hold_policy(connection, organization.id)
                record = await store.lock_budget(connection, organization.id, slug)
                if record is None:
                    raise not_found("budget", asked.name)
                limit_nanos, disabled = record.limit_nanos, record.disabled
                if "limit" in fields:
                    limit_nanos = messages.read_limit(
                        asked.limit, "budget.limit", organization.currency
                    )
                if "disabled" in fields:
                    disabled = asked.disabled
                if record.disabled and not disabled:
                    await _refuse_crowd(
                        connection,
                        organization.id,
                        record.scope_kind,
                        record.scope_id,
                        record.scope_name,
                    )
                await store.update_budget(
                    connection,
                    record,
                    display_name=(display_name or slug)
                    if "display_name" in fields
                    else record.display_name,
                    limit_nanos=limit_nanos,
                    disabled=disabled,
                    actor=ADMIN,
                )
                change = Change(organization.id, ChangeKind.BUDGET, record.id)
                await record_change(connection, change)
        finally:
            # Even if the answer to the commit was lost: it may hold, and whoever lends looks again.
            if change is not None:
                self._feed.publish(change)
        await self._applied(organization.id, record.id)
        async with transaction(self._pool, read_only=True) as connection:
            changed = await store.budgets_by_ids(connection, organization.id, [record.id])
            if not changed:
                raise not_found("budget", asked.name)  # deleted since
            return (await self._budgets(connection, organization, changed))[0]

    async def DeleteBudget(
        self, request: budgets_pb2.DeleteBudgetRequest, context: object
    ) -> budgets_pb2.DeleteBudgetResponse:
        """Removes one that never lent."""
        slug = parse_name("budgets", request.name)
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            await hold_policy(connection, organization.id)
            record = await store.lock_budget(connection, organization.id, slug)
            if record is None:
                raise not_found("budget", request.name)
            if await store.has_windows(connection, organization.id, record.id):
                raise failed_precondition(
                    "BUDGET_IN_USE",
                    f"{request.name} has lent or counted money: its record stays; disable it",
                    {"name": request.name},
                )
            await raises.delete_raises(connection, organization.id, record.id)
            await store.delete_budget(connection, organization.id, record.id)
            change = Change(organization.id, ChangeKind.BUDGET, record.id)
            await record_change(connection, change)
        self._feed.publish(change)
        return budgets_pb2.DeleteBudgetResponse()

    async def ThawBudget(
        self, request: budgets_pb2.ThawBudgetRequest, context: object
    ) -> budgets_pb2.Budget:
        """Lets a frozen budget lend again; on record."""
        slug = parse_name("budgets", request.name)
        reason = validate_text(request.reason.strip(), "reason", MOST_CHARACTERS_OF_A_REASON)
        if not reason:
            raise invalid("reason", request.reason, "why it may lend again, for the record")
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            record = await store.lock_budget(connection, organization.id, slug)
            if record is None:
                raise not_found("budget", request.name)
            if not await store.is_frozen(connection, organization.id, record.id):
                raise failed_precondition(
                    "BUDGET_NOT_FROZEN", f"{request.name} is not frozen", {"name": request.name}
                )
            await store.thaw(
                connection, organization.id, record.id, reason, ADMIN, self._clock.now()
            )
        async with transaction(self._pool, read_only=True) as connection:
            thawed = await store.budgets_by_ids(connection, organization.id, [record.id])
            return (await self._budgets(connection, organization, thawed))[0]

    async def _budgets(
        self,
        connection: Connection,
        organization: OrganizationRecord,
        records: Sequence[BudgetRecord],
    ) -> list[budgets_pb2.Budget]:
        ids, now = [record.id for record in records], self._clock.now()
        standings = await store.current_windows(connection, organization.id, ids, now)
        raised = await _raises(connection, organization, records)
        return [
            messages.budget_message(
                record,
                organization.name,
                standings.get(record.id),
                now,
                [each for each in raised if each.budget_id == record.id],
            )
            for record in records
        ]


async def _raises(
    connection: Connection, organization: OrganizationRecord, records: Sequence[BudgetRecord]
) -> list[raises.RaiseRecord]:
    """The temporary raises of these budgets that are not over."""
    ids = [raised.id for record in records for raised in record.raises]
    return await raises.raises_by_ids(connection, organization.id, ids) if ids else []


async def _existing(
    connection: Connection, organization: OrganizationRecord, name: str
) -> BudgetRecord:
    record = await store.budget_by_slug(connection, organization.id, parse_name("budgets", name))
    if record is None:
        # A repeat of a Create whose budget was deleted since.
        raise not_found("budget", name)
    return record


async def _find_scope(
    connection: Connection,
    organization: OrganizationRecord,
    text: str,
    field: str,
    *,
    hold: bool,
) -> tuple[ScopeKind, int]:
    """The kind and the id of a scope; `hold` keeps it from being deleted until the end."""
    scope = messages.read_scope(text, field)
    if scope.kind in ("organization", "platform"):
        if scope.slug != organization.slug:
            wanted = f'"{organization.name}", or what belongs to it'
            raise invalid(field, text, wanted)
        is_platform = organization.id == PLATFORM_ORGANIZATION_ID
        return ("platform" if is_platform else "organization"), organization.id
    find = hold_spender if hold else store.scope_id
    found = await find(connection, scope.kind, organization.id, scope.slug)
    if found is None:
        raise not_found(scope.kind, text)
    return scope.kind, found


async def _refuse_crowd(
    connection: Connection, organization_id: int, kind: str, scope_id: int, name: str
) -> None:
    beside = await store.budgets_by_scopes(connection, organization_id, [(kind, scope_id)])
    if sum(not record.disabled for record in beside) >= MOST_BUDGETS_OF_A_SCOPE:
        raise failed_precondition(
            "TOO_MANY_BUDGETS",
            f"{name} has {MOST_BUDGETS_OF_A_SCOPE} budgets already, the most a scope may have:"
            " disable one",
            {"scope": name},
        )
