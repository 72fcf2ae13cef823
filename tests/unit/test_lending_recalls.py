"""Money that a waiting call lacks is asked for, and told to come home by itself, without haste."""

from datetime import UTC, datetime
from typing import Any

from bursar_server.allowances import messages, rules
from bursar_server.allowances.frames import Frame, Report
from bursar_server.allowances.hub import Hub, LiveSession, Stream
from bursar_server.allowances.recalls import Recalls
from bursar_server.allowances.records import WindowRow
from bursar_server.allowances.rules import Holder
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.tick import Batch, Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = LendingSettings()


def test_who_has_nothing_free_is_asked_again_much_later_than_who_has() -> None:
    recalls = Recalls(Hub(), SETTINGS)
    holders = [Holder(7, 10, 100, 0), Holder(8, 10, 0, 0)]

    def asked(now_ms: int) -> list[int]:
        return [holder.session_epoch for holder in recalls.due(holders, now_ms)]

    assert asked(0) == [7, 8]
    assert asked(SETTINGS.recall_again_ms - 1) == []
    assert asked(SETTINGS.recall_again_ms) == [7]
    assert 8 not in asked(SETTINGS.recall_empty_again_ms - 1)
    assert 8 in asked(SETTINGS.recall_empty_again_ms)


def hold_idle_ms(decisions: rules.Decisions) -> int:
    """What a session is told of a window in its tail."""
    hub = Hub()
    hub.tail.add(10)
    stream: Any = Stream.__new__(Stream)
    stream.sessions = {}
    session = LiveSession(
        stream, 7, 1, "acme", "USD", 0, spender_organization="acme", platform=False
    )
    hub.add(session)
    books = rules.Books({10: rules.WindowBalance(10, 1, True, 100, 100)})
    decisions.touched.add((7, 10))
    window = WindowRow(10, 1, 1, NOW, None)
    outcome = Outcome(
        books=books,
        windows={10: window},
        decisions=decisions,
        stale=[],
        by_need={},
        recalls=[],
        entry_count=0,
        repeat_count=0,
        events=[],
        shadow_refusal_count=0,
        tail={10},
        lent=True,
        next_boundary=None,
    )
    batch = Batch([], [], set(), [])
    [(_, frame)] = messages.of_outcome(hub, batch, outcome, [], NOW, SETTINGS)
    [allowance] = frame.allowances
    assert allowance.tail
    return allowance.hold_idle_ms


def test_in_the_tail_nothing_lies_idle_while_a_call_waits() -> None:
    assert hold_idle_ms(rules.Decisions()) == SETTINGS.hold_idle_ms
    assert hold_idle_ms(rules.Decisions(shortage={10: 5})) == 0
    assert hold_idle_ms(rules.Decisions(shortage={11: 5})) == SETTINGS.hold_idle_ms


def live_session(hub: Hub) -> LiveSession:
    """Session 7 on one more stream."""
    stream: Any = Stream.__new__(Stream)
    stream.sessions = {}
    stream.end = lambda _reason: None
    session = LiveSession(
        stream, 7, 1, "acme", "USD", 0, spender_organization="acme", platform=False
    )
    hub.add(session)
    return session


def test_what_was_said_on_a_stream_that_another_one_replaced_counts_no_more() -> None:
    # Simulation, seed 2000872: the older stream may take long to end.
    hub = Hub()
    older = live_session(hub)
    report = Report(10, granted_seen=100, returned=0, free=100, want=0, idle_ms=0)
    hub.note(older, Frame(7, 1, (report,), (), frozenset(), (), (), None, (), b""), 0)
    assert [holder.free for holder in hub.holders([10])] == [100]
    newer = live_session(hub)
    assert hub.holders([10]) == []
    hub.note(newer, Frame(7, 2, (report,), (), frozenset(), (), (), None, (), b""), 0)
    hub.remove(older.stream)
    assert [holder.free for holder in hub.holders([10])] == [100]


def test_what_waits_of_an_ended_stream_is_not_applied_once_its_session_is_resumed() -> None:
    # Simulation, seed 2016508: the Welcome had said that it was not applied.
    hub = Hub()
    older = live_session(hub)
    assert hub.remove(older.stream) == [7]
    assert not older.superseded, "nobody says it again"
    newer = live_session(hub)
    assert (older.superseded, newer.superseded) == (True, False)
    hub.remove(newer.stream)
    hub.all_taken()
    live_session(hub)
    assert not newer.superseded, "all of it was applied"
