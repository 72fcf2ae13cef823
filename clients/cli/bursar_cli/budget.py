"""`bursar budget`: what may be spent, by whom, on what, over which time."""

from typing import Annotated, Any, Final

import typer

from bursar.client import new_request_id
from bursar.money import MAX_NANOS, format_nanos
from bursar.v1 import budgets_pb2, money_pb2
from bursar.windows import format_window
from bursar_cli import output, typed
from bursar_cli.budget_raises import RAISES, in_currency_of, raise_for_a_while, show_raise
from bursar_cli.cells import Column, Share, when_set
from bursar_cli.output import Format
from bursar_cli.policy import PENDING
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session, changes, noun, verb

app = noun("budget", "Budgets: the most that may be spent, per window of time.")

_ENFORCEMENTS: Final = {
    budgets_pb2.ENFORCEMENT_HARD: "hard",
    budgets_pb2.ENFORCEMENT_SOFT: "soft",
    budgets_pb2.ENFORCEMENT_SHADOW: "shadow",
}

WINDOW_WORDS: Final = (
    "lifetime",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "quarterly",
    "yearly",
    "24h",
    "7d",
    "30d",
    "every:30d",
    "calendar:month@15",
)


def complete_window(incomplete: str) -> list[str]:
    """Windows that begin with what was typed."""
    return [word for word in WINDOW_WORDS if word.startswith(incomplete)]


WindowOption: Final = typer.Option(
    metavar="WINDOW",
    help="daily, monthly, 24h, 7d, 30d, every:30d, calendar:month@15, lifetime ...",
    autocompletion=complete_window,
)
TimeZoneOption: Final = typer.Option(
    metavar="ZONE", help="Where days begin: Europe/Berlin. UTC if left out.", show_default=False
)


def _standing(field: str) -> Any:
    """A column's value: a field of the standing, if anything was spent or lent yet."""

    def value(budget: budgets_pb2.Budget) -> Any:
        return getattr(budget.standing, field) if budget.HasField("standing") else None

    return value


def _in_force(budget: budgets_pb2.Budget) -> money_pb2.Money:
    """The limit with the temporary raises that run now."""
    return budget.effective_limit if budget.HasField("effective_limit") else budget.limit


def _effective(budget: budgets_pb2.Budget) -> money_pb2.Money | None:
    """The limit in force, where it is another one than the budget's own."""
    limit = _in_force(budget)
    return limit if limit.nanos != budget.limit.nanos else None


def _remaining(budget: budgets_pb2.Budget) -> money_pb2.Money:
    """What was not spent yet. What sidecars hold is in it: it is lent, not spent."""
    limit = _in_force(budget)
    if not budget.HasField("standing"):
        return limit
    left = limit.nanos - budget.standing.settled.nanos - budget.standing.in_doubt.nanos
    return money_pb2.Money(nanos=max(0, left), currency=budget.limit.currency)


def _used(budget: budgets_pb2.Budget) -> Share:
    standing = budget.standing
    return Share(standing.settled.nanos + standing.in_doubt.nanos, _in_force(budget).nanos)


def _window(budget: budgets_pb2.Budget) -> str:
    zone = budget.window.time_zone
    return format_window(budget.window) + (f" ({zone})" if zone not in {"", "UTC"} else "")


def _calls(budget: budgets_pb2.Budget) -> str:
    return ", ".join([*budget.selector.models, *budget.selector.providers]) or "all"


def _enforcement(budget: budgets_pb2.Budget) -> str:
    word = _ENFORCEMENTS.get(budget.enforcement, "hard")
    if budget.standing.frozen:
        word = f"{word}, frozen"
    return f"{word}, disabled" if budget.disabled else word


def _would_refuse(budget: budgets_pb2.Budget) -> int | None:
    """Of a shadow budget, how many calls it would have refused."""
    if budget.enforcement != budgets_pb2.ENFORCEMENT_SHADOW or not budget.HasField("standing"):
        return None
    return int(budget.standing.would_refuse_count)


