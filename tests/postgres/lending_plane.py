"""A control plane over a test's database: budgets are made through the rpcs and lent by the writer,
by a clock that a test moves."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable

import grpc

from bursar.v1 import allowances_pb2, budgets_pb2, ledger_pb2, money_pb2
from bursar.windows import parse_window
from bursar_server.allowances.control import AllowanceControl
from bursar_server.allowances.settings import LendingSettings
from bursar_server.budgets.service import BudgetService
from bursar_server.changes import ChangeFeed
from bursar_server.database.pool import Pool
from bursar_server.grpc_server.admission import AdminKeys
from bursar_server.grpc_server.border import Border
from bursar_server.ledger.service import LedgerService
from tests.fakes.scripted_sidecar import ScriptedSidecar
from tests.postgres.lending_world import SECRET, ShiftedClock
from tests.postgres.rows import House


class Plane:
    """A control plane, run for as long as `running` is entered; an organization and a sidecar."""

    def __init__(self, pool: Pool, house: House) -> None:
        self.pool = pool
        self.house = house
        self.clock = ShiftedClock()
        self.control: AllowanceControl
        self.budgets: BudgetService
        self.channel: grpc.aio.Channel

    async def enrol(self) -> None:
        """Make the sidecar."""
        await self.pool.execute(
            "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
            " VALUES ($1, 1, 's-1', $2, 'bs-')",
            self.house.organization, hashlib.sha256(SECRET.encode()).digest(),
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """One process life of the control plane."""
        feed = ChangeFeed()
        settings = LendingSettings(idle_tick_ms=5, boundary_look_ms=5)
        self.control = AllowanceControl(self.pool, feed, self.clock, settings, asyncio.Event())
        self.budgets = BudgetService(
            self.pool, feed, self.clock, self.control.writer.budget_applied
        )
        server = grpc.aio.server(interceptors=[Border(AdminKeys([]))])
        self.control.add_to_server(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await self.control.start()
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as self.channel:
            yield
        await self.control.drain()
        await server.stop(0)

    async def sidecar(
        self, boot_id: str = "boot-1", prior: Iterable[allowances_pb2.PriorSession] = ()
    ) -> ScriptedSidecar:
        """A process life of the sidecar."""
        return await ScriptedSidecar(self.channel, SECRET).open(boot_id, prior)

    async def budget(
        self,
        limit: int,
        *,
        window: str = "lifetime",
        enforcement: "budgets_pb2.Enforcement.ValueType" = budgets_pb2.ENFORCEMENT_HARD,
        scope: str = "teams/search",
        organization: str = "organizations/acme",
        selector: budgets_pb2.Selector | None = None,
    ) -> tuple[str, int]:
        """Make one; returns its name and its id."""
        made = await self.budgets.CreateBudget(
            budgets_pb2.CreateBudgetRequest(
                budget=budgets_pb2.Budget(
                    organization=organization,
                    scope=scope,
                    limit=money_pb2.Money(nanos=limit),
                    window=parse_window(window, ""),
                    enforcement=enforcement,
                    selector=selector,
                )
            ),
            None,
        )
        budget_id = await self.pool.fetchval(
            "SELECT id FROM budgets WHERE slug = $1", made.name.partition("/")[2]
        )
        return made.name, int(budget_id)

    async def show(self, name: str, organization: str = "organizations/acme") -> budgets_pb2.Budget:
        """A budget and how it stands."""
        return await self.budgets.GetBudget(
            budgets_pb2.GetBudgetRequest(organization=organization, name=name), None
        )

    async def differences(self) -> list[str]:
        """What a verification finds wrong."""
        service = LedgerService(self.pool, self.clock, self.control)
        answer = await service.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
        return [difference for check in answer.checks for difference in check.differences]
