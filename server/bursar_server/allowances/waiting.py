"""The calls that wait, as lending takes them.

Thousands may wait at once, and each step looks at all of them: what is the same for many of them,
or from step to step, is worked out once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from bursar_server.allowances import rules, store
from bursar_server.allowances.frames import NeedRequest
from bursar_server.allowances.hub import LiveSession
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.windows import Windows
from bursar_server.database.pool import Connection

Budgets = tuple[int, ...]


class WaitingNeed(msgspec.Struct):
    """A call that waits, in the order it came."""

    session: LiveSession
    request: NeedRequest
    deadline_ms: int
    budget_ids: Budgets = ()
    """Those of its lines."""
    made: rules.Need | None = None
    """What lending was given last, and is given again while it draws on the same windows."""

    def __post_init__(self) -> None:
        self.budget_ids = tuple([line.budget_id for line in self.request.lines])


class Found(msgspec.Struct):
    """The needs of a step."""

    needs: list[rules.Need]
    by_need: dict[tuple[int, int], WaitingNeed]
    stale: list[WaitingNeed]
    """On budgets that are gone or disabled, or of sessions that may not spend."""
    pairs: set[tuple[int, int]]
    """(session epoch, window) of all of them."""


def budgets_of(waiting: Iterable[WaitingNeed]) -> set[tuple[int, int]]:
    """(organization, budget) that calls which have not begun draw on."""
    kinds = {
        (need.session.organization_id, need.budget_ids)
        for need in waiting
        if not need.request.growth
    }
    return {(organization_id, budget) for organization_id, ids in kinds for budget in ids}


async def find(
    connection: Connection,
    windows: Windows,
    waiting: Sequence[WaitingNeed],
    budgets: Iterable[tuple[int, int]],
    sessions: Mapping[int, SessionRow],
    now: datetime,
) -> Found:
    """Say of each which windows it draws on now; `budgets` are `budgets_of` them."""
    by_organization: dict[int, set[int]] = defaultdict(set)
    for organization_id, budget_id in budgets:
        by_organization[organization_id].add(budget_id)
    current: dict[int, WindowRow] = {}
    for organization_id, budget_ids in by_organization.items():
        current |= await windows.current(connection, organization_id, budget_ids, now)
    grown = await _windows_of_growth(connection, waiting)
    alike: dict[Budgets, tuple[int, ...] | None] = {}
    drawn: set[tuple[int, tuple[int, ...]]] = set()
    found = Found([], {}, [], set())
    for need in waiting:
        epoch, request = need.session.session_epoch, need.request
        if request.growth:
            # A call belongs to the window of its admission, whatever became of it and its budget.
            ids = _all_of(grown.get((x.budget_id, x.window_id)) for x in request.lines)
        else:
            if need.budget_ids not in alike:
                alike[need.budget_ids] = _all_of(current.get(b) for b in need.budget_ids)
            ids = alike[need.budget_ids]
        if ids is None or sessions[epoch].state != "open":
            found.stale.append(need)
            continue
        if need.made is None or need.made.window_ids != ids:
            need.made = _made(need, ids)
        drawn.add((epoch, ids))
        found.by_need[epoch, request.need_id] = need
        found.needs.append(need.made)
    found.pairs = {(epoch, window_id) for epoch, ids in drawn for window_id in ids}
    return found


async def _windows_of_growth(
    connection: Connection, waiting: Iterable[WaitingNeed]
) -> dict[tuple[int, int], WindowRow]:
    """By budget and window."""
    growing: dict[int, set[int]] = defaultdict(set)
    for need in waiting:
        if need.request.growth:
            growing[need.session.organization_id].update(x.window_id for x in need.request.lines)
    return {
        (row.budget_id, row.id): row
        for organization_id, window_ids in growing.items()
        for row in await store.windows_by_ids(connection, organization_id, window_ids)
    }


def _all_of(rows: Iterable[WindowRow | None]) -> tuple[int, ...] | None:
    """Their ids; None where one is missing."""
    ids = []
    for row in rows:
        if row is None:
            return None
        ids.append(row.id)
    return tuple(ids)


def _made(need: WaitingNeed, window_ids: tuple[int, ...]) -> rules.Need:
    request = need.request
    return rules.Need(
        need.session.session_epoch,
        request.need_id,
        tuple(
            rules.NeedLine(window_id, x.amount, x.least, x.want)
            for x, window_id in zip(request.lines, window_ids, strict=True)
        ),
        need.deadline_ms,
        request.growth,
    )