def _arming(budget: budgets_pb2.Budget) -> str:
    """Whether all who spend know it."""
    if not budget.HasField("arming"):
        return ""
    if budget.arming.HasField("armed_time"):
        return f"armed since {budget.arming.armed_time.ToJsonString()}"
    since = budget.arming.begin_time.ToJsonString()
    return f"arming since {since}: {len(budget.arming.pending)} sidecar sessions may not know it"


def _window_end(budget: budgets_pb2.Budget) -> Any:
    return when_set(budget.standing, "window_end_time")


COLUMNS: Final = (
    Column("Name", lambda budget: budget.name),
    Column("Display name", lambda budget: budget.display_name, wide=True),
    Column("Scope", lambda budget: budget.scope),
    Column("Calls", _calls),
    Column("Window", _window),
    Column("Limit", lambda budget: budget.limit),
    Column("Effective limit", _effective),
    Column("Settled", _standing("settled")),
    Column("Lent", _standing("outstanding")),
    Column("In doubt", _standing("in_doubt"), wide=True),
    Column("Overrun", _standing("overrun"), wide=True),
    Column("Remaining", _remaining),
    Column("Used", _used),
    Column("Would refuse", _would_refuse),
    Column(
        "Would save",
        lambda budget: when_set(budget.standing, "would_refuse"),
        name="would_refuse_amount",
    ),
    Column(
        "Window start", lambda budget: when_set(budget.standing, "window_start_time"), wide=True
    ),
    Column("Window end", _window_end),
    Column("Kind", _enforcement),
    Column("Arming", _arming, wide=True),
    Column("Version", lambda budget: budget.version, wide=True),
    Column("Created", lambda budget: when_set(budget, "create_time"), wide=True),
    Column("Organization", lambda budget: budget.organization, wide=True),
)

# Of a BudgetHolder.
HOLDERS: Final = (
    Column("Sidecar", lambda holder: holder.sidecar),
    Column("Session", lambda holder: str(holder.session_epoch)),
    Column("Outstanding", lambda holder: when_set(holder, "outstanding")),
    Column("Reserved", lambda holder: when_set(holder, "reserved")),
    Column("In doubt", lambda holder: when_set(holder, "in_doubt")),
    Column("In doubt since", lambda holder: when_set(holder, "in_doubt_since_time")),
    Column("Last seen", lambda holder: when_set(holder, "last_seen_time")),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="b-5e81c2 or budgets/b-5e81c2.")]
DisplayName = Annotated[str | None, typer.Option(help="What people read.")]
Limit = Annotated[
    str, typer.Option(metavar="AMOUNT", help="12.50, or 12.50EUR.", show_default=False)
]


def _name(text: str) -> str:
    return typed.resource_name("budgets", text, "NAME")


def _organization_of(session: Session, scope: str) -> str:
    """Whose budget it is: a scope that is an organization says so itself."""
    if not scope.startswith("organizations/"):
        return session.organization
    if session.organization not in {"", scope} and scope != typed.PLATFORM:
        raise UsageFault("--scope", f"{scope} is not --org {session.organization}")
    return scope


