"""Money for calls that an app makes itself: the sidecar's local gRPC service, from Python.

    from bursar.spend import SpendClient

    with SpendClient(key="bk-...") as client:
        with client.reserve("gpt-4o-mini", input_llm_tokens=2_000, output_llm_tokens=500) as money:
            money.dispatched()
            answer = my_own_call_of_the_provider(max_tokens=money.output_llm_tokens)
            receipt = money.settle_answer("openai_chat", answer)
        print(receipt.cost.nanos, receipt.charge_id)

    async with AsyncSpendClient(key="bk-...") as client:
        async with client.reserve("gpt-4o-mini", amount=usd("0.25")) as money: ...

`reserve` raises `BursarError` where a budget refuses (`reason` "BUDGET_EXHAUSTED", ...) and nothing
is reserved then. What is owed is one word about each reservation:

- `settle...` says what was used. Said again, after a lost connection for instance, it is answered
  the same.
- `release` says that nothing was ever sent.
- Leaving the block without a word, also by an exception, releases as long as `dispatched` was not
  said. After it nothing is guessed: what is reserved stays so until its deadline, and is then
  charged, marked as provisional. A `settle` that comes later adjusts that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio

from bursar.client import MAX_MESSAGE_BYTES, AddressError, channel_target
from bursar.client_calls import AsyncCaller, BursarError, Caller
from bursar.spend_requests import (
    Amount,
    Evidence,
    Held,
    answered,
    call_of,
    failed,
    reserving,
    unknown,
    usd,
)
from bursar.v1 import spend_pb2, spend_pb2_grpc

if TYPE_CHECKING:
    from bursar.v1.spend_pb2_grpc import SpendServiceAsyncStub

__all__ = [
    "DEFAULT_ADDRESS",
    "AddressError",
    "AsyncMoneyHeld",
    "AsyncSpendClient",
    "BursarError",
    "MoneyHeld",
    "SpendClient",
    "call_of",
    "usd",
]

DEFAULT_ADDRESS: Final = "127.0.0.1:7071"
"""Where a sidecar serves apps when nothing else was said."""
DEFAULT_TIMEOUT_S: Final = 10.0
"""More than the wait of a sidecar for money (2 s) and for the control plane."""
# Every rpc may be repeated: reserving has its request id, a last word its content.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_OPTIONS: Final = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.primary_user_agent", "bursar-python"),
)


class MoneyHeld(Held):
    """Money set aside for one call; see `SpendClient.reserve`."""

    def __init__(self, stub: Any, request: spend_pb2.ReserveRequest) -> None:
        super().__init__(request)
        self._stub = stub

    def open(self) -> Self:
        """Set it aside now. Raises BursarError."""
        self._state = self._stub.Reserve(self._request)
        return self

    def extend(
        self,
        hold_s: float = 0,
        *,
        output_llm_tokens: int | None = None,
        amount: Amount | None = None,
    ) -> spend_pb2.Reservation:
        """Move the deadline to `hold_s` from now, set more aside, or both. Raises BursarError."""
        self._state = self._stub.Extend(self.extending(hold_s, output_llm_tokens, amount))
        return self.state

    def settle(
        self,
        evidence: Evidence | spend_pb2.SettleRequest,
        *,
        answered_model: str = "",
        provider_request_id: str = "",
        service_tier: str = "",
        broken_off: bool = False,
    ) -> spend_pb2.Receipt:
        """Say what the call used (a Usage), or what it cost. Raises BursarError."""
        self.dispatched()
        told = (answered_model, provider_request_id, service_tier, broken_off)
        self.receipt = self._stub.Settle(self.settling(evidence, *told))
        return self.receipt

    def settle_answer(
        self,
        dialect: str,
        answer: Mapping[str, Any] | bytes | Iterable[bytes],
        *,
        broken_off: bool = False,
    ) -> spend_pb2.Receipt:
        """Settle by the provider's own answer: its body, or the data of a stream's events."""
        return self.settle(answered(dialect, answer), broken_off=broken_off)

    def settle_failure(self, http_status: int) -> spend_pb2.Receipt:
        """The provider refused or failed, and bills nothing."""
        return self.settle(failed(http_status))

    def settle_unknown(self, reason: str = "") -> spend_pb2.Receipt:
        """Nobody knows what became of it: charged at what is reserved, until a later `settle`."""
        return self.settle(unknown(reason))

    def release(self) -> spend_pb2.Receipt:
        """Nothing was sent: it costs nothing. Raises BursarError."""
        self.receipt = self._stub.Release(spend_pb2.ReleaseRequest(reservation=self.name))
        return self.receipt

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_unsent():
            _leave(error, self.release)


class AsyncMoneyHeld(Held):
    """As MoneyHeld, awaited; see `AsyncSpendClient.reserve`."""

    def __init__(self, stub: SpendServiceAsyncStub, request: spend_pb2.ReserveRequest) -> None:
        super().__init__(request)
        self._stub = stub

    async def open(self) -> Self:
        """Set it aside now. Raises BursarError."""
        self._state = await self._stub.Reserve(self._request)
        return self

    async def extend(
        self,
        hold_s: float = 0,
        *,
        output_llm_tokens: int | None = None,
        amount: Amount | None = None,
    ) -> spend_pb2.Reservation:
        """Move the deadline to `hold_s` from now, set more aside, or both. Raises BursarError."""
        self._state = await self._stub.Extend(self.extending(hold_s, output_llm_tokens, amount))
        return self.state

    async def settle(
        self,
        evidence: Evidence | spend_pb2.SettleRequest,
        *,
        answered_model: str = "",
        provider_request_id: str = "",
        service_tier: str = "",
        broken_off: bool = False,
    ) -> spend_pb2.Receipt:
        """Say what the call used (a Usage), or what it cost. Raises BursarError."""
        self.dispatched()
        told = (answered_model, provider_request_id, service_tier, broken_off)
        self.receipt = await self._stub.Settle(self.settling(evidence, *told))
        return self.receipt

    async def settle_answer(
        self,
        dialect: str,
        answer: Mapping[str, Any] | bytes | Iterable[bytes],
        *,
        broken_off: bool = False,
    ) -> spend_pb2.Receipt:
        """Settle by the provider's own answer: its body, or the data of a stream's events."""
        return await self.settle(answered(dialect, answer), broken_off=broken_off)

    async def settle_failure(self, http_status: int) -> spend_pb2.Receipt:
        """The provider refused or failed, and bills nothing."""
        return await self.settle(failed(http_status))

    async def settle_unknown(self, reason: str = "") -> spend_pb2.Receipt:
        """Nobody knows what became of it: charged at what is reserved, until a later `settle`."""
        return await self.settle(unknown(reason))

    async def release(self) -> spend_pb2.Receipt:
        """Nothing was sent: it costs nothing. Raises BursarError."""
        self.receipt = await self._stub.Release(spend_pb2.ReleaseRequest(reservation=self.name))
        return self.receipt

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.is_unsent():
            try:
                await self.release()
            except BursarError as second:
                _note(error, second)


class SpendClient:
    """The local gRPC service of a sidecar, each call waiting for its answer.

    `address` is "host:port" or "unix:/path", `key` the app's own (`bk-...`). Plain text is for this
    machine; elsewhere TLS with the system's roots or `tls_ca` (PEM), unless `insecure` says that
    the network itself is trusted. Raises AddressError.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        key: str = "",
        *,
        tls_ca: bytes | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        target, credentials = channel_target(address, tls_ca, insecure)
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
        channel = grpc.intercept_channel(self._channel, Caller(key, timeout_s))
        self.stub = spend_pb2_grpc.SpendServiceStub(channel)
        """The rpcs themselves."""

    def quote(self, model: str = "", **call: Any) -> spend_pb2.QuoteResponse:
        """What a call can cost; the arguments are those of `call_of`. Raises BursarError."""
        answer: spend_pb2.QuoteResponse = self.stub.Quote(
            spend_pb2.QuoteRequest(call=call_of(model, **call))
        )
        return answer

    def reserve(
        self,
        model: str = "",
        *,
        request_id: str = "",
        hold_s: float = 0,
        least_output_llm_tokens: int = 0,
        **call: Any,
    ) -> MoneyHeld:
        """Money for one attempt, set aside when the block is entered (or by its `open`).

        The other arguments are those of `call_of`. `request_id` names the attempt, a new UUID where
        none is given; `hold_s` is how long it may be held (0: 60 s); `least_output_llm_tokens`: see
        ReserveRequest.
        """
        return MoneyHeld(
            self.stub, reserving(model, request_id, hold_s, least_output_llm_tokens, call)
        )

    def close(self) -> None:
        """End all calls and the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSpendClient:
    """As SpendClient, every call awaited. Made inside a running event loop."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        key: str = "",
        *,
        tls_ca: bytes | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        target, credentials = channel_target(address, tls_ca, insecure)
        # Any: the published stubs know no class of interceptors of grpc.aio.
        callers: Any = (AsyncCaller(key, timeout_s),)
        if credentials is None:
            channel = grpc.aio.insecure_channel(target, options=_OPTIONS, interceptors=callers)
        else:
            channel = grpc.aio.secure_channel(
                target, credentials, options=_OPTIONS, interceptors=callers
            )
        self._channel = channel
        self.stub: SpendServiceAsyncStub = spend_pb2_grpc.SpendServiceStub(channel)
        """The rpcs themselves."""

    async def quote(self, model: str = "", **call: Any) -> spend_pb2.QuoteResponse:
        """What a call can cost; the arguments are those of `call_of`. Raises BursarError."""
        return await self.stub.Quote(spend_pb2.QuoteRequest(call=call_of(model, **call)))

    def reserve(
        self,
        model: str = "",
        *,
        request_id: str = "",
        hold_s: float = 0,
        least_output_llm_tokens: int = 0,
        **call: Any,
    ) -> AsyncMoneyHeld:
        """As `SpendClient.reserve`."""
        return AsyncMoneyHeld(
            self.stub, reserving(model, request_id, hold_s, least_output_llm_tokens, call)
        )

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _leave(error: BaseException | None, release: Any) -> None:
    try:
        release()
    except BursarError as second:
        _note(error, second)


def _note(error: BaseException | None, second: BursarError) -> None:
    """A release that fails must not hide what went wrong in the block; without that, it is it."""
    if error is None:
        raise second
    error.add_note(f"the reservation could not be released: {second}")
