"""What a hostile sidecar is tried on: an honest one, a rival organization, and budgets of all."""

import hashlib
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from bursar.v1 import allowances_pb2, allowances_pb2_grpc, ledger_pb2
from bursar_server.allowances.settings import LendingSettings
from bursar_server.clock import SystemClock
from bursar_server.ledger.service import LedgerService
from tests.fakes.scripted_sidecar import ScriptedSidecar, settlement
from tests.postgres.ledger_rows import NobodyConnected
from tests.postgres.lending_world import KEY_ID, OTHER_SECRET, World

GRANTED = allowances_pb2.NEED_OUTCOME_GRANTED
STALE = allowances_pb2.NEED_OUTCOME_STALE
COMPLETE = allowances_pb2.JOURNAL_STATE_COMPLETE
RIVAL_SECRET = "bs-rival"
LARGEST = 2**63 - 1
LIMITS = LendingSettings(idle_tick_ms=5, max_streams_of_sidecar=3, max_unapplied_bytes=100_000)


class Scene:
    """An honest sidecar that holds 100 of a budget of 1,000 and settled 10; the liar, which holds
    200 of it and settled nothing; a rival organization whose sidecar holds 50 of its own; and a
    budget of the platform, of which the honest one holds 30."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pool = world.pool
        self.honest: ScriptedSidecar
        self.liar: ScriptedSidecar
        self.rival: ScriptedSidecar
        self.budget = self.rival_budget = self.platform_budget = 0
        self.window = self.rival_window = self.platform_window = 0

    async def begin(self) -> None:
        """Set it up."""
        await self.pool.execute(
            "INSERT INTO sidecars (organization_id, id, slug, secret_hash, secret_prefix)"
            " VALUES (6000, 3, 's-3', $1, 'bs-')",
            hashlib.sha256(RIVAL_SECRET.encode()).digest(),
        )
        self.budget = await self.world.budget(1_000)
        self.rival_budget = await self._budget_of(6000, "organization")
        self.platform_budget = await self._budget_of(1, "platform")
        self.honest = await self.world.sidecar().open("honest")
        self.liar = await self.world.sidecar(OTHER_SECRET).open("liar")
        self.rival = await self.world.sidecar(RIVAL_SECRET).open("rival")
        await self.honest.need(1, (self.budget, 100))
        self.window = self.honest.allowance(self.budget).budget_window_id
        await self.liar.need(1, (self.budget, 200))
        await self.rival.need(1, (self.rival_budget, 50))
        self.rival_window = self.rival.allowance(self.rival_budget).budget_window_id
        line = allowances_pb2.NeedLine(budget_id=self.platform_budget, amount_nanos=30)
        needs = [allowances_pb2.Need(need_id=2, lines=[line])]
        await self.honest.say(self.honest.platform_epoch, needs=needs)
        assert (await self.honest.verdict(2)).outcome == GRANTED
        self.platform_window = self.honest.allowance(self.platform_budget).budget_window_id
        charge = settlement(self.honest.epoch, 1, [self.window], 10, key_id=KEY_ID)
        await self.honest.applied(await self.honest.say(settlements=[charge]))

    async def _budget_of(self, organization: int, scope: str) -> int:
        return int(
            await self.pool.fetchval(
                "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
                " limit_nanos, window_kind, enforcement)"
                " VALUES ($1, 'b-' || nextval('ids'), '', $2, $1, 500, 'lifetime', 'hard')"
                " RETURNING id",
                organization,
                scope,
            )
        )

    async def books(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every figure that is money."""
        return {
            table: [
                tuple(row) for row in await self.pool.fetch(f"SELECT * FROM {table} ORDER BY 1")
            ]
            for table in ("budget_windows", "allowances", "entries")
        }

    async def expect_whole(self) -> None:
        """A verification finds nothing wrong."""
        service = LedgerService(self.pool, SystemClock(), NobodyConnected())
        answer = await service.VerifyLedger(ledger_pb2.VerifyLedgerRequest(), None)
        assert [d for check in answer.checks for d in check.differences] == []

    async def expect_served(self) -> None:
        """The honest one and the rival still get what is theirs."""
        for sidecar, budget in ((self.honest, self.budget), (self.rival, self.rival_budget)):
            assert (await sidecar.need(90, (budget, 7))).outcome == GRANTED

    async def refused(self, sidecar: ScriptedSidecar | None = None) -> error_details_pb2.ErrorInfo:
        """Why its stream ended, for programs."""
        call = (sidecar or self.liar)._call
        await (sidecar or self.liar).ended()
        for key, value in await call.trailing_metadata():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info):
                        return info
        raise AssertionError("no reason that a program can read")


async def say_hello(
    scene: Scene, secret: str = OTHER_SECRET, **fields: Any
) -> error_details_pb2.ErrorInfo:
    """Say Hello on a new stream; why it was refused."""
    sidecar = scene.world.sidecar(secret)
    await begin_raw(
        sidecar, scene, secret, allowances_pb2.SidecarFrame(hello=allowances_pb2.Hello(**fields))
    )
    return await scene.refused(sidecar)


async def begin_raw(
    sidecar: ScriptedSidecar, scene: Scene, secret: str, frame: allowances_pb2.SidecarFrame
) -> None:
    """Open a stream with any first frame."""
    stub: Any = allowances_pb2_grpc.AllowanceServiceStub(scene.world.channel)
    sidecar._call = stub.Session(metadata=(("authorization", f"Bearer {secret}"),))
    await sidecar.say_raw(frame)


def usage(window: int, **fields: Any) -> dict[str, Any]:
    return {"usage": [allowances_pb2.AllowanceUsage(budget_window_id=window, **fields)]}


def need(budget: int, **fields: int) -> dict[str, Any]:
    line = allowances_pb2.NeedLine(budget_id=budget, **fields)
    return {"needs": [allowances_pb2.Need(need_id=5, lines=[line], wait_ms=1)]}


def charged(scene: Scene, n: int = 1, cost: int = 5, **fields: Any) -> dict[str, Any]:
    epoch = fields.pop("session_epoch", scene.liar.epoch)
    windows = fields.pop("windows", [scene.window])
    charge = settlement(epoch, n, windows, max(-LARGEST, min(cost, LARGEST)), **fields)
    return {"settlements": [charge]}


def prior(epoch: int, **fields: Any) -> allowances_pb2.PriorSession:
    return allowances_pb2.PriorSession(
        session_epoch=epoch, **{"journal": COMPLETE, "last_n": 1, **fields}
    )
