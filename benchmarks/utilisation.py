"""How much of a budget is used, and how many transactions that takes, with real processes.

First 1 and 10 sidecars before the simulated provider, with calls over HTTP. Then a hundred sessions
in this process, which are sidecars without HTTP (their real cores, over real gRPC), against the
same control plane; with their settlements the transactions of Postgres are counted, too. Calls may
cost five times what they cost, and go on coming until every one is refused. `--seconds` is how long
each rate is kept for the transactions, `--spend` how long a budget lasts (0: neither). See
docs/proof.md.
"""

import asyncio
import logging
import re
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import structlog
import uvloop
from msgspec import structs

from benchmarks import spending
from benchmarks.measuring import parsed, say, spread, title
from benchmarks.metered_calls import MeteredCalls
from benchmarks.money_side import MoneySide, begun, ended, journals_in_memory, serving
from benchmarks.running_stack import PLENTY, key_with_budget, make_roomy, running_stack
from benchmarks.spending import MEAN_COST_NANOS, Load, Result, Tally
from bursar.client import AsyncBursarClient, new_request_id
from bursar.money import format_nanos
from bursar.v1 import sidecars_pb2
from bursar_sidecar.channel import dialer
from bursar_sidecar.clock import SystemClock
from bursar_sidecar.program import settle_down
from bursar_sidecar.settings import Settings
from tests.fakes.stack import Stack

MOST_SIDECARS = 10
SESSIONS = 100
DURATION_S = 0.5
"""Of a call, on average."""
ALIKE = (1.0,)
"""Over HTTP all calls have the same W: what is set aside is told from how many are in flight."""
CEILING_NANOS = 5 * MEAN_COST_NANOS
RATES = (10, 100, 1_000, 4_000)
TARGET_RATE = 1_000
SLOW = 1.1
"""A pace that took so much longer than it should is told: the machine could not keep it up."""
PACE_S = 0.01
"""How finely the offered pace is kept."""
STATISTICS_S = 2.0
"""Backends of Postgres tell what they did at most a second late."""
CALM_S = 5.0
"""After the first calls, until every pool was reported."""
MOST_S = 600.0


async def over_http(stack: Stack, load: Load) -> Result:
    """One budget, from its first call to its last."""
    key = await _key(stack, load)
    addresses = stack.ready["sidecars"][: len(load.weights)]
    calls = MeteredCalls(addresses, stack.ready["provider"], key)
    longest_s = load.duration_s * spending.LONGEST_CALL
    tally = Tally(load.limit_nanos, spending.QUIET_S + longest_s)
    await spending.spend(load, calls.serve, tally, MOST_S)
    calls.close()
    return spending.result_of(load, tally)


async def enrolled(stack: Stack, count: int) -> list[str]:
    """Credentials of new sidecars."""
    organization = stack.ready["organization"]
    secrets = []
    async with AsyncBursarClient(stack.ready["grpc"], stack.ready["admin_key"]) as client:
        for number in range(count):
            made = await client.sidecars.CreateSidecar(
                sidecars_pb2.CreateSidecarRequest(
                    sidecar=sidecars_pb2.Sidecar(
                        name=f"sidecars/load-{count}-{number}", organization=organization
                    ),
                    request_id=new_request_id(),
                )
            )
            secrets.append(made.secret)
    return secrets


@asynccontextmanager
async def sessions(stack: Stack, count: int) -> AsyncIterator[list[MoneySide]]:
    """So many sidecars in this process, connected."""
    with journals_in_memory():
        sides = []
        for number, secret in enumerate(await enrolled(stack, count)):
            settings = Settings(address=stack.ready["grpc"], sidecar_key=secret)
            sides.append(MoneySide(number, dialer(settings), SystemClock()))
        tasks = await begun(sides)
        settle_down()
        try:
            yield sides
        finally:
            await ended(tasks)


async def over_sessions(stack: Stack, sides: list[MoneySide], load: Load) -> Result:
    """One budget, from its first call to its last."""
    tally = Tally(load.limit_nanos)
    await spending.spend(load, serving(sides, await _key(stack, load)), tally, MOST_S)
    return spending.result_of(load, tally)


async def _key(stack: Stack, load: Load) -> str:
    limit = format_nanos(load.limit_nanos)
    return await asyncio.to_thread(key_with_budget, stack, limit)


