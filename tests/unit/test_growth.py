"""The growth of a stream's reservation: what flows is covered, and need is never too much."""

from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.growth import (
    ASK_AGAIN_S,
    FIRST_OUTPUT,
    LAST_STEP,
    LEAST_AHEAD,
    LEAST_SLACK,
    NEVER,
    Growth,
)

LIMIT = 128_000
SLACK = LEAST_SLACK
PIECES = st.lists(
    st.tuples(
        st.integers(0, 400),  # bytes of a piece
        st.floats(0, 1),  # how many of them are LLM tokens
        st.floats(0, 0.5),  # seconds before it
        st.integers(0, 1),  # whether growth is granted if it is asked for
    ),
    max_size=60,
)


def begun(covered: int = FIRST_OUTPUT + SLACK, limit: int = LIMIT) -> Growth:
    return Growth(covered=min(covered, limit), limit=limit, slack=SLACK)


@given(PIECES, st.integers(SLACK, 5_000), st.integers(0, 3))
def test_whatever_flows_is_covered_with_its_slack(
    pieces: list[tuple[int, float, float, int]], first: int, granted_part: int
) -> None:
    growth = begun(first)
    produced = elapsed = billed = 0.0
    for size, part, wait, grants in pieces:
        elapsed += wait
        produced += size
        billed += int(size * part)  # an LLM token is at least a byte
        at = int(produced)
        if at >= growth.ask_at and growth.may_ask(elapsed):
            asked = growth.target(at, elapsed)
            assert growth.covered < asked <= LIMIT
            if grants:
                growth.grew(
                    growth.covered + (asked - growth.covered) // (1 + granted_part), at, elapsed
                )
            else:
                growth.refused(at, elapsed)
        if at > growth.cut_at:
            return  # cut: it does not flow
        assert growth.is_whole or billed + SLACK <= growth.covered


@given(st.integers(1, 10**6), st.floats(0, 600))
def test_what_is_granted_lets_the_flow_go_on(produced: int, elapsed: float) -> None:
    growth = begun()
    asked = growth.target(produced, elapsed)
    growth.grew(asked, produced, elapsed)
    assert growth.is_whole or produced <= growth.cut_at
    assert growth.ask_at > produced
    assert asked <= LIMIT


@given(st.integers(0, 10**7), st.floats(0, 600), st.integers(1, LIMIT))
def test_need_is_never_above_the_worst_case(produced: int, elapsed: float, limit: int) -> None:
    growth = begun(limit=limit)
    assert growth.target(produced, elapsed) <= limit
    assert growth.least(produced, elapsed) <= limit


def test_a_short_answer_never_asks() -> None:
    growth = begun()
    assert growth.ask_at == FIRST_OUTPUT // 2
    assert growth.cut_at == FIRST_OUTPUT


def test_a_whole_reservation_neither_asks_nor_is_cut() -> None:
    growth = begun(covered=900, limit=900)
    assert (growth.ask_at, growth.cut_at) == (NEVER, NEVER)
    growth = begun()
    growth.grew(LIMIT, 600, 0.1)
    assert growth.is_whole
    assert growth.cut_at == NEVER


def test_the_number_of_growths_goes_with_the_logarithm() -> None:
    growth = begun(limit=600_000)
    for produced in range(0, 500_000, 4):
        if produced >= growth.ask_at:
            growth.grew(growth.target(produced, 0.5), produced, 0.5)
        assert produced <= growth.cut_at
    assert growth.growths < 60


def test_what_is_refused_is_asked_for_in_halves_down_to_the_last_step() -> None:
    growth = begun()
    asked = []
    while growth.may_ask(0.5):
        asked.append(growth.target(600, 0.5) - growth.covered)
        growth.refused(600, 0.5)
    assert asked[0] == LEAST_AHEAD
    assert asked == [max(LAST_STEP, LEAST_AHEAD >> n) for n in range(len(asked))]
    assert asked[-1] == LAST_STEP
    assert growth.may_ask(0.5 + ASK_AGAIN_S)
    assert growth.target(600, 2.0) - growth.covered >= LEAST_AHEAD


def test_a_fast_stream_needs_more_slack_and_more_ahead() -> None:
    growth = begun()
    assert growth.slack(10_000, 0.9) == SLACK
    assert growth.slack(10_000, 2.0) == 5_001
    assert growth.target(10_000, 2.0) - growth.least(10_000, 2.0) == 10_000


def test_a_count_lets_more_flow_for_the_same_money() -> None:
    growth = begun()
    cut_at = growth.cut_at
    growth.counted(1_000, 300, 0.5)
    assert growth.bound(1_000) == 300
    assert growth.cut_at == cut_at + 700
    growth.counted(1_000, 900, 0.5)  # a worse count later takes nothing back
    assert growth.cut_at == cut_at + 700
