"""A verification finds nothing in a true ledger, and each single untruth in a false one."""

import pytest

from bursar.v1 import ledger_pb2
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError
from bursar_server.ledger.rules import BALANCE_CHECKS, CHECKS
from bursar_server.ledger.service import LedgerService
from bursar_server.ledger.verify_store import verify_q
from bursar_server.ledger.verifying import MOST_DIFFERENCES, Outcome, Verifier
from tests.postgres.ledger_rows import (
    SETTLED,
    Ledger,
    NobodyConnected,
    add_draw_set,
    add_entry,
    add_session,
    add_window,
    insert,
    make_ledger,
)
from tests.postgres.rows import NOW, FixedClock, make_house


@pytest.fixture
async def ledger(pool: Pool) -> Ledger:
    return await make_ledger(pool, await make_house(pool))


@pytest.fixture
def service(pool: Pool) -> LedgerService:
    return LedgerService(pool, FixedClock(), NobodyConnected())


async def verify(service: LedgerService, organization: str = "") -> dict[str, list[str]]:
    """What is wrong, by check."""
    answer = await service.VerifyLedger(
        ledger_pb2.VerifyLedgerRequest(organization=organization), None
    )
    wrong = {check.name: list(check.differences) for check in answer.checks if check.differences}
    assert answer.ok == (not wrong)
    return wrong


async def falsify(pool: Pool, statement: str) -> None:
    """Change rows as nobody should: without the guards of the database."""
    async with pool.acquire() as connection, connection.transaction():
        # The triggers and foreign keys of all tables are off for this transaction.
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "ALTER TABLE budget_windows DROP CONSTRAINT IF EXISTS budget_windows_ceiling_check"
        )
        await connection.execute("ALTER TABLE entries DROP CONSTRAINT IF EXISTS entries_kind_check")
        await connection.execute(
            "ALTER TABLE entries DROP CONSTRAINT IF EXISTS entries_amount_check"
        )
        done = await connection.execute(statement)
        assert not done.endswith(" 0"), f"changes nothing: {statement}"


def test_every_check_has_its_query() -> None:
    written = {name for name in verify_q.names if name.startswith("check_")}
    assert written == {f"check_{check.name}" for check in CHECKS}


async def test_an_empty_ledger_is_true(service: LedgerService) -> None:
    assert await verify(service) == {}


