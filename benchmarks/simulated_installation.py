"""A control plane and any number of sidecars in virtual time, on the stand-ins of the simulation.

The programs are the real ones, their event loops' timers included: the service's streams, the
writer, its tick and the lending rules on one side; session, cashier, book, outbox, roster and
journal on the other. Instead of Postgres there are dictionaries with transactions, instead of a
disk bytes in memory, instead of gRPC queues with a delay, and instead of time a loop that skips it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from benchmarks.money_side import MoneySide, begun, ended
from benchmarks.virtual_time import NANOS_PER_SECOND, VirtualLoop
from bursar.v1 import allowances_pb2
from bursar_server.allowances import service, writer
from bursar_server.budgets.rules import WindowSpec
from bursar_server.budgets.store import BudgetRecord
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.identity.records import KeyRecord, OrganizationRecord
from bursar_server.sidecars.records import SidecarRecord
from bursar_sidecar.channel import StreamEnded
from bursar_sidecar.identity import hash_of
from tests.simulation import database, driving
from tests.simulation.control_process import ControlPlane
from tests.simulation.database import EPOCH, Database, Tables
from tests.simulation.stepped import Clock

ORGANIZATION = 2
KEY_ID = 41
KEY = "bk-one"
BUDGET = 11
ROOMY_BUDGET = 12
"""A second hard budget of every call, which never binds."""
FIRST_SIDECAR = 50
MOST_SKEW_MS = 20
MOST_DRIFT_PPM = 200

Frame = Any
"""Either direction's."""


class Delays(NamedTuple):
    """What takes time besides the programs' own timers; in seconds."""

    one_way_s: float
    """From a sidecar to the control plane, and back."""
    commit_s: float
    """Of a transaction of the writer."""


DELAYS = Delays(0.001, 0.005)
"""Another machine of the same place; docs/performance.md has 5 to 17 ms for large transactions."""


class _Wire:
    """One direction of a stream: frames arrive in their order, a little later."""

    def __init__(self, one_way_s: float) -> None:
        self._one_way_s = one_way_s
        self._frames: asyncio.Queue[tuple[float, Frame]] = asyncio.Queue()

    def send(self, frame: Frame) -> None:
        """On its way."""
        self._frames.put_nowait((asyncio.get_running_loop().time() + self._one_way_s, frame))

    async def receive(self) -> Frame:
        """The next frame, when it has arrived; None at the end."""
        arrives_at, frame = await self._frames.get()
        await asyncio.sleep(arrives_at - asyncio.get_running_loop().time())
        return frame

    def __aiter__(self) -> "_Wire":
        return self

    async def __anext__(self) -> Frame:
        frame = await self.receive()
        if frame is None:
            raise StopAsyncIteration
        return frame


class _Connection:
    """The sidecar's end."""

    def __init__(self, one_way_s: float) -> None:
        self.up, self.down = _Wire(one_way_s), _Wire(one_way_s)

    async def write(self, frame: allowances_pb2.SidecarFrame) -> None:
        self.up.send(frame)

    async def read(self) -> allowances_pb2.ControlFrame:
        frame: allowances_pb2.ControlFrame | None = await self.down.receive()
        if frame is None:
            raise StreamEnded("the control plane ended the stream")
        return frame


class _Context:
    """What the service asks of gRPC."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._secret}"),)


class SimulatedSidecar(MoneySide):
    """One sidecar process without its data path."""

    def __init__(
        self, loop: VirtualLoop, plane: ControlPlane, number: int, one_way_s: float
    ) -> None:
        self._one_way_s = one_way_s
        self._plane = plane
        self._secret = f"bs-{number}"
        spread = (number * 37) % 21 / 10 - 1
        time: Any = loop
        clock = Clock(time, int(spread * MOST_SKEW_MS), int(spread * MOST_DRIFT_PPM))
        super().__init__(number, self._dial, clock)

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[_Connection]:
        connection = _Connection(self._one_way_s)
        served = asyncio.create_task(self._serve(connection))
        try:
            yield connection
        finally:
            served.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await served

    async def _serve(self, connection: _Connection) -> None:
        context: Any = _Context(self._secret)
        async for frame in self._plane.service.Session(connection.up, context):
            connection.down.send(frame)
        connection.down.send(None)

    def pool_of(self, budget_id: int) -> Any:
        """What is held of a budget; None before anything was lent."""
        leg = self.book.organization
        return leg.current_pool(budget_id, self.clock.boot_ns()) if leg else None


class Installation:
    """All of it."""

    def __init__(
        self, loop: VirtualLoop, sidecars: int, limit_nanos: int, one_way_s: float
    ) -> None:
        self.database = Database(_tables(loop, sidecars, limit_nanos))
        time: Any = loop
        self.plane = ControlPlane(self.database, time, 0)
        desk: Any = self.plane.desk
        desk._mark_effective = _no_changes
        self.sidecars = [SimulatedSidecar(loop, self.plane, i, one_way_s) for i in range(sidecars)]

    def window(self) -> Any:
        """The row of the measured budget's window."""
        found = [w for w in self.database.tables.windows.values() if w.row.budget_id == BUDGET]
        return found[0]

    def idle_nanos(self) -> int:
        """What lies free in sidecars."""
        pools = [sidecar.pool_of(BUDGET) for sidecar in self.sidecars]
        return sum(max(0, pool.free_nanos) for pool in pools if pool is not None)


