"""Budgets as they travel: what a request asks for, checked, and what an answer says."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from bursar.money import CURRENCIES, format_nanos
from bursar.v1 import budgets_pb2, money_pb2
from bursar.windows import WindowError, check_window
from bursar_server.budgets.raises import NewRaise, RaiseRecord, Step
from bursar_server.budgets.rules import (
    MAX_LIMIT_NANOS,
    Enforcement,
    ScopeKind,
    WindowSpec,
    WindowUnit,
    phase_at,
)
from bursar_server.budgets.store import BudgetRecord, Holder, Standing
from bursar_server.errors import (
    BursarError,
    FieldViolation,
    Status,
    failed_precondition,
    invalid,
)
from bursar_server.names import (
    format_name,
    new_slug,
    parse_name,
    validate_globs,
    validate_text,
)
from bursar_server.times import instant, timestamp

# Path of an Update -> what it would change. Those that can change are not here.
IMMUTABLE: Final = ("name", "organization", "scope", "selector", "window", "enforcement")
CHANGEABLE: Final = frozenset({"display_name", "limit", "disabled"})

_Unit = budgets_pb2.TimeUnit
_UNITS: Final[dict[int, WindowUnit]] = {
    _Unit.TIME_UNIT_SECOND: "second",
    _Unit.TIME_UNIT_MINUTE: "minute",
    _Unit.TIME_UNIT_HOUR: "hour",
    _Unit.TIME_UNIT_DAY: "day",
    _Unit.TIME_UNIT_WEEK: "week",
    _Unit.TIME_UNIT_MONTH: "month",
    _Unit.TIME_UNIT_QUARTER: "quarter",
    _Unit.TIME_UNIT_YEAR: "year",
}
_UNIT_VALUES: Final = {word: _Unit.Value(f"TIME_UNIT_{word.upper()}") for word in _UNITS.values()}
_ENFORCEMENTS: Final[dict[int, Enforcement]] = {
    budgets_pb2.ENFORCEMENT_UNSPECIFIED: "hard",
    budgets_pb2.ENFORCEMENT_HARD: "hard",
    budgets_pb2.ENFORCEMENT_SOFT: "soft",
    budgets_pb2.ENFORCEMENT_SHADOW: "shadow",
}
_ENFORCEMENT_VALUES: Final = {
    "hard": budgets_pb2.ENFORCEMENT_HARD,
    "soft": budgets_pb2.ENFORCEMENT_SOFT,
    "shadow": budgets_pb2.ENFORCEMENT_SHADOW,
}
_RAISE_STATES: Final = {
    "scheduled": budgets_pb2.RAISE_STATE_SCHEDULED,
    "running": budgets_pb2.RAISE_STATE_RUNNING,
    "over": budgets_pb2.RAISE_STATE_ENDED,
}
_STEP_KINDS: Final = {
    "made": budgets_pb2.RAISE_STEP_KIND_MADE,
    "began": budgets_pb2.RAISE_STEP_KIND_BEGAN,
    "ended": budgets_pb2.RAISE_STEP_KIND_ENDED,
    "cancelled": budgets_pb2.RAISE_STEP_KIND_CANCELLED,
}
# A reason is a sentence; whoever has more to say names where it stands.
MOST_CHARACTERS_OF_A_REASON: Final = 500
_SCOPES: Final[dict[str, ScopeKind]] = {
    "organizations": "organization",
    "teams": "team",
    "projects": "project",
    "users": "user",
    "keys": "key",
}
_SCOPE_EXPECTED: Final = (
    '"organizations/NAME", "teams/NAME", "projects/NAME", "users/NAME" or "keys/NAME"'
)


class ScopeName(msgspec.Struct, frozen=True):
    """Whose calls count, by name: ("team", "search")."""

    kind: ScopeKind
    slug: str


def read_scope(text: str, field: str) -> ScopeName:
    """The kind and the slug of a scope's name. Raises INVALID_ARGUMENT naming `field`."""
    collection = text.partition("/")[0]
    if collection not in _SCOPES:
        raise invalid(field, text, _SCOPE_EXPECTED)
    slug = parse_name(collection, text, field)
    return ScopeName("platform" if text == "organizations/platform" else _SCOPES[collection], slug)


def read_limit(money: money_pb2.Money, field: str, currency: str) -> int:
    """The nanos of a limit in the organization's currency; an empty currency means that one."""
    if money.currency and money.currency not in CURRENCIES:
        raise invalid(f"{field}.currency", money.currency, "an ISO 4217 code such as USD")
    if money.currency not in ("", currency):
        raise invalid(
            f"{field}.currency", money.currency, f"the organization's currency {currency}"
        )
    if not 0 <= money.nanos <= MAX_LIMIT_NANOS:
        raise invalid(
            f"{field}.nanos", money.nanos, f"0 to {format_nanos(MAX_LIMIT_NANOS)} {currency}"
        )
    return money.nanos


