"""Corrections of old charges between grants, charges and returns: the ceiling holds after each."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_server.allowances.rules import Books, WindowBalance

LIMIT = 1_000
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["grant", "post", "return", "correct", "limit"]),
        st.integers(0, 400),
        st.integers(-300, 300),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS)
def test_whatever_is_corrected_nothing_is_lent_beyond_the_limit(
    steps: list[tuple[str, int, int]],
) -> None:
    books = Books({1: WindowBalance(id=1, budget_id=1, hard=True, limit=LIMIT, ceiling=LIMIT)})
    window = books.windows[1]
    posted = corrected = overrun_of_corrections = 0
    highest = LIMIT
    for kind, amount, difference in steps:
        before = window.settled - window.overrun + window.outstanding + window.in_doubt
        totals = books.of(7, 1)
        if kind == "grant" and window.available > 0:
            books.grant(7, 1, min(amount, window.available))
        elif kind == "post":
            posted += amount
            books.post(7, (1,), amount)
        elif kind == "return":
            books.give_back(7, 1, totals.returned + min(amount, totals.held))
        elif kind == "correct" and posted + corrected + difference >= 0:
            corrected += difference
            overrun_of_corrections += max(0, difference)
            books.adjust((1,), difference)
        elif kind == "limit":
            books.set_limit(1, amount * 2, 2)
            highest = max(highest, amount * 2)
        committed = window.settled - window.overrun + window.outstanding + window.in_doubt
        assert committed <= window.ceiling or committed <= before
        assert window.ceiling >= window.limit
        assert window.settled == posted + corrected
        assert window.overrun == totals.overrun + overrun_of_corrections
        # What was lent was never more than the limit left room for.
        assert totals.granted - totals.returned - totals.settled <= highest
