"""The rpcs on ratings: plan, apply, look."""

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Protocol

from bursar.v1 import money_pb2, ratings_pb2, ratings_pb2_grpc
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, failed_precondition, invalid, not_found
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import resolve_organization
from bursar_server.ledger.entries import spend
from bursar_server.names import (
    page_size,
    page_token_after,
    place_of_page,
    validate_globs,
    validate_text,
)
from bursar_server.prices.books import book_through_time
from bursar_server.ratings import rules, store
from bursar_server.ratings.rules import Line, Part, Tally
from bursar_server.ratings.store import ReratingRecord
from bursar_server.request_ids import content_hash, remember, remembered
from bursar_server.times import instant, timestamp

# Who decides, until there are roles: the holder of the admin key.
ADMIN: Final = "admin"
MOST_CHARACTERS_OF_A_REASON: Final = 500
MOST_DRAW_SETS_KEPT: Final = 5_000
"""Sums by draw set, before they are handed over to budgets: a megabyte."""
_NAME: Final = re.compile(r"reratings/([1-9][0-9]{0,17})", re.ASCII)
_STATES: Final = {
    "planned": ratings_pb2.RERATING_STATE_PLANNED,
    "applying": ratings_pb2.RERATING_STATE_APPLYING,
    "applied": ratings_pb2.RERATING_STATE_APPLIED,
}


class Correcting(Protocol):
    """What is asked of who posts."""

    async def rerating_applied(self, organization_id: int, rerating_id: int) -> None:
        """Wait until all of an accepted re-rating is posted, or a bounded time."""


class RatingService(ratings_pb2_grpc.RatingServiceServicer):
    """Re-ratings of an organization."""

    def __init__(self, pool: Pool, clock: Clock, correcting: Correcting) -> None:
        self._pool = pool
        self._clock = clock
        self._correcting = correcting

    async def PlanRerating(
        self, request: ratings_pb2.PlanReratingRequest, context: object
    ) -> ratings_pb2.Rerating:
        """Says what would change, and keeps it on record."""
        now = self._clock.now()
        since, until = _period(request, now)
        (model,) = validate_globs([request.model], "model") if request.model else ("",)
        reason = validate_text(request.reason.strip(), "reason", MOST_CHARACTERS_OF_A_REASON)
        if not reason:
            raise invalid("reason", request.reason, "why it is computed again, for the record")
        content = content_hash(request)
        # Remembered before it is computed would be a promise; a repeat meanwhile computes it too,
        # and one of the two is remembered.
        async with transaction(self._pool, read_only=True) as connection:
            organization = await _organization(connection, request.organization)
            tally = Tally(organization.id)
            async for _ in _lines(connection, organization, tally, since, until, model):
                pass
        outcome = tally.outcome
        async with transaction(self._pool) as connection:
            memory = (organization.id, request.request_id, "PlanRerating", content)
            known = await remembered(connection, *memory)
            if known is None:
                rerating_id = await store.insert_rerating(
                    connection,
                    organization.id,
                    since=since,
                    until=until,
                    model=model,
                    reason=reason,
                    actor=ADMIN,
                    etag=tally.etag,
                    outcome=outcome,
                    now=now,
                )
                await remember(connection, *memory, _format_name(rerating_id))
            else:
                rerating_id = _number(known)
            return _message(organization, await _record(connection, organization, rerating_id))

    async def ApplyRerating(
        self, request: ratings_pb2.ApplyReratingRequest, context: object
    ) -> ratings_pb2.Rerating:
        """Posts the corrections of a plan."""
        rerating_id = _number(request.name)
        # The lock is taken before the snapshot is, so that what was posted before is in it.
        async with transaction(self._pool) as guard:
            organization = await _organization(guard, request.organization)
            if not await store.lock_organization(guard, organization.id):
                raise _runs(organization)
            async with transaction(self._pool, snapshot=True) as connection:
                record = await _record(connection, organization, rerating_id)
                if record.etag != request.etag:
                    raise invalid("etag", request.etag, "the etag of the plan")
                if record.state == "planned":
                    await self._accept(connection, organization, record)
        await self._correcting.rerating_applied(organization.id, rerating_id)
        async with transaction(self._pool, read_only=True) as connection:
            return _message(organization, await _record(connection, organization, rerating_id))

    async def _accept(
        self, connection: Connection, organization: OrganizationRecord, record: ReratingRecord
    ) -> None:
        """Compute it anew; write down what is to be posted if that is what was planned."""
        if await store.is_applying(connection, organization.id):
            raise _runs(organization)
        tally = Tally(organization.id)
        place = 1
        period = (record.since_at, record.until_at, record.model)
        async for lines in _lines(connection, organization, tally, *period):
            await store.insert_lines(connection, organization.id, record.id, place, lines)
            place += len(lines)
        if tally.etag != record.etag:
            planned, found = record.outcome.total, tally.outcome.total
            raise failed_precondition(
                "RERATING_DIFFERS",
                f"{_format_name(record.id)} is not what would be posted now: planned were"
                f" {planned.call_count} calls and {planned.difference_nanos} nanos, it would be"
                f" {found.call_count} and {found.difference_nanos}; plan it again",
                {"name": _format_name(record.id)},
            )
        if not await store.accept(
            connection,
            organization.id,
            record.id,
            has_lines=place > 1,
            actor=ADMIN,
            now=self._clock.now(),
        ):
            raise _runs(organization)

    async def GetRerating(
        self, request: ratings_pb2.GetReratingRequest, context: object
    ) -> ratings_pb2.Rerating:
        """One re-rating."""
        rerating_id = _number(request.name)
        async with transaction(self._pool, read_only=True) as connection:
            organization = await _organization(connection, request.organization)
            return _message(organization, await _record(connection, organization, rerating_id))

    async def ListReratings(
        self, request: ratings_pb2.ListReratingsRequest, context: object
    ) -> ratings_pb2.ListReratingsResponse:
        """A page of them, the newest first."""
        size = page_size(request.page_size)
        place = place_of_page(request.page_token, request)
        if not place.isdecimal() and place:
            raise invalid("page_token", request.page_token, "next_page_token of the page before")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await _organization(connection, request.organization)
            records = await store.rerating_page(
                connection, organization.id, int(place or 0), size + 1
            )
        following = ""
        if len(records) > size:
            following = page_token_after(str(records[size - 1].id), request)
        return ratings_pb2.ListReratingsResponse(
            reratings=[_message(organization, each, whole=False) for each in records[:size]],
            next_page_token=following,
        )