@verb(app, "create")
def create_budget(
    session: Session,
    scope: Annotated[
        str,
        typer.Option(
            metavar="SCOPE",
            help="platform, org/acme, team/search, project/answers, user/ada or key/k-...",
        ),
    ],
    limit: Limit,
    window: Annotated[str, WindowOption],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Made by the server if left out.")
    ] = "",
    time_zone: Annotated[str, TimeZoneOption] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only calls of these models; may be repeated."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only calls to these providers; may be repeated."),
    ] = None,
    soft: Annotated[
        bool, typer.Option("--soft", help="Refuse nothing: write an alert when it is crossed.")
    ] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Refuse nothing: count what would have been refused.")
    ] = False,
    display_name: DisplayName = None,
) -> None:
    """Make a budget. It counts from now on; sidecars know within a second.

    bursar budget create --scope team/search --limit 10 --window monthly
    bursar budget create --scope org/acme --limit 500USD --window monthly --time-zone Europe/Berlin
    bursar budget create --scope platform --limit 1000 --window daily --provider openai --soft
    bursar budget create --scope team/search --limit 5 --window daily --shadow
    """
    if soft and shadow:
        raise UsageFault("--soft or --shadow", "give one of them at most")
    kind = budgets_pb2.ENFORCEMENT_SHADOW if shadow else budgets_pb2.ENFORCEMENT_HARD
    scope = typed.scope_name(scope)
    read_window = typed.window(window, time_zone)
    organization = _organization_of(session, scope)
    selector = budgets_pb2.Selector(models=typed.words(model), providers=typed.words(provider))
    budget = budgets_pb2.Budget(
        name=_name(name),
        organization=organization,
        display_name=display_name or "",
        scope=scope,
        selector=selector if selector.models or selector.providers else None,
        limit=session.amount(limit, "--limit", organization),
        window=read_window,
        enforcement=budgets_pb2.ENFORCEMENT_SOFT if soft else kind,
    )
    request = budgets_pb2.CreateBudgetRequest(budget=budget, request_id=new_request_id())
    session.show(session.client.budgets.CreateBudget(request), COLUMNS)


@verb(app, "list")
def list_budgets(
    session: Session,
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="Only those of this scope.", show_default=False)
    ] = "",
) -> None:
    """List budgets and how they stand.

    bursar budget list --scope team/search
    """
    wanted = typed.scope_name(scope) if scope else ""
    session.show_list(
        session.client.budgets.ListBudgets,
        budgets_pb2.ListBudgetsRequest(
            organization=_organization_of(session, wanted), scope=wanted
        ),
        COLUMNS,
        empty="no budgets",
    )


@verb(app, "show")
def show_budget(session: Session, name: Name) -> None:
    """Show one budget, how it stands, and which sidecars hold how much of it.

    bursar budget show b-5e81c2
    """
    budget = _get(session, name)
    session.show(budget, COLUMNS)
    if session.form is Format.TABLE:
        for rows, columns in (
            (budget.raises, RAISES),
            (budget.standing.holders, HOLDERS),
            (budget.arming.pending, PENDING),
        ):
            if rows:
                typer.echo("")
                output.write_table(rows, columns, session.now)


@verb(app, "update")
def update_budget(
    session: Session,
    name: Name,
    limit: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="The new limit, 12.50 or 12.50EUR.")
    ] = None,
    display_name: DisplayName = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disabled/--enabled", help="Disabled: it neither refuses nor counts."),
    ] = None,
) -> None:
    """Change a budget. Scope, models, providers and window never change: make a new one.

    bursar budget update b-5e81c2 --limit 5
    """
    money = None if limit is None else session.amount(limit, "--limit")
    given, mask = changes(limit=money, display_name=display_name, disabled=disabled)
    budget = budgets_pb2.Budget(name=_name(name), organization=session.organization, **given)
    request = budgets_pb2.UpdateBudgetRequest(budget=budget, update_mask=mask)
    session.show(session.client.budgets.UpdateBudget(request), COLUMNS)


