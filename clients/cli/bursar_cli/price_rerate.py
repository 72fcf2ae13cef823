"""`bursar price rerate`: computing again what calls cost. Verbs of `price`."""

from typing import Annotated, Final

import typer

from bursar.client import new_request_id
from bursar.v1 import ratings_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, as_text, printable, when_set
from bursar_cli.output import Format
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, verb

# A period of ten million calls is read in some minutes.
TIMEOUT_S: Final = 3_600.0

_STATES: Final = {
    ratings_pb2.RERATING_STATE_PLANNED: "planned",
    ratings_pb2.RERATING_STATE_APPLYING: "being posted",
    ratings_pb2.RERATING_STATE_APPLIED: "posted",
}
# Why calls are left as they are, for people.
_SKIPS: Final = {
    "provisional": "their outcome is unknown yet",
    "estimated": "what they used is an estimate",
    "not_charged": "the provider refused them",
    "not_recorded": "their sidecar did not say by what they were priced",
    "unpriced": "there is no price for what they used",
    "currency": "their price is in another currency now",
}

RERATINGS: Final = (
    Column("Name", lambda each: each.name),
    Column("State", lambda each: _STATES.get(each.state, "")),
    Column("Since", lambda each: when_set(each, "since_time")),
    Column("Until", lambda each: when_set(each, "until_time")),
    Column("Model", lambda each: each.model),
    Column("Calls", lambda each: each.call_count),
    Column("Corrected", lambda each: each.corrected_count),
    Column("Cost before", lambda each: when_set(each, "before")),
    Column("Difference", lambda each: when_set(each, "difference")),
    Column("Posted", lambda each: each.posted_count),
    Column("Reason", lambda each: each.reason),
    Column("Planned by", lambda each: each.actor, wide=True),
    Column("Planned", lambda each: when_set(each, "create_time"), wide=True),
    Column("Accepted by", lambda each: each.accepted_by, wide=True),
    Column("Accepted", lambda each: when_set(each, "accept_time"), wide=True),
    Column("Applied", lambda each: when_set(each, "apply_time"), wide=True),
    Column("Etag", lambda each: each.etag, wide=True),
)


def _parts(title: str) -> tuple[Column, ...]:
    return (
        Column(title, lambda part: part.name or "all others"),
        Column("Calls", lambda part: part.call_count),
        Column("Cost before", lambda part: part.before),
        Column("Difference", lambda part: part.difference),
    )


VERSIONS: Final = (
    Column("Priced by", lambda pair: pair.from_version),
    Column("Right is", lambda pair: pair.to_version),
    Column("Calls", lambda pair: pair.call_count),
)


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs to the noun `price`."""
    verb(app, "rerate")(rerate)
    verb(app, "reratings")(list_reratings)


def rerate(
    session: Session,
    begin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHEN",
            help="Calls admitted from then on: 2026-01-31, 7d, 24h, a date and time.",
            show_default=False,
        ),
    ] = "",
    until: Annotated[
        str, typer.Option(metavar="WHEN", help="Calls admitted before; else now.")
    ] = "",
    model: Annotated[
        str, typer.Option(metavar="GLOB", help="gpt-4o* or openai/*.", show_default=False)
    ] = "",
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for the record.", show_default=False)
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change; post nothing.")
    ] = False,
    plan: Annotated[
        str,
        typer.Option(metavar="RERATING", help="Post what this dry run told.", show_default=False),
    ] = "",
    etag: Annotated[
        str,
        typer.Option(metavar="ETAG", help="Of the dry run; else as it is now.", show_default=False),
    ] = "",
    time_zone: Annotated[
        str, typer.Option(help="Of dates, e.g. Europe/Berlin; UTC.", show_default=False)
    ] = "",
) -> None:
    """Compute what calls of a period cost by the prices known now, and post the difference.

    A dry run comes first and is put on record; the real run names it, and posts what it told, or
    refuses if that would be something else by now. No old entry is changed.

    bursar price rerate --from 2026-11-01 --model 'gpt-4o*' --reason "wrong list" --dry-run
    bursar price rerate --plan reratings/4711
    """
    if dry_run == bool(plan):
        raise UsageFault("--dry-run or --plan", "a dry run first, then its name with --plan")
    if plan:
        given = {"--from": begin, "--until": until, "--model": model}
        for option, text in given.items():
            if text:
                raise UsageFault(option, "the plan has its period and models already")
        _apply(session, plan, etag)
        return
    if etag:
        raise UsageFault("--etag", "only with --plan")
    if not begin:
        raise UsageFault("--from", "say from when on calls are computed again")
    if not reason.strip():
        raise UsageFault("--reason", "say why; it is kept with the corrections")
    zone = typed.zone(time_zone)
    request = ratings_pb2.PlanReratingRequest(
        organization=session.organization, model=model, reason=reason, request_id=new_request_id()
    )
    request.since_time.FromDatetime(typed.past_instant(begin, "--from", session.now, zone))
    if until:
        request.until_time.FromDatetime(typed.past_instant(until, "--until", session.now, zone))
    planned = session.client.ratings.PlanRerating(request, timeout=TIMEOUT_S)
    _show(session, planned)
    if session.form is Format.TABLE and planned.corrected_count:
        typer.echo(f"\nNothing is posted. To post it: bursar price rerate --plan {planned.name}")


def _apply(session: Session, plan: str, etag: str) -> None:
    name = typed.resource_name("reratings", plan, "--plan")
    organization = session.organization
    if not etag:
        asked = ratings_pb2.GetReratingRequest(organization=organization, name=name)
        etag = session.client.ratings.GetRerating(asked).etag
    request = ratings_pb2.ApplyReratingRequest(organization=organization, name=name, etag=etag)
    answer = session.client.ratings.ApplyRerating(request, timeout=TIMEOUT_S)
    _show(session, answer)
    if session.form is Format.TABLE and answer.state == ratings_pb2.RERATING_STATE_APPLYING:
        typer.echo(
            f"\n{printable(answer.name)} is accepted and being posted; the same command"
            " tells how far it is."
        )


def _show(session: Session, answer: ratings_pb2.Rerating) -> None:
    session.show(answer, RERATINGS)
    if session.form is not Format.TABLE:
        return
    for parts, columns in (
        (answer.models, _parts("Model")),
        (answer.budgets, _parts("Budget")),
        (answer.versions, VERSIONS),
    ):
        if parts:
            typer.echo("")
            output.write_table(parts, columns, session.now)
    for skip in answer.skips:
        why = _SKIPS.get(skip.reason, skip.reason)
        stay = "call stays as it is" if skip.call_count == 1 else "calls stay as they are"
        typer.echo(f"{skip.call_count} {stay}: {printable(why)}")
    difference = as_text(answer.difference, session.now)
    typer.echo(
        f"{answer.corrected_count} of {answer.call_count} calls cost something else:"
        f" {difference} in all"
    )


def list_reratings(session: Session) -> None:
    """List re-ratings, planned and posted, the newest first.

    bursar price reratings -o json
    """
    request = ratings_pb2.ListReratingsRequest(organization=session.organization)
    call = session.client.ratings.ListReratings
    session.show_list(call, request, RERATINGS, empty="no re-ratings")