async def _no_changes() -> None:
    """Nobody changes policy here, so nothing is to be marked as heard by everybody."""


def _tables(loop: VirtualLoop, sidecars: int, limit_nanos: int) -> Tables:
    tables = Tables()
    for id, slug in ((PLATFORM_ORGANIZATION_ID, "platform"), (ORGANIZATION, "acme")):
        tables.organizations[id] = OrganizationRecord(
            id, slug, slug, "USD", 0, False, 1, 0, EPOCH, EPOCH
        )
    created = EPOCH + timedelta(seconds=loop.now_ns / NANOS_PER_SECOND - 1)
    for id, limit in ((BUDGET, limit_nanos), (ROOMY_BUDGET, 1_000 * limit_nanos)):
        tables.budgets[id] = BudgetRecord(
            id, f"b{id}", ORGANIZATION, "", "organization", ORGANIZATION, "", (), (), limit, "USD",
            WindowSpec("lifetime"), "hard", False, 1, created, created,
        )  # fmt: skip
    tables.keys[hash_of(KEY)] = KeyRecord(
        KEY_ID, "k", "", ORGANIZATION, "acme", False, "USD", None, "", False, None, "", False, None,
        "", False, [], [], {}, None, None, False, hash_of(KEY), "", EPOCH, EPOCH,
    )  # fmt: skip
    return tables


async def _sidecar_by_secret_hash(_tables: Any, secret_hash: bytes) -> SidecarRecord:
    """Whoever says so is the sidecar of that number."""
    number = _NUMBERS[secret_hash]
    return SidecarRecord(
        FIRST_SIDECAR + number, ORGANIZATION, "acme", f"s{number}", False, False, secret_hash, "",
        "", None, EPOCH,
    )  # fmt: skip


_NUMBERS = {hash_of(f"bs-{number}"): number for number in range(1_000)}


def _slow(commit_s: float) -> Any:
    """A transaction of the writer, whose end takes its time to be known."""

    @asynccontextmanager
    async def slow_transaction(pool: Any, *, read_only: bool = False) -> AsyncIterator[Any]:
        async with database.transaction(pool, read_only=read_only) as tables:
            yield tables
        await asyncio.sleep(commit_s)

    return slow_transaction


@contextmanager
def _in_memory(delays: Delays) -> Iterator[None]:
    with driving.in_memory():
        # A real loop runs here, and the writer waits on it.
        changed: list[tuple[Any, str, Any]] = [
            (writer, "asyncio", asyncio),
            (writer, "transaction", _slow(delays.commit_s)),
            (service, "sidecar_by_secret_hash", _sidecar_by_secret_hash),
        ]
        before = [(module, name, getattr(module, name)) for module, name, _ in changed]
        for module, name, stand_in in changed:
            setattr(module, name, stand_in)
        try:
            yield
        finally:
            for module, name, value in before:
                setattr(module, name, value)


@asynccontextmanager
async def simulated(
    loop: VirtualLoop, sidecars: int, limit_nanos: int, delays: Delays = DELAYS
) -> AsyncIterator[Installation]:
    """Everything runs, every sidecar has been told its budgets."""
    with _in_memory(delays):
        made = Installation(loop, sidecars, limit_nanos, delays.one_way_s)
        plane = made.plane
        tasks = [
            asyncio.create_task(plane.writer._run()),
            asyncio.create_task(plane.desk._run()),
        ]
        try:
            tasks += await begun(made.sidecars)
            yield made
        finally:
            await ended(tasks)
