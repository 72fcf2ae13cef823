"""Instants as they travel: what every service reads and writes in the same way."""

from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from bursar_server.errors import invalid


def timestamp(at: datetime) -> Timestamp:
    """An instant as a message."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def instant(stamp: Timestamp, field: str) -> datetime:
    """The instant a message says. Raises INVALID_ARGUMENT if it lies outside the calendar."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError):
        raise invalid(field, stamp.seconds, "an instant between the years 1 and 9999") from None


def period(request: Message) -> tuple[datetime | None, datetime | None]:
    """The period of a request with the fields since_time and until_time; None where it is open.

    Raises INVALID_ARGUMENT if it ends before it begins, or lies outside the calendar.
    """
    since, until = (
        instant(getattr(request, field), field) if request.HasField(field) else None
        for field in ("since_time", "until_time")
    )
    if since is not None and until is not None and until < since:
        raise invalid("until_time", until.isoformat(), f"an instant after {since.isoformat()}")
    return since, until
