"""Calls at a dollar a million LLM tokens under four budgets, to be computed again."""

import uuid
from datetime import timedelta
from typing import Any

from bursar.v1 import budgets_pb2, charges_pb2, prices_pb2, ratings_pb2
from bursar_server.changes import ChangeFeed
from bursar_server.prices.service import PriceService
from bursar_server.ratings.service import RatingService
from bursar_server.times import timestamp
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.lending_plane import Plane

SHADOW = budgets_pb2.ENFORCEMENT_SHADOW
SOFT = budgets_pb2.ENFORCEMENT_SOFT
DAY = timedelta(days=1)
# A call of 1,000 LLM tokens in and out: 1 dollar a million is 2,000,000 nanos.
A_DOLLAR = 2_000_000


class Scene:
    """A plane with two hard budgets, a soft and a shadow one, and calls at a dollar a million."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.prices = PriceService(plane.pool, ChangeFeed())
        self.budgets: dict[str, int] = {}
        self.sidecar: ScriptedSidecar
        self.count = 0

    @property
    def ratings(self) -> RatingService:
        return RatingService(self.plane.pool, self.plane.clock, self.plane.control.corrector)

    async def begin(self) -> None:
        await self.plane.enrol()

    async def open(self, boot: str = "boot-1") -> None:
        if not self.budgets:
            for name, scope, enforcement in (
                ("team", "teams/search", budgets_pb2.ENFORCEMENT_HARD),
                ("key", "keys/k-1", budgets_pb2.ENFORCEMENT_HARD),
                ("soft", "users/ada", SOFT),
                ("shadow", "projects/answers", SHADOW),
            ):
                limit = 12 * A_DOLLAR if name in ("soft", "shadow") else 100 * A_DOLLAR
                _, id = await self.plane.budget(limit, scope=scope, enforcement=enforcement)
                self.budgets[name] = id
        self.sidecar = await self.plane.sidecar(boot)

    async def set_price(self, rate: str, days: float = -9) -> None:
        asked = prices_pb2.Price(
            provider="openai",
            model="ours",
            components=[
                prices_pb2.PriceComponent(meter=meter, rate=rate, per=1_000_000)
                for meter in ("input", "output")
            ],
        )
        asked.effective_time.CopyFrom(timestamp(self.plane.clock.now() + days * DAY))
        await self.prices.SetPrice(
            prices_pb2.SetPriceRequest(organization="organizations/acme", price=asked), None
        )

    async def calls(self, count: int, cost: int = A_DOLLAR, **fields: Any) -> list[int]:
        """So many calls in one frame; returns their n."""
        lines = [(self.budgets[name], count * cost) for name in ("team", "key", "soft", "shadow")]
        await self.sidecar.need(self.count + 1, *lines)
        numbers = list(range(self.count + 1, self.count + count + 1))
        self.count += count
        windows = [self.sidecar.allowance(id).budget_window_id for id, _ in lines]
        now = timestamp(self.plane.clock.now() - timedelta(minutes=1))
        values: dict[str, Any] = {
            "key_id": self.plane.house.key,
            "model": "ours",
            "requested_model": "ours",
            "priced_as": "openai/ours",
            "admit_time": now,
            "finish_time": now,
            "usage": charges_pb2.Usage(input_llm_tokens=1_000, output_llm_tokens=1_000),
            **fields,
        }
        epoch = self.sidecar.epoch
        told = [settlement(epoch, n, windows, cost, **values) for n in numbers]
        await self.sidecar.applied(await self.sidecar.say(settlements=told))
        return numbers

    async def plan(self, **fields: Any) -> ratings_pb2.Rerating:
        request = ratings_pb2.PlanReratingRequest(
            reason="the list was wrong", request_id=str(uuid.uuid4()), **fields
        )
        if not request.HasField("since_time"):
            request.since_time.CopyFrom(timestamp(self.plane.clock.now() - DAY))
        return await self.ratings.PlanRerating(request, None)

    async def apply(self, plan: ratings_pb2.Rerating, etag: str | None = None) -> Any:
        request = ratings_pb2.ApplyReratingRequest(
            name=plan.name, etag=plan.etag if etag is None else etag
        )
        return await self.ratings.ApplyRerating(request, None)

    async def settled(self, name: str) -> tuple[int, int]:
        """(settled, overrun) of a budget."""
        row = await self.plane.pool.fetchrow(
            "SELECT settled_nanos, overrun_nanos FROM budget_windows WHERE budget_id = $1",
            self.budgets[name],
        )
        assert row is not None
        return row[0], row[1]

    async def expect_whole(self) -> None:
        assert await self.plane.differences() == []