async def test_a_true_ledger_is_found_true(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    assert await verify(service) == {}
    assert await verify(service, "organizations/acme") == {}
    answer = await service.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
    counts = {check.name: check.checked_count for check in answer.checks}
    assert counts == {
        "settled_equals_entries": 4,
        "allowances_equal_entries": 6,
        "outstanding_equals_allowances": 4,
        "overrun_equals_allowances": 4,
        "within_ceiling": 3,
        "accounts_are_named": 11,
        "trial_balance_is_zero": 11,
        "provisional_is_open_calls": 3,
        "sessions_count_their_entries": 4,
        "draw_sets_exist": 11,
        "charges_are_whole": 7,
        "lost_equals_entries": 0,
        "would_refuse_equals_entries": 4,
        "limits_are_in_force": 4,
        "resolved_sessions_hold_nothing": 0,
        "allowances_are_sound": 6,
        "records_are_guarded": 5,
        "refusals_are_of_shadows": 0,
        "corrections_are_accepted": 0,
    }
    assert all(check.description.endswith(".") for check in answer.checks)


ALLOWANCE = "UPDATE allowances SET {} WHERE session_epoch = {} AND budget_window_id = {{team}}"
WINDOW = "UPDATE budget_windows SET {} WHERE id = {{team}}"
ENTRY = "UPDATE entries SET {} WHERE session_epoch = {} AND n = {} AND k = {}"
SESSION = "UPDATE sessions SET {} WHERE session_epoch = {}"


@pytest.mark.parametrize(
    ("statement", "checks"),
    [
        (WINDOW.format("settled_nanos = settled_nanos + 1"), {"settled_equals_entries"}),
        (WINDOW.format("settled_nanos = 0"), {"settled_equals_entries"}),
        (
            "UPDATE budget_windows SET settled_nanos = 1 WHERE id = {soft}",
            {"settled_equals_entries"},
        ),
        # A charge that got lost, and one that was posted to a window it does not draw on.
        (
            "DELETE FROM entries WHERE session_epoch = 9",
            {
                "settled_equals_entries",
                "allowances_equal_entries",
                "sessions_count_their_entries",
            },
        ),
        (
            "UPDATE draw_sets SET budget_window_ids = ARRAY[{key}, {soft}]",
            {
                "settled_equals_entries",
                "allowances_equal_entries",
                "overrun_equals_allowances",
            },
        ),
        (
            ALLOWANCE.format("settled_nanos = settled_nanos - 1, returned_nanos = 1", 9),
            {"allowances_equal_entries"},
        ),
        (
            "DELETE FROM allowances WHERE session_epoch = 8 AND budget_window_id = {team}",
            {"allowances_equal_entries", "overrun_equals_allowances"},
        ),
        (ALLOWANCE.format("granted_nanos = 101", 9), {"outstanding_equals_allowances"}),
        (ALLOWANCE.format("in_doubt_nanos = 19", 9), {"outstanding_equals_allowances"}),
        (WINDOW.format("outstanding_nanos = 0"), {"outstanding_equals_allowances"}),
        (WINDOW.format("in_doubt_nanos = 0"), {"outstanding_equals_allowances"}),
        (
            "UPDATE budget_windows SET outstanding_nanos = 1 WHERE id = {soft}",
            {"outstanding_equals_allowances"},
        ),
        (WINDOW.format("overrun_nanos = 0"), {"overrun_equals_allowances"}),
        (
            "UPDATE budget_windows SET overrun_nanos = 5 WHERE id = {soft}",
            {"overrun_equals_allowances"},
        ),
        (ALLOWANCE.format("granted_nanos = 210", 8), {"overrun_equals_allowances"}),
        # As of a version that the budget had before, lest the limit is not the one in force.
        (
            WINDOW.format("ceiling_nanos = 469, limit_nanos = 469, budget_version = 0"),
            {"within_ceiling"},
        ),
        (WINDOW.format("ceiling_nanos = 999"), {"within_ceiling"}),
        (
            ENTRY.format("debit_account = ''", 8, 1, 0),
            {"accounts_are_named", "trial_balance_is_zero"},
        ),
        (ENTRY.format("debit_account = 'spend/other'", 8, 1, 0), {"accounts_are_named"}),
        (ENTRY.format("credit_account = 'payable/azure'", 8, 1, 0), {"accounts_are_named"}),
        (ENTRY.format("currency = 'EUR'", 8, 1, 0), {"accounts_are_named"}),
        (
            ENTRY.format("credit_account = ''", 8, 1, 0),
            {"accounts_are_named", "trial_balance_is_zero"},
        ),
        (
            ENTRY.format("credit_account = 'payable/openai'", 8, 2, 0),
            {"accounts_are_named", "provisional_is_open_calls"},
        ),
        (
            ENTRY.format("kind = 'final', credit_account = 'payable/openai'", 7, 3, 1),
            {"provisional_is_open_calls"},
        ),
        (SESSION.format("settled_count = 3", 8), {"sessions_count_their_entries"}),
        (SESSION.format("highest_settled_n = 9", 8), {"sessions_count_their_entries"}),
        (SESSION.format("last_n = 5", 7), {"sessions_count_their_entries"}),
        (SESSION.format("last_n = NULL", 7), {"sessions_count_their_entries"}),
        (
            SESSION.format("state = 'closed', last_n = 1", 9),
            {"sessions_count_their_entries"},
        ),
        ("DELETE FROM sessions WHERE session_epoch = 8", {"sessions_count_their_entries"}),
        (
            "DELETE FROM draw_sets",
            {
                "draw_sets_exist",
                "settled_equals_entries",
                "allowances_equal_entries",
                "overrun_equals_allowances",
            },
        ),
        (
            "UPDATE draw_sets SET budget_window_ids = budget_window_ids || 999999::bigint",
            {"draw_sets_exist"},
        ),
        (
            ENTRY.format("draw_set_id = 999999", 7, 3, 2),
            {"draw_sets_exist", "settled_equals_entries"},
        ),
        (ENTRY.format("k = 3", 7, 3, 2), {"charges_are_whole"}),
        (
            ENTRY.format("kind = 'refunded'", 8, 1, 0),
            {"charges_are_whole"},
        ),
        (
            ENTRY.format("amount_nanos = 1", 7, 2, 0),
            {"charges_are_whole", "settled_equals_entries", "allowances_equal_entries"},
        ),
        (
            ENTRY.format("amount_nanos = -30", 9, 1, 0),
            {"charges_are_whole", "settled_equals_entries", "allowances_equal_entries"},
        ),
        (
            ENTRY.format("amount_nanos = -90", 7, 3, 2),
            {"charges_are_whole", "settled_equals_entries"},
        ),
    ],
)
async def test_an_untruth_is_found(
    service: LedgerService, ledger: Ledger, pool: Pool, statement: str, checks: set[str]
) -> None:
    await falsify(
        pool,
        statement.format(team=ledger.team_window, key=ledger.key_window, soft=ledger.soft_window),
    )
    assert set(await verify(service)) == checks


async def test_a_difference_says_where_and_how_much(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    await falsify(
        pool, f"UPDATE budget_windows SET settled_nanos = 3 WHERE id = {ledger.key_window}"
    )
    (difference,) = (await verify(service))["settled_equals_entries"]
    assert difference.startswith(f"acme budgets/b-key window {ledger.key_window} from 2026-03-14")
    assert difference.endswith(
        f"settled 3 nanos, its entries {SETTLED} nanos, its opening line 0 nanos"
    )


@pytest.mark.parametrize(
    ("statement", "check", "words", "charges"),
    [
        ("DELETE FROM entries WHERE session_epoch = 9", "allowances_equal_entries",
         "session 9 window {team}: its allowance settled 30 nanos, its entries 0 nanos;"
         " look at 9-1 not there", {"9-1"}),
        ("DELETE FROM entries WHERE session_epoch = 9", "settled_equals_entries",
         "look at 9-1 not there", {"9-1"}),
        ("DELETE FROM entries WHERE session_epoch = 9", "sessions_count_their_entries",
         "session 9: counts 1 up to 1, its entries 0 up to 0; look at 9-1 not there", {"9-1"}),
        (ENTRY.format("amount_nanos = 45", 8, 2, 0), "allowances_equal_entries",
         "look at 8-2 of 45, 8-1 of 200", {"8-2", "8-1"}),
        ("UPDATE budget_windows SET settled_nanos = settled_nanos - 200 WHERE id = {soft}",
         "settled_equals_entries", "look at 8-1 of 200", {"8-1"}),
        (WINDOW.format("overrun_nanos = 0"), "overrun_equals_allowances",
         "window {team} from", set()),
        (ENTRY.format("debit_account = 'spend/other'", 8, 1, 0), "accounts_are_named",
         "acme 8-1: debits spend/other", {"8-1"}),
        ("UPDATE entries SET organization_id = 999 WHERE session_epoch = 7 AND n = 3 AND k = 2",
         "accounts_are_named", "999 7-3-2: its organization 999 does not exist", {"7-3-2"}),
        (ENTRY.format("credit_account = ''", 7, 3, 2), "trial_balance_is_zero",
         "acme 7-3-2: moves 60 USD nanos from nowhere to spend/acme: it lacks a side", {"7-3-2"}),
        (ENTRY.format("credit_account = debit_account", 7, 3, 2), "trial_balance_is_zero",
         "acme 7-3-2: moves 60 USD nanos from spend/acme to itself", {"7-3-2"}),
        (ENTRY.format("credit_account = 'payable/openai'", 8, 2, 0), "provisional_is_open_calls",
         "acme 8-2: holds 0 nanos provisionally and is open", {"8-2"}),
        (ENTRY.format("draw_set_id = 999999", 7, 3, 2), "draw_sets_exist",
         "acme 7-3-2: its draw set 999999 does not exist", {"7-3-2"}),
        ("UPDATE draw_sets SET budget_window_ids = ARRAY[999999::bigint]", "draw_sets_exist",
         "acme 9-1: window 999999 of its draw set", {"9-1", "8-1", "7-4-2"}),
        (ENTRY.format("k = 3", 7, 3, 2), "charges_are_whole",
         "acme 7-3: has 3 postings, numbered 0 to 3", {"7-3"}),
    ],
)  # fmt: skip
async def test_a_difference_leads_to_the_entry(
    service: LedgerService, ledger: Ledger, pool: Pool,
    statement: str, check: str, words: str, charges: set[str],
) -> None:  # fmt: skip
    windows = {"team": ledger.team_window, "key": ledger.key_window, "soft": ledger.soft_window}
    await falsify(pool, statement.format(**windows))
    answer = await service.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
    (found,) = [each for each in answer.checks if each.name == check]
    told = "\n".join(found.differences)
    assert words.format(**windows) in told, told
    assert charges <= set(found.charge_ids), found.charge_ids
    assert found.difference_count == len(found.differences)


async def test_a_part_of_a_call_under_another_draw_set_is_named(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    other = await add_draw_set(pool, ledger.house, [ledger.team_window])
    await falsify(pool, ENTRY.format(f"draw_set_id = {other}", 7, 3, 2))
    assert (await verify(service))["draw_sets_exist"] == [
        f"acme 7-3-2: has the draw set {other}, its call {ledger.draw_set}"
    ]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (ALLOWANCE.format("returned_nanos = granted_nanos + 1", 9), "returned 101 of 100 nanos"),
        (ALLOWANCE.format("in_doubt_nanos = 71", 9), "71 nanos in doubt of 70 held"),
        (ALLOWANCE.format("lost_nanos = 31", 9), "31 nanos lost of 30 settled"),
    ],
)
async def test_unsound_totals_are_found(
    service: LedgerService, ledger: Ledger, pool: Pool, statement: str, words: str
) -> None:
    await pool.execute("ALTER TABLE allowances DROP CONSTRAINT allowances_totals_check")
    await falsify(pool, statement.format(team=ledger.team_window))
    (difference,) = (await verify(service))["allowances_are_sound"]
    assert f"session 9 window {ledger.team_window}" in difference
    assert words in difference


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE entries DISABLE TRIGGER entries_are_append_only", "entries_are_append_only"),
        ("DROP TRIGGER opening_lines_are_append_only ON opening_lines", "opening_lines"),
        ("ALTER TABLE budget_versions ENABLE REPLICA TRIGGER budget_versions_are_append_only",
         "budget_versions"),
        ("ALTER TABLE entries DROP CONSTRAINT entries_pkey", "primary key"),
    ],
)  # fmt: skip
async def test_a_guard_that_is_off_is_found(
    service: LedgerService, ledger: Ledger, pool: Pool, statement: str, words: str
) -> None:
    await pool.execute(statement)
    (difference,) = (await verify(service))["records_are_guarded"]
    assert words in difference


