"""The mutants of the simulation that concern the control plane, against a real Postgres.

For each a story that it does not survive: without the mutant the story holds, with it it must not.
The mutants of sidecars (their book, journal and admission) are the simulation's alone.
"""

from collections.abc import Awaitable, Callable

import grpc
import pytest

from bursar_server.allowances.settings import LendingSettings
from bursar_server.clock import SystemClock
from bursar_server.database.pool import create_pool
from tests.fakes.postgres import PostgresForTests
from tests.postgres import mutant_scenarios as story
from tests.postgres import postgres_mutants
from tests.postgres import test_allowance_stream as stream
from tests.postgres.lending_world import World, lending
from tests.simulation.mutants import MUTANTS, Replacement, living
from tests.simulation.mutants import lending as lending_mutants
from tests.simulation.mutants import posting as posting_mutants

Story = Callable[[World], Awaitable[None]]
FAILURES = (AssertionError, TimeoutError, grpc.aio.AioRpcError)

OF_POSTGRES: dict[str, tuple[Callable[[], list[Replacement]], Story]] = {
    make.__name__: (make, told)
    for make, told in (
        (postgres_mutants.release_on_expiry, story.silence_is_no_return),
        (postgres_mutants.disk_loss_is_a_return, story.a_lost_disk_is_no_return),
        (postgres_mutants.a_deposed_owner_writes_on, story.a_deposed_owner_lends_no_more),
        (
            postgres_mutants.who_comes_later_catches_up_on_nothing,
            story.a_limit_is_heard_of_by_whoever_comes_later,
        ),
        (
            postgres_mutants.fencing_drops_settlements,
            stream.test_a_crashed_life_is_settled_and_closed_by_the_next,
        ),
        (
            postgres_mutants.selectors_run_again_over_history,
            story.a_charge_counts_where_it_was_admitted,
        ),
    )
}
OF_BOTH: dict[str, Story] = {
    "check_then_act": story.calls_that_come_together_share,
    "no_deduplication": story.a_repeat_costs_nobody_else_anything,
    "returns_as_deltas": story.totals_are_no_differences,
    "grant_before_commit": story.nothing_is_told_before_its_commit,
    "acknowledge_before_commit": story.nothing_is_told_before_its_commit,
    "close_before_settlements": stream.test_a_crashed_life_is_settled_and_closed_by_the_next,
    "a_cut_journal_frees": stream.test_a_torn_journal_leaves_the_rest_in_doubt,
    "overrun_is_lent_again": story.what_overran_is_spent,
    "a_final_is_dropped_after_its_provisional": (
        stream.test_a_crashed_life_is_settled_and_closed_by_the_next
    ),
    "a_cut_limit_is_not_applied": story.a_cut_limit_holds,
    "more_settled_than_its_journal_knows_is_refused": (
        story.a_close_that_knows_too_little_stops_no_charge
    ),
    "a_closing_session_is_lent_to": story.who_closes_is_lent_nothing,
}
CAUGHT = OF_POSTGRES | {name: (MUTANTS[name], told) for name, told in OF_BOTH.items()}


async def play(server: PostgresForTests, told: Story) -> BaseException | None:
    """Tell a story over a database of its own; returns what broke in it."""
    url = server.create_database()
    pool = await create_pool(url, size=8)
    broken: BaseException | None = None
    try:
        async with lending(pool, SystemClock(), LendingSettings(idle_tick_ms=5)) as world:
            try:
                await told(world)
            except FAILURES as failure:
                broken = failure
    finally:
        await pool.close()
        server.drop_database(url)
    return broken


@pytest.mark.parametrize("name", CAUGHT)
async def test_a_mutant_is_caught(name: str, postgres_server: PostgresForTests) -> None:
    make, told = CAUGHT[name]
    assert await play(postgres_server, told) is None
    with living(make()):
        assert await play(postgres_server, told) is not None, f"{name} survived"


SIMULATION_ALONE = {
    # They break when money comes home, never how much there is: a story of many rounds.
    "the_silent_are_believed",
    # It needs a stream that takes long to end, and a process that dies on the next one.
    "what_an_older_stream_said_is_believed",
    # It needs a frame that waits while its stream ends and the next one begins.
    "what_an_ended_stream_left_behind_is_applied",
    # It needs an announcement that is lost while a budget has no window.
    "a_budget_without_a_window_is_known_for_ever",
    # It needs a commit whose acknowledgement is lost.
    "an_unheard_grant_is_told_to_nobody",
}


def test_every_mutant_of_lending_and_posting_has_a_story() -> None:
    modules = (lending_mutants.__name__, posting_mutants.__name__)
    concerned = {name for name, make in MUTANTS.items() if make.__module__ in modules}
    assert concerned - CAUGHT.keys() == SIMULATION_ALONE