@verb(app, "raise")
def raise_budget(
    session: Session,
    name: Name,
    by: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="By how much more than now.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="AMOUNT", help="To this limit.")] = None,
    lasting: Annotated[
        str, typer.Option("--for", metavar="STRETCH", help="For so long: 30m, 2h, 7d.")
    ] = "",
    until: Annotated[
        str, typer.Option(metavar="TIME", help="Until then: 2026-12-24T18:00Z, 7d.")
    ] = "",
    begin: Annotated[
        str, typer.Option("--from", metavar="TIME", help="From then on; now if left out.")
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; a temporary raise needs one.")] = "",
) -> None:
    """Raise the limit of a budget, for good or for a while; it works at once.

    bursar budget raise b-5e81c2 --by 5
    bursar budget raise b-5e81c2 --to 20
    bursar budget raise b-5e81c2 --by 5 --for 2h --reason "load test"
    bursar budget raise b-5e81c2 --by 5 --from 2099-12-24 --until 2099-12-27 --reason holidays
    """
    if lasting or until:
        if by is None or to is not None:
            raise UsageFault("--by", "says by how much a limit is raised for a while")
        asked = budgets_pb2.GetBudgetRequest(organization=session.organization, name=_name(name))
        raise_for_a_while(
            session, asked, by, begin=begin, until=until, lasting=lasting, reason=reason
        )
        return
    if begin or reason:
        raise UsageFault(
            "--for or --until", "say when a raise ends that has a --from or a --reason"
        )
    if (by is None) == (to is None):
        raise UsageFault("--by or --to", "give one of them")
    option, text = ("--by", by) if by is not None else ("--to", to or "")
    # Nonsense is told before anybody is asked.
    typed.amount(text or "", "USD", option)
    budget = _get(session, name)
    typed_amount = in_currency_of(budget, text or "", option)
    nanos = typed_amount.nanos + (budget.limit.nanos if option == "--by" else 0)
    if not budget.limit.nanos < nanos <= MAX_NANOS:
        now = format_nanos(budget.limit.nanos)
        raise UsageFault(
            option, f"{text} is no raise: the limit is {now}; `budget update --limit` lowers one"
        )
    given, mask = changes(limit=money_pb2.Money(nanos=nanos, currency=typed_amount.currency))
    changed = budgets_pb2.Budget(name=budget.name, organization=budget.organization, **given)
    request = budgets_pb2.UpdateBudgetRequest(budget=changed, update_mask=mask)
    session.show(session.client.budgets.UpdateBudget(request), COLUMNS)


@verb(app, "raises")
def list_raises(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of this budget; of all if left out.")
    ] = "",
) -> None:
    """List temporary raises, the newest first; every step of their lives with -o json.

    bursar budget raises b-5e81c2
    """
    session.show_list(
        session.client.budgets.ListTemporaryRaises,
        budgets_pb2.ListTemporaryRaisesRequest(
            organization=session.organization, budget=_name(name)
        ),
        RAISES,
        empty="no temporary raises",
    )


@verb(app, "cancel")
def cancel_raise(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="RAISE", help="r-3f9a1c or raises/r-3f9a1c.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the raise.")],
) -> None:
    """End a temporary raise early, or before it begins; the limit falls at once.

    bursar budget cancel r-3f9a1c --reason "the load test is over"
    """
    request = budgets_pb2.CancelTemporaryRaiseRequest(
        organization=session.organization,
        name=typed.resource_name("raises", name, "RAISE"),
        reason=reason,
    )
    show_raise(session, session.client.budgets.CancelTemporaryRaise(request))


@verb(app, "thaw")
def thaw_budget(
    session: Session,
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for the record.", show_default=False)],
) -> None:
    """Let a budget lend again that a lost tail of the database froze.

    bursar budget thaw b-5e81c2 --reason "all sidecars are back, verify is clean"
    """
    asked = budgets_pb2.ThawBudgetRequest(
        organization=session.organization, name=_name(name), reason=reason
    )
    session.show(session.client.budgets.ThawBudget(asked), COLUMNS)


@verb(app, "delete")
def delete_budget(session: Session, name: Name) -> None:
    """Remove a budget that never lent; one that did can only be disabled.

    bursar budget delete b-5e81c2
    """
    asked = budgets_pb2.DeleteBudgetRequest(organization=session.organization, name=_name(name))
    session.client.budgets.DeleteBudget(asked)
    session.deleted(asked.name)


def _get(session: Session, name: str) -> budgets_pb2.Budget:
    asked = budgets_pb2.GetBudgetRequest(organization=session.organization, name=_name(name))
    return session.client.budgets.GetBudget(asked)
