"""The time that passes for sessions: read from the database, told to the step, put on record."""

from collections.abc import Sequence
from datetime import datetime

from bursar_server.allowances import life, store
from bursar_server.allowances.life import HORIZON, Passed, ServedClock, Terms
from bursar_server.allowances.records import EventRow
from bursar_server.allowances.settings import LendingSettings
from bursar_server.database.pool import Connection


class Passing:
    """The clock of service of one shard, and who is due by it."""

    def __init__(self, shard_id: int, settings: LendingSettings) -> None:
        self._shard_id = shard_id
        self._settings = settings
        self.terms = Terms(settings.resolve_after_ms, settings.doubt_horizon_ms)
        self._clock: ServedClock | None = None

    async def served_ms(self, connection: Connection, now_ms: int) -> int:
        """How long the shard was served; on record it may be a beat less."""
        if self._clock is None:
            on_record = await store.served_ms(connection, self._shard_id)
            self._clock = ServedClock(on_record, now_ms, self._settings.most_gap_ms)
        return self._clock.read(now_ms)

    def committed(self, now_ms: int) -> None:
        """A transaction was committed."""
        if self._clock is not None:
            self._clock.committed(now_ms)

    async def due(self, connection: Connection, served_ms: int) -> list[int]:
        """Write the clock down, and find the sessions that are due, a bounded number."""
        await store.save_served_ms(connection, self._shard_id, served_ms)
        return await store.sessions_due(
            connection,
            self._shard_id,
            served_ms - self.terms.silent_after_ms,
            served_ms - self.terms.doubt_horizon_ms,
            self._settings.max_due_sessions,
        )

    async def record(
        self, connection: Connection, passed: Sequence[Passed], now: datetime
    ) -> list[EventRow]:
        """Time decides on record, as people do. Returns what people should know."""
        if not passed:
            return []
        hours = self.terms.doubt_horizon_ms / 3_600_000
        for one in passed:
            if one.lost:
                reason = f"no evidence came within {hours:g} hours"
                await store.decide_by_time(connection, one, HORIZON, reason, now)
        kept_in = await store.books_of_sessions(connection, [p.row.session_epoch for p in passed])
        return [
            event
            for one in passed
            for event in life.events_of(one, kept_in[one.row.session_epoch][1])
        ]
