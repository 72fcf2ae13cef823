"""Calls that wait are given to lending as they are now, and worked out anew only where need be."""

from datetime import UTC, datetime
from typing import Any

from bursar_server.allowances import waiting
from bursar_server.allowances.frames import NeedLine, NeedRequest
from bursar_server.allowances.hub import LiveSession, Stream
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.waiting import Found, WaitingNeed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ORGANIZATION, EPOCH, TEAM, KEY = 1, 7, 21, 22


class Windows:
    """Stands in for the cache of windows: by budget, the one that runs."""

    def __init__(self) -> None:
        self.running = {TEAM: 210, KEY: 220}

    async def current(self, _connection: Any, _organization: int, ids: set[int], _now: Any) -> Any:
        running = {id: self.running[id] for id in ids if id in self.running}
        return {id: WindowRow(w, ORGANIZATION, id, NOW, None) for id, w in running.items()}


def a_need(need_id: int, *budget_ids: int) -> WaitingNeed:
    stream: Any = Stream.__new__(Stream)
    session = LiveSession(
        stream, EPOCH, ORGANIZATION, "acme", "USD", 0, spender_organization="acme", platform=False
    )
    lines = tuple(NeedLine(id, 50, 50, 0) for id in budget_ids)
    return WaitingNeed(session, NeedRequest(need_id, lines, 100), 1_000)


async def find(windows: Any, needs: list[WaitingNeed], state: str = "open") -> Found:
    rows = {EPOCH: SessionRow(ORGANIZATION, EPOCH, state, 1, 0, 0, None, None)}
    connection: Any = None
    budgets = waiting.budgets_of(needs)
    return await waiting.find(connection, windows, needs, budgets, rows, NOW)


async def test_what_did_not_change_is_given_again_as_it_was() -> None:
    windows, need = Windows(), a_need(1, TEAM, KEY)
    (first,) = (await find(windows, [need])).needs
    assert [line.window_id for line in first.lines] == [210, 220]
    (second,) = (await find(windows, [need])).needs
    assert second is first


async def test_a_window_that_follows_another_is_drawn_on_instead() -> None:
    windows, need = Windows(), a_need(1, TEAM, KEY)
    await find(windows, [need])
    windows.running[KEY] = 221
    found = await find(windows, [need])
    assert [line.window_id for line in found.needs[0].lines] == [210, 221]
    assert found.pairs == {(EPOCH, 210), (EPOCH, 221)}


async def test_a_budget_that_is_gone_makes_those_stale_that_draw_on_it_and_no_others() -> None:
    windows, both, team = Windows(), a_need(1, TEAM, KEY), a_need(2, TEAM)
    del windows.running[KEY]
    found = await find(windows, [both, team])
    assert found.stale == [both]
    assert list(found.by_need) == [(EPOCH, 2)]
    assert found.pairs == {(EPOCH, 210)}


async def test_a_session_that_may_not_spend_waits_for_nothing() -> None:
    need = a_need(1, TEAM)
    found = await find(Windows(), [need], "fenced")
    assert found.stale == [need]
    assert not found.needs
    assert not found.pairs


def test_budgets_of_waiting_calls_are_named_once() -> None:
    assert waiting.budgets_of([a_need(1, TEAM, KEY), a_need(2, TEAM)]) == {
        (ORGANIZATION, TEAM),
        (ORGANIZATION, KEY),
    }
