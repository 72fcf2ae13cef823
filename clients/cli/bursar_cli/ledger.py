"""`bursar ledger`: the append-only record of what was spent, and the proof that it is whole."""

import sys
from collections.abc import Iterable
from typing import Annotated, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from bursar.client import new_request_id
from bursar.v1 import charges_pb2, ledger_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, printable, when_set
from bursar_cli.exit_codes import REFUSED
from bursar_cli.output import Format
from bursar_cli.verbs import Session, noun, verb

app = noun("ledger", "The ledger: every charge as one entry that never changes.")

DEFAULT_LIMIT: Final = 100
# A line of progress where no terminal shows a bar: about so many over the whole verification.
PROGRESS_LINES: Final = 10

_KINDS: Final = {
    charges_pb2.SETTLEMENT_KIND_FINAL: "final",
    charges_pb2.SETTLEMENT_KIND_PROVISIONAL: "provisional",
    charges_pb2.SETTLEMENT_KIND_RELEASED: "released",
    charges_pb2.SETTLEMENT_KIND_LOST: "lost",
    charges_pb2.SETTLEMENT_KIND_CORRECTION: "correction",
}


def _kind(entry: ledger_pb2.Entry) -> str:
    word = _KINDS.get(entry.kind, "")
    return f"{word}, estimated" if entry.usage.estimate_reason else word


COLUMNS: Final = (
    Column("Charge", lambda entry: entry.charge_id),
    Column("Posted", lambda entry: when_set(entry, "post_time")),
    Column("Kind", _kind),
    Column("Amount", lambda entry: when_set(entry, "amount")),
    Column("Debit", lambda entry: entry.debit_account),
    Column("Credit", lambda entry: entry.credit_account),
    Column("Key", lambda entry: entry.key),
    Column("Team", lambda entry: entry.team, wide=True),
    Column("Project", lambda entry: entry.project, wide=True),
    Column("User", lambda entry: entry.user, wide=True),
    Column("Customer", lambda entry: entry.customer, wide=True),
    Column("App", lambda entry: entry.app, wide=True),
    Column("Run", lambda entry: entry.run, wide=True),
    Column("Tags", lambda entry: list(entry.tags), wide=True),
    Column("Provider", lambda entry: entry.provider, wide=True),
    Column("Model", lambda entry: entry.model),
    Column("Requested model", lambda entry: entry.requested_model, wide=True),
    Column("Input", lambda entry: entry.usage.input_llm_tokens),
    Column("Cached", lambda entry: entry.usage.cached_input_llm_tokens, wide=True),
    Column("Output", lambda entry: entry.usage.output_llm_tokens),
    Column("Reserved", lambda entry: when_set(entry, "reserved"), wide=True),
    Column("Overrun", lambda entry: when_set(entry, "overrun"), wide=True),
    Column("Price version", lambda entry: entry.price_version, wide=True),
    Column("Priced as", lambda entry: entry.priced_as, wide=True),
    Column("Tier", lambda entry: entry.service_tier, wide=True),
    Column("Region", lambda entry: entry.region, wide=True),
    Column("Price currency", lambda entry: entry.price_currency, wide=True),
    Column("Exchange rate", lambda entry: entry.exchange_rate, wide=True),
    Column("Rerating", lambda entry: entry.rerating, wide=True),
    Column("Provider request", lambda entry: entry.provider_request_id, wide=True),
    Column("HTTP status", lambda entry: entry.http_status, wide=True),
    Column("Stream", lambda entry: entry.stream, wide=True),
    Column("Admitted", lambda entry: when_set(entry, "admit_time"), wide=True),
    Column("Finished", lambda entry: when_set(entry, "finish_time"), wide=True),
    Column("Budgets", lambda entry: list(entry.budgets), wide=True),
    Column("Estimate reason", lambda entry: entry.usage.estimate_reason, wide=True),
)

RESOLVED: Final = (
    Column("Budget", lambda window: window.budget),
    Column("Window from", lambda window: when_set(window, "start_time")),
    Column("Amount", lambda window: when_set(window, "amount")),
)

CHECKS: Final = (
    Column("Check", lambda check: check.name),
    Column("Looked at", lambda check: check.checked_count),
    Column("Differences", lambda check: check.difference_count, wide=True),
    Column("Holds", lambda check: not check.differences),
    Column("Says", lambda check: check.description),
)

SinceOption: Final = typer.Option(
    metavar="WHEN", help="2026-01-31, a date and time, 7d, 24h, today.", show_default=False
)
UntilOption: Final = typer.Option(
    metavar="WHEN", help="Before this; as --since.", show_default=False
)
ZoneOption: Final = typer.Option(
    metavar="ZONE", help="Of days and of times without one. UTC if left out.", show_default=False
)


def period(
    session: Session, since: str, until: str, time_zone: str
) -> tuple[Timestamp | None, Timestamp | None]:
    """The two ends of a period as typed; None where it is open."""
    zone = typed.zone(time_zone)
    ends: list[Timestamp | None] = []
    for text, option in ((since, "--since"), (until, "--until")):
        stamp = None
        if text:
            stamp = Timestamp()
            stamp.FromDatetime(typed.past_instant(text, option, session.now, zone))
        ends.append(stamp)
    since_time, until_time = ends
    if since_time and until_time and since_time.ToNanoseconds() >= until_time.ToNanoseconds():
        raise typed.UsageFault("--until", f"{typed.shown(until)} is not after --since {since}")
    return since_time, until_time


