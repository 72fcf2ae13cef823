"""What one sidecar process holds, for people: read when asked, so that it costs a call nothing.

Names and amounts, no secrets: no key, no credential, no customer, nothing of a prompt.
"""

from collections.abc import Callable
from typing import Any, Final

from bursar.money import format_nanos
from bursar_sidecar.allowances import Book
from bursar_sidecar.clock import NANOS_PER_SECOND, Clock
from bursar_sidecar.identity import Identity
from bursar_sidecar.journal import Journal
from bursar_sidecar.journal_records import Opened, Scan
from bursar_sidecar.pools import Leg, Pool
from bursar_sidecar.session import Session

MAX_ROWS: Final = 500
"""Of each list: a page is for people. The most telling ones are kept."""


class Holdings:
    """Describes the state of this moment."""

    def __init__(
        self, book: Book, journal: Journal, session: Session, identity: Identity, clock: Clock
    ) -> None:
        self._book = book
        self._journal = journal
        self._session = session
        self._identity = identity
        self._clock = clock
        self.more: dict[str, Callable[[], Any]] = {}
        """Parts that others describe: providers, files."""

    def held(self) -> dict[str, Any]:
        """All of it, in plain values; durations in seconds, amounts in the budgets' currency."""
        now = self._clock.boot_ns()
        legs = [leg for leg in (self._book.organization, self._book.platform) if leg]
        return {
            "session": {
                "connected": self._session.connected,
                "not_connected_because": ""
                if self._session.connected
                else self._session.last_fault,
                "admits_nothing_because": self._session.fault(now),
                "calls_waiting_for_money": len(self._book.waiters),
                "policy_version": self._identity.policy_version,
                "price_version": self._session.prices().version,
            },
            "sessions": [_session(leg, now) for leg in legs],
            "allowances": self._allowances(legs, now),
            "open_reservations": self._reservations(),
            "journal": {
                "directories": [str(path) for path in self._journal.directories],
                "open_reservations": self._journal.open_calls,
                "unacknowledged_bytes": self._journal.unacknowledged_bytes,
                "fault": self._journal.fault,
            },
            **{name: describe() for name, describe in self.more.items()},
        }

    def _allowances(self, legs: list[Leg], now: int) -> list[dict[str, Any]]:
        rows = [(leg, pool) for leg in legs for pool in leg.pools.values()]
        rows.sort(key=lambda row: (not row[1].is_current(now), row[1].free_nanos))
        return [self._allowance(leg, pool, now) for leg, pool in rows[:MAX_ROWS]]

    def _allowance(self, leg: Leg, pool: Pool, now: int) -> dict[str, Any]:
        policy = self._identity.budget(pool.budget_id)
        return {
            "budget": policy.name if policy is not None else f"id {pool.budget_id}",
            "scope": policy.scope if policy is not None else "",
            "hard": pool.lent,
            "in_force": pool.is_current(now),
            "granted": format_nanos(pool.granted_nanos),
            "returned": format_nanos(pool.returned_nanos),
            "settled": format_nanos(pool.settled_nanos),
            "reserved": format_nanos(pool.reserved_nanos),
            "free": format_nanos(pool.free_nanos),
            "limit": format_nanos(pool.limit_nanos),
            "currency": leg.currency,
            "window_end": pool.window_end,
            "tail": pool.tail,
        }

    def _reservations(self) -> list[dict[str, Any]]:
        found: list[Opened] = []
        for raw in set(self._journal.open_rows):
            found += [record for record, _ in Scan(raw) if isinstance(record, Opened)]
        found.sort(key=lambda record: record.admitted_at)
        wall = self._clock.wall_ns()
        return [
            {
                "charge": f"{record.parts[0].epoch}-{record.parts[0].n}",
                "age_s": round((wall - record.admitted_at) / NANOS_PER_SECOND, 1),
                "reserved": format_nanos(record.reserved_nanos),
                "key_id": record.key_id,
                "provider": record.provider,
                "model": record.model,
                "stream": record.stream,
            }
            for record in found[:MAX_ROWS]
        ]


def _session(leg: Leg, now: int) -> dict[str, Any]:
    return {
        "organization": leg.organization,
        "epoch": leg.epoch,
        "last_reservation": leg.last_n,
        "open_reservations": leg.open_count,
        "valid_for_s": round((leg.valid_until - now) / NANOS_PER_SECOND, 1),
        "fenced": leg.fenced,
        "policy_known": leg.policy_known,
        "budget_windows": len(leg.pools),
    }
