"""The control plane from Python: one channel, every service, errors that say what was wrong.

    from bursar.client import BursarClient
    from bursar.v1 import budgets_pb2

    with BursarClient("127.0.0.1:7443", admin_key="ba-...") as client:
        budget = client.budgets.GetBudget(budgets_pb2.GetBudgetRequest(name="budgets/b-5e81c2"))
        print(budget.standing.settled.nanos)

    async with AsyncBursarClient("127.0.0.1:7443", admin_key="ba-...") as client:
        budget = await client.budgets.GetBudget(budgets_pb2.GetBudgetRequest(name="..."))

Each service is an attribute and offers the rpcs of its proto. A call that fails raises
`BursarError`, whatever the cause: refused, or never reached (`BursarError.unreachable`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import grpc.aio
from google.protobuf.message import Message

from bursar.client_calls import (
    ERROR_DOMAIN,
    AsyncCaller,
    AsyncStreamCaller,
    AsyncUploadCaller,
    BursarError,
    Caller,
    FieldViolation,
)
from bursar.v1 import (
    alerts_pb2_grpc,
    budgets_pb2_grpc,
    contracts_pb2_grpc,
    exchange_rates_pb2_grpc,
    identity_pb2_grpc,
    ledger_pb2_grpc,
    policy_pb2_grpc,
    price_imports_pb2_grpc,
    prices_pb2_grpc,
    ratings_pb2_grpc,
    reports_pb2_grpc,
    sidecars_pb2_grpc,
)

if TYPE_CHECKING:
    # These classes exist for type checkers only: at run time one stub serves both kinds of channel.
    from bursar.v1.alerts_pb2_grpc import AlertServiceAsyncStub
    from bursar.v1.budgets_pb2_grpc import BudgetServiceAsyncStub
    from bursar.v1.contracts_pb2_grpc import PriceContractServiceAsyncStub
    from bursar.v1.exchange_rates_pb2_grpc import ExchangeRateServiceAsyncStub
    from bursar.v1.identity_pb2_grpc import (
        KeyServiceAsyncStub,
        OrganizationServiceAsyncStub,
        ProjectServiceAsyncStub,
        TeamServiceAsyncStub,
        UserServiceAsyncStub,
    )
    from bursar.v1.ledger_pb2_grpc import LedgerServiceAsyncStub
    from bursar.v1.policy_pb2_grpc import PolicyServiceAsyncStub
    from bursar.v1.price_imports_pb2_grpc import PriceImportServiceAsyncStub
    from bursar.v1.prices_pb2_grpc import PriceServiceAsyncStub
    from bursar.v1.ratings_pb2_grpc import RatingServiceAsyncStub
    from bursar.v1.reports_pb2_grpc import ReportServiceAsyncStub
    from bursar.v1.sidecars_pb2_grpc import SidecarServiceAsyncStub

__all__ = [
    "DEFAULT_ADDRESS",
    "DEFAULT_TIMEOUT_S",
    "ERROR_DOMAIN",
    "MAX_MESSAGE_BYTES",
    "AddressError",
    "AdminKeyError",
    "AsyncBursarClient",
    "BursarClient",
    "BursarError",
    "FieldViolation",
    "list_all",
    "list_all_async",
    "new_request_id",
]

# Where a control plane listens when nothing else was said.
DEFAULT_ADDRESS: Final = "127.0.0.1:7443"

# A person waits for most calls; ten seconds are long enough for a database fail-over.
DEFAULT_TIMEOUT_S: Final = 10.0

# A page of 1,000 entries with all their tags can be larger than gRPC's 4 MiB.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

# These tell a secret once. Sent twice, the second answer could lack it (or end the first one), so
# they are retried only where gRPC knows that the first attempt never left this machine.
_TOLD_ONCE: Final = (
    ("bursar.v1.KeyService", "CreateKey"),
    ("bursar.v1.KeyService", "RotateKey"),
    ("bursar.v1.SidecarService", "CreateSidecar"),
    ("bursar.v1.SidecarService", "RotateSidecar"),
)

# A restart of the control plane takes about a second; a refused connection on this machine is
# told after half of that. The entry without a name holds for every other method.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {"name": [{"service": service, "method": method} for service, method in _TOLD_ONCE]},
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
        ]
    }
)


class AddressError(ValueError):
    """An address of a control plane that can't be used; the message names the fault."""


