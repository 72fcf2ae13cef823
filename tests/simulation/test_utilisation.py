"""A budget is used to its last call: what nobody spends comes home, and "exhausted" is true."""

import pytest

from benchmarks.spending import SIZES, Load, even, zipf
from benchmarks.utilisation_simulated import one_run

BUDGET_CALLS = 60


@pytest.mark.parametrize("weights", [even(1), even(4), zipf(4)])
def test_no_money_is_stranded_and_no_refusal_is_early(weights: tuple[float, ...]) -> None:
    load = Load(20, weights, BUDGET_CALLS, duration_s=0.5)
    result = one_run(load, explain=False)
    # In mean costs of a call, as the budget is.
    left = (1 - result.settled_at_end) * BUDGET_CALLS
    assert left < load.ratio * min(SIZES)
    left_when_told = (1 - result.exhausted.settled) * BUDGET_CALLS
    assert left_when_told < load.ratio * max(SIZES)
