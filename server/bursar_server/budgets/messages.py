"""Budgets as they travel: what a request asks for, checked, and what an answer says."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Final

import msgspec

from bursar.money import CURRENCIES, format_nanos
from bursar.v1 import budgets_pb2, money_pb2
from bursar.windows import WindowError, check_window
from bursar_server.budgets.rules import (
    MAX_LIMIT_NANOS,
    Enforcement,
    ScopeKind,
    WindowSpec,
    WindowUnit,
)
from bursar_server.budgets.store import BudgetRecord, Holder, Standing
from bursar_server.errors import (
    BursarError,
    FieldViolation,
    Status,
    failed_precondition,
    invalid,
)
from bursar_server.names import format_name, parse_name, validate_globs
from bursar_server.times import timestamp

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
    holders: Sequence[Holder] = (),
    reserved: Mapping[int, int | None] | None = None,
) -> budgets_pb2.Budget:
    """A budget as it travels; `organization` is the name of its organization."""
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
