"""The rows of contracts: the only SQL on `price_contracts`."""

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal

import msgspec

from bursar.pricing import Contract
from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.prices import rules

q = Queries.load(__package__, "contracts.sql")


class ContractRecord(msgspec.Struct, frozen=True):
    """A contract, or what is left of one."""

    id: int
    organization_id: int
    number: int
    provider: str
    model: str
    discount: Decimal | None
    margin: Decimal | None
    call_fee: Decimal | None
    currency: str
    effective_at: datetime
    expires_at: datetime | None
    reason: str
    created_at: datetime
    organization_slug: str
    own: bool
    begun: bool

    def is_in_force(self, at: datetime, versions: Collection[str]) -> bool:
        """Whether it is one of these versions, and holds at `at`."""
        contract = self.contract
        return contract.version in versions and contract.is_in_force(at)

    @property
    def contract(self) -> Contract:
        """As prices are transformed by it."""
        return Contract(
            provider=self.provider,
            model=self.model,
            discount=self.discount,
            margin=self.margin,
            call_fee=self.call_fee,
            currency=self.currency,
            own=self.own,
            order=self.number,
            version=rules.contract_version(platform=not self.own, number=self.number),
            effective_at=self.effective_at,
            expires_at=self.expires_at,
        )


async def contracts(
    connection: Connection,
    organization_id: int,
    *,
    since: datetime | None = None,
    ended: bool = False,
) -> list[ContractRecord]:
    """The contracts for an organization's calls that hold at `since` (None: now) or will, as is
    known now: the platform's first, then its own, by number. With `ended` those too that are over.
    """
    rows = await connection.fetch(
        q.contracts, organization_id, PLATFORM_ORGANIZATION_ID, ended, since
    )
    return [ContractRecord(**dict(row)) for row in rows]


async def contracts_to_tell(connection: Connection, organization_id: int) -> list[Contract]:
    """What the sidecars of an organization are told: what holds or will, the weaker owner's first.
    What holds has no beginning: whoever is told it, holds it, whatever its clock says."""
    return [
        msgspec.structs.replace(record.contract, effective_at=None)
        if record.begun
        else record.contract
        for record in await contracts(connection, organization_id)
    ]


async def contract_of_number(
    connection: Connection, organization_id: int, number: int
) -> ContractRecord | None:
    """A contract as it was set."""
    row = await connection.fetchrow(
        q.contracts_of_number, organization_id, number, PLATFORM_ORGANIZATION_ID
    )
    return None if row is None else ContractRecord(**dict(row))


async def count_contracts(connection: Connection, organization_id: int) -> int:
    """How many of an organization's own hold or will."""
    return int(await connection.fetchval(q.count_contracts, organization_id))


async def insert_contract(
    connection: Connection,
    organization_id: int,
    number: int,
    contract: Contract,
    *,
    since: datetime,
    reason: str,
    actor: str,
    now: datetime,
) -> int:
    """Record a contract that holds from `since` on; returns its id."""
    return int(
        await connection.fetchval(
            q.insert_contract,
            organization_id,
            number,
            contract.provider,
            contract.model,
            contract.discount,
            contract.margin,
            contract.call_fee,
            contract.currency,
            since,
            contract.expires_at,
            reason,
            actor,
            now,
        )
    )


async def end_contract(
    connection: Connection, organization_id: int, number: int, since: datetime, now: datetime
) -> list[int]:
    """Take a contract back from `since` on; returns the ids of what was there of it."""
    rows = await connection.fetch(q.supersede_contract, organization_id, number, since, now)
    for row in rows:
        for left in rules.remnants(row["effective_at"], row["expires_at"], since, None):
            await connection.execute(q.repeat_contract, organization_id, row["id"], *left, now)
    return [row["id"] for row in rows]
