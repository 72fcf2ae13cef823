"""`bursar alert`: what people should know."""

from typing import Annotated, Final

import typer

from bursar.v1 import alerts_pb2
from bursar_cli.cells import Column, when_set
from bursar_cli.verbs import Session, noun, verb

app = noun("alert", "Alerts: events that budgets and the ledger wrote.")

DEFAULT_LIMIT: Final = 100

_KINDS: Final = {
    alerts_pb2.EVENT_KIND_SOFT_LIMIT_CROSSED: "soft limit crossed",
    alerts_pb2.EVENT_KIND_OVERRUN: "overrun",
    alerts_pb2.EVENT_KIND_FRAME_QUARANTINED: "frame quarantined",
    alerts_pb2.EVENT_KIND_SHADOW_REFUSAL: "shadow refusal",
}

COLUMNS: Final = (
    Column("Id", lambda event: str(event.id)),
    Column("When", lambda event: when_set(event, "create_time")),
    Column("Kind", lambda event: _KINDS.get(event.kind, "")),
    Column("Budget", lambda event: event.budget),
    Column("Amount", lambda event: when_set(event, "amount")),
    Column("Says", lambda event: event.summary),
    Column("Organization", lambda event: event.organization, wide=True),
)


@verb(app, "list")
def list_events(
    session: Session,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = DEFAULT_LIMIT,
) -> None:
    """List events, the newest first.

    bursar alert list --limit 20
    """
    request = alerts_pb2.ListEventsRequest(
        organization=session.organization, page_size=min(limit, 1000) if limit else 1000
    )
    call = session.client.alerts.ListEvents
    session.show_list(call, request, COLUMNS, limit=limit or None, empty="no alerts")
