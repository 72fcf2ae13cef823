"""The rpc on events."""

from typing import Final

from bursar.v1 import alerts_pb2, alerts_pb2_grpc, money_pb2
from bursar_server.alerts import rules, store
from bursar_server.alerts.store import EventRecord
from bursar_server.database.pool import Pool, transaction
from bursar_server.errors import invalid
from bursar_server.identity.store import resolve_organization
from bursar_server.names import page_size, page_token_after, place_of_page
from bursar_server.times import timestamp

_KINDS: Final = {
    "soft_limit_crossed": alerts_pb2.EVENT_KIND_SOFT_LIMIT_CROSSED,
    "overrun": alerts_pb2.EVENT_KIND_OVERRUN,
    "frame_quarantined": alerts_pb2.EVENT_KIND_FRAME_QUARANTINED,
    "shadow_refusal": alerts_pb2.EVENT_KIND_SHADOW_REFUSAL,
    "session_silent": alerts_pb2.EVENT_KIND_SESSION_SILENT,
    "session_lost": alerts_pb2.EVENT_KIND_SESSION_LOST,
    "ledger_tail_lost": alerts_pb2.EVENT_KIND_LEDGER_TAIL_LOST,
    "prices_imported": alerts_pb2.EVENT_KIND_PRICES_IMPORTED,
    "price_sync_failed": alerts_pb2.EVENT_KIND_PRICE_SYNC_FAILED,
}


class AlertService(alerts_pb2_grpc.AlertServiceServicer):
    """Events of an organization."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ListEvents(
        self, request: alerts_pb2.ListEventsRequest, context: object
    ) -> alerts_pb2.ListEventsResponse:
        """A page of events, the newest first."""
        size = page_size(request.page_size)
        text = place_of_page(request.page_token, request)
        before = rules.parse_place(text) if text else None
        if text and before is None:
            raise invalid("page_token", request.page_token, "next_page_token of the page before")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            records = await store.event_page(
                connection, organization.id, before=before, size=size + 1
            )
        following = ""
        if len(records) > size:
            following = page_token_after(rules.format_place(records[size - 1].id), request)
        return alerts_pb2.ListEventsResponse(
            events=[_message(organization.name, record) for record in records[:size]],
            next_page_token=following,
        )


def _message(organization: str, record: EventRecord) -> alerts_pb2.Event:
    return alerts_pb2.Event(
        id=record.id,
        organization=organization,
        kind=_KINDS[record.kind],
        budget=record.budget,
        summary=record.summary,
        amount=money_pb2.Money(nanos=record.amount_nanos, currency=record.currency),
        create_time=timestamp(record.created_at),
    )
