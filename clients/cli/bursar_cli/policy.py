"""`bursar policy`: how far a change has come."""

from typing import Annotated, Final

import typer

from bursar.v1 import policy_pb2
from bursar_cli import output
from bursar_cli.cells import Column, when_set
from bursar_cli.exit_codes import REFUSED
from bursar_cli.output import Format
from bursar_cli.verbs import Session, noun, verb
from bursar_cli.waiting import ask_until

app = noun("policy", "How far a change has come: which sidecars act on it.")

# A connected sidecar knows of a change within a second.
SOON_S: Final = 1.0
# Twice what a sidecar that is cut off may go on for; one that is connected and says nothing (an
# older build) would be waited for without end.
LONGEST_WAIT_S: Final = 60.0
_POLL_S: Final = 0.1

COLUMNS: Final = (
    Column("Name", lambda each: each.name),
    Column("Policy version", lambda each: each.policy_version),
    Column("Changed", lambda each: when_set(each, "change_time")),
    Column("Effective everywhere", lambda each: when_set(each, "effective_everywhere_time")),
    Column("Sessions", lambda each: each.session_count),
    Column("Applied", lambda each: each.applied_count),
    Column("Lapsed", lambda each: each.lapsed_count),
    Column("Pending", lambda each: len(each.pending)),
    Column("Organization", lambda each: each.organization, wide=True),
)

PENDING: Final = (
    Column("Pending", lambda each: each.sidecar),
    Column("Session", lambda each: str(each.session_epoch)),
    Column("State", lambda each: "connected" if each.connected else "cut off"),
    Column("Policy version", lambda each: each.policy_version),
    Column("Last seen", lambda each: when_set(each, "last_seen_time")),
    Column("Lapses", lambda each: when_set(each, "lapse_time")),
    Column("Organization", lambda each: each.organization, wide=True),
)

WaitOption = Annotated[
    bool,
    typer.Option("--wait", help="Wait until no sidecar can act on what was before; at most 60 s."),
]


@verb(app, "show")
def show_policy(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="What changed: keys/..., teams/..., projects/..., users/..., budgets/..., "
            "sidecars/..., or organizations/... for anything in it.",
        ),
    ],
    wait: WaitOption = False,
) -> None:
    """Show how far the latest change of something has come.

    bursar policy show keys/k-3f9a1c07d2e4 --wait
    """
    found = propagation(session, session.organization, name, wait_s=LONGEST_WAIT_S if wait else 0)
    session.show(found, COLUMNS)
    show_pending(session, found)
    insist(session, found, wait=wait)


def propagation(
    session: Session, organization: str, name: str, *, wait_s: float
) -> policy_pb2.Propagation:
    """How far the latest change of `name` has come once it is effective, or after `wait_s`."""
    asked = policy_pb2.GetPropagationRequest(organization=organization, name=name)
    return ask_until(
        lambda: session.client.policy.GetPropagation(asked),
        is_effective,
        wait_s=wait_s,
        every_s=_POLL_S,
    )


def is_effective(found: policy_pb2.Propagation) -> bool:
    """Whether no sidecar can act on what was before."""
    return found.HasField("effective_everywhere_time")


def summary(session: Session, found: policy_pb2.Propagation) -> dict[str, str]:
    """A fact to show beside what changed."""
    since = ""
    if is_effective(found):
        since = found.effective_everywhere_time.ToJsonString()
    if session.form is not Format.TABLE:
        return {"effective_everywhere_time": since}
    count = f"{len(found.pending)} of {found.session_count}"
    return {"effective everywhere": since or f"not yet: {count} sidecar sessions are pending"}


def show_pending(session: Session, found: policy_pb2.Propagation) -> None:
    """For people: who may still act on what was before."""
    if session.form is Format.TABLE and found.pending:
        typer.echo("")
        output.write_table(list(found.pending), PENDING, session.now)


def insist(session: Session, found: policy_pb2.Propagation, *, wait: bool) -> None:
    """Who waited in vain is told so by the exit code. Raises typer.Exit."""
    if wait and not is_effective(found):
        typer.echo(
            f"{found.name}: not effective everywhere after {LONGEST_WAIT_S:.0f} s: "
            f"{len(found.pending)} of {found.session_count} sessions are pending",
            err=True,
        )
        raise typer.Exit(REFUSED)
