"""`bursar spend`: who spent what, on what."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from bursar.v1 import reports_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, Share, as_text, when_set
from bursar_cli.ledger import SinceOption, UntilOption, ZoneOption, period
from bursar_cli.output import Format
from bursar_cli.verbs import Session, noun, verb

app = noun("spend", "Spend: sums over committed entries.")

DEFAULT_ROWS: Final = 1000
MOST_ROWS: Final = 10_000
# A year of a large company, summed from its entries, takes a while.
QUERY_TIMEOUT_S: Final = 120.0
# What stands for entries that have no team, no customer ...
NONE: Final = "-"


def complete_dimension(incomplete: str) -> list[str]:
    """Dimensions that go on what was typed, also behind a comma."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{word}" for word in typed.DIMENSIONS if word.startswith(last)]


@verb(app, "show")
def show_spend(
    session: Session,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIMENSION",
            help=f"{', '.join(typed.DIMENSIONS)}; up to three, with commas or repeated.",
            autocompletion=complete_dimension,
        ),
    ] = None,
    since: Annotated[str, SinceOption] = "",
    until: Annotated[str, UntilOption] = "",
    time_zone: Annotated[str, ZoneOption] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_ROWS, help="At most so many rows.")
    ] = DEFAULT_ROWS,
) -> None:
    """Show what was spent, summed by up to three dimensions.

    bursar spend show --by key
    bursar spend show --by team,model --since 30d
    bursar spend show --by day --since 7d --time-zone Europe/Berlin -o csv
    """
    dimensions = typed.dimensions(by)
    since_time, until_time = period(session, since, until, time_zone)
    answer = session.client.reports.QuerySpend(
        reports_pb2.QuerySpendRequest(
            organization=session.organization,
            group_by=[typed.DIMENSIONS[name] for name in dimensions],
            since_time=since_time,
            until_time=until_time,
            time_zone=time_zone,
            limit=limit,
        ),
        timeout=QUERY_TIMEOUT_S,
    )
    if session.form in {Format.JSON, Format.YAML}:
        output.write_data(output.as_object(answer), session.form)
        return
    if session.form is Format.CSV:
        output.write_csv(answer.rows, _columns(dimensions, None))
        return
    rows: Sequence[Any] = answer.rows if dimensions else [answer.total]
    columns = _columns(dimensions, answer.total.cost.nanos if dimensions else None)
    output.write_table(rows, columns, session.now, empty="nothing was spent")
    if dimensions and answer.rows:
        total = as_text(when_set(answer.total, "cost"), session.now)
        typer.echo(f"\ntotal {total} in {answer.total.call_count:,} calls")
    if answer.truncated:
        session.note(f"There are more rows than {limit}; see --limit.")


def _columns(dimensions: Sequence[str], total_nanos: int | None) -> list[Column]:
    columns = [Column(name.capitalize(), _value(place)) for place, name in enumerate(dimensions)]
    columns += [Column("Cost", lambda row: when_set(row, "cost"))]
    if total_nanos is not None:
        columns += [Column("Share", lambda row: Share(row.cost.nanos, total_nanos, plain=True))]
    return [
        *columns,
        Column("Calls", lambda row: row.call_count),
        Column("Input", lambda row: row.input_llm_tokens, name="input_llm_tokens"),
        Column("Cached", lambda row: row.cache_llm_tokens, name="cache_llm_tokens"),
        Column("Output", lambda row: row.output_llm_tokens, name="output_llm_tokens"),
        Column("Estimated", lambda row: row.estimated_call_count, name="estimated_calls"),
    ]


def _value(place: int) -> Any:
    return lambda row: row.values[place] or NONE
