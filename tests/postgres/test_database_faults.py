"""What the database says when it fails by itself: to be tried again, never the caller's fault."""

import asyncpg
import pytest

from bursar_server.database.pool import Pool, transaction
from bursar_server.errors import BursarError, Status

RAISE = "DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '{}'; END $$"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("53100", "DATABASE_FAILED"),  # disk full
        ("53200", "DATABASE_FAILED"),  # no memory left
        ("53300", "DATABASE_UNAVAILABLE"),  # too many connections
        ("58030", "DATABASE_FAILED"),  # the disk fails
        ("XX000", "DATABASE_FAILED"),  # what Postgres has no better code for
    ],
)
async def test_a_failing_database_is_worth_another_try(pool: Pool, code: str, reason: str) -> None:
    with pytest.raises(BursarError) as caught:
        async with transaction(pool) as connection:
            await connection.execute(RAISE.format(code))
    assert caught.value.status is Status.UNAVAILABLE
    assert caught.value.reason == reason
    assert "made up" in str(caught.value.__cause__)


async def test_what_can_never_be_written_is_not_tried_again(pool: Pool) -> None:
    with pytest.raises(asyncpg.ProgramLimitExceededError):
        async with transaction(pool) as connection:
            await connection.execute(RAISE.format("54000"))
