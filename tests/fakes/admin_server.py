"""An admin API that forgets: the services of the control plane, in memory, over real gRPC.

It keeps what it is told, refuses what the real one refuses in the same form (status, reason, field
violations) and answers reports with what a test put into it. It decides nothing about money.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
    budgets_pb2,
    budgets_pb2_grpc,
    exchange_rates_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    money_pb2,
    policy_pb2_grpc,
    price_imports_pb2,
    price_imports_pb2_grpc,
    prices_pb2,
    prices_pb2_grpc,
    reports_pb2_grpc,
    sidecars_pb2,
    sidecars_pb2_grpc,
)
from tests.fakes import admin_ratings
from tests.fakes.admin_raises import TemporaryRaises
from tests.fakes.admin_rates import ExchangeRates
from tests.fakes.admin_state import PAGE, AdminState, Rows, refuse

ADMIN_KEY = "ba-test"
START_TIMEOUT_S = 10.0


class _Watch(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # plain at run time
    """Knows callers by the admin key and writes down what they ask."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        said = dict(handler_call_details.invocation_metadata or ())
        if said.get("authorization") == f"Bearer {ADMIN_KEY}":
            return await continuation(handler_call_details)

        async def unknown(_: Any, context: Any) -> None:
            await refuse(
                context, grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN", "the admin key is unknown"
            )

        return grpc.unary_unary_rpc_method_handler(unknown)


class _Identity:
    """Get, List, Create, Update and Delete of the kinds that are all alike."""

    def __init__(self, state: AdminState, kind: str, rows: Rows) -> None:
        self.state = state
        self._kind = kind
        self._rows = rows

    def method(self, verb: str) -> Any:
        """The handler of "Get", "List", "Create", "Update" or "Delete"."""
        kind, rows, state = self._kind, self._rows, self.state
        field = kind.lower()

        async def handle(request: Any, context: Any) -> Any:
            state.requests.append(request)
            if verb in {"Create", "Update"}:
                given = getattr(request, field)
                if kind != "Organization":
                    given.organization = state.of(given.organization)
                if verb == "Update":
                    return await rows.change(context, given, request.update_mask)
                return await rows.add(context, given)
            owner = "" if kind == "Organization" else state.of(request.organization)
            if verb == "Get":
                return await rows.find(context, owner, request.name)
            if verb == "Delete":
                await rows.remove(context, owner, request.name)
                return getattr(identity_pb2, f"Delete{kind}Response")()
            found, more = rows.page(owner, request)
            answer = getattr(identity_pb2, f"List{kind}sResponse")
            return answer(**{f"{field}s": found, "next_page_token": more})

        return handle


def _identity_service(base: type[Any], state: AdminState, kind: str, rows: Rows) -> Any:
    alike = _Identity(state, kind, rows)
    names = {"Get": kind, "List": f"{kind}s", "Create": kind, "Update": kind, "Delete": kind}
    methods = {f"{verb}{name}": alike.method(verb) for verb, name in names.items()}
    return type(f"{kind}s", (base,), {n: staticmethod(method) for n, method in methods.items()})