@verb(app, "list")
def list_entries(
    session: Session,
    since: Annotated[str, SinceOption] = "",
    until: Annotated[str, UntilOption] = "",
    time_zone: Annotated[str, ZoneOption] = "",
    key: Annotated[str, typer.Option(help="Only of this key.", show_default=False)] = "",
    charge: Annotated[
        str,
        typer.Option(
            metavar="ID", help="Only this charge and its adjustments.", show_default=False
        ),
    ] = "",
    rerating: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Only the corrections of this batch.", show_default=False
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = DEFAULT_LIMIT,
) -> None:
    """List entries, the newest first.

    bursar ledger list --since 24h --key k-3f9a1c07d2e4
    bursar ledger list --charge 17-42 -o json
    """
    since_time, until_time = period(session, since, until, time_zone)
    request = ledger_pb2.ListEntriesRequest(
        organization=session.organization,
        page_size=min(limit, 1000) if limit else 1000,
        since_time=since_time,
        until_time=until_time,
        key=typed.resource_name("keys", key, "--key"),
        charge_id=charge,
        rerating=typed.resource_name("reratings", rerating, "--rerating"),
    )
    call = session.client.ledger.ListEntries
    session.show_list(call, request, COLUMNS, limit=limit or None, empty="no entries")


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _watch(
    steps: Iterable[ledger_pb2.VerifyLedgerProgress], *, quiet: bool
) -> ledger_pb2.VerifyLedgerResponse:
    """The outcome; until then, on standard error, a bar for a terminal or else some lines."""
    answer = ledger_pb2.VerifyLedgerResponse()
    if _is_terminal():
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with RichProgress(
            *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
        ) as bar:
            task = bar.add_task("entries", total=None)
            for step in steps:
                answer = step.outcome
                if step.HasField("outcome"):
                    break
                bar.update(
                    task,
                    description=printable(step.step),
                    completed=step.read_count,
                    total=step.expected_count or None,
                )
        return answer
    told = 0
    for step in steps:
        answer = step.outcome
        tenths = PROGRESS_LINES * step.read_count // max(1, step.expected_count)
        if not quiet and tenths > told:
            told = tenths
            typer.echo(
                f"{step.step}: {step.read_count:,} of {step.expected_count:,} entries read",
                err=True,
            )
    return answer


@verb(app, "verify")
def verify_ledger(session: Session) -> None:
    """Recompute every durable invariant from the rows; exit code 1 if one does not hold.

    It may run at any time: nobody waits for it. How far it is goes to standard error.

    bursar ledger verify
    """
    steps = session.client.ledger.WatchVerification(
        ledger_pb2.VerifyLedgerRequest(organization=session.organization)
    )
    answer = _watch(steps, quiet=session.form is not Format.TABLE)
    if session.form is Format.TABLE:
        output.write_table(answer.checks, [each for each in CHECKS if not each.wide], session.now)
        for check in answer.checks:
            for difference in check.differences:
                typer.echo(printable(f"{check.name}: {difference}"))
            if (untold := check.difference_count - len(check.differences)) > 0:
                typer.echo(f"{check.name}: and {untold:,} more")
        typer.echo(
            f"{answer.entry_count:,} entries read:"
            f" {'the ledger is whole' if answer.ok else 'THE LEDGER DOES NOT HOLD'}"
        )
    elif session.form is Format.CSV:
        output.write_csv(answer.checks, CHECKS)
    else:
        output.write_data(output.as_object(answer), session.form)
    if not answer.ok:
        raise typer.Exit(REFUSED)


@verb(app, "resolve")
def resolve_session(
    session: Session,
    epoch: Annotated[
        int,
        typer.Argument(metavar="SESSION", min=1, help="Its number, as `sidecar show` tells it."),
    ],
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for the record.", show_default=False)
    ],
    spent: Annotated[bool, typer.Option("--spent", help="Count all it holds as spent.")] = False,
    free: Annotated[bool, typer.Option("--free", help="Take all it holds back, unspent.")] = False,
) -> None:
    """Decide about the money of a session that does not come back: its disk or journal is lost.

    With --spent nothing is ever overspent; evidence that comes later takes its part back. With
    --free, what was spent after all shows as overrun when it comes.

    bursar ledger resolve 17 --spent --reason "the disk of checkout-eu is gone"
    """
    if spent == free:
        raise typed.UsageFault("--spent", "say --spent or --free, one of them")
    decision = ledger_pb2.SESSION_DECISION_SPENT if spent else ledger_pb2.SESSION_DECISION_FREE
    answer = session.client.ledger.ResolveSession(
        ledger_pb2.ResolveSessionRequest(
            organization=session.organization,
            session_epoch=epoch,
            decision=decision,
            reason=reason,
            request_id=new_request_id(),
        )
    )
    if session.form is Format.TABLE:
        output.write_table(answer.windows, RESOLVED, session.now)
        typer.echo(f"session {epoch} is resolved as {'spent' if spent else 'free'}")
    elif session.form is Format.CSV:
        output.write_csv(answer.windows, RESOLVED)
    else:
        output.write_data(output.as_object(answer), session.form)
