"""What a shadow budget would have refused, against a hard one that is asked the same."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bursar_server.allowances import rules
from bursar_server.allowances.records import EventRow, SessionRow, WindowRow
from bursar_server.allowances.step import Input, Slice, step
from bursar_server.ledger import entries
from bursar_server.ledger.entries import Kind, PostedSoFar, Posting, Settlement

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = 10


def settlement(n: int, reserved: int, cost: int, kind: Kind = Kind.FINAL) -> Settlement:
    plain: dict[str, Any] = dict.fromkeys(
        (field for field in Settlement.__struct_fields__ if field.endswith("llm_tokens")), 0
    )
    words = (
        "customer", "app", "run", "provider", "model", "requested_model", "price_version",
        "estimate_reason", "provider_request_id",
    )  # fmt: skip
    plain |= dict.fromkeys(words, "")
    return Settlement(
        organization_id=1, session_epoch=7, n=n, kind=kind, budget_window_ids=(WINDOW,),
        reserved_nanos=reserved, cost_nanos=cost, key_id=0, tags=(), further_usage={},
        http_status=200, stream=False, admitted_at=NOW, finished_at=NOW, **plain,
    )  # fmt: skip


def books_of(limit: int, settled: int = 0) -> rules.Books:
    window = rules.WindowBalance(
        id=WINDOW, budget_id=1, hard=False, limit=limit, ceiling=limit, settled=settled, shadow=True
    )
    return rules.Books({WINDOW: window})


def post(books: rules.Books, *postings: Posting) -> list[EventRow]:
    """One step with these postings; returns what it tells."""
    row = SessionRow(1, 7, "open", 4, 0, 0, None, None)
    for posting in postings:
        posting.currency = "USD"
    state = Slice({7: row}, {WINDOW: WindowRow(WINDOW, 1, 1, NOW, None)}, books)
    output = step(
        state, Input([], list(postings), [], {}, lambda _: {}, lambda _: [], NOW, 0, lending=False)
    )
    # The next step reads the window anew.
    books.windows[WINDOW].crossed = False
    return output.events


def counted(books: rules.Books) -> tuple[int, int, int]:
    """Settled, calls that would have been refused, and what they cost."""
    window = books.windows[WINDOW]
    return window.settled, window.would_refuse_count, window.would_refuse_nanos


@given(
    limit=st.integers(0, 40),
    calls=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=20),
    cut=st.integers(1, 5),
)
def test_it_counts_what_a_hard_budget_refuses_call_by_call(
    limit: int, calls: list[tuple[int, int]], cut: int
) -> None:
    hard = rules.Books(
        {WINDOW: rules.WindowBalance(id=WINDOW, budget_id=1, hard=True, limit=limit, ceiling=limit)}
    )
    refused: list[int] = []
    for n, (reserved, cost) in enumerate(calls, 1):
        line = rules.NeedLine(WINDOW, reserved, reserved, 0)
        decisions = rules.lend(hard, [rules.Need(n, n, (line,), 0)], [], {}, now_ms=0)
        if decisions.granted:
            hard.post(n, [WINDOW], cost)
            hard.close(n)
        else:
            refused.append(cost)
    books = books_of(limit)
    planned = entries.plan([settlement(n, *call) for n, call in enumerate(calls, 1)], {})
    events = []
    for start in range(0, len(planned), cut):
        events += post(books, *planned[start : start + cut])
    settled = sum(cost for _, cost in calls)
    assert counted(books) == (settled, len(refused), sum(refused))
    assert books.windows[WINDOW].settled - sum(refused) == hard.windows[WINDOW].settled
    assert [event.kind for event in events] == ["shadow_refusal"] * bool(refused)


def test_what_is_counted_as_refused_leaves_room_for_smaller_calls() -> None:
    books = books_of(100)
    post(books, *entries.plan([settlement(1, 80, 80), settlement(2, 50, 30)], {}))
    assert counted(books) == (110, 1, 30)
    small = entries.plan([settlement(3, 20, 20)], {})
    post(books, *small)
    assert counted(books) == (130, 1, 30)
    assert small[0].would_refuse_window_ids == ()


def test_a_window_tells_once() -> None:
    books = books_of(10)
    first = post(books, *entries.plan([settlement(1, 20, 5), settlement(2, 20, 5)], {}))
    assert [(event.kind, event.amount_nanos) for event in first] == [("shadow_refusal", 10)]
    assert post(books, *entries.plan([settlement(3, 20, 5)], {})) == []
    assert counted(books) == (15, 3, 15)


def test_what_the_window_had_seen_before_counts_against_the_limit() -> None:
    books = books_of(100, settled=100)
    post(books, *entries.plan([settlement(1, 1, 1)], {}))
    assert counted(books) == (101, 1, 1)


def test_what_never_reached_a_provider_is_not_judged() -> None:
    books = books_of(10)
    assert post(books, *entries.plan([settlement(1, 20, 0, Kind.RELEASED)], {})) == []
    assert counted(books) == (0, 0, 0)


def test_a_later_cost_follows_its_call() -> None:
    """The final of a provisional charge: in the same step, and in one that reads it back."""
    provisional, final = settlement(1, 50, 50, Kind.PROVISIONAL), settlement(1, 50, 20)
    together = books_of(10)
    planned = entries.plan([provisional, final], {})
    post(together, *planned)
    assert counted(together) == (20, 1, 20)
    assert [entry.would_refuse_window_ids for entry in planned] == [(WINDOW,)] * 3

    apart = books_of(10)
    (first,) = entries.plan([provisional], {})
    post(apart, first)
    assert counted(apart) == (50, 1, 50)
    so_far = PostedSoFar(0, 50, False, first.would_refuse_window_ids)
    later = entries.plan([final], {(7, 1): so_far})
    post(apart, *later)
    assert counted(apart) == (20, 1, 20)
    assert [entry.would_refuse_window_ids for entry in later] == [(WINDOW,)] * 2


def test_a_soft_window_says_nothing_of_refusals() -> None:
    books = books_of(10)
    books.windows[WINDOW].shadow = False
    events = post(books, *entries.plan([settlement(1, 20, 20)], {}))
    assert [event.kind for event in events] == ["soft_limit_crossed"]
    assert counted(books) == (20, 0, 0)
