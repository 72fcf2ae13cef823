"""Refusals: status, headers and the words that explain them."""

import json

import pytest

from bursar_sidecar.desk import BudgetStanding, Refusal
from bursar_sidecar.refusals import REASONS, render

BUDGET = BudgetStanding(
    name="budgets/b-1",
    scope="key/demo",
    limit_nanos=1_000_000_000,
    settled_nanos=999_500_000,
    reserved_nanos=200_000,
    in_doubt_nanos=0,
    currency="USD",
    window_end="2026-12-01T00:00:00Z",
)


def test_an_exhausted_budget_explains_itself() -> None:
    refusal = Refusal("budget_exhausted", budgets=(BUDGET,))
    refusal.ceiling_nanos = 2_500_000
    status, headers, body = render(refusal)
    error = json.loads(body)["error"]
    assert status == 402
    assert error["code"] == "budget_exhausted"
    assert error["message"] == (
        "Budget 'budgets/b-1' (key/demo) has 0.0003 of 1.00 USD left "
        "(0.0002 reserved by calls in flight); its window ends 2026-12-01T00:00:00Z. "
        "This call could cost up to 0.0025 USD."
    )
    assert error["budgets"] == [
        {
            "name": "budgets/b-1",
            "scope": "key/demo",
            "limit": "1.00",
            "settled": "0.9995",
            "reserved": "0.0002",
            "in_doubt": "0.00",
            "currency": "USD",
            "window_end": "2026-12-01T00:00:00Z",
        }
    ]
    named = dict(headers)[b"x-bursar-budget"].decode()
    assert named == (
        "budgets/b-1; scope=key/demo; limit=1.00; settled=0.9995; reserved=0.0002; "
        "in_doubt=0.00; currency=USD; window_end=2026-12-01T00:00:00Z"
    )
    assert dict(headers)[b"x-should-retry"] == b"false"


def test_the_exhausted_status_is_a_setting() -> None:
    refusal = Refusal("budget_exhausted", budgets=(BUDGET,))
    assert render(refusal, exhausted_status=429)[0] == 429


@pytest.mark.parametrize(("seconds", "header"), [(0.2, b"1"), (1.5, b"2"), (7.0, b"7")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, header: bytes) -> None:
    refusal = Refusal("budget_reserved", retry_after_s=seconds, budgets=(BUDGET,))
    status, headers, _ = render(refusal)
    assert status == 429
    assert dict(headers)[b"retry-after"] == header


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("budget_reserved", 429),
        ("rate_limited", 429),
        ("no_allowance", 503),
        ("key_unknown", 401),
        ("key_revoked", 401),
        ("key_expired", 401),
        ("model_not_allowed", 403),
        ("model_unpriced", 403),
        ("model_not_found", 404),
        ("unknown_path", 404),
        ("a_reason_of_tomorrow", 503),
    ],
)
def test_each_reason_has_one_status(reason: str, status: int) -> None:
    found, headers, body = render(Refusal(reason))
    assert found == status
    assert json.loads(body)["error"]["code"] == reason
    assert dict(headers)[b"x-bursar-refused"] == reason.encode()


def test_every_reason_has_words() -> None:
    for reason in REASONS:
        assert json.loads(render(Refusal(reason))[2])["error"]["message"]


def test_every_budget_that_refused_is_named() -> None:
    other = BudgetStanding("budgets/b-2", "team/search", 5, 5, 0, 1, "USD", "")
    _, headers, body = render(Refusal("budget_exhausted", budgets=(BUDGET, other)))
    assert [name for name, _ in headers].count(b"x-bursar-budget") == 2
    assert "team/search" in json.loads(body)["error"]["message"]


def test_names_cannot_break_out_of_their_header() -> None:
    evil = BudgetStanding("b\r\nx-evil: 1", "k\u00e9y", 1, 1, 0, 0, "USD", "")
    _, headers, _ = render(Refusal("budget_exhausted", budgets=(evil,)))
    value = dict(headers)[b"x-bursar-budget"]
    assert b"\r" not in value
    assert b"\n" not in value
