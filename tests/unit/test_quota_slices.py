"""What a bucket of an Envoy was lent: what a report settles, and what is lent next."""

import random

from bursar_sidecar.envoy.quota_slices import (
    IDLE_S,
    LEAST,
    MARGIN_S,
    RENEW_AFTER_S,
    TIME_TO_LIVE_S,
    UNHEARD_S,
    QuotaBucket,
    Step,
)

SECOND = 1_000_000_000
GONE_S = TIME_TO_LIVE_S + MARGIN_S


def bucket() -> QuotaBucket[str]:
    made: QuotaBucket[str] = QuotaBucket(0)
    assert made.report(0, 1, 0) == (0, [])
    return made


def test_the_first_request_is_answered_by_a_slice() -> None:
    made = bucket()
    assert made.step(0) is Step.RENEW
    assert made.wanted(100) == LEAST
    assert made.wanted(3) == 3


def test_a_slice_is_over_when_all_of_it_was_reported() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    assert made.report(4, 0, 5 * SECOND) == (0, [])
    assert made.step(5 * SECOND) is Step.EXTEND
    uncovered, over = made.report(6, 2, 10 * SECOND)
    assert (uncovered, [each.held for each in over]) == (0, ["a"])
    assert made.step(10 * SECOND) is Step.RENEW
    assert made.wanted(100) == 16


def test_one_that_may_run_out_before_the_next_report_is_renewed() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    made.report(6, 0, 5 * SECOND)
    assert made.step(5 * SECOND) is Step.RENEW


def test_reports_count_against_the_oldest_slice_and_none_is_freed_by_time_alone() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    made.report(7, 0, 5 * SECOND)
    made.lend("b", 20, 5 * SECOND)
    # Nobody knows yet whether Envoy dropped the rest of the first one.
    assert made.report(2, 0, 10 * SECOND) == (0, [])
    assert [each.reported for each in made.slices] == [9, 0]
    assert made.step(100 * SECOND) is not Step.ABANDON
    assert len(made.slices) == 2


def test_what_was_replaced_is_over_with_a_report_after_envoy_dropped_it_for_certain() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    made.report(7, 0, 5 * SECOND)
    made.lend("b", 20, 5 * SECOND)
    made.report(0, 0, (GONE_S - 1) * SECOND)
    made.extend((GONE_S - 1) * SECOND)
    _, over = made.report(1, 0, GONE_S * SECOND)
    assert [(each.held, each.reported, each.rest) for each in over] == [("a", 8, 2)]
    assert [each.held for each in made.slices] == ["b"]


def test_a_slice_that_was_not_extended_is_over_after_its_time_to_live() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    made.extend(5 * SECOND)
    assert made.report(0, 0, GONE_S * SECOND)[1] == []
    assert [each.held for each in made.report(0, 0, (5 + GONE_S) * SECOND)[1]] == ["a"]
    assert made.current is None


def test_what_no_slice_covers_is_told() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    uncovered, over = made.report(13, 0, 5 * SECOND)
    assert (uncovered, len(over)) == (3, 1)
    assert made.report(2, 0, 6 * SECOND) == (2, [])


def test_a_slice_is_renewed_after_a_while_and_an_idle_bucket_is_given_up() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    now = 0
    while now < RENEW_AFTER_S * SECOND:
        assert made.step(now) is Step.EXTEND
        now += 5 * SECOND
        made.report(0, 0, now)
        made.extend(now)
    assert made.step(now) is Step.RENEW
    made.lend("b", 10, now)
    now = IDLE_S * SECOND
    assert made.step(now) is Step.DENY
    made.deny()
    assert [each.held for each in made.report(0, 0, now + GONE_S * SECOND)[1]] == ["a", "b"]
    assert made.step(now + GONE_S * SECOND) is Step.ABANDON


def test_without_money_and_without_requests_it_waits() -> None:
    made = bucket()
    made.deny()
    assert made.step(0) is Step.RENEW
    made.report(0, 0, 5 * SECOND)
    assert made.step(5 * SECOND) is Step.DENY


def test_what_nobody_reports_about_is_given_up_whole() -> None:
    made = bucket()
    made.lend("a", 10, 0)
    assert not made.is_unheard((UNHEARD_S - 1) * SECOND)
    assert made.is_unheard(UNHEARD_S * SECOND)
    assert [each.rest for each in made.give_up()] == [10]
    assert made.slices == []


def test_whatever_happens_every_request_is_charged_once() -> None:
    """Envoy as it is: one slice counted down, dropped when another comes or its time is over."""
    for seed in range(200):
        chance = random.Random(seed)
        made: QuotaBucket[int] = QuotaBucket(0)
        lent = used = charged = unreported = held = 0
        left, now = 0, 0
        for number in range(60):
            now += 5 * SECOND
            uncovered, over = made.report(unreported, chance.randrange(3), now)
            unreported = 0
            charged += uncovered + sum(each.reported for each in over)
            step = made.step(now)
            took = min(left, chance.randrange(9))  # before it hears of what is decided now
            left, used, unreported = left - took, used + took, unreported + took
            if step is Step.RENEW and chance.random() < 0.8:
                size = chance.randrange(1, 12)
                made.lend(number, size, now)
                lent, left = lent + size, size
            elif step is Step.EXTEND:
                made.extend(now)
            elif step is Step.DENY:
                made.deny()
                left = 0
            if made.current is None:
                left = 0
            took = min(left, chance.randrange(9))
            left, used, unreported = left - took, used + took, unreported + took
            held = sum(each.rest for each in made.slices)
            assert held >= unreported, seed  # what may still be reported has its money
        charged += sum(each.reported for each in made.slices)
        assert used == charged + unreported, seed
