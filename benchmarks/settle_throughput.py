"""How many settlements a second one control plane posts, and how many transactions a call takes.

Five hard budgets a call. Scripted sidecars send settlements over real streams, as fast as they are
taken; decoding, the border's checks, the ledger, the balances and the commit are in the figure, and
so is the sending side, which runs in the same process. Against COPY of the same rows of the ledger
into a table with the same columns, constraints and indexes, on the same Postgres. Then one real
sidecar offers calls at a steady pace, and the transactions of the writer are counted.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import asyncpg
import uvloop
from prometheus_client import REGISTRY

from benchmarks.measuring import parsed, ratios, say, spread, title
from benchmarks.running_control_plane import (
    LIMIT_NANOS,
    ControlPlane,
    running_control_plane,
    scripted_sidecars,
)
from bursar.v1 import charges_pb2
from bursar_sidecar.channel import dialer
from bursar_sidecar.settings import Settings
from tests.fakes.counter import KEY, Counter
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement

BUDGETS = 5
SIDECARS = 4
SETTLEMENTS_A_FRAME = 250
KEY_ID = 5_100
COST_NANOS = 13_500
CEILING_NANOS = 75_000
RATES = (10, 100, 1_000)
STEP_S = 0.01
"""How finely the offered pace is kept."""

Frame = list[charges_pb2.Settlement]


class Sender:
    """One scripted sidecar with money for every budget, and its next number."""

    def __init__(self, sidecar: ScriptedSidecar, windows: list[int]) -> None:
        self._sidecar = sidecar
        self._windows = windows
        self._last_n = 0

    def frames(self, count: int) -> list[Frame]:
        """Settlements not sent before, made ahead of what is timed."""
        frames = []
        for _ in range(count):
            first = self._last_n + 1
            self._last_n += SETTLEMENTS_A_FRAME
            frames.append(
                [
                    settlement(
                        self._sidecar.epoch, n, self._windows, COST_NANOS, key_id=KEY_ID,
                        customer="ada", app="benchmark/1", tags=["a:b"],
                        reserved_nanos=CEILING_NANOS, provider_request_id=f"chatcmpl-{n}",
                    )
                    for n in range(first, self._last_n + 1)
                ]
            )  # fmt: skip
        return frames

    async def send(self, frames: list[Frame]) -> None:
        """Send them and wait until all are committed."""
        seq = 0
        for frame in frames:
            seq = await self._sidecar.say(settlements=frame)
        await self._sidecar.applied(seq)


async def settled_a_second(senders: list[Sender], frames: int) -> float:
    """Settlements a second over one burst."""
    made = [sender.frames(frames) for sender in senders]
    began = time.perf_counter()
    await asyncio.gather(*(s.send(f) for s, f in zip(senders, made, strict=True)))
    return len(senders) * frames * SETTLEMENTS_A_FRAME / (time.perf_counter() - began)


class Copier:
    """COPY of the ledger's newest rows into a table that is like it."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def prepare(self) -> None:
        """Make the table."""
        await self._connection.execute("CREATE TABLE copied (LIKE entries INCLUDING ALL)")

    async def copied_a_second(self, count: int) -> float:
        """Rows a second over `count` rows in one COPY."""
        rows = await self._connection.fetch(
            "SELECT * FROM entries ORDER BY posted_at DESC, session_epoch, n LIMIT $1", count
        )
        columns = list(rows[0].keys())
        records = [tuple(row) for row in rows]
        await self._connection.execute("TRUNCATE copied")
        began = time.perf_counter()
        await self._connection.copy_records_to_table("copied", records=records, columns=columns)
        return count / (time.perf_counter() - began)


async def throughput(plane: ControlPlane, repeats: int, frames: int) -> None:
    """Measure and print settlements a second."""
    budgets = await plane.add_budgets(BUDGETS)
    connection = await asyncpg.connect(plane.url)
    copier = Copier(connection)
    await copier.prepare()
    settled, copied = [], []
    async with scripted_sidecars(plane, SIDECARS) as sidecars:
        senders = []
        for sidecar in sidecars:
            lines = [(budget, LIMIT_NANOS // (10 * SIDECARS)) for budget in budgets]
            await sidecar.need(1, *lines)
            windows = [sidecar.allowance(budget).budget_window_id for budget in budgets]
            senders.append(Sender(sidecar, windows))
        await settled_a_second(senders, 1)
        for _ in range(repeats):
            settled.append(await settled_a_second(senders, frames))
            copied.append(await copier.copied_a_second(SIDECARS * frames * SETTLEMENTS_A_FRAME))
    await connection.close()
    say("settlements posted, 5 budgets a call", spread(settled), "a second")
    say("COPY of the same rows", spread(copied), "a second")
    say("settlements, ratio", ratios(settled, copied), against="COPY", target=">= 0.5")


def transactions() -> float:
    """The writer's transactions so far."""
    return REGISTRY.get_sample_value("bursar_tick_seconds_count") or 0.0


async def transactions_a_call(counter: Counter, rate: int, seconds: int) -> float:
    """Offer `rate` calls a second for so long; the writer's transactions over the calls."""
    call = await counter.call(CEILING_NANOS)
    before = transactions()
    began = time.perf_counter()
    made = 0
    while made < rate * seconds:
        due = min(int((time.perf_counter() - began) * rate) + 1, rate * seconds)
        for _ in range(due - made):
            held = await counter.cashier.reserve(call)
            counter.cashier.settle(held, counter.outcome(COST_NANOS))
        made = due
        await asyncio.sleep(STEP_S)
    return (transactions() - before) / made


async def pace(plane: ControlPlane, seconds: int) -> None:
    """Measure and print transactions a call."""
    secret = "bs-paced"
    await plane.pool.execute(
        "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
        " SELECT organization_id, 100, 's-100', sha256(convert_to($1, 'UTF8')), 'bs-'"
        " FROM sidecars LIMIT 1",
        secret,
    )
    settings = Settings(address=plane.address, sidecar_key=secret)
    with tempfile.TemporaryDirectory(prefix="bursar-benchmark-") as directory:
        counter = Counter(dialer(settings), Path(directory))
        for rate in RATES:
            target = "< 0.01" if rate == RATES[-1] else ""
            figure = await transactions_a_call(counter, rate, seconds)
            say(f"transactions a call at {rate} calls/s", f"{figure:.3g}", target=target)
        await counter.stop()


async def run(repeats: int, frames: int, seconds: int) -> None:
    """Measure and print."""
    async with running_control_plane() as plane:
        await plane.add_key(KEY_ID, KEY)
        await throughput(plane, repeats, frames)
        await pace(plane, seconds)


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=7, frames=20, seconds=4)
    title("Settling")
    uvloop.run(run(option("repeats"), option("frames"), option("seconds")))


if __name__ == "__main__":
    main()
