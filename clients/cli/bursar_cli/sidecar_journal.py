"""`bursar sidecar journal`: what a sidecar's journal holds, read from its directory.

Apart from the other verbs, since it is the only one that needs the sidecar's own program.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from bursar.money import format_nanos
from bursar_cli import output
from bursar_cli.cells import Column
from bursar_cli.exit_codes import BAD_USAGE
from bursar_cli.output import Format
from bursar_sidecar.journal import machine_boot_id
from bursar_sidecar.journal_reading import JournalReadError, Reading


def _nanos(field: str) -> Any:
    def text(row: Any) -> str:
        nanos = getattr(row, field)
        return "" if nanos is None else format_nanos(nanos)

    return text


def _number(field: str) -> Any:
    """A number that is zero where it says nothing."""
    return lambda row: str(getattr(row, field) or "")


def _n(row: Any) -> str:
    return f"{row.n} and {row.numbers - 1} more" if row.numbers > 1 else str(row.n or "")


ROWS: Final = (
    Column("Segment", lambda row: row.segment),
    Column("Offset", lambda row: row.offset),
    Column("Kind", lambda row: row.kind),
    Column("Session", _number("session_epoch")),
    Column("N", _n),
    Column("Reserved", _nanos("reserved_nanos")),
    Column("Cost", _nanos("cost_nanos")),
    Column("Outcome", lambda row: row.outcome),
    Column("Windows", lambda row: [str(each) for each in row.window_ids]),
    Column("Model", lambda row: row.model),
    Column("Key", _number("key_id")),
    Column("Time", lambda row: row.time),
    Column("Checksum", lambda row: row.checksum),
)
SESSIONS: Final = (
    Column("Session", lambda one: str(one.session_epoch)),
    Column("Organization", lambda one: "platform" if one.platform else str(one.organization_id)),
    Column("State", lambda one: one.state),
    Column("Last n", lambda one: one.last_n),
    Column("Opened", lambda one: one.opened),
    Column("Settled", lambda one: one.settled),
    Column("Acknowledged", lambda one: one.acknowledged),
    Column("Owed", lambda one: one.owed),
    Column("In flight", lambda one: one.in_flight),
    Column("Reserved", _nanos("in_flight_nanos")),
    Column("Torn at", lambda one: one.torn_at),
)


def show_journal(path: Path, form: Format, *, sessions_only: bool, done: bool) -> None:
    """Write the records and sessions of a journal; a fault is told in a line, exit code 2."""
    try:
        reading = Reading(path, boot_id=machine_boot_id(), done=done)
        rows = list(reading.rows())
    except JournalReadError as error:
        typer.echo(f"bursar sidecar journal: PATH: {error}", err=True)
        raise typer.Exit(BAD_USAGE) from None
    sessions = reading.sessions()
    now = datetime.now(UTC)
    if form is Format.CSV:
        output.write_csv(*((sessions, SESSIONS) if sessions_only else (rows, ROWS)))
    elif form is Format.TABLE:
        if not sessions_only:
            output.write_table(rows, ROWS, now, empty="no records")
            typer.echo("")
        output.write_table(sessions, SESSIONS, now, empty="no sessions")
    else:
        told = {"sessions": msgspec.to_builtins(sessions)}
        output.write_data(
            told if sessions_only else {"records": msgspec.to_builtins(rows), **told}, form
        )
