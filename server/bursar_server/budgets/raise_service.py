"""The rpcs on temporary raises: each translates, runs one transaction, and answers."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from bursar.v1 import budgets_pb2, budgets_pb2_grpc
from bursar_server.budgets import messages, raises, store
from bursar_server.budgets.raises import RaiseRecord
from bursar_server.budgets.rules import phase_at
from bursar_server.budgets.store import BudgetRecord
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.errors import failed_precondition, invalid, not_found
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import hold_policy, record_change, resolve_organization
from bursar_server.names import (
    format_name,
    page_size,
    page_token_after,
    parse_name,
    parse_optional_name,
    place_of_page,
)
from bursar_server.request_ids import content_hash, remember, remembered

# Each is looked at whenever the limit is asked for, and shown with the budget.
MOST_RAISES_OF_A_BUDGET: Final = 32

# Who changes things, until there are roles: the holder of the admin key.
ADMIN: Final = "admin"


class RaiseService(budgets_pb2_grpc.BudgetServiceServicer):
    """The part of BudgetService that raises limits for a while."""

    def __init__(
        self,
        pool: Pool,
        feed: ChangeFeed,
        clock: Clock,
        applied: Callable[[int, int], Awaitable[None]],
    ) -> None:
        """`applied` waits until a committed change of (organization, budget) holds for its
        windows, or a bounded time: they belong to whoever lends from them."""
        self._pool = pool
        self._feed = feed
        self._clock = clock
        self._applied = applied

    async def CreateTemporaryRaise(
        self, request: budgets_pb2.CreateTemporaryRaiseRequest, context: object
    ) -> budgets_pb2.TemporaryRaise:
        """Raises a limit for a while: at once, or when its time has come."""
        asked = request.temporary_raise
        budget_slug = parse_name("budgets", asked.budget, "temporary_raise.budget")
        content = content_hash(request)
        change: Change | None = None
        try:
            async with transaction(self._pool) as connection:
                organization = await resolve_organization(
                    connection, asked.organization, "temporary_raise.organization"
                )
                memory = (organization.id, request.request_id, "CreateTemporaryRaise", content)
                known = await remembered(connection, *memory)
                if known is not None:
                    return await self._answer(connection, organization, known)
                now = self._clock.now()
                new = messages.read_raise(asked, "temporary_raise", organization.currency, now)
                await hold_policy(connection, organization.id)
                budget = await store.lock_budget(connection, organization.id, budget_slug)
                if budget is None:
                    raise not_found("budget", asked.budget)
                _refuse_crowd(budget, now)
                await raises.insert_raise(connection, budget, new, actor=ADMIN, now=now)
                name = format_name("raises", new.slug)
                await remember(connection, *memory, name)
                change = Change(organization.id, ChangeKind.BUDGET, budget.id)
                await record_change(connection, change)
        finally:
            self._announce(change)
        return await self._applied_answer(organization, budget.id, name)

    async def ListTemporaryRaises(
        self, request: budgets_pb2.ListTemporaryRaisesRequest, context: object
    ) -> budgets_pb2.ListTemporaryRaisesResponse:
        """A page of them, the newest first."""
        size = page_size(request.page_size)
        place = place_of_page(request.page_token, request)
        if place and not place.isdecimal():
            raise invalid("page_token", request.page_token, "next_page_token of the page before")
        slug = parse_optional_name("budgets", request.budget, "budget")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            budget_id = 0
            if slug:
                budget = await store.budget_by_slug(connection, organization.id, slug)
                if budget is None:
                    raise not_found("budget", request.budget)
                budget_id = budget.id
            found = await raises.raise_page(
                connection,
                organization.id,
                budget_id=budget_id,
                before_id=int(place or 0),
                size=size + 1,
            )
            shown = await self._messages(connection, organization, found[:size])
        following = ""
        if len(found) > size:
            following = page_token_after(str(found[size - 1].id), request)
        return budgets_pb2.ListTemporaryRaisesResponse(raises=shown, next_page_token=following)

    async def CancelTemporaryRaise(
        self, request: budgets_pb2.CancelTemporaryRaiseRequest, context: object
    ) -> budgets_pb2.TemporaryRaise:
        """Ends one early; the limit falls at once."""
        slug = parse_name("raises", request.name)
        reason = messages.read_reason(request.reason, "reason")
        change: Change | None = None
        try:
            async with transaction(self._pool) as connection:
                organization = await resolve_organization(connection, request.organization)
                await hold_policy(connection, organization.id)
                record = await raises.lock_raise(connection, organization.id, slug)
                if record is None:
                    raise not_found("raise", request.name)
                now = self._clock.now()
                if phase_at(record.terms, now) == "over":
                    raise failed_precondition(
                        "RAISE_IS_OVER",
                        f"{request.name} is over since {record.terms.over_at.isoformat()}",
                        {"name": request.name},
                    )
                (budget,) = await store.budgets_by_ids(
                    connection, organization.id, [record.budget_id]
                )
                await raises.cancel_raise(
                    connection, budget, record, actor=ADMIN, reason=reason, now=now
                )
                change = Change(organization.id, ChangeKind.BUDGET, budget.id)
                await record_change(connection, change)
        finally:
            self._announce(change)
        return await self._applied_answer(organization, record.budget_id, request.name)

    def _announce(self, change: Change | None) -> None:
        """Even if the answer to the commit was lost: it may hold, and whoever lends looks again."""
        if change is not None:
            self._feed.publish(change)

    async def _applied_answer(
        self, organization: OrganizationRecord, budget_id: int, name: str
    ) -> budgets_pb2.TemporaryRaise:
        await self._applied(organization.id, budget_id)
        async with transaction(self._pool, read_only=True) as connection:
            return await self._answer(connection, organization, name)

    async def _answer(
        self, connection: Connection, organization: OrganizationRecord, name: str
    ) -> budgets_pb2.TemporaryRaise:
        slug = parse_name("raises", name)
        record = await raises.raise_by_slug(connection, organization.id, slug)
        if record is None:
            # Its budget was deleted since.
            raise not_found("raise", name)
        return (await self._messages(connection, organization, [record]))[0]

    async def _messages(
        self,
        connection: Connection,
        organization: OrganizationRecord,
        records: list[RaiseRecord],
    ) -> list[budgets_pb2.TemporaryRaise]:
        ids = [record.id for record in records]
        steps = await raises.steps(connection, organization.id, ids)
        now = self._clock.now()
        return [
            messages.raise_message(record, organization.name, now, steps.get(record.id, ()))
            for record in records
        ]


def _refuse_crowd(budget: BudgetRecord, now: datetime) -> None:
    name = format_name("budgets", budget.slug)
    if sum(phase_at(each, now) != "over" for each in budget.raises) >= MOST_RAISES_OF_A_BUDGET:
        raise failed_precondition(
            "TOO_MANY_RAISES",
            f"{name} has {MOST_RAISES_OF_A_BUDGET} temporary raises that are not over, the most a"
            " budget may have: cancel one",
            {"budget": name},
        )