class Transactions:
    """Counts those of the writer, and all that the database committed."""

    def __init__(self, stack: Stack, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._metrics = f"{stack.ready['http']}/metrics"
        self._connection = connection
        self._idle_a_second = 0.0

    async def _so_far(self) -> tuple[float, float, float]:
        """(seconds, ticks of the writer, commits of the database)."""
        await asyncio.sleep(STATISTICS_S)
        text = await asyncio.to_thread(self._read)
        found = re.search(r"^bursar_tick_seconds_count (\S+)$", text, re.MULTILINE)
        commits = await self._connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        now_s = asyncio.get_running_loop().time()
        return now_s, float(found[1]) if found else 0.0, float(commits)

    def _read(self) -> str:
        with urllib.request.urlopen(self._metrics) as answer:
            text: bytes = answer.read()
        return text.decode()

    async def during(self, work: Awaitable[int]) -> tuple[float, float]:
        """What a call of `work` took: (ticks, commits). What an idle system commits while this
        waits for the statistics is not counted, what it commits during the work is."""
        _, ticks, commits = await self._so_far()
        calls = await work
        worked_until_s = asyncio.get_running_loop().time()
        after_s, ticks_then, commits_then = await self._so_far()
        idle_s = after_s - worked_until_s
        made = commits_then - commits - self._idle_a_second * idle_s
        return (ticks_then - ticks) / calls, made / calls

    async def idle(self, seconds: float) -> float:
        """Commits a second while no calls come: keep-alives, probes, this counting."""
        before_s, _, commits = await self._so_far()
        await asyncio.sleep(seconds)
        after_s, _, commits_then = await self._so_far()
        self._idle_a_second = (commits_then - commits) / (after_s - before_s)
        return self._idle_a_second


async def paced(sides: list[MoneySide], key: str, rate: int, seconds: float) -> int:
    """Offer `rate` calls a second for so long; returns how many were made."""
    call = [await side.call(key, CEILING_NANOS) for side in sides]
    loop = asyncio.get_running_loop()
    began = loop.time()
    made = 0
    while made < rate * seconds:
        due = min(int((loop.time() - began) * rate) + 1, int(rate * seconds))
        for number in range(made, due):
            side = sides[number % len(sides)]
            hold = await side.cashier.reserve(call[number % len(sides)])
            side.cashier.settle(hold, side.outcome(MEAN_COST_NANOS))
        made = due
        await asyncio.sleep(PACE_S)
    took_s = loop.time() - began
    if took_s > SLOW * seconds:
        say(f"  ({rate} calls/s were offered; made were", f"{made / took_s:.0f} a second)")
    return made


async def transactions(
    stack: Stack, sides: list[MoneySide], rates: Sequence[int], seconds: float, repeats: int
) -> None:
    """Measure and print transactions a call."""
    key = await asyncio.to_thread(key_with_budget, stack, PLENTY)
    connection = await asyncpg.connect(stack.database_url())
    counting = Transactions(stack, connection)
    await paced(sides, key, len(sides), 1)
    await asyncio.sleep(CALM_S)
    idle = await counting.idle(seconds)
    say(f"{len(sides)} sessions, no calls: Postgres commits", f"{idle:.3g}", "a second")
    for rate in rates:
        found = [await counting.during(paced(sides, key, rate, seconds)) for _ in range(repeats)]
        name = f"{len(sides)} sessions, {rate} calls/s"
        target = "< 0.01" if rate == TARGET_RATE else ""
        say(f"{name}: the writer's", spread([f[0] for f in found]), "a call", target=target)
        say(f"{name}: all that Postgres commits", spread([f[1] for f in found]), "a call")
    await connection.close()


def _over_http(option: Callable[[str], int]) -> None:
    calls, repeats = option("calls"), option("repeats")
    with running_stack(MOST_SIDECARS) as stack:
        make_roomy(stack)
        for sidecars in (1, MOST_SIDECARS):
            spreads = (("even", spending.even), ("skewed", spending.zipf))
            for name, weights in spreads if sidecars > 1 else spreads[:1]:
                for budget in (calls // 10, calls):
                    load = Load(
                        option("rate"),
                        weights(sidecars),
                        budget,
                        duration_s=DURATION_S,
                        sizes=ALIKE,
                    )
                    results = [
                        uvloop.run(over_http(stack, structs.replace(load, seed=seed)))
                        for seed in range(repeats)
                    ]
                    spending.report(
                        f"{sidecars} sidecar processes, {name} load, a budget of {budget} calls",
                        results,
                    )


async def _over_sessions(stack: Stack, option: Callable[[str], int]) -> None:
    seconds, repeats = option("seconds"), option("repeats")
    rates = [rate for rate in RATES if rate <= option("most")]
    if seconds:
        async with sessions(stack, 1) as sides:
            await transactions(stack, sides, rates, seconds, repeats)
    async with sessions(stack, SESSIONS) as sides:
        if seconds:
            await transactions(stack, sides, rates, seconds, repeats)
        for rate in rates[-2:] if option("spend") else ():
            for name, weights in (("even", spending.even), ("skewed", spending.zipf)):
                budget = rate * option("spend")
                load = Load(rate, weights(SESSIONS), budget, duration_s=DURATION_S)
                results = [
                    await over_sessions(stack, sides, structs.replace(load, seed=seed))
                    for seed in range(repeats)
                ]
                pace = spread([result.exhausted.offered_a_second for result in results])
                spending.report(
                    f"{SESSIONS} sessions, {name} load, {pace} calls/s offered,"
                    f" a budget of {budget} calls",
                    results,
                )


def main() -> None:
    """Run it."""
    option = parsed(
        __doc__, repeats=1, calls=300, rate=60, seconds=4, most=1_000, http=1, sessions=1, spend=4
    )
    title("Utilisation and transactions, with real processes")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if option("http"):
        _over_http(option)
    if option("sessions"):
        with running_stack() as stack:
            make_roomy(stack)
            uvloop.run(_over_sessions(stack, option))


if __name__ == "__main__":
    main()
