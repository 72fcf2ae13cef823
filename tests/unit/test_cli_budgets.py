"""`bursar budget` beyond the plain limit: shadow budgets, temporary raises."""

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from bursar.v1 import alerts_pb2, budgets_pb2
from tests.fakes.admin_server import money
from tests.fakes.admin_state import AdminState
from tests.unit.conftest import Bursar

UNIT = 1_000_000_000


def test_a_shadow_budget_is_made_and_shows_what_it_would_have_refused(
    bursar: Bursar, state: AdminState
) -> None:
    create = [
        *("budget", "create", "b-1", "--scope", "team/search", "--limit", "5"),
        *("--window", "daily", "--shadow"),
    ]
    assert bursar(*create, "-o", "json")["enforcement"] == "ENFORCEMENT_SHADOW"
    bursar(*create, "--soft", code=2)
    assert "Would refuse" not in bursar("budget", "list")
    made = state.budgets.rows["organizations/acme", "budgets/b-1"]
    made.standing.would_refuse_count = 3
    made.standing.would_refuse.CopyFrom(money(UNIT // 4, "EUR"))
    for text in ("shadow", "Would refuse", "3", "Would save", "0.25 EUR"):
        assert text in bursar("budget", "list")
        assert text in bursar("budget", "show", "b-1")
    (row,) = csv.DictReader(io.StringIO(bursar("budget", "list", "-o", "csv")))
    assert (row["would_refuse"], row["would_refuse_amount"]) == ("3", "0.25")
    standing = bursar("budget", "show", "b-1", "-o", "json")["standing"]
    assert (standing["wouldRefuseCount"], standing["wouldRefuse"]["nanos"]) == ("3", "250000000")


def test_a_hard_budget_says_nothing_of_what_it_would_refuse(
    bursar: Bursar, state: AdminState
) -> None:
    hard = budgets_pb2.Budget(
        name="budgets/b-1",
        organization="organizations/acme",
        limit=money(UNIT, "EUR"),
        enforcement=budgets_pb2.ENFORCEMENT_HARD,
    )
    hard.window.lifetime.SetInParent()
    hard.standing.settled.CopyFrom(money(1, "EUR"))
    state.budgets.rows["organizations/acme", "budgets/b-1"] = hard
    assert "Would" not in bursar("budget", "show", "b-1")


def test_the_first_refusal_of_a_shadow_budget_is_an_alert(
    bursar: Bursar, state: AdminState
) -> None:
    state.events = [alerts_pb2.Event(id=1, kind=alerts_pb2.EVENT_KIND_SHADOW_REFUSAL)]
    assert "shadow refusal" in bursar("alert", "list")


def budget_of_ten(bursar: Bursar) -> None:
    bursar(
        "budget", "create", "b-1", "--scope", "team/search", "--limit", "10", "--window", "daily"
    )


def test_a_limit_is_raised_for_a_while(bursar: Bursar, state: AdminState) -> None:
    budget_of_ten(bursar)
    before = datetime.now(UTC)
    made = bursar(
        *("budget", "raise", "b-1", "--by", "5", "--for", "2h", "--reason", "a load test"),
        *("-o", "json"),
    )
    assert made["name"] == "raises/r-1"
    assert made["amount"] == {"nanos": str(5 * UNIT), "currency": "EUR"}
    asked = state.seen(budgets_pb2.CreateTemporaryRaiseRequest)
    assert asked.request_id
    assert not asked.temporary_raise.HasField("start_time")
    end = asked.temporary_raise.end_time.ToDatetime(tzinfo=UTC)
    assert before + timedelta(hours=2) <= end <= datetime.now(UTC) + timedelta(hours=2)

    table = bursar(
        *("budget", "raise", "b-1", "--by", "1", "--from", "2998-12-24", "--until"),
        *("2998-12-27T18:00+01:00", "--reason", "holidays"),
    )
    for text in ("raises/r-2", "budgets/b-1", "1.00 EUR", "running", "holidays", "Step", "made"):
        assert text in table
    asked = state.seen(budgets_pb2.CreateTemporaryRaiseRequest).temporary_raise
    assert asked.start_time.ToJsonString() == "2998-12-24T00:00:00Z"
    assert asked.end_time.ToJsonString() == "2998-12-27T17:00:00Z"

    assert len(bursar("budget", "raises", "-o", "json")) == 2
    assert "no temporary raises" in bursar("budget", "raises", "b-2")
    ended = bursar("budget", "cancel", "r-1", "--reason", "over", "-o", "json")
    assert ended["state"] == "RAISE_STATE_CANCELLED"
    asked = state.seen(budgets_pb2.CancelTemporaryRaiseRequest)
    assert (asked.name, asked.reason) == ("raises/r-1", "over")


@pytest.mark.parametrize(
    "typed",
    [
        ["--by", "5", "--for", "2h"],
        ["--by", "5", "--for", "2h", "--until", "7d", "--reason", "x"],
        ["--to", "15", "--for", "2h", "--reason", "x"],
        ["--by", "0", "--for", "2h", "--reason", "x"],
        ["--by", "-5", "--for", "2h", "--reason", "x"],
        ["--by", "5USD", "--for", "2h", "--reason", "x"],
        ["--by", "5", "--for", "2099-01-01", "--reason", "x"],
        ["--by", "5", "--for", "0h", "--reason", "x"],
        ["--by", "5", "--for", "999999w", "--reason", "x"],
        ["--by", "5", "--until", "2001-01-01", "--reason", "x"],
        ["--by", "5", "--from", "9d", "--until", "7d", "--reason", "x"],
        ["--by", "5", "--from", "2001-01-01", "--for", "2h", "--reason", "x"],
        ["--by", "5", "--from", "9d"],
        ["--by", "5", "--reason", "x"],
    ],
)
def test_a_raise_that_makes_no_sense_is_not_sent(
    bursar: Bursar, state: AdminState, typed: list[str]
) -> None:
    budget_of_ten(bursar)
    bursar("budget", "raise", "b-1", *typed, code=2)
    asked = {type(request) for request in state.requests}
    assert not asked & {budgets_pb2.CreateTemporaryRaiseRequest, budgets_pb2.UpdateBudgetRequest}


def test_a_budget_shows_the_limit_in_force_and_its_raises(
    bursar: Bursar, state: AdminState
) -> None:
    budget_of_ten(bursar)
    budget = state.budgets.rows["organizations/acme", "budgets/b-1"]
    budget.effective_limit.CopyFrom(money(10 * UNIT, "EUR"))
    assert "Effective" not in bursar("budget", "list")
    budget.effective_limit.CopyFrom(money(15 * UNIT, "EUR"))
    budget.standing.settled.CopyFrom(money(3 * UNIT, "EUR"))
    raised = budget.raises.add(name="raises/r-1", reason="a load test")
    raised.amount.CopyFrom(money(5 * UNIT, "EUR"))
    raised.state = budgets_pb2.RAISE_STATE_RUNNING
    for text in ("10.00 EUR", "15.00 EUR", "12.00 EUR", "20 %"):
        assert text in bursar("budget", "list")
    shown = bursar("budget", "show", "b-1")
    for text in ("Effective limit", "raises/r-1", "5.00 EUR", "running", "a load test"):
        assert text in shown
    assert bursar("budget", "show", "b-1", "-o", "json")["raises"][0]["name"] == "raises/r-1"
