"""The local gRPC service over a desk in memory: an app's stub, and time that a test moves."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from msgspec import structs
from prometheus_client import CollectorRegistry

from bursar.v1 import money_pb2, spend_pb2, spend_pb2_grpc
from bursar_sidecar.amendments import Late
from bursar_sidecar.desk import Outcome, Receipt, Refusal, Reservation
from bursar_sidecar.journal_records import Opened
from bursar_sidecar.local_grpc.life import LocalGrpc
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk

NANOS = 1_000_000_000
USD = 1_000_000_000
MODEL = "gpt-4o-mini"
COUNTS = spend_pb2.CallBounds(input_llm_tokens=1_000, output_llm_tokens=1_000, text_only=True)
MOST_NANOS = 750_000
"""Of COUNTS: a thousand LLM tokens at 0.15 and a thousand at 0.60 USD a million."""


class MovedClock:
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self.boot_s = 5.0

    def wall_ns(self) -> int:
        return 1_700_000_000 * NANOS + self.boot_ns()

    def boot_ns(self) -> int:
        return round(self.boot_s * NANOS)

    def monotonic(self) -> float:
        return self.boot_s

    def skip(self, seconds: float) -> None:
        self.boot_s += seconds


class FakeEvidence:
    """Takes what comes late, unless it is told not to."""

    def __init__(self, desk: FakeDesk) -> None:
        self._desk = desk
        self.adjusted: dict[str, Outcome] = {}
        self.taking = True

    def late(self, reservation: Reservation) -> Late:
        return Late(reservation.charge_id, opened("late", reservation.ceiling_nanos))

    def amend(self, late: Late, outcome: Outcome, currency: str) -> Receipt:
        if not self.taking:
            raise Refusal("evidence_too_late", "The session is closed; what was charged stays.")
        self.adjusted[late.charge_id] = outcome
        return Receipt(late.charge_id, outcome.cost_nanos, currency, None)


def opened(request_id: str, reserved_nanos: int, *, key_id: int = 1) -> Opened:
    """An open record as a journal keeps it."""
    return Opened(
        parts=(),
        reserved_nanos=reserved_nanos,
        key_id=key_id,
        provider="openai",
        model=MODEL,
        requested_model=MODEL,
        price_version="builtin@1",
        customer="",
        app="",
        run="",
        tags=(),
        stream=False,
        admitted_at=1_700_000_000 * NANOS,
        request_id=request_id,
    )


class Refused(Exception):
    """An rpc was refused."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__(error.details())
        self.code = error.code()
        self.message = error.details() or ""
        self.fields: dict[str, str] = {}
        self.budgets: list[str] = []
        self.reason = ""
        self.metadata: dict[str, str] = {}
        self.retry_ms: int | None = None
        trailing: Any = error.trailing_metadata() or ()
        for key, value in trailing:
            if key == "grpc-status-details-bin":
                assert isinstance(value, bytes)
                self._read(status_pb2.Status.FromString(value))

    def _read(self, status: status_pb2.Status) -> None:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        quota = error_details_pb2.QuotaFailure()
        retry = error_details_pb2.RetryInfo()
        for detail in status.details:
            if detail.Unpack(info):
                assert info.domain == "bursar"
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                self.fields = {each.field: each.description for each in bad.field_violations}
            elif detail.Unpack(quota):
                self.budgets = [each.subject for each in quota.violations]
            elif detail.Unpack(retry):
                self.retry_ms = retry.retry_delay.ToMilliseconds()


class Spending:
    """One service and one app."""

    def __init__(
        self,
        desk: FakeDesk | None = None,
        *,
        recovered: dict[str, Late] | None = None,
        **settings: Any,
    ) -> None:
        self.desk = desk or FakeDesk()
        self.clock = MovedClock()
        self.evidence = FakeEvidence(self.desk)
        self.registry = CollectorRegistry()
        openai = Provider("openai", "http://provider.test/v1", api_key="sk-upstream")
        base = Settings(grpc_address="127.0.0.1:0", providers=(openai,), drain_s=0)
        self.local = LocalGrpc(
            structs.replace(base, **settings),
            self.desk,
            self.clock,
            self.evidence,
            recovered or {},
            self.registry,
        )
        self.till = self.local.till
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        """Listen, and connect."""
        await self.local.start()
        self._channel = grpc.aio.insecure_channel(
            self.local.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stub: Any = spend_pb2_grpc.SpendServiceStub(self._channel)

    async def stop(self) -> None:
        """End it; what is open is charged."""
        assert self._channel is not None
        await self._channel.close(None)
        await self.local.drain(0)

    async def ask(self, rpc: str, request: Any, *, key: str = KEY, **metadata: str) -> Any:
        """One rpc. Raises Refused."""
        told = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        if key:
            told = (("authorization", f"Bearer {key}"), *told)
        try:
            return await getattr(self.stub, rpc)(request, metadata=told)
        except grpc.aio.AioRpcError as error:
            raise Refused(error) from None

    async def quote(self, call: spend_pb2.SpendCall | None = None) -> spend_pb2.QuoteResponse:
        answer = await self.ask("Quote", spend_pb2.QuoteRequest(call=call or counted()))
        assert isinstance(answer, spend_pb2.QuoteResponse)
        return answer

    async def reserve(
        self,
        request_id: str = "attempt-1",
        call: spend_pb2.SpendCall | None = None,
        *,
        key: str = KEY,
        **fields: Any,
    ) -> spend_pb2.Reservation:
        request = spend_pb2.ReserveRequest(request_id=request_id, call=call or counted(), **fields)
        answer = await self.ask("Reserve", request, key=key)
        assert isinstance(answer, spend_pb2.Reservation)
        return answer

    async def extend(self, name: str, **fields: Any) -> spend_pb2.Reservation:
        answer = await self.ask("Extend", spend_pb2.ExtendRequest(reservation=name, **fields))
        assert isinstance(answer, spend_pb2.Reservation)
        return answer

    async def settle(self, name: str, *, key: str = KEY, **fields: Any) -> spend_pb2.Receipt:
        request = spend_pb2.SettleRequest(reservation=name, **fields)
        answer = await self.ask("Settle", request, key=key)
        assert isinstance(answer, spend_pb2.Receipt)
        return answer

    async def release(self, name: str) -> spend_pb2.Receipt:
        answer = await self.ask("Release", spend_pb2.ReleaseRequest(reservation=name))
        assert isinstance(answer, spend_pb2.Receipt)
        return answer


def counted(**fields: Any) -> spend_pb2.SpendCall:
    """A call of a thousand LLM tokens in and out."""
    given = {"model": MODEL, "usage": COUNTS, **fields}
    return spend_pb2.SpendCall(**given)


def usd(nanos: int) -> money_pb2.Money:
    return money_pb2.Money(nanos=nanos, currency="USD")


@contextlib.asynccontextmanager
async def spending(desk: FakeDesk | None = None, **settings: Any) -> AsyncIterator[Spending]:
    """A service for the length of a test."""
    made = Spending(desk, **settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