def read_selector(
    selector: budgets_pb2.Selector, field: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The globs over models and the providers of a selector."""
    models = validate_globs(selector.models, f"{field}.models")
    providers = validate_globs(selector.providers, f"{field}.providers")
    for place, provider in enumerate(selector.providers):
        if set("*?[]") & set(provider):
            raise invalid(f"{field}.providers[{place}]", provider, 'a name such as "openai"')
    return tuple(models), tuple(providers)


def read_window(window: budgets_pb2.Window, field: str) -> WindowSpec:
    """The window, if it is a possible one."""
    try:
        check_window(window)
    except WindowError as error:
        path = f"{field}.{error.field}"
        raise BursarError(
            Status.INVALID_ARGUMENT,
            "FIELD_INVALID",
            f"{path}: {error}",
            metadata={"field": path},
            field_violations=[FieldViolation(path, str(error))],
        ) from error
    zone = window.time_zone or "UTC"
    kind = window.WhichOneof("kind")
    if kind == "calendar":
        return WindowSpec(
            kind="calendar",
            unit=_UNITS[window.calendar.unit],
            anchor=window.calendar.anchor,
            time_zone=zone,
        )
    if kind == "every":
        start_at = None
        if window.every.HasField("start_time"):
            start_at = window.every.start_time.ToDatetime(tzinfo=UTC)
        return WindowSpec(
            kind="every",
            unit=_UNITS[window.every.unit],
            count=window.every.count,
            start_at=start_at,
            time_zone=zone,
        )
    if kind == "from_first_call":
        stretch = window.from_first_call
        return WindowSpec(
            kind="from_first_call",
            unit=_UNITS[stretch.unit],
            count=stretch.count,
            time_zone=zone,
        )
    return WindowSpec(kind="lifetime", time_zone=zone)


def read_enforcement(value: int, field: str) -> Enforcement:
    """What happens at the limit; hard if nothing is said."""
    if value not in _ENFORCEMENTS:
        raise invalid(field, value, "ENFORCEMENT_HARD, ENFORCEMENT_SOFT or ENFORCEMENT_SHADOW")
    return _ENFORCEMENTS[value]


def read_raise(
    asked: budgets_pb2.TemporaryRaise, field: str, currency: str, now: datetime
) -> NewRaise:
    """What a raise is to be, if it is possible; `now` is where it begins if nothing is said."""
    amount_nanos = read_limit(asked.amount, f"{field}.amount", currency)
    if not amount_nanos:
        raise invalid(f"{field}.amount.nanos", 0, "more than 0")
    start_at = now
    if asked.HasField("start_time"):
        start_at = instant(asked.start_time, f"{field}.start_time")
        if start_at < now:
            raise invalid(
                f"{field}.start_time", start_at.isoformat(), f"{now.isoformat()} or later, or unset"
            )
    if not asked.HasField("end_time"):
        raise invalid(f"{field}.end_time", "", "when it ends")
    end_at = instant(asked.end_time, f"{field}.end_time")
    if end_at <= start_at:
        raise invalid(
            f"{field}.end_time", end_at.isoformat(), f"an instant after {start_at.isoformat()}"
        )
    return NewRaise(
        slug=new_slug("r"),
        amount_nanos=amount_nanos,
        start_at=start_at,
        end_at=end_at,
        reason=read_reason(asked.reason, f"{field}.reason"),
    )


def read_reason(text: str, field: str) -> str:
    """Why something is done; something has to be said."""
    if not text.strip():
        raise invalid(field, text, "why, for who reads it later")
    return validate_text(text, field, MOST_CHARACTERS_OF_A_REASON)


def refuse_immutable(paths: list[str]) -> None:
    """Raise FAILED_PRECONDITION if an Update would change what a budget can't change."""
    for path in paths:
        root = path.partition(".")[0]
        if root in IMMUTABLE:
            raise failed_precondition(
                "BUDGET_FIELD_IMMUTABLE",
                f"update_mask: a budget's {root} never changes: make a new budget and disable"
                " this one",
                {"field": root},
            )


def window_message(spec: WindowSpec) -> budgets_pb2.Window:
    """A window as it travels."""
    window = budgets_pb2.Window(time_zone=spec.time_zone)
    unit = _UNIT_VALUES[spec.unit] if spec.unit else _Unit.TIME_UNIT_UNSPECIFIED
    if spec.kind == "calendar":
        window.calendar.unit = unit
        window.calendar.anchor = spec.anchor
    elif spec.kind == "every":
        window.every.unit = unit
        window.every.count = spec.count or 0
        if spec.start_at is not None:
            window.every.start_time.FromDatetime(spec.start_at)
    elif spec.kind == "from_first_call":
        window.from_first_call.unit = unit
        window.from_first_call.count = spec.count or 0
    else:
        window.lifetime.SetInParent()
    return window


def budget_message(
    record: BudgetRecord,
    organization: str,
    standing: Standing | None,
    now: datetime,
    raises: Sequence[RaiseRecord] = (),
    holders: Sequence[Holder] = (),
    reserved: Mapping[int, int | None] | None = None,
) -> budgets_pb2.Budget:
    """A budget as it travels; `organization` is the name of its organization, `raises` are its
    temporary raises that are not over."""
    return budgets_pb2.Budget(
        name=format_name("budgets", record.slug),
        organization=organization,
        display_name=record.display_name,
        scope=record.scope_name,
        selector=budgets_pb2.Selector(models=record.models, providers=record.providers),
        limit=money_pb2.Money(nanos=record.limit_nanos, currency=record.currency),
        window=window_message(record.window),
        enforcement=_ENFORCEMENT_VALUES[record.enforcement],
        disabled=record.disabled,
        version=record.version,
        create_time=timestamp(record.created_at),
        update_time=timestamp(record.updated_at),
        standing=None
        if standing is None
        else _standing_message(record, standing, holders, reserved or {}),
        effective_limit=money_pb2.Money(nanos=record.limit_at(now), currency=record.currency),
        raises=[
            raise_message(each, organization, now)
            for each in sorted(raises, key=lambda each: (each.start_at, each.id))
            if phase_at(each.terms, now) != "over"
        ],
    )


def raise_message(
    record: RaiseRecord, organization: str, now: datetime, steps: Sequence[Step] = ()
) -> budgets_pb2.TemporaryRaise:
    """A temporary raise as it travels."""

    def money(nanos: int) -> money_pb2.Money:
        return money_pb2.Money(nanos=nanos, currency=record.currency)

    cancelled_at = record.cancelled_at
    state = _RAISE_STATES[phase_at(record.terms, now)]
    return budgets_pb2.TemporaryRaise(
        name=format_name("raises", record.slug),
        organization=organization,
        budget=format_name("budgets", record.budget_slug),
        amount=money(record.amount_nanos),
        start_time=timestamp(record.start_at),
        end_time=timestamp(record.end_at),
        reason=record.reason,
        state=state if cancelled_at is None else budgets_pb2.RAISE_STATE_CANCELLED,
        actor=record.actor,
        create_time=timestamp(record.created_at),
        cancel_time=None if cancelled_at is None else timestamp(cancelled_at),
        steps=[
            budgets_pb2.RaiseStep(
                kind=_STEP_KINDS[step.kind],
                effective_time=timestamp(step.effective_at),
                create_time=timestamp(step.created_at),
                actor=step.actor,
                reason=step.reason,
                limit=money(step.limit_nanos),
            )
            for step in steps
        ],
    )


def _standing_message(
    record: BudgetRecord,
    standing: Standing,
    holders: Sequence[Holder],
    reserved: Mapping[int, int | None],
) -> budgets_pb2.BudgetStanding:
    def money(nanos: int) -> money_pb2.Money:
        return money_pb2.Money(nanos=nanos, currency=record.currency)

    committed_nanos = standing.settled_nanos + standing.outstanding_nanos + standing.in_doubt_nanos
    return budgets_pb2.BudgetStanding(
        window_start_time=timestamp(standing.start_at),
        window_end_time=None if standing.end_at is None else timestamp(standing.end_at),
        limit=money(standing.limit_nanos),
        settled=money(standing.settled_nanos),
        outstanding=money(standing.outstanding_nanos),
        in_doubt=money(standing.in_doubt_nanos),
        overrun=money(standing.overrun_nanos),
        available=money(max(0, standing.limit_nanos - committed_nanos)),
        would_refuse_count=standing.would_refuse_count,
        frozen=standing.frozen,
        would_refuse=money(standing.would_refuse_nanos) if record.shadow else None,
        holders=[
            budgets_pb2.BudgetHolder(
                sidecar=format_name("sidecars", holder.sidecar_slug),
                organization=format_name("organizations", holder.organization_slug),
                session_epoch=holder.session_epoch,
                outstanding=money(holder.outstanding_nanos),
                in_doubt=money(holder.in_doubt_nanos),
                last_seen_time=timestamp(holder.last_seen_at),
                reserved=None
                if (said := reserved.get(holder.session_epoch)) is None
                else money(said),
                in_doubt_since_time=timestamp(holder.in_doubt_since)
                if holder.in_doubt_since
                else None,
            )
            for holder in holders
        ],
    )