async def _organization(connection: Connection, name: str) -> OrganizationRecord:
    organization = await resolve_organization(connection, name)
    if organization.id == PLATFORM_ORGANIZATION_ID:
        raise invalid("organization", name, "the organization whose calls are computed again")
    return organization


async def _lines(
    connection: Connection,
    organization: OrganizationRecord,
    tally: Tally,
    since: datetime,
    until: datetime,
    model: str,
) -> AsyncIterator[list[Line]]:
    """What is to be posted, page by page, summed up in `tally`; the connection is in a transaction
    of one snapshot."""
    book = await book_through_time(connection, organization.id, since, until)
    # A call under the platform's budgets is in its ledger, too, with the same price.
    ledgers = ((organization.id, ""), (PLATFORM_ORGANIZATION_ID, spend(organization.slug)))
    for ledger_id, account in ledgers:
        async for calls in store.calls(connection, ledger_id, account, since, until, model):
            lines = []
            for call in calls:
                line = tally.count(call, rules.rate(call, book.at(call.admitted_at)))
                if line is not None:
                    lines.append(line)
            if len(tally.draw_sets) > MOST_DRAW_SETS_KEPT:
                await _hand_over(connection, tally)
            if lines:
                yield lines
    await _hand_over(connection, tally)
    tally.outcome.models = rules.shortened(tally.outcome.models)
    tally.outcome.budgets = rules.shortened(tally.outcome.budgets)
    tally.outcome.versions = rules.most_frequent(tally.outcome.versions)


async def _hand_over(connection: Connection, tally: Tally) -> None:
    tally.add_budgets(await store.budgets_of_draw_sets(connection, list(tally.draw_sets)))


def _period(request: ratings_pb2.PlanReratingRequest, now: datetime) -> tuple[datetime, datetime]:
    if not request.HasField("since_time"):
        raise invalid("since_time", "", "from when on calls are computed again")
    since = instant(request.since_time, "since_time")
    until = instant(request.until_time, "until_time") if request.HasField("until_time") else now
    if until > now:
        raise invalid("until_time", until.isoformat(), f"at most now, {now.isoformat()}")
    if since >= until:
        raise invalid("since_time", since.isoformat(), f"before {until.isoformat()}")
    return since, until


async def _record(
    connection: Connection, organization: OrganizationRecord, rerating_id: int
) -> ReratingRecord:
    record = await store.rerating(connection, organization.id, rerating_id)
    if record is None:
        raise not_found("rerating", _format_name(rerating_id))
    return record


def _runs(organization: OrganizationRecord) -> BursarError:
    return failed_precondition(
        "RERATING_RUNS",
        f"another re-rating of {organization.name} is being posted: try again when it is done",
        {"organization": organization.name},
    )


def _format_name(rerating_id: int) -> str:
    return f"reratings/{rerating_id}"


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise invalid("name", name, 'the name of a re-rating, such as "reratings/4711"')
    return int(match[1])


def _message(
    organization: OrganizationRecord, record: ReratingRecord, *, whole: bool = True
) -> ratings_pb2.Rerating:
    def money(nanos: int) -> money_pb2.Money:
        return money_pb2.Money(nanos=nanos, currency=organization.currency)

    def part(name: str, each: Part) -> ratings_pb2.ReratingPart:
        return ratings_pb2.ReratingPart(
            name=name,
            call_count=each.call_count,
            before=money(each.before_nanos),
            difference=money(each.difference_nanos),
        )

    outcome = record.outcome
    message = ratings_pb2.Rerating(
        name=_format_name(record.id),
        organization=organization.name,
        state=_STATES[record.state],
        since_time=timestamp(record.since_at),
        until_time=timestamp(record.until_at),
        model=record.model,
        reason=record.reason,
        actor=record.actor,
        etag=record.etag,
        call_count=outcome.call_count,
        corrected_count=outcome.total.call_count,
        before=money(outcome.total.before_nanos),
        difference=money(outcome.total.difference_nanos),
        create_time=timestamp(record.created_at),
        accepted_by=record.accepted_by,
        posted_count=record.posted_count,
    )
    if record.accepted_at is not None:
        message.accept_time.CopyFrom(timestamp(record.accepted_at))
    if record.applied_at is not None:
        message.apply_time.CopyFrom(timestamp(record.applied_at))
    if whole:
        message.models.extend(part(*each) for each in outcome.models.items())
        message.budgets.extend(part(*each) for each in outcome.budgets.items())
        message.skips.extend(
            ratings_pb2.ReratingSkip(reason=reason, call_count=count)
            for reason, count in sorted(outcome.skips.items())
        )
        for pair, count in outcome.versions.items():
            old, _, new = pair.partition(" ")
            message.versions.add(from_version=old, to_version=new, call_count=count)
    return message