class AdminKeyError(ValueError):
    """An admin key that can't be sent."""


def new_request_id() -> str:
    """An id for a Create: the same id with the same content is answered the same, made once."""
    return str(uuid.uuid4())


def list_all(
    call: Callable[[Any], Any], request: Message, *, limit: int | None = None
) -> Iterator[Any]:
    """Every item of a List rpc, page after page, at most `limit`.

        for key in list_all(client.keys.ListKeys, ListKeysRequest(team="teams/search")): ...

    `request` is used up: its page token is overwritten.
    """
    seen = 0
    while True:
        response = call(request)
        for item in _items(response):
            if limit is not None and seen >= limit:
                return
            seen += 1
            yield item
        if not response.next_page_token or seen == limit:
            return
        request.page_token = response.next_page_token  # type: ignore[attr-defined]  # every List


async def list_all_async(
    call: Callable[[Any], Awaitable[Any]], request: Message, *, limit: int | None = None
) -> AsyncIterator[Any]:
    """As `list_all`, for `AsyncBursarClient`."""
    seen = 0
    while True:
        response = await call(request)
        for item in _items(response):
            if limit is not None and seen >= limit:
                return
            seen += 1
            yield item
        if not response.next_page_token or seen == limit:
            return
        request.page_token = response.next_page_token  # type: ignore[attr-defined]  # every List


def _items(response: Message) -> Any:
    """The items of a page: the one repeated field that each List response has."""
    for field in response.DESCRIPTOR.fields:
        if field.is_repeated:
            return getattr(response, field.name)
    raise TypeError(f"{response.DESCRIPTOR.name} holds no list")


