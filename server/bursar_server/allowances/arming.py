"""How a new budget is armed while calls that know nothing of it are under way. Pure.

A budget made over those who spend already is *arming*: a sidecar that was not told of it goes on
admitting calls that do not draw on it. They count in it all the same when they settle, so that it
misses nothing that was spent after it was made; what settled before is its opening line.

    made -> arming (sessions that may spend are noted) -> armed (each knows it, or has lapsed)

A session that says it acts on the policy with the budget names the last call it admitted under an
older one: up to that, and without such word for all, its settlements are looked at. One that falls
under the budget and does not draw on it is posted with the budget's window in its recorded draw
set. No allowance covers it there, so it counts as overrun of that window. Calls of a session are
looked at until it closes: being armed ends nothing but the wait.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import msgspec

from bursar.selectors import Selector, model_names
from bursar_server.allowances.records import SessionRow, WindowRow
from bursar_server.allowances.rules import Books
from bursar_server.budgets.store import BudgetRecord
from bursar_server.identity.records import KeyRecord
from bursar_server.ledger.entries import Posting


class ArmingSession(msgspec.Struct, frozen=True):
    """A session that may admit, or have admitted, calls that do not draw on a new budget."""

    organization_id: int
    budget_id: int
    session_epoch: int
    policy_version: int
    """The policy that the budget came with."""
    last_n: int | None = None
    """The last call it admitted under an older policy; None: it did not say so yet."""


def heard(row: ArmingSession, session: SessionRow) -> ArmingSession | None:
    """The row once its session acts on the policy with the budget; None: nothing changed."""
    if row.last_n is not None or session.policy_version < row.policy_version:
        return None
    return msgspec.structs.replace(row, last_n=session.policy_last_n)


def is_older(row: ArmingSession, n: int) -> bool:
    """Whether a call may have been admitted without knowing the budget."""
    return row.last_n is None or n <= row.last_n


def falls_under(budget: BudgetRecord, posting: Posting) -> bool:
    """Whether a call is one that the budget counts: as a sidecar decides it at admission."""
    settlement = posting.settlement
    scope: Mapping[str, int | None] = {
        "key": settlement.key_id,
        "team": posting.team_id,
        "project": posting.project_id,
        "user": posting.user_id,
    }
    if budget.scope_kind in scope and scope[budget.scope_kind] != budget.scope_id:
        return False
    names = model_names(settlement.provider, settlement.model, settlement.requested_model)
    return Selector(budget.models, budget.providers).selects(settlement.provider, names)


def window_of(
    windows: Collection[WindowRow], admitted_at: datetime, made_at: datetime
) -> WindowRow | None:
    """The window a call belongs to: the one it was admitted in. None: one from before the budget.

    `windows` are the budget's first one and those around the call. Where the first one began only
    with the budget (`made_at`), what is older counts in it: there is no window before.
    """
    begun = [w for w in windows if w.start_at <= admitted_at]
    if begun:
        return max(begun, key=lambda window: window.start_at)
    first = min(windows, key=lambda window: window.start_at, default=None)
    return first if first is not None and first.start_at >= made_at else None


def count(books: Books, window_ids: Iterable[int], amount: int) -> None:
    """Post a call to windows it was not admitted under: nothing was lent for it there."""
    for window_id in window_ids:
        window = books.windows[window_id]
        before = window.settled
        books.adjust((window_id,), amount)
        if not (window.hard or window.shadow) and before <= window.limit < window.settled:
            window.crossed = True


def may_spend(kind: str, scope_id: int, keys: Collection[KeyRecord | None]) -> bool:
    """Whether a sidecar that was told of these keys can spend for a scope."""
    if kind in ("organization", "platform"):
        return True
    for key in keys:
        if key is not None:
            links = {"key": key.id, "team": key.team_id, "project": key.project_id}
            if links.get(kind, key.user_id) == scope_id:
                return True
    return False
