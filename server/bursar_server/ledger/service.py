"""The rpcs on the ledger: pages of entries, its verification, and decisions about lost sessions."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Final

from bursar.v1 import charges_pb2, ledger_pb2, ledger_pb2_grpc, money_pb2
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.errors import invalid, not_found
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import resolve_organization
from bursar_server.ledger import resolving, rules, store
from bursar_server.ledger.store import EntryRecord
from bursar_server.ledger.verifying import Outcome, Progress, Verifier
from bursar_server.names import page_size, page_token_after, parse_name, place_of_page
from bursar_server.times import period, timestamp

_KINDS: Final = {
    "final": charges_pb2.SETTLEMENT_KIND_FINAL,
    "provisional": charges_pb2.SETTLEMENT_KIND_PROVISIONAL,
    "released": charges_pb2.SETTLEMENT_KIND_RELEASED,
    "lost": charges_pb2.SETTLEMENT_KIND_LOST,
    "correction": charges_pb2.SETTLEMENT_KIND_CORRECTION,
}


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """The ledger of an organization."""

    def __init__(self, pool: Pool, clock: Clock, lending: resolving.Lending) -> None:
        self._pool = pool
        self._clock = clock
        self._lending = lending
        self._verifier = Verifier(pool, clock)

    async def ListEntries(
        self, request: ledger_pb2.ListEntriesRequest, context: object
    ) -> ledger_pb2.ListEntriesResponse:
        """A page of entries, the newest posted first."""
        size = page_size(request.page_size)
        after = _after(request)
        key = parse_name("keys", request.key, "key") if request.key else ""
        charge = rules.parse_charge_id(request.charge_id) if request.charge_id else None
        if request.charge_id and charge is None:
            raise invalid("charge_id", request.charge_id, 'a charge id such as "7-12"')
        rerating_id = rules.parse_rerating(request.rerating) if request.rerating else None
        if request.rerating and rerating_id is None:
            raise invalid("rerating", request.rerating, 'a name such as "reratings/4711"')
        since, until = period(request)
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            key_id = None
            if key:
                key_id = await store.key_id(connection, organization.id, key)
                if key_id is None:
                    raise not_found("key", request.key)
            wanted = store.EntryFilter(
                since=since, until=until, key_id=key_id, charge=charge, rerating_id=rerating_id
            )
            records = await store.entry_page(
                connection, organization.id, wanted, after=after, size=size + 1
            )
            entries = await _messages(connection, organization, records[:size])
        following = ""
        if len(records) > size:
            following = page_token_after(rules.format_place(records[size - 1].place), request)
        return ledger_pb2.ListEntriesResponse(entries=entries, next_page_token=following)

    async def VerifyLedger(
        self, request: ledger_pb2.VerifyLedgerRequest, context: object
    ) -> ledger_pb2.VerifyLedgerResponse:
        """Recomputes every durable invariant from the rows, on one consistent view."""
        answer = ledger_pb2.VerifyLedgerResponse()
        async with aclosing(self._verify(request)) as messages:
            async for message in messages:
                answer = message.outcome
        return answer

    async def WatchVerification(
        self, request: ledger_pb2.VerifyLedgerRequest, context: object
    ) -> AsyncIterator[ledger_pb2.VerifyLedgerProgress]:
        """As VerifyLedger, and tells how far it is."""
        async with aclosing(self._verify(request)) as messages:
            async for message in messages:
                yield message

    async def _verify(
        self, request: ledger_pb2.VerifyLedgerRequest
    ) -> AsyncGenerator[ledger_pb2.VerifyLedgerProgress]:
        organization_id = None
        if request.organization:
            async with transaction(self._pool, read_only=True) as connection:
                organization = await resolve_organization(connection, request.organization)
                organization_id = organization.id
        async with aclosing(self._verifier.verify(organization_id)) as steps:
            async for step in steps:
                yield _progress(step)

    async def ResolveSession(
        self, request: ledger_pb2.ResolveSessionRequest, context: object
    ) -> ledger_pb2.ResolveSessionResponse:
        """Posts as spent, or takes back, all that a session still holds."""
        return await resolving.resolve_session(self._pool, self._clock, self._lending, request)


def _progress(step: Progress | Outcome) -> ledger_pb2.VerifyLedgerProgress:
    if isinstance(step, Progress):
        return ledger_pb2.VerifyLedgerProgress(
            step=step.step, read_count=step.read_count, expected_count=step.expected_count
        )
    checks = [
        ledger_pb2.LedgerCheck(
            name=found.check.name,
            description=found.check.description,
            checked_count=found.checked_count,
            differences=found.differences,
            difference_count=found.difference_count,
            charge_ids=found.charge_ids,
        )
        for found in step.found
    ]
    return ledger_pb2.VerifyLedgerProgress(
        outcome=ledger_pb2.VerifyLedgerResponse(
            checks=checks,
            ok=step.ok,
            entry_count=step.entry_count,
            snapshot_time=timestamp(step.as_of),
        )
    )


def _after(request: ledger_pb2.ListEntriesRequest) -> rules.EntryPlace | None:
    text = place_of_page(request.page_token, request)
    if not text:
        return None
    place = rules.parse_place(text)
    if place is None:
        raise invalid("page_token", request.page_token, "next_page_token of the page before")
    return place


async def _messages(
    connection: Connection, organization: OrganizationRecord, records: Sequence[EntryRecord]
) -> list[ledger_pb2.Entry]:
    ids = {
        spender
        for record in records
        for spender in (record.key_id, record.team_id, record.project_id, record.user_id)
        if spender is not None
    }
    names = await store.spender_names(connection, organization.id, sorted(ids))
    draw_sets = sorted({record.draw_set_id for record in records})
    budgets = await store.budgets_of_draw_sets(connection, organization.id, draw_sets)
    return [_message(organization.name, record, names, budgets) for record in records]


def _message(
    organization: str,
    record: EntryRecord,
    names: Mapping[int, str],
    budgets: Mapping[int, list[str]],
) -> ledger_pb2.Entry:
    def money(nanos: int) -> money_pb2.Money:
        return money_pb2.Money(nanos=nanos, currency=record.currency)

    def name(spender: int | None) -> str:
        return "" if spender is None else names.get(spender, "")

    return ledger_pb2.Entry(
        charge_id=rules.format_charge_id(record.session_epoch, record.n, record.k),
        organization=organization,
        kind=_KINDS[record.kind],
        debit_account=record.debit_account,
        credit_account=record.credit_account,
        amount=money(record.amount_nanos),
        reserved=money(record.reserved_nanos),
        overrun=money(record.overrun_nanos),
        key=name(record.key_id),
        team=name(record.team_id),
        project=name(record.project_id),
        user=name(record.user_id),
        customer=record.customer,
        app=record.app,
        run=record.run,
        tags=record.tags,
        provider=record.provider,
        model=record.model,
        requested_model=record.requested_model,
        price_version=record.price_version,
        usage=_usage(record),
        provider_request_id=record.provider_request_id,
        http_status=record.http_status,
        stream=record.stream,
        admit_time=timestamp(record.admitted_at),
        finish_time=timestamp(record.finished_at),
        post_time=timestamp(record.posted_at),
        budgets=budgets.get(record.draw_set_id, []),
        service_tier=record.service_tier,
        region=record.region,
        priced_as=record.priced_as,
        price_currency=record.price_currency,
        exchange_rate=record.exchange_rate,
        rerating="" if record.rerating_id is None else f"reratings/{record.rerating_id}",
    )


def _usage(record: EntryRecord) -> charges_pb2.Usage:
    return charges_pb2.Usage(
        input_llm_tokens=record.input_llm_tokens,
        cached_input_llm_tokens=record.cached_input_llm_tokens,
        cache_write_5m_llm_tokens=record.cache_write_5m_llm_tokens,
        cache_write_1h_llm_tokens=record.cache_write_1h_llm_tokens,
        output_llm_tokens=record.output_llm_tokens,
        reasoning_llm_tokens=record.reasoning_llm_tokens,
        further=record.further_usage or {},
        estimate_reason=record.estimate_reason,
    )