async def test_it_tells_how_far_it_is(service: LedgerService, ledger: Ledger) -> None:
    messages = [
        message
        async for message in service.WatchVerification(ledger_pb2.VerifyLedgerRequest(), None)
    ]
    *progress, last = messages
    assert [message.step for message in progress][:3] == ["entries", "entries", "balances"]
    assert {check.name for check in BALANCE_CHECKS} <= {message.step for message in progress}
    assert [message.read_count for message in progress][:3] == [0, 11, 22]
    assert all(message.read_count <= message.expected_count for message in progress)
    assert not any(message.HasField("outcome") for message in progress)
    assert (last.outcome.ok, last.outcome.entry_count) == (True, 11)
    assert last.outcome.HasField("snapshot_time")


async def test_ranges_of_any_size_find_the_same(ledger: Ledger, pool: Pool) -> None:
    await falsify(pool, ENTRY.format("debit_account = ''", 7, 3, 1))
    await falsify(pool, "DELETE FROM entries WHERE session_epoch = 9")
    outcomes = []
    for size in (1, 2, 3, 5, 1_000):
        verifier = Verifier(pool, FixedClock(), range_size=size)
        outcomes.append([step async for step in verifier.verify(None)][-1])
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert isinstance(outcomes[0], Outcome)
    assert not outcomes[0].ok


