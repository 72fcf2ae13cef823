"""`bursar budget` beyond the plain limit: shadow budgets."""

import csv
import io

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
