"""The promises, against real processes: nothing overspent, nothing lost, nothing counted twice.

Three sidecars, an organization's budget and a key's, hundreds of concurrent calls of the official
SDK, half of them streams; parts are killed under load. The truth is the simulated provider's own
count, compared call by call with the ledger.
"""

import asyncio
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from google.protobuf import field_mask_pb2

from bursar.client import BursarClient
from bursar.v1 import budgets_pb2, identity_pb2, money_pb2
from tests.fakes.provider_bill import MODEL, compare, cost_of, entries_of, posted
from tests.fakes.stack import Stack, running
from tests.fakes.until import until
from tests.fakes.watched_windows import check_every_committed_state, watch

OUTPUT_LLM_TOKENS = 200
CONCURRENCY = 400
MILLI_USD = 1_000_000


@dataclass
class Tally:
    """What the app saw."""

    ended: Counter[str] = field(default_factory=Counter)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    served_while: Counter[str] = field(default_factory=Counter)
    """By the phase in which the call began."""


class App:
    """Calls the sidecars in turn, as many apps would."""

    def __init__(self, stack: Stack, key: str) -> None:
        self._clients = [
            openai.AsyncOpenAI(api_key=key, base_url=f"{address}/v1", max_retries=0, timeout=60)
            for address in stack.ready["sidecars"]
        ]
        self.tally = Tally()
        self.phase = "calm"
        self.call_ids: set[str] = set()
        self._count = 0

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def call(self, *, chunk_delay_ms: int = 0) -> None:
        """One call, plain or streamed in turn, under an id that the ledger's tags carry."""
        number, self._count = self._count, self._count + 1
        client = self._clients[number % len(self._clients)]
        call_id = str(uuid.uuid4())
        self.call_ids.add(call_id)
        arguments: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"call {call_id}"}],
            "max_tokens": OUTPUT_LLM_TOKENS,
            "extra_headers": {
                "x-simulate-call-id": call_id,
                "x-bursar-tags": f"call:{call_id}",
                "x-simulate": json.dumps({"chunk_delay_ms": chunk_delay_ms}),
            },
        }
        phase = self.phase
        try:
            if number % 2:
                stream = await client.chat.completions.create(stream=True, **arguments)
                async for _ in stream:
                    pass
            else:
                await client.chat.completions.create(**arguments)
        except openai.APIStatusError as error:
            self.tally.ended[str(error.status_code)] += 1
            if error.status_code in (402, 429):
                self.tally.refusals.append({"status": error.status_code, "body": error.body})
        except (openai.APIError, OSError) as error:
            self.tally.ended[type(error).__name__] += 1
        else:
            self.tally.ended["served"] += 1
            self.tally.served_while[phase] += 1

    def wait_for_served(self, calls: int) -> None:
        """Until so many more calls began and were served in this phase."""
        before = self.tally.served_while[self.phase]
        until(
            lambda: self.tally.served_while[self.phase] >= before + calls,
            f"{calls} calls are served {self.phase}",
        )

    async def load(
        self, calls: int, *, concurrency: int = CONCURRENCY, chunk_delay_ms: int = 0
    ) -> None:
        """`calls` calls, `concurrency` at a time."""
        left = calls

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await self.call(chunk_delay_ms=chunk_delay_ms)

        await asyncio.gather(*(worker() for _ in range(concurrency)))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        running(Path(directory), "--no-demo", "--sidecars", "3") as stack,
    ):
        yield stack


@pytest.fixture(scope="module")
def admin(stack: Stack) -> Iterator[BursarClient]:
    with stack.admin() as client:
        yield client


@asynccontextmanager
async def app(stack: Stack, key: str) -> AsyncIterator[App]:
    app = App(stack, key)
    try:
        yield app
    finally:
        await app.close()


def make_key(admin: BursarClient) -> tuple[str, str]:
    """A key of its own team: (name, secret)."""
    made = admin.keys.CreateKey(identity_pb2.CreateKeyRequest(key=identity_pb2.Key()))
    return made.key.name, made.secret


def make_budget(admin: BursarClient, scope: str, limit_nanos: int) -> budgets_pb2.Budget:
    return admin.budgets.CreateBudget(
        budgets_pb2.CreateBudgetRequest(
            budget=budgets_pb2.Budget(
                scope=scope,
                limit=money_pb2.Money(nanos=limit_nanos, currency="USD"),
                window=budgets_pb2.Window(lifetime=budgets_pb2.Window.Lifetime()),
            )
        )
    )


def standing(admin: BursarClient, name: str) -> budgets_pb2.BudgetStanding:
    return admin.budgets.GetBudget(budgets_pb2.GetBudgetRequest(name=name)).standing