class BursarClient:
    """All services of a control plane, each call waiting for its answer.

    `address` is "host:port" or "unix:/path". Plain text is for this machine only (loopback or a
    unix socket); elsewhere TLS with the system's roots or `tls_ca` (PEM), unless `insecure` says
    that the network itself is trusted. Every call ends after `timeout_s` unless it names its own
    `timeout`. Raises AddressError and AdminKeyError.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        admin_key: str = "",
        *,
        tls_ca: bytes | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        target, credentials = channel_target(address, tls_ca, insecure)
        _check_admin_key(admin_key)
        self.address = address
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
        channel = grpc.intercept_channel(self._channel, Caller(admin_key, timeout_s))
        self.organizations = identity_pb2_grpc.OrganizationServiceStub(channel)
        self.teams = identity_pb2_grpc.TeamServiceStub(channel)
        self.projects = identity_pb2_grpc.ProjectServiceStub(channel)
        self.users = identity_pb2_grpc.UserServiceStub(channel)
        self.keys = identity_pb2_grpc.KeyServiceStub(channel)
        self.budgets = budgets_pb2_grpc.BudgetServiceStub(channel)
        self.prices = prices_pb2_grpc.PriceServiceStub(channel)
        self.price_imports = price_imports_pb2_grpc.PriceImportServiceStub(channel)
        self.exchange_rates = exchange_rates_pb2_grpc.ExchangeRateServiceStub(channel)
        self.contracts = contracts_pb2_grpc.PriceContractServiceStub(channel)
        self.ratings = ratings_pb2_grpc.RatingServiceStub(channel)
        self.sidecars = sidecars_pb2_grpc.SidecarServiceStub(channel)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.reports = reports_pb2_grpc.ReportServiceStub(channel)
        self.alerts = alerts_pb2_grpc.AlertServiceStub(channel)
        self.policy = policy_pb2_grpc.PolicyServiceStub(channel)

    def close(self) -> None:
        """End all calls and the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncBursarClient:
    """As BursarClient, every call awaited. Made inside a running event loop."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        admin_key: str = "",
        *,
        tls_ca: bytes | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        target, credentials = channel_target(address, tls_ca, insecure)
        _check_admin_key(admin_key)
        self.address = address
        # Any: the published stubs know no class of interceptors of grpc.aio.
        callers: Any = (
            AsyncCaller(admin_key, timeout_s),
            AsyncStreamCaller(admin_key),
            AsyncUploadCaller(admin_key, timeout_s),
        )
        if credentials is None:
            channel = grpc.aio.insecure_channel(target, options=_OPTIONS, interceptors=callers)
        else:
            channel = grpc.aio.secure_channel(
                target, credentials, options=_OPTIONS, interceptors=callers
            )
        self._channel = channel
        self.organizations: OrganizationServiceAsyncStub = (
            identity_pb2_grpc.OrganizationServiceStub(channel)
        )
        self.teams: TeamServiceAsyncStub = identity_pb2_grpc.TeamServiceStub(channel)
        self.projects: ProjectServiceAsyncStub = identity_pb2_grpc.ProjectServiceStub(channel)
        self.users: UserServiceAsyncStub = identity_pb2_grpc.UserServiceStub(channel)
        self.keys: KeyServiceAsyncStub = identity_pb2_grpc.KeyServiceStub(channel)
        self.budgets: BudgetServiceAsyncStub = budgets_pb2_grpc.BudgetServiceStub(channel)
        self.prices: PriceServiceAsyncStub = prices_pb2_grpc.PriceServiceStub(channel)
        self.price_imports: PriceImportServiceAsyncStub = (
            price_imports_pb2_grpc.PriceImportServiceStub(channel)
        )
        self.exchange_rates: ExchangeRateServiceAsyncStub = (
            exchange_rates_pb2_grpc.ExchangeRateServiceStub(channel)
        )
        self.contracts: PriceContractServiceAsyncStub = contracts_pb2_grpc.PriceContractServiceStub(
            channel
        )
        self.ratings: RatingServiceAsyncStub = ratings_pb2_grpc.RatingServiceStub(channel)
        self.sidecars: SidecarServiceAsyncStub = sidecars_pb2_grpc.SidecarServiceStub(channel)
        self.ledger: LedgerServiceAsyncStub = ledger_pb2_grpc.LedgerServiceStub(channel)
        self.reports: ReportServiceAsyncStub = reports_pb2_grpc.ReportServiceStub(channel)
        self.alerts: AlertServiceAsyncStub = alerts_pb2_grpc.AlertServiceStub(channel)
        self.policy: PolicyServiceAsyncStub = policy_pb2_grpc.PolicyServiceStub(channel)

    async def close(self) -> None:
        """End all calls and the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


_OPTIONS: Final = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.primary_user_agent", "bursar-python"),
)


def channel_target(
    address: str, tls_ca: bytes | None, insecure: bool
) -> tuple[str, grpc.ChannelCredentials | None]:
    """What gRPC dials and with which credentials (None: plain text). Raises AddressError."""
    if address.startswith("unix:"):
        if tls_ca is not None:
            raise AddressError(f"address {address!r}: TLS is not used on a unix socket")
        return address, None
    if "://" in address:
        raise AddressError(f"address {address!r} must be host:port without a scheme")
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise AddressError(f"address {address!r} is not of the form host:port or unix:/path")
    if insecure:
        if tls_ca is not None:
            raise AddressError("tls_ca and insecure exclude each other")
        return address, None
    if tls_ca is None and _is_loopback(host):
        return address, None
    return address, grpc.ssl_channel_credentials(root_certificates=tls_ca)


def _check_admin_key(admin_key: str) -> None:
    """Headers hold printable ASCII; gRPC would fail later, and say less."""
    if not (admin_key.isascii() and admin_key.isprintable()):
        raise AdminKeyError("the admin key holds characters that no key has; was it copied whole?")


def _is_loopback(host: str) -> bool:
    bare = host.removeprefix("[").removesuffix("]")
    return bare in {"localhost", "::1"} or (bare.startswith("127.") and bare.count(".") == 3)
