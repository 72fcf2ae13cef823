"""`bursar sidecar`: the programs that hold allowances; and, without a verb, one of them."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from typer.core import TyperGroup

from bursar.client import new_request_id
from bursar.v1 import money_pb2, sidecars_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, when_set
from bursar_cli.exit_codes import REFUSED
from bursar_cli.output import Format
from bursar_cli.verbs import OutputOption, Session, noun, verb
from bursar_cli.waiting import ask_until

POLL_S: Final = 0.5
"""How often `drain --wait` looks."""
MOST_WAIT_S: Final = 3_600


class SidecarGroup(TyperGroup):
    """Verbs about sidecars; anything else on the command line runs one."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """`bursar sidecar --config F` is `bursar sidecar run --config F`."""
        asks_for_help = bool(args) and args[0] in {"--help", "-h"}
        completing = bool(extra.get("resilient_parsing"))
        runs = not args or (args[0].startswith("-") and not asks_for_help)
        if runs and not completing:
            args = ["run", *args]
        return super().make_context(info_name, args, parent=parent, **extra)


app = noun(
    "sidecar",
    "Sidecars: enrol them, see what they hold. Without a verb: run one (as `sidecar run`).",
    cls=SidecarGroup,
)


def _held(sidecar: sidecars_pb2.Sidecar) -> list[sidecars_pb2.HeldAllowance]:
    return [held for session in sidecar.sessions for held in session.allowances]


def _exposure(sidecar: sidecars_pb2.Sidecar) -> money_pb2.Money | None:
    """All that is lent to it; None if it holds nothing.

    A call draws on several budgets at once, so this is more than its calls can cost, never less.
    """
    held = _held(sidecar)
    if not held:
        return None
    return money_pb2.Money(
        nanos=sum(each.outstanding.nanos for each in held), currency=held[0].outstanding.currency
    )


def _last_seen(sidecar: sidecars_pb2.Sidecar) -> Timestamp | None:
    """When a frame of any of its sessions was last applied."""
    stamps = [each.last_seen_time for each in sidecar.sessions if each.HasField("last_seen_time")]
    if sidecar.HasField("last_seen_time"):
        stamps.append(sidecar.last_seen_time)
    return max(stamps, key=Timestamp.ToNanoseconds, default=None)


def _state(sidecar: sidecars_pb2.Sidecar) -> str:
    if sidecar.disabled:
        return "disabled"
    if sidecar.draining:
        return "draining" if sidecar.sessions else "drained"
    return "connected" if sidecar.connected else "not connected"


COLUMNS: Final = (
    Column("Name", lambda sidecar: sidecar.name),
    Column("State", _state),
    Column("Version", lambda sidecar: sidecar.build),
    Column("Last seen", _last_seen),
    Column("Sessions", lambda sidecar: len(sidecar.sessions)),
    Column("Allowances", lambda sidecar: len(_held(sidecar))),
    Column("Exposure", _exposure),
    Column(
        "Secret",
        lambda sidecar: f"{sidecar.secret_prefix}..." if sidecar.secret_prefix else "",
        wide=True,
    ),
    Column("Created", lambda sidecar: when_set(sidecar, "create_time")),
    Column("Organization", lambda sidecar: sidecar.organization, wide=True),
)

_STATES: Final = {
    sidecars_pb2.SESSION_STATE_OPEN: "open",
    sidecars_pb2.SESSION_STATE_FENCED: "fenced",
    sidecars_pb2.SESSION_STATE_CLOSED: "closed",
}

# Of one allowance: (session, allowance).
ALLOWANCES: Final = (
    Column("Session", lambda pair: str(pair[0].session_epoch)),
    Column("State", lambda pair: _STATES.get(pair[0].state, "")),
    Column("Budget", lambda pair: pair[1].budget),
    Column("Window start", lambda pair: when_set(pair[1], "window_start_time")),
    Column("Granted", lambda pair: when_set(pair[1], "granted")),
    Column("Returned", lambda pair: when_set(pair[1], "returned")),
    Column("Settled", lambda pair: when_set(pair[1], "settled")),
    Column("Outstanding", lambda pair: when_set(pair[1], "outstanding")),
    Column("Reserved", lambda pair: when_set(pair[1], "reserved")),
    Column("In doubt", lambda pair: when_set(pair[1], "in_doubt")),
    Column("In doubt since", lambda pair: when_set(pair[1], "in_doubt_since_time")),
    Column("Last seen", lambda pair: when_set(pair[0], "last_seen_time")),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="checkout-eu or sidecars/checkout-eu.")]


def _name(text: str) -> str:
    return typed.resource_name("sidecars", text, "NAME")


@app.command(
    "run",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def run(context: typer.Context) -> None:
    """Run a sidecar; `bursar sidecar run --help` tells its settings.

    bursar sidecar run --config sidecar.toml
    """
    # Here and not above: the verbs that only ask the control plane need nothing of `bursar up`.
    from bursar_cli.up.command import run_sidecar  # noqa: PLC0415

    run_sidecar(context.args)


@app.command("journal")
def journal(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A journal's directory, or one of its files.")
    ],
    form: OutputOption = Format.TABLE,
    sessions: Annotated[
        bool, typer.Option("--sessions", help="Only what the records prove of each session.")
    ] = False,
    done: Annotated[
        bool, typer.Option("--done", help="Also the files that owe nothing, kept for a day.")
    ] = False,
) -> None:
    """Read a sidecar's journal, on this machine, while it runs or after.

    bursar sidecar journal /var/lib/bursar/journal --sessions
    """
    # Here and not above: the only verb that needs the sidecar's own program.
    from bursar_cli.sidecar_journal import show_journal  # noqa: PLC0415

    show_journal(path, form, sessions_only=sessions, done=done)


@verb(app, "list")
def list_sidecars(session: Session) -> None:
    """List sidecars: what they hold and could still spend, their version, when they were seen.

    bursar sidecar list
    """
    session.show_list(
        session.client.sidecars.ListSidecars,
        sidecars_pb2.ListSidecarsRequest(organization=session.organization),
        COLUMNS,
    )


@verb(app, "show")
def show_sidecar(session: Session, name: Name) -> None:
    """Show one sidecar and each allowance it holds.

    bursar sidecar show checkout-eu
    """
    asked = sidecars_pb2.GetSidecarRequest(organization=session.organization, name=_name(name))
    sidecar = session.client.sidecars.GetSidecar(asked)
    session.show(sidecar, COLUMNS)
    if session.form is Format.TABLE and _held(sidecar):
        typer.echo("")
        pairs = [(each, held) for each in sidecar.sessions for held in each.allowances]
        output.write_table(pairs, ALLOWANCES, session.now)


@verb(app, "create")
def create_sidecar(session: Session, name: Name) -> None:
    """Enrol a sidecar and print its credential, once: it goes into BURSAR_SIDECAR_KEY.

    export BURSAR_SIDECAR_KEY=$(bursar sidecar create checkout-eu)
    """
    request = sidecars_pb2.CreateSidecarRequest(
        sidecar=sidecars_pb2.Sidecar(name=_name(name), organization=session.organization),
        request_id=new_request_id(),
    )
    made = session.client.sidecars.CreateSidecar(request)
    _show_secret(session, made.sidecar, made.secret)


@verb(app, "rotate")
def rotate_sidecar(session: Session, name: Name) -> None:
    """Give a sidecar a new credential, printed once; the old one is refused from now on.

    bursar sidecar rotate checkout-eu
    """
    asked = sidecars_pb2.RotateSidecarRequest(organization=session.organization, name=_name(name))
    made = session.client.sidecars.RotateSidecar(asked)
    _show_secret(session, made.sidecar, made.secret)


def _show_secret(session: Session, sidecar: sidecars_pb2.Sidecar, secret: str) -> None:
    session.note(
        f"{sidecar.name}: give this to the sidecar as BURSAR_SIDECAR_KEY; it is shown this once."
    )
    if session.form is Format.TABLE:
        # Nothing else on standard output: a shell can take it as it is.
        typer.echo(secret)
    else:
        session.show(sidecar, COLUMNS, more={"key": secret})


@verb(app, "disable")
def disable_sidecar(session: Session, name: Name) -> None:
    """Refuse a sidecar; what it holds stays lent until evidence frees it.

    bursar sidecar disable checkout-eu
    """
    _set_disabled(session, name, disabled=True)


@verb(app, "enable")
def enable_sidecar(session: Session, name: Name) -> None:
    """Accept a disabled sidecar again.

    bursar sidecar enable checkout-eu
    """
    _set_disabled(session, name, disabled=False)


@verb(app, "drain")
def drain_sidecar(
    session: Session,
    name: Name,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            min=0,
            max=MOST_WAIT_S,
            help="Wait until it holds nothing any more; exit code 1 if it still does then.",
        ),
    ] = None,
) -> None:
    """Empty a sidecar before it is taken away: no new calls, all money back.

    Its apps are answered 503 from now on, and calls in flight end as they would. It stays drained,
    through restarts too, until `bursar sidecar resume`.

    bursar sidecar drain checkout-eu --wait 60
    """
    asked = sidecars_pb2.GetSidecarRequest(organization=session.organization, name=_name(name))
    sidecar = ask_until(
        lambda: session.client.sidecars.GetSidecar(asked),
        lambda found: not found.sessions,
        wait_s=wait or 0,
        every_s=POLL_S,
        first=_set_draining(session, name, draining=True),
    )
    session.show(sidecar, COLUMNS)
    if wait is not None and sidecar.sessions:
        session.note(f"{sidecar.name} is not drained yet: it goes on by itself.")
        raise typer.Exit(REFUSED)


@verb(app, "resume")
def resume_sidecar(session: Session, name: Name) -> None:
    """Let a drained sidecar admit calls again.

    bursar sidecar resume checkout-eu
    """
    session.show(_set_draining(session, name, draining=False), COLUMNS)


def _set_draining(session: Session, name: str, *, draining: bool) -> sidecars_pb2.Sidecar:
    asked = sidecars_pb2.SetSidecarDrainingRequest(
        organization=session.organization, name=_name(name), draining=draining
    )
    return session.client.sidecars.SetSidecarDraining(asked)


def _set_disabled(session: Session, name: str, *, disabled: bool) -> None:
    asked = sidecars_pb2.SetSidecarDisabledRequest(
        organization=session.organization, name=_name(name), disabled=disabled
    )
    session.show(session.client.sidecars.SetSidecarDisabled(asked), COLUMNS)