class _Keys:
    """What keys do besides."""

    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def create(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        self._state.made += 1
        key = request.key
        key.organization = self._state.of(key.organization)
        key.name = key.name or f"keys/k-{self._state.made}"
        key.secret_prefix = "bk-abc"
        await self._state.keys.add(context, key)
        return identity_pb2.CreateKeyResponse(key=key, secret=f"bk-secret-{self._state.made}")

    async def rotate(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        key = await self._state.keys.find(context, owner, request.name)
        return identity_pb2.RotateKeyResponse(key=key, secret="bk-rotated")

    async def revoke(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        key = await self._state.keys.find(context, owner, request.name)
        key.revoke_time.FromDatetime(datetime.now(UTC))
        return key


class _Budgets(TemporaryRaises):
    def __init__(self, state: AdminState) -> None:
        super().__init__(state.requests)
        self._state = state

    async def GetBudget(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        return await self._state.budgets.find(context, owner, request.name)

    async def ListBudgets(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        found, more = self._state.budgets.page(self._state.of(request.organization), request)
        return budgets_pb2.ListBudgetsResponse(budgets=found, next_page_token=more)

    async def CreateBudget(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        if self._state.refuse_budgets:
            await refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_ARGUMENT",
                "the budget can't be made",
                [("budget.limit", "0 or more in EUR, not USD")],
            )
        self._state.made += 1
        budget = request.budget
        budget.organization = self._state.of(budget.organization)
        budget.name = budget.name or f"budgets/b-{self._state.made}"
        budget.version = 1
        return await self._state.budgets.add(context, budget)

    async def UpdateBudget(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        request.budget.organization = self._state.of(request.budget.organization)
        return await self._state.budgets.change(context, request.budget, request.update_mask)

    async def DeleteBudget(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        await self._state.budgets.remove(context, owner, request.name)
        return budgets_pb2.DeleteBudgetResponse()

    async def ThawBudget(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        owner = self._state.of(request.organization)
        return await self._state.budgets.find(context, owner, request.name)


class _Prices(prices_pb2_grpc.PriceServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def GetPrice(self, request: Any, context: Any) -> Any:
        price = self._state.custom_prices.get(request.model)
        if price is None:
            text = f"price {request.model} is not there"
            await refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", text)
        return price

    async def ListPrices(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        return prices_pb2.ListPricesResponse(prices=self._state.custom_prices.values())

    async def ListPriceLists(self, request: Any, context: Any) -> Any:
        lists = [prices_pb2.PriceList(name="priceLists/builtin", version="1f0c", price_count=3)]
        return prices_pb2.ListPriceListsResponse(price_lists=lists)

    async def SetPrice(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        price = request.price
        price.version = "custom@1"
        self._state.custom_prices[f"{price.provider}/{price.model}"] = price
        return price

    async def DeletePrice(self, request: Any, context: Any) -> Any:
        del self._state.custom_prices[f"{request.provider}/{request.model}"]
        return prices_pb2.DeletePriceResponse()

    async def ListPriceHistory(self, request: Any, context: Any) -> Any:
        price = self._state.custom_prices[f"{request.provider}/{request.model}"]
        return prices_pb2.ListPriceHistoryResponse(prices=[price])

    async def QuotePrice(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        line = prices_pb2.QuoteLine(
            meter="input",
            quantity=request.usage.input_llm_tokens,
            rate="0.15",
            per=1_000_000,
            amount="0.00015",
        )
        answer = prices_pb2.QuotePriceResponse(
            cost=money_pb2.Money(nanos=150_000, currency="USD"),
            organization_cost=money_pb2.Money(nanos=500_000_000, currency="EUR"),
            foreign_fee=money_pb2.Money(nanos=250_000_000, currency="EUR"),
            exchange_rate="0.92",
            exact_cost="0.00015",
            lines=[line],
            price=prices_pb2.Price(provider="openai", model="gpt-4o-mini", version="builtin@1f0c"),
        )
        answer.MergeFrom(self._state.quote)
        return answer


class _PriceImports(price_imports_pb2_grpc.PriceImportServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def ImportPrices(self, request_iterator: Any, context: Any) -> Any:
        self._state.requests += [each async for each in request_iterator]
        if self._state.import_refusal:
            await refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                "PRICE_CHANGE_REFUSED",
                self._state.import_refusal,
            )
        return self._state.import_answer

    async def ClearImportedPrices(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        return price_imports_pb2.ClearImportedPricesResponse(removed_count=12)

    async def GetPriceSync(self, request: Any, context: Any) -> Any:
        return price_imports_pb2.PriceSync(
            enabled=True, url="https://x.test/p.json", outcome="refused", detail="too dear"
        )


class _Sidecars(sidecars_pb2_grpc.SidecarServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def GetSidecar(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        sidecar = await self._state.sidecars.find(context, owner, request.name)
        self._state.looks_until_drained -= 1
        self._drain(sidecar)
        return sidecar

    async def ListSidecars(self, request: Any, context: Any) -> Any:
        found, more = self._state.sidecars.page(self._state.of(request.organization), request)
        return sidecars_pb2.ListSidecarsResponse(sidecars=found, next_page_token=more)

    async def CreateSidecar(self, request: Any, context: Any) -> Any:
        sidecar = request.sidecar
        sidecar.organization = self._state.of(sidecar.organization)
        await self._state.sidecars.add(context, sidecar)
        return sidecars_pb2.CreateSidecarResponse(sidecar=sidecar, secret="bs-secret")

    async def RotateSidecar(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        sidecar = await self._state.sidecars.find(context, owner, request.name)
        return sidecars_pb2.RotateSidecarResponse(sidecar=sidecar, secret="bs-rotated")

    async def SetSidecarDisabled(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        sidecar = await self._state.sidecars.find(context, owner, request.name)
        sidecar.disabled = request.disabled
        return sidecar

    async def SetSidecarDraining(self, request: Any, context: Any) -> Any:
        owner = self._state.of(request.organization)
        sidecar = await self._state.sidecars.find(context, owner, request.name)
        sidecar.draining = request.draining
        self._drain(sidecar)
        return sidecar

    def _drain(self, sidecar: sidecars_pb2.Sidecar) -> None:
        if sidecar.draining and self._state.looks_until_drained <= 0:
            del sidecar.sessions[:]


class _Ledger(ledger_pb2_grpc.LedgerServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def ListEntries(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        begin = int(request.page_token or "0")
        page = self._state.entries[begin : begin + PAGE]
        more = str(begin + PAGE) if begin + PAGE < len(self._state.entries) else ""
        return ledger_pb2.ListEntriesResponse(entries=page, next_page_token=more)

    async def VerifyLedger(self, request: Any, context: Any) -> Any:
        return self._state.verdict

    async def WatchVerification(self, request: Any, context: Any) -> Any:
        for read in (0, 10, 20):
            yield ledger_pb2.VerifyLedgerProgress(step="x", read_count=read, expected_count=20)
        yield ledger_pb2.VerifyLedgerProgress(outcome=self._state.verdict)

    async def ResolveSession(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        return self._state.resolved


class _Reports(reports_pb2_grpc.ReportServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def QuerySpend(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        return self._state.spend


class _Alerts(alerts_pb2_grpc.AlertServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def ListEvents(self, request: Any, context: Any) -> Any:
        return alerts_pb2.ListEventsResponse(events=self._state.events)


class _Policy(policy_pb2_grpc.PolicyServiceServicer):
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def GetPropagation(self, request: Any, context: Any) -> Any:
        self._state.requests.append(request)
        found = self._state.propagation
        answer = found[0] if len(found) == 1 else found.pop(0)
        answer.name, answer.organization = request.name, "organizations/acme"
        return answer


def add_services(server: grpc.aio.Server, state: AdminState) -> None:
    """All services over one state."""
    identity = identity_pb2_grpc
    alike = (
        ("Organization", state.organizations),
        ("Team", state.teams),
        ("Project", state.projects),
        ("User", state.users),
    )
    for kind, rows in alike:
        base = getattr(identity, f"{kind}ServiceServicer")
        service = _identity_service(base, state, kind, rows)
        getattr(identity, f"add_{kind}ServiceServicer_to_server")(service(), server)
    keys = _Keys(state)
    base = _identity_service(identity.KeyServiceServicer, state, "Key", state.keys)
    more = {"CreateKey": keys.create, "RotateKey": keys.rotate, "RevokeKey": keys.revoke}
    whole = type("Keys", (base,), {name: staticmethod(method) for name, method in more.items()})
    identity.add_KeyServiceServicer_to_server(whole(), server)
    budgets_pb2_grpc.add_BudgetServiceServicer_to_server(_Budgets(state), server)
    prices_pb2_grpc.add_PriceServiceServicer_to_server(_Prices(state), server)
    price_imports_pb2_grpc.add_PriceImportServiceServicer_to_server(_PriceImports(state), server)
    rates = ExchangeRates(state.requests)
    exchange_rates_pb2_grpc.add_ExchangeRateServiceServicer_to_server(rates, server)
    sidecars_pb2_grpc.add_SidecarServiceServicer_to_server(_Sidecars(state), server)
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(_Ledger(state), server)
    reports_pb2_grpc.add_ReportServiceServicer_to_server(_Reports(state), server)
    alerts_pb2_grpc.add_AlertServiceServicer_to_server(_Alerts(state), server)
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(_Policy(state), server)
    admin_ratings.add_services(server, state)


@contextlib.asynccontextmanager
async def serving(state: AdminState) -> AsyncIterator[str]:
    """The address of a server on a free port, for as long as the block lasts."""
    server = grpc.aio.server(interceptors=[_Watch()])
    add_services(server, state)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class AdminServer:
    """`serving` on a thread of its own, for callers that block (the command line)."""

    def __init__(self) -> None:
        self.state = AdminState()
        self.address = ""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._serve, name="admin-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError("the fake admin server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._done is not None:
            self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(START_TIMEOUT_S)

    def _serve(self) -> None:
        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._done = asyncio.Event()
            async with serving(self.state) as self.address:
                self._ready.set()
                await self._done.wait()

        asyncio.run(run())


def money(nanos: int, currency: str = "USD") -> money_pb2.Money:
    """An amount."""
    return money_pb2.Money(nanos=nanos, currency=currency)


def at(text: str) -> Timestamp:
    """The time that an ISO text names."""
    stamp = Timestamp()
    stamp.FromJsonString(text)
    return stamp