def verify(stack: Stack) -> None:
    done = stack.cli("ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def watching(stack: Stack) -> None:
    asyncio.run(watch(stack.database_url()))


async def test_budgets_hold_are_used_and_are_refused_honestly(
    stack: Stack, admin: BursarClient
) -> None:
    name, secret = make_key(admin)
    tight = make_budget(admin, name, 25 * MILLI_USD)
    wide = make_budget(admin, stack.ready["organization"], 40 * MILLI_USD)
    async with app(stack, secret) as caller:
        await caller.load(1000)
    served = await asyncio.to_thread(stack.served)
    posted(admin, name, served)
    tally = caller.tally
    offered = sum(cost_of(call) for call in served.values()) * 1000 // len(served)
    assert offered >= 2 * tight.limit.nanos, "the load is not twice the tighter budget"
    assert set(tally.ended) <= {"served", "402", "429"}, tally.ended
    assert tally.ended["served"] == len(served)

    entries = entries_of(admin, name)
    kinds = compare(served, entries)
    assert kinds == {"exact": len(served)}
    spent = 0
    for entry in sorted(
        (e for found in entries.values() for e in found), key=lambda e: e.post_time.ToNanoseconds()
    ):
        spent += entry.amount.nanos
        assert spent <= min(tight.limit.nanos, wide.limit.nanos)
    assert await check_every_committed_state(stack.database_url()) > 10

    for refusal in tally.refusals:
        if refusal["status"] == 402:
            check_exhausted(refusal["body"])
    assert tally.ended["402"] > 0
    assert standing(admin, tight.name).settled.nanos == spent
    assert spent >= tight.limit.nanos * 99 // 100, (spent, tight.limit.nanos, tally.ended)
    verify(stack)
    raised = admin.budgets.UpdateBudget(lifted(wide))
    assert raised.standing.limit == raised.limit, "the answer comes when the books have it"


def lifted(budget: budgets_pb2.Budget) -> budgets_pb2.UpdateBudgetRequest:
    """Out of the way of the tests that follow."""
    changed = budgets_pb2.Budget(name=budget.name, organization=budget.organization)
    changed.limit.CopyFrom(money_pb2.Money(nanos=1000 * 10**9, currency="USD"))
    return budgets_pb2.UpdateBudgetRequest(
        budget=changed, update_mask=field_mask_pb2.FieldMask(paths=["limit"])
    )


def check_exhausted(body: dict[str, Any]) -> None:
    """A 402 tells the truth: what is left could not have covered the call."""
    need = Decimal(body["call_ceiling"])
    left = [
        Decimal(b["limit"]) - Decimal(b["settled"]) - Decimal(b["reserved"])
        for b in body["budgets"]
    ]
    assert left, body
    assert all(rest < need for rest in left), body


async def test_a_killed_sidecar_loses_nothing_and_counts_nothing_twice(
    stack: Stack, admin: BursarClient
) -> None:
    name, secret = make_key(admin)
    budget = make_budget(admin, name, 2000 * MILLI_USD)
    async with app(stack, secret) as caller:
        load = asyncio.create_task(caller.load(600, concurrency=120, chunk_delay_ms=10))
        for part in ("sidecar-1", "sidecar-2"):
            caller.phase = f"before {part} is killed"
            await asyncio.to_thread(caller.wait_for_served, 60)
            killed = stack.kill(part)
            await asyncio.to_thread(stack.back, part, killed)
        await load
    served = await asyncio.to_thread(stack.served)
    served = {i: served[i] for i in served.keys() & caller.call_ids}
    posted(admin, name, served)
    kinds = compare(served, entries_of(admin, name))
    assert kinds["provisional"] > 0, (kinds, caller.tally.ended)
    await check_every_committed_state(stack.database_url())
    until(lambda: standing(admin, budget.name).outstanding.nanos < budget.limit.nanos, "money")
    verify(stack)


async def test_control_plane_and_postgres_killed_under_load(
    stack: Stack, admin: BursarClient
) -> None:
    name, secret = make_key(admin)
    make_budget(admin, name, 5000 * MILLI_USD)
    async with app(stack, secret) as caller:
        await caller.load(200, concurrency=60)
        load = asyncio.create_task(caller.load(2500, concurrency=60, chunk_delay_ms=2))
        for part in ("server", "postgres", "server"):
            # Long enough for the sidecars to hold what their traffic of late is worth.
            caller.phase = f"before {part} is killed"
            await asyncio.to_thread(caller.wait_for_served, 200)
            caller.phase = f"{part} is away"
            killed = stack.kill(part)
            await asyncio.to_thread(stack.back, part, killed)
            if part == "server":
                # It comes back after the count: these calls asked nobody.
                assert caller.tally.served_while[caller.phase] > 0, caller.tally
        await load
        assert caller.tally.served_while["postgres is away"] > 0, caller.tally
    # What the held allowances did not cover was told so: 503 while nobody could be asked, 429 when
    # the answer came too late for the call's wait.
    assert set(caller.tally.ended) <= {"served", "503", "429"}, caller.tally.ended
    served = await asyncio.to_thread(stack.served)
    served = {i: served[i] for i in served.keys() & caller.call_ids}
    posted(admin, name, served)
    kinds = compare(served, entries_of(admin, name))
    assert kinds == {"exact": len(served)}
    assert len(served) == caller.tally.ended["served"]
    await check_every_committed_state(stack.database_url())
    verify(stack)