async def test_nobody_is_blocked_and_the_balances_are_of_one_moment(
    ledger: Ledger, pool: Pool
) -> None:
    """While it runs, charges are posted; those that its snapshot does not see, it does not miss."""
    verifier = Verifier(pool, FixedClock(), range_size=4)
    steps = []
    async for step in verifier.verify(None):
        steps.append(step)
        n = 10 + len(steps)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            await connection.execute(
                "UPDATE budget_windows SET settled_nanos = settled_nanos + 1,"
                " outstanding_nanos = outstanding_nanos - CASE WHEN hard THEN 1 ELSE 0 END"
                " WHERE id = ANY($1::bigint[])",
                [ledger.team_window, ledger.key_window, ledger.soft_window],
            )
            await connection.execute(
                "UPDATE allowances SET settled_nanos = settled_nanos + 1 WHERE session_epoch = 9"
            )
            await connection.execute(
                "UPDATE sessions SET settled_count = settled_count + 1, highest_settled_n = $1"
                " WHERE session_epoch = 9",
                n,
            )
            await connection.execute(
                "INSERT INTO entries SELECT (jsonb_populate_record(e, jsonb_build_object("
                "'n', $1::bigint, 'amount_nanos', 1))).* FROM entries AS e"
                " WHERE session_epoch = 9 AND n = 1",
                n,
            )
    outcome = steps[-1]
    assert isinstance(outcome, Outcome)
    assert [each.differences for each in outcome.found if each.differences] == []
    assert len(steps) > 10


