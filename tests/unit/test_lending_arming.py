"""Which calls a new budget counts while it is armed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from bursar_server.allowances import rules
from bursar_server.allowances.arming import (
    ArmingSession,
    count,
    falls_under,
    heard,
    is_older,
    may_spend,
    window_of,
)
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.budgets.rules import WindowSpec
from bursar_server.budgets.store import BudgetRecord
from bursar_server.ledger import entries
from bursar_server.ledger.entries import Posting

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
ROW = ArmingSession(2, 100, 7, policy_version=5)
BUDGET = BudgetRecord(
    100, "b", 2, "", "team", 30, "", (), (), 100, "USD", WindowSpec("lifetime"), "hard", False, 1,
    NOW, NOW,
)  # fmt: skip


def posting(**values: Any) -> Posting:
    call = entries.lost(2, 7, 1, 60, (), NOW).settlement
    given = {"provider": "openai", "model": "gpt-4o-mini", "requested_model": "small", "key_id": 41}
    return Posting(structs.replace(call, **given), 0, entries.Kind.FINAL, 60, "", **values)


def window(id: int, start_s: int, end_s: int | None = None) -> WindowRow:
    end_at = None if end_s is None else NOW + timedelta(seconds=end_s)
    return WindowRow(id, 2, 100, NOW + timedelta(seconds=start_s), end_at)


def session(policy_version: int, last_n: int = 0) -> SessionRow:
    return SessionRow(
        2, 7, "open", 1, 0, 0, None, None, policy_version=policy_version, policy_last_n=last_n
    )


def test_until_a_session_knows_the_budget_all_its_calls_are_looked_at() -> None:
    assert heard(ROW, session(4, last_n=9)) is None
    assert is_older(ROW, 1_000)


def test_from_then_on_only_those_admitted_before() -> None:
    row = heard(ROW, session(5, last_n=9))
    assert row is not None
    assert (is_older(row, 9), is_older(row, 10)) == (True, False)
    # What it says later is about later policies.
    assert heard(row, session(6, last_n=20)) is None


@pytest.mark.parametrize(
    ("budget", "found"),
    [
        ({}, True),
        ({"scope_id": 31}, False),
        ({"scope_kind": "organization", "scope_id": 2}, True),
        ({"scope_kind": "key", "scope_id": 41}, True),
        ({"scope_kind": "key", "scope_id": 42}, False),
        ({"scope_kind": "user", "scope_id": 30}, False),
        ({"models": ("gpt-4*",)}, True),
        ({"models": ("openai/*",)}, True),
        ({"models": ("sm?ll",)}, True),
        ({"models": ("claude*",)}, False),
        ({"providers": ("openai",)}, True),
        ({"providers": ("anthropic",)}, False),
    ],
)
def test_a_call_falls_under_a_budget_as_a_sidecar_decides_it(
    budget: dict[str, Any], found: bool
) -> None:
    asked = structs.replace(BUDGET, **budget)
    assert falls_under(asked, posting(team_id=30)) is found


def test_a_call_counts_in_the_window_of_its_admission() -> None:
    first, second = window(1, -60, 0), window(2, 0, 60)
    assert window_of([first, second], NOW - timedelta(seconds=1), NOW) == first
    assert window_of([first, second], NOW, NOW) == second


def test_what_is_older_counts_only_in_a_window_that_began_with_the_budget() -> None:
    before = NOW - timedelta(seconds=90)
    assert window_of([window(1, 0)], before, made_at=NOW) == window(1, 0)
    assert window_of([window(1, -60)], before, made_at=NOW) is None
    assert window_of([], before, made_at=NOW) is None


def test_a_sidecar_may_spend_for_a_scope_if_it_knows_a_key_of_it() -> None:
    assert may_spend("organization", 2, [])
    assert not may_spend("key", 41, [None])


def test_nothing_was_lent_for_such_a_call_so_that_it_is_overrun() -> None:
    balance = rules.WindowBalance(id=1, budget_id=100, hard=True, limit=100, ceiling=100)
    books = rules.Books({1: balance})
    count(books, (1,), 60)
    assert (balance.settled, balance.overrun, balance.available) == (60, 60, 40)
    books.grant(7, 1, 40)
    assert (balance.outstanding, balance.available) == (40, 0)
    assert books.totals[7, 1].settled == 0


def test_a_soft_window_is_crossed_by_it() -> None:
    balance = rules.WindowBalance(id=1, budget_id=100, hard=False, limit=50, ceiling=50)
    count(rules.Books({1: balance}), (1,), 60)
    assert balance.crossed
    assert balance.overrun == 0
