"""Every state of a budget window that was ever committed: what a sampler would miss."""

import asyncpg

WATCH_WINDOWS = """
CREATE TABLE watched_windows (at bigserial, id bigint, settled bigint, lent bigint, ceiling bigint);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO watched_windows (id, settled, lent, ceiling) VALUES (NEW.id, NEW.settled_nanos,
        NEW.outstanding_nanos + NEW.in_doubt_nanos, NEW.limit_nanos);
    RETURN NEW;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE ON budget_windows
    FOR EACH ROW EXECUTE FUNCTION watch();
"""


async def watch(url: str) -> None:
    """Write every state down from now on."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(WATCH_WINDOWS)
    finally:
        await connection.close()


async def check_every_committed_state(url: str) -> int:
    """settled + lent <= limit in every state since; how many there were."""
    connection = await asyncpg.connect(url)
    try:
        wrong = await connection.fetch(
            "SELECT * FROM watched_windows WHERE settled + lent > ceiling ORDER BY at LIMIT 5"
        )
        assert not wrong, wrong
        return int(await connection.fetchval("SELECT count(*) FROM watched_windows"))
    finally:
        await connection.close()
