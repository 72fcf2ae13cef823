"""Temporary raises in the command line: made, and shown. The verbs are with the budget's others."""

from datetime import UTC
from typing import Final

import typer

from bursar.client import new_request_id
from bursar.v1 import budgets_pb2, money_pb2
from bursar_cli import output, typed
from bursar_cli.cells import Column, when_set
from bursar_cli.output import Format
from bursar_cli.typed import UsageFault
from bursar_cli.verbs import Session

_STATES: Final = {
    budgets_pb2.RAISE_STATE_SCHEDULED: "scheduled",
    budgets_pb2.RAISE_STATE_RUNNING: "running",
    budgets_pb2.RAISE_STATE_ENDED: "ended",
    budgets_pb2.RAISE_STATE_CANCELLED: "cancelled",
}

# Of a TemporaryRaise.
RAISES: Final = (
    Column("Raise", lambda raised: raised.name),
    Column("Budget", lambda raised: raised.budget),
    Column("By", lambda raised: raised.amount),
    Column("State", lambda raised: _STATES.get(raised.state, "")),
    Column("Start", lambda raised: when_set(raised, "start_time")),
    Column("End", lambda raised: when_set(raised, "end_time")),
    Column("Cancelled", lambda raised: when_set(raised, "cancel_time")),
    Column("Reason", lambda raised: raised.reason),
    Column("Actor", lambda raised: raised.actor),
    Column("Created", lambda raised: when_set(raised, "create_time"), wide=True),
)

_STEP_KINDS: Final = {
    budgets_pb2.RAISE_STEP_KIND_MADE: "made",
    budgets_pb2.RAISE_STEP_KIND_BEGAN: "began",
    budgets_pb2.RAISE_STEP_KIND_ENDED: "ended",
    budgets_pb2.RAISE_STEP_KIND_CANCELLED: "cancelled",
}

# Of a RaiseStep.
STEPS: Final = (
    Column("Step", lambda step: _STEP_KINDS.get(step.kind, "")),
    Column("When", lambda step: when_set(step, "effective_time")),
    Column("Limit from then on", lambda step: when_set(step, "limit")),
    Column("Actor", lambda step: step.actor),
    Column("Reason", lambda step: step.reason),
)


def raise_for_a_while(
    session: Session,
    asked: budgets_pb2.GetBudgetRequest,
    by: str,
    *,
    begin: str,
    until: str,
    lasting: str,
    reason: str,
) -> None:
    """Make a raise from what was typed, and show it."""
    if until and lasting:
        raise UsageFault("--for or --until", "give one of them")
    if not reason.strip():
        raise UsageFault("--reason", "say why; it is kept with the raise")
    if typed.amount(by, "USD", "--by").nanos <= 0:
        raise UsageFault("--by", f"{typed.shown(by)} is no raise")
    start = typed.coming_instant(begin, "--from", session.now, UTC) if begin else session.now
    if until:
        end = typed.coming_instant(until, "--until", session.now, UTC)
    else:
        end = typed.later(start, lasting, "--for")
    if end <= start:
        raise UsageFault("--until", f"{typed.shown(until)} is not after --from")
    budget = session.client.budgets.GetBudget(asked)
    raised = budgets_pb2.TemporaryRaise(
        organization=budget.organization,
        budget=budget.name,
        amount=in_currency_of(budget, by, "--by"),
        reason=reason,
    )
    if begin:
        raised.start_time.FromDatetime(start)
    raised.end_time.FromDatetime(end)
    request = budgets_pb2.CreateTemporaryRaiseRequest(
        temporary_raise=raised, request_id=new_request_id()
    )
    show_raise(session, session.client.budgets.CreateTemporaryRaise(request))


def show_raise(session: Session, raised: budgets_pb2.TemporaryRaise) -> None:
    """A raise, and the steps of its life."""
    session.show(raised, RAISES)
    if session.form is Format.TABLE and raised.steps:
        typer.echo("")
        output.write_table(raised.steps, STEPS, session.now)


def in_currency_of(budget: budgets_pb2.Budget, text: str, option: str) -> money_pb2.Money:
    """An amount as typed, which is in the budget's currency."""
    amount = typed.amount(text, budget.limit.currency, option)
    if amount.currency != budget.limit.currency:
        raise UsageFault(option, f"the budget is in {budget.limit.currency}, not {amount.currency}")
    return amount
