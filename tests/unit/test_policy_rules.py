"""When a change of policy is effective everywhere."""

from datetime import UTC, datetime, timedelta

from bursar_server.policy.rules import LAPSE_MARGIN, Holder, effective_version, lapse_at, standing

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
VALID_FOR = timedelta(seconds=30)
CHANGED = NOW - timedelta(seconds=5)


def holder(epoch: int, version: int, seen_s_ago: float = 0) -> Holder:
    return Holder(2, epoch, f"s-{epoch}", "acme", version, NOW - timedelta(seconds=seen_s_ago))


def test_without_sessions_a_change_is_effective_at_once() -> None:
    found = standing([], 7, CHANGED, NOW, VALID_FOR)
    assert found.is_effective
    assert effective_version([], 7, NOW, VALID_FOR) == 7


def test_each_session_has_to_act_on_the_change_or_lapse() -> None:
    holders = [holder(1, 7), holder(2, 8), holder(3, 6), holder(4, 6, 20), holder(5, 6, 32)]
    found = standing(holders, 7, CHANGED, NOW, VALID_FOR)
    assert (found.applied, found.lapsed) == (2, 1)
    assert [each.session_epoch for each in found.pending] == [3, 4]
    assert not found.is_effective
    later = NOW + VALID_FOR + LAPSE_MARGIN
    assert standing(holders, 7, CHANGED, later, VALID_FOR).is_effective


def test_silence_counts_only_once_the_policy_can_have_lapsed_on_the_slowest_clock() -> None:
    cut_off = holder(1, 6, seen_s_ago=0)
    lapse = lapse_at(cut_off, VALID_FOR)
    assert lapse == NOW + timedelta(seconds=31)
    just_before = lapse - timedelta(microseconds=1)
    assert standing([cut_off], 7, CHANGED, just_before, VALID_FOR).pending == (cut_off,)
    found = standing([cut_off], 7, CHANGED, lapse, VALID_FOR)
    assert (found.lapsed, found.pending) == (1, ())


def test_who_had_lapsed_before_the_change_counts_for_nothing() -> None:
    found = standing([holder(1, 3, seen_s_ago=3_600)], 7, CHANGED, NOW, VALID_FOR)
    assert (found.applied, found.lapsed, found.pending) == (0, 0, ())


def test_changes_are_effective_up_to_what_the_last_one_acts_on() -> None:
    holders = [holder(1, 9), holder(2, 5), holder(3, 2, seen_s_ago=40)]
    assert effective_version(holders, 9, NOW, VALID_FOR) == 5
    later = NOW + timedelta(seconds=31)
    assert effective_version(holders, 9, later, VALID_FOR) == 9
