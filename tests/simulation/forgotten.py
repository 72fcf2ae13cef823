"""What the SQL of lost tails does, over the tables in memory: `RESTORING` stands in for it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from bursar_server.allowances.proofs import GrantProof, SessionProof
from bursar_server.allowances.records import WindowRow
from tests.simulation.database import Session, Tables, Window


class Restoring:
    """`bursar_server.allowances.restoring`, over Tables."""

    async def count_commit(self, tables: Tables, _shard_id: int) -> int:
        tables.commit_count += 1
        return tables.commit_count

    async def proof_key(self, _tables: Tables, _shard_id: int) -> bytes:
        return b"the key of the shard"

    async def lost_tails(self, tables: Tables, _shard_id: int, _since: datetime) -> int:
        return tables.lost_tails

    async def note_lost_tail(
        self, tables: Tables, _shard_id: int, now: datetime, unless_since: datetime
    ) -> bool:
        if tables.lost_tails and tables.tail_lost_at >= unless_since:
            return False
        tables.lost_tails += 1
        tables.tail_lost_at = now
        return True

    async def skip_numbers(self, tables: Tables, least: int, _spread: int) -> None:
        tables.chance[0] += 1
        tables.skipped += least * tables.chance[0]

    async def currency_of(self, _tables: Tables, _organization_id: int) -> str:
        return "USD"

    async def restore_session(
        self, tables: Tables, proof: SessionProof, state: str, now: datetime, served_ms: int
    ) -> bool:
        boots = {(s.organization_id, s.sidecar_id, s.boot_id) for s in tables.sessions.values()}
        boot = (proof.organization_id, proof.sidecar_id, proof.boot_id)
        if proof.session_epoch in tables.sessions or boot in boots:
            return False
        tables.skipped = max(tables.skipped, proof.session_epoch)
        tables.sessions[proof.session_epoch] = Session(
            proof.organization_id, proof.session_epoch, proof.sidecar_id, proof.boot_id,
            state=state, seen_at=now, quiet_since_ms=served_ms,
            spender=tables.organizations[proof.sidecar_organization_id].slug,
        )  # fmt: skip
        return True

    async def boot_of_session(
        self, tables: Tables, _organization_id: int, session_epoch: int
    ) -> str | None:
        session = tables.sessions.get(session_epoch)
        return session.boot_id if session else None

    async def restore_windows(
        self, tables: Tables, proofs: Iterable[GrantProof], _now: datetime
    ) -> None:
        for proof in proofs:
            budget = tables.budgets[proof.budget_id]
            row = WindowRow(
                proof.window_id, proof.organization_id, proof.budget_id, proof.start_at,
                proof.end_at,
            )  # fmt: skip
            tables.windows.setdefault(
                row.id,
                Window(row, budget.hard, budget.limit_nanos, budget.limit_nanos, budget.version),
            )

    async def freeze_windows(
        self, tables: Tables, window_ids: Sequence[int], _now: datetime
    ) -> None:
        for id in window_ids:
            tables.windows[id] = replace(tables.windows[id], frozen=True)


RESTORING = Restoring()
