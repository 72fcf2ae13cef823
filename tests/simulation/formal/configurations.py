"""The bounds that are searched: small ones on every run of the tests, large ones by hand."""

from dataclasses import replace

from tests.simulation.formal.parts import Bounds, Journal, Mutant

MOST_STATES = 2_000_000
"""More than any search of the tests needs: bounds that grew too wide fail instead of lingering."""
MOST_STATES_BY_HAND = 20_000_000
"""About 6 GB of memory."""

ANY_DISK = (Journal.KEPT, Journal.TRUNCATED, Journal.LOST)

LENDING = Bounds(
    name="lending",
    says="grants, returns, lapses, fences, voids, drains; W of 1 and 2",
    limits=(3,),
    sizes=(1, 2),
    most_granted=2,
    calls=1,
    returns=True,
    lapses=True,
    fences=True,
    voids=True,
    drains=True,
)
TICKS = Bounds(
    name="ticks",
    says="grants are decided and committed apart; the control plane dies in between",
    limits=(3,),
    sizes=(1, 2),
    most_granted=3,
    calls=2,
    all_calls=3,
    returns=True,
    ticks=True,
)
CRASHES = Bounds(
    name="crashes",
    says="a sidecar dies; its journal is kept, cut or lost, and replayed; a new session begins",
    limits=(2,),
    sizes=(1, 2),
    most_granted=2,
    calls=1,
    lives=2,
    crashes=1,
    disks=ANY_DISK,
    evidence=True,
    drains=True,
)
DOUBT = Bounds(
    name="doubt",
    says="in-doubt money: silence, evidence, a journal found again, posted as spent in the end",
    limits=(2,),
    sizes=(1, 2),
    most_granted=2,
    calls=2,
    all_calls=2,
    crashes=1,
    disks=ANY_DISK,
    silence=True,
    horizon=True,
    evidence=True,
    recovery=True,
    fences=True,
    drains=True,
)
TWO_BUDGETS = Bounds(
    name="two budgets",
    says="each call draws on two budgets, all or nothing; returns, a crash",
    limits=(3, 2),
    draws=((0, 1),),
    sizes=(1, 2),
    most_granted=2,
    calls=1,
    returns=True,
    crashes=1,
)
PROGRESSIVE = Bounds(
    name="progressive",
    says="W grows ahead of the flow, in two budgets; costs above W; a crash with any disk",
    limits=(3, 2),
    draws=((0, 1),),
    most_granted=2,
    calls=1,
    grown_to=2,
    excess=1,
    crashes=1,
    disks=ANY_DISK,
    evidence=True,
    drains=True,
)
OVERRUN = Bounds(
    name="overrun",
    says="costs above W, a late correction, the limit cut and raised, a crash",
    limits=(2,),
    most_granted=2,
    calls=2,
    all_calls=3,
    excess=1,
    corrections=1,
    limit_changes=((0, 1), (0, 3)),
    crashes=1,
    evidence=True,
    drains=True,
)
ROLL_OVER = Bounds(
    name="roll-over",
    says="a budget in two windows beside one that lasts; clocks that roll over apart; a crash",
    limits=(1, 1, 2),
    draws=((0, 2), (1, 2)),
    most_granted=2,
    calls=2,
    all_calls=3,
    crashes=1,
    drains=True,
)
CUT_JOURNAL = Bounds(
    name="cut journal",
    says="the tail of a journal hides a call that was paid from what an earlier one freed",
    limits=(1,),
    most_granted=1,
    calls=2,
    all_calls=3,
    crashes=1,
    disks=(Journal.TRUNCATED,),
    evidence=True,
    horizon=True,
    drains=True,
)
TOGETHER = Bounds(
    name="together",
    says="two budgets a call, one rolling over; growth, cost above W, a correction, a crash",
    limits=(2, 1, 3),
    draws=((0, 2), (1, 2)),
    sidecars=1,
    most_granted=3,
    calls=2,
    all_calls=2,
    grown_to=2,
    excess=1,
    corrections=1,
    crashes=1,
    evidence=True,
    drains=True,
)
SMALL = (
    LENDING,
    TICKS,
    CRASHES,
    DOUBT,
    TWO_BUDGETS,
    PROGRESSIVE,
    OVERRUN,
    ROLL_OVER,
    CUT_JOURNAL,
    TOGETHER,
)

LARGE = (
    replace(LENDING, most_granted=3),
    replace(TICKS, all_calls=4, crashes=1, drains=True),
    replace(CRASHES, crashes=2),
    replace(DOUBT, lives=2, all_calls=3),
    replace(TWO_BUDGETS, drains=True),
    replace(PROGRESSIVE, most_granted=3),
    replace(OVERRUN, all_calls=4, corrections=2, returns=True),
    replace(ROLL_OVER, all_calls=4, evidence=True),
    replace(
        TOGETHER,
        says="the same of two sidecars, without a crash",
        limits=(2, 1, 2),
        sidecars=2,
        most_granted=2,
        calls=1,
        crashes=0,
        evidence=False,
    ),
    Bounds(
        name="three sidecars",
        says="three sidecars, a limit that does not divide",
        limits=(2,),
        sizes=(1, 2),
        most_granted=2,
        sidecars=3,
        calls=1,
        returns=True,
        drains=True,
    ),
)

CAUGHT_IN = {
    Mutant.RELEASE_ON_EXPIRY: LENDING,
    Mutant.CHECK_THEN_ACT: TICKS,
    Mutant.LOW_ESTIMATE: LENDING,
    Mutant.NO_DEDUPLICATION: TICKS,
    Mutant.GRANTS_AS_DELTAS: LENDING,
    Mutant.RETURNS_AS_DELTAS: replace(LENDING, most_granted=3),
    Mutant.RETURN_NOT_DEDUCTED: LENDING,
    Mutant.GRANT_BEFORE_COMMIT: TICKS,
    Mutant.CLOSE_BEFORE_SETTLEMENTS: LENDING,
    Mutant.DISK_LOSS_AS_RETURN: CRASHES,
    Mutant.FREE_HANG_UP: LENDING,
    Mutant.FENCE_DROPS_SETTLEMENTS: LENDING,
    Mutant.OVERRUN_LENT_AGAIN: OVERRUN,
    Mutant.FINAL_DROPPED: CRASHES,
    Mutant.JOURNAL_AFTER_DISPATCH: CRASHES,
    Mutant.GROWTH_AFTER_FLOW: PROGRESSIVE,
    Mutant.OLD_WINDOW_REUSED: ROLL_OVER,
    Mutant.SELECTORS_RE_RUN: ROLL_OVER,
    Mutant.FIRST_BUDGET_ONLY: TWO_BUDGETS,
    Mutant.DOUBT_EXPIRES: DOUBT,
    Mutant.DOUBT_FORGOTTEN: DOUBT,
    Mutant.CUT_IGNORED: OVERRUN,
    Mutant.REPLAY_VOIDS: CRASHES,
    Mutant.CUT_JOURNAL_REPLAYED: CUT_JOURNAL,
    Mutant.ACKNOWLEDGED_BEFORE_COMMIT: TICKS,
}
"""Each mutant with the bounds in which it is searched for."""