async def test_an_organization_is_verified_alone(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    await make_house(pool, "other")
    await falsify(pool, "UPDATE budget_windows SET settled_nanos = 1")
    assert await verify(service, "organizations/other") == {}
    assert await verify(service, "organizations/platform") == {}
    assert set(await verify(service)) == {"settled_equals_entries"}
    with pytest.raises(BursarError):
        await verify(service, "organizations/nobody")


async def test_not_every_difference_is_told(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    for n in range(1, MOST_DIFFERENCES + 11):
        await add_entry(
            pool,
            ledger.house,
            session_epoch=10,
            n=n,
            amount_nanos=0,
            draw_set_id=ledger.draw_set,
            debit_account="",
        )
    wrong = await verify(service)
    assert len(wrong["accounts_are_named"]) == MOST_DIFFERENCES


async def add_resolved(pool: Pool, ledger: Ledger) -> None:
    """Session 11 was lent 70 of a window of its own, lost them, and 20 were found again."""
    house = ledger.house
    window = await add_window(pool, house, "b-lost", ("team", house.team), settled_nanos=50)
    draw_set = await add_draw_set(pool, house, [window])
    await add_session(pool, house, 11, state="fenced", lost_count=2, decision="spent")
    values = {"granted_nanos": 70, "returned_nanos": 20, "settled_nanos": 50, "lost_nanos": 50}
    await insert(
        pool, "allowances", organization_id=house.organization, session_epoch=11,
        budget_window_id=window, **values,
    )  # fmt: skip
    for n, amount_nanos in ((-1, 70), (-2, -20)):
        await add_entry(
            pool, house, session_epoch=11, n=n, kind="lost", amount_nanos=amount_nanos,
            draw_set_id=draw_set, provider="", credit_account="lost",
        )  # fmt: skip
    await insert(
        pool, "resolutions", organization_id=house.organization, session_epoch=11,
        decision="spent", reason="", actor="admin", applied_at=NOW,
    )  # fmt: skip


async def test_what_was_lost_is_part_of_a_true_ledger(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    await add_resolved(pool, ledger)
    assert await verify(service) == {}


@pytest.mark.parametrize(
    ("statement", "checks"),
    [
        ("UPDATE allowances SET lost_nanos = 49 WHERE session_epoch = 11", {"lost_equals_entries"}),
        ("UPDATE allowances SET lost_nanos = 1 WHERE session_epoch = 9", {"lost_equals_entries"}),
        (
            "UPDATE allowances SET returned_nanos = 19 WHERE session_epoch = 11",
            {"resolved_sessions_hold_nothing", "outstanding_equals_allowances"},
        ),
        (SESSION.format("state = 'open'", 11), {"resolved_sessions_hold_nothing"}),
        (SESSION.format("lost_count = 1", 11), {"sessions_count_their_entries"}),
        (ENTRY.format("n = -5", 11, -2, 0), {"sessions_count_their_entries"}),
        (ENTRY.format("credit_account = 'provisional'", 11, -1, 0), {"accounts_are_named"}),
        (ENTRY.format("kind = 'final', credit_account = 'payable/'", 11, -1, 0),
         {"charges_are_whole", "lost_equals_entries"}),
        (ENTRY.format("kind = 'lost', credit_account = 'lost'", 8, 1, 0),
         {"charges_are_whole", "lost_equals_entries"}),
    ],
)  # fmt: skip
async def test_an_untruth_about_what_was_lost_is_found(
    service: LedgerService, ledger: Ledger, pool: Pool, statement: str, checks: set[str]
) -> None:
    await add_resolved(pool, ledger)
    await falsify(pool, statement)
    assert set(await verify(service)) == checks
