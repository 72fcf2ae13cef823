"""A small ledger in rows: hard budgets and a soft one, three sessions, every kind of posting."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from bursar_server.database.pool import Pool
from tests.postgres.rows import NOW, House

# The sums below, by hand. Session 7 is closed: a call of 100, a released one, one posted
# provisionally at 80 and found to cost 60, one at 10 found to cost 25. Session 8 was lent 200 and
# settled 240, 40 of them provisionally. Session 9 was lent 100, settled 30 and lost 20 in doubt.
SETTLED = 185 + 240 + 30
OVERRUN = (240 - 200) + (25 - 10)
OUTSTANDING = 50
IN_DOUBT = 20

ENTRY: dict[str, Any] = {
    "k": 0,
    "kind": "final",
    "debit_account": "spend/acme",
    "currency": "USD",
    "reserved_nanos": 100,
    "overrun_nanos": 0,
    "customer": "",
    "app": "",
    "run": "",
    "tags": [],
    "provider": "openai",
    "model": "gpt-4o-mini",
    "requested_model": "openai/gpt-4o-mini",
    "price_version": "builtin-1",
    "input_llm_tokens": 0,
    "cached_input_llm_tokens": 0,
    "cache_write_5m_llm_tokens": 0,
    "cache_write_1h_llm_tokens": 0,
    "output_llm_tokens": 0,
    "reasoning_llm_tokens": 0,
    "further_usage": None,
    "estimate_reason": "",
    "provider_request_id": "",
    "http_status": 200,
    "stream": False,
    "admitted_at": NOW,
    "finished_at": NOW,
    "posted_at": NOW,
}


class NobodyConnected:
    """Who lends, where nobody borrows."""

    resolve_after_ms = 60_000

    def is_connected(self, session_epoch: int) -> bool:
        """No session has a stream."""
        return False

    async def resolution_applied(self, resolution_id: int) -> None:
        """Nobody applies anything."""


class Ledger(msgspec.Struct, frozen=True):
    """The ids of what was written."""

    house: House
    team_window: int
    key_window: int
    soft_window: int
    draw_set: int


async def insert(pool: Pool, table: str, **values: Any) -> Any:
    """Insert a row; returns its id where it has one."""
    columns = ", ".join(values)
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    returning = "RETURNING id" if table in ("budgets", "budget_windows", "draw_sets") else ""
    return await pool.fetchval(
        f"INSERT INTO {table} ({columns}) VALUES ({places}) {returning}", *values.values()
    )


async def add_entry(pool: Pool, house: House, **changed: Any) -> None:
    """One entry of the house's key; `session_epoch`, `n`, `amount_nanos` and `draw_set_id` say
    which."""
    values = {
        "organization_id": house.organization,
        "key_id": house.key,
        "team_id": house.team,
        "project_id": house.project,
        "user_id": house.user,
        **ENTRY,
        **changed,
    }
    if "credit_account" not in values:
        provisional = values["kind"] == "provisional"
        values["credit_account"] = "provisional" if provisional else f"payable/{values['provider']}"
    await insert(pool, "entries", **values)


async def add_session(pool: Pool, house: House, session_epoch: int, **changed: Any) -> None:
    """One session of a sidecar of its own."""
    await insert(
        pool,
        "sessions",
        **{
            "organization_id": house.organization,
            "session_epoch": session_epoch,
            "sidecar_organization_id": house.organization,
            "sidecar_id": session_epoch,
            "boot_id": f"boot-{session_epoch}",
            **changed,
        },
    )


async def add_draw_set(pool: Pool, house: House, windows: list[int]) -> int:
    """A draw set of these windows."""
    found = await insert(
        pool,
        "draw_sets",
        organization_id=house.organization,
        budget_window_ids=sorted(windows),
    )
    return int(found)


async def add_window(
    pool: Pool,
    house: House,
    slug: str,
    scope: tuple[str, int],
    *,
    hard: bool = True,
    start_at: datetime = NOW - timedelta(days=1),
    **balances: int,
) -> int:
    """A budget called `slug` with a limit of 1000 nanos, and its one window."""
    budget_id = await insert(
        pool,
        "budgets",
        organization_id=house.organization,
        slug=slug,
        display_name=slug,
        scope_kind=scope[0],
        scope_id=scope[1],
        limit_nanos=1000,
        window_kind="lifetime",
        enforcement="hard" if hard else "soft",
    )
    window_id = await insert(
        pool,
        "budget_windows",
        organization_id=house.organization,
        budget_id=budget_id,
        start_at=start_at,
        limit_nanos=1000,
        budget_version=1,
        ceiling_nanos=1000,
        hard=hard,
        **balances,
    )
    return int(window_id)


async def make_ledger(pool: Pool, house: House) -> Ledger:
    """Write it all, every balance as it should be."""
    hard: dict[str, Any] = {
        "settled_nanos": SETTLED,
        "outstanding_nanos": OUTSTANDING,
        "in_doubt_nanos": IN_DOUBT,
        "overrun_nanos": OVERRUN,
    }
    team = await add_window(pool, house, "b-team", ("team", house.team), **hard)
    key = await add_window(pool, house, "b-key", ("key", house.key), **hard)
    soft = await add_window(
        pool, house, "b-soft", ("user", house.user), hard=False, settled_nanos=SETTLED
    )
    await add_window(pool, house, "b-idle", ("project", house.project))
    draw_set = await add_draw_set(pool, house, [team, key, soft])
    await add_session(
        pool, house, 7, state="closed", settled_count=4, highest_settled_n=4, last_n=4
    )
    await add_session(pool, house, 8, settled_count=2, highest_settled_n=2)
    await add_session(pool, house, 9, state="fenced", settled_count=1, highest_settled_n=1)
    await add_session(pool, house, 10)
    totals = {7: (300, 110, 190, 0), 8: (200, 0, 240, 0), 9: (100, 0, 30, 20)}
    for session_epoch, (granted, returned, settled, in_doubt) in totals.items():
        for window in (team, key):
            await insert(
                pool,
                "allowances",
                organization_id=house.organization,
                session_epoch=session_epoch,
                budget_window_id=window,
                granted_nanos=granted,
                returned_nanos=returned,
                settled_nanos=settled,
                in_doubt_nanos=in_doubt,
            )
    for session_epoch, n, k, kind, amount_nanos in (
        (7, 1, 0, "final", 100),
        (7, 2, 0, "released", 0),
        (7, 3, 0, "provisional", 80),
        (7, 3, 1, "provisional", -80),
        (7, 3, 2, "final", 60),
        (7, 4, 0, "provisional", 10),
        (7, 4, 1, "provisional", -10),
        (7, 4, 2, "final", 25),
        (8, 1, 0, "final", 200),
        (8, 2, 0, "provisional", 40),
        (9, 1, 0, "final", 30),
    ):
        await add_entry(
            pool,
            house,
            session_epoch=session_epoch,
            n=n,
            k=k,
            kind=kind,
            amount_nanos=amount_nanos,
            draw_set_id=draw_set,
            posted_at=NOW + timedelta(seconds=n),
        )
    return Ledger(house, team, key, soft, draw_set)
