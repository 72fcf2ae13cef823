"""Bills of Envoy's rate limit filters, charged at the desk: before a request goes on, or after it.

Before: what all bills of a request cost is reserved, all or none, and settled at once. After: what
was used is a fact. It posts in full, also where no budget has the money for it; where nothing can
be posted at all (no control plane), it is owed, and posted as soon as that goes.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from bursar.usage import Usage
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import CallLog
from bursar_sidecar.clock import Clock
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Call, Desk, Receipt, Refusal, Spender
from bursar_sidecar.dialects.kinds import KINDS
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.envoy.descriptors import Bill
from bursar_sidecar.envoy_limit_settings import EnvoyLimit
from bursar_sidecar.local_grpc.bounds import Bounds
from bursar_sidecar.local_grpc.refusing import SpendFault
from bursar_sidecar.metrics import Metrics
from bursar_sidecar.routing import Route
from bursar_sidecar.settings import Provider, Settings
from bursar_sidecar.terms import Counts, Terms, agree_counts, agree_flat

log = structlog.get_logger("bursar.envoy")

APP: Final = "envoy"
"""The app's name in reports."""
MOST_OWED: Final = 10_000
"""Payers and models that something is owed for; what more is told then is lost, and said so."""
PAY_EVERY_S: Final = 1.0
LAST_TRY_S: Final = 1.0
"""At the end of the process, for what is owed still."""
_SHORT: Final = frozenset({"budget_exhausted", "budget_reserved", "rate_limited"})
"""Refusals that say there is no money; a fact posts all the same."""
LATER: Final = _SHORT | {"no_allowance", "overloaded"}
"""Refusals that say that there is no money, or nobody to ask: it may go another time."""


class UnpaidError(Exception):
    """A bill that could not be paid, and why."""

    def __init__(self, bill: Bill, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.bill = bill
        self.refusal = refusal


class Charged(msgspec.Struct, frozen=True):
    """A bill that was paid, or a question that was answered with yes."""

    receipt: Receipt
    spender: Spender
    nanos: int
    """What was set aside for it."""


class _Worth(msgspec.Struct, frozen=True):
    spender: Spender
    route: Route
    terms: Terms


class HitCharges:
    """Pays bills."""

    def __init__(
        self, settings: Settings, desk: Desk, clock: Clock, metrics: Metrics, call_log: CallLog
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._metrics = metrics
        self._call_log = call_log
        self._owed: dict[tuple[str, str, str, str, bool], Bill] = {}
        self.lost_count = 0
        """Bills that could not be charged, whatever was tried."""
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Whom the providers' names mean from now on."""
        self._providers = {each.name: each for each in settings.providers}
        self._bounds = Bounds(settings.providers, default_max_output=settings.default_max_output)

    @property
    def owed_count(self) -> int:
        """Payers and models that something is owed for."""
        return len(self._owed)

    # -- before --------------------------------------------------------------------------------

    async def pay(self, bills: list[Bill]) -> list[Charged]:
        """All of them, or none. Raises UnpaidError."""
        opened: list[tuple[Attempt, Spender]] = []
        try:
            for bill in bills:
                opened.append(await self.open(bill))
        except BaseException as error:
            # Also when Envoy waits no longer: what it never heard of is not charged.
            for attempt, _ in opened:
                attempt.release()
            if isinstance(error, Refusal):
                raise UnpaidError(bills[len(opened)], error) from error
            raise
        paid = []
        for bill, (attempt, spender) in zip(bills, opened, strict=True):
            nanos = attempt.terms.ceiling_nanos
            paid.append(Charged(self.close(attempt, spender, bill), spender, nanos))
        return paid

    def close(self, attempt: Attempt, spender: Spender, bill: Bill) -> Receipt:
        """Settle what was opened at what a bill says was used."""
        if bill.asks:
            return attempt.release()
        receipt = _settled(attempt, bill)
        self._ended(attempt, spender, receipt)
        return receipt

    def close_unknown(self, attempt: Attempt, spender: Spender, reason: str) -> None:
        """Nothing says what became of it: all that was set aside."""
        self._ended(attempt, spender, attempt.charge_reserved(reason))

    async def open(
        self, bill: Bill, *, least_nanos: int | None = None, is_made: bool = False
    ) -> tuple[Attempt, Spender]:
        """Set aside what a bill costs. Raises Refusal, and then nothing is.

        `least_nanos`: less will do, but not less than that. `is_made`: it was used already, so that
        nothing is set aside, and no budget refuses it.
        """
        spender = await self._desk.identify(bill.key)
        worth = self._worth(bill, spender)
        terms, route = worth.terms, worth.route
        nanos = 0 if is_made else terms.ceiling_nanos
        exchanged = terms.conversion
        call = Call(
            spender=spender,
            provider=route.provider.name,
            model=route.listed,
            requested_model=bill.model,
            ceiling_nanos=nanos,
            least_nanos=nanos if least_nanos is None else least_nanos,
            tags=spender.tags,
            app=APP,
            price_version=terms.price.price_version if terms.price is not None else "unpriced",
            price_currency=exchanged.base if exchanged is not None else "",
            exchange_rate=exchanged.text if exchanged is not None else "",
            is_made=is_made,
            started_at=self._clock.wall_ns(),
        )
        try:
            reservation = await self._desk.reserve(call)
        except Refusal as refusal:
            refusal.ceiling_nanos, refusal.model = terms.ceiling_nanos, route.model
            raise
        book = self._desk.prices()
        return Attempt(self._desk, self._clock, book, reservation, route, terms), spender

    # -- after ---------------------------------------------------------------------------------

    async def tell(self, bill: Bill) -> Charged | None:
        """Charge what was used already; None: it is owed. Raises Refusal where it can't be."""
        try:
            return await self._post(bill)
        except Refusal as refusal:
            if refusal.reason not in LATER:
                self.lost(bill, refusal)
                raise
            self._owe(bill, refusal)
            return None

    async def _post(self, bill: Bill) -> Charged:
        try:
            attempt, spender = await self.open(bill)
        except Refusal as refusal:
            if refusal.reason not in _SHORT:
                raise
            # Nothing is set aside for it any more, and it is spent: what exceeds a reservation
            # posts in full.
            attempt, spender = await self.open(bill, is_made=True)
        nanos = attempt.terms.ceiling_nanos
        return Charged(self.close(attempt, spender, bill), spender, nanos)

    def _owe(self, bill: Bill, refusal: Refusal) -> None:
        limit = bill.limit
        about = (bill.key, limit.provider, bill.model, limit.name, bill.is_flat)
        owed = self._owed.get(about)
        if owed is None:
            if len(self._owed) >= MOST_OWED:
                self.lost(bill, refusal)
                return
            owed = self._owed[about] = Bill(limit, bill.key, bill.model, asks=False)
        owed.flat_nanos += bill.flat_nanos
        owed.requests += bill.requests
        owed.input_llm_tokens += bill.input_llm_tokens
        owed.output_llm_tokens += bill.output_llm_tokens

    def lost(self, bill: Bill, refusal: Refusal) -> None:
        """What was used can't be charged: it is said, and counted."""
        self.lost_count += 1
        log.error(
            "hits_not_charged",
            limit=bill.limit.name,
            reason=refusal.reason,
            detail=refusal.message,
            requests=bill.requests,
            input_llm_tokens=bill.input_llm_tokens,
            output_llm_tokens=bill.output_llm_tokens,
        )

    async def run(self) -> None:
        """Pay what is owed, until cancelled; then once more."""
        try:
            while True:
                await asyncio.sleep(PAY_EVERY_S)
                await self.pay_owed()
        finally:
            await self.last_try()

    async def pay_owed(self) -> None:
        """What can be posted now."""
        for about, bill in list(self._owed.items()):
            # Taken out first: what is told meanwhile is owed anew.
            self._owed.pop(about, None)
            try:
                await self._post(bill)
            except Refusal as refusal:
                if refusal.reason not in LATER:
                    self.lost(bill, refusal)
                    continue
                self._owe(bill, refusal)
                return
            except BaseException:
                self._owe(bill, Refusal("no_allowance"))
                raise

    async def last_try(self) -> None:
        """The process ends: what can't be posted now never will be."""
        try:
            async with asyncio.timeout(LAST_TRY_S):
                await self.pay_owed()
        except TimeoutError:
            log.warning("hits_owed_at_stop", count=len(self._owed))
        for bill in self._owed.values():
            self.lost(bill, Refusal("no_allowance", "The sidecar was stopped before."))
        self._owed.clear()

    # -- parts ---------------------------------------------------------------------------------

    def hit_nanos(self, bill: Bill, charged: Charged, limit: EnvoyLimit) -> int:
        """What one hit of a limit in a bill costs, about; 0 where it costs nothing."""
        if limit.flat_price:
            return limit.flat_nanos
        return charged.nanos // max(1, bill.input_llm_tokens + bill.output_llm_tokens)

    def _worth(self, bill: Bill, spender: Spender) -> _Worth:
        """What a bill can cost at most. Raises Refusal."""
        book = self._desk.prices()
        rates = CallRates(self._desk.exchange_rates(), spender.currency, self._clock.wall_ns())
        provider = bill.limit.provider
        if bill.is_flat and not bill.model:
            return _Worth(
                spender, Route(self._provider(provider), ""), agree_flat(bill.flat_nanos, rates)
            )
        # What a key may call was asked before; what it called is a fact.
        buyer = spender
        if bill.limit.when == "after":
            buyer = msgspec.structs.replace(spender, allowed_models=())
        try:
            route = self._bounds.route(provider, bill.model, "", buyer, book, "model")
        except SpendFault as fault:
            raise Refusal("model_not_found", fault.message) from fault
        if bill.is_flat:
            return _Worth(spender, route, agree_flat(bill.flat_nanos, rates))
        counts = Counts(bill.input_llm_tokens, bill.output_llm_tokens, text_only=True)
        budgeted = self._desk.is_budgeted(spender, route.provider.name, route.listed)
        return _Worth(spender, route, agree_counts(counts, route, budgeted=budgeted, rates=rates))

    def _provider(self, name: str) -> Provider:
        kind = name if name in KINDS else "compatible"
        return self._providers.get(name) or Provider(name, "", kind=kind)

    def _ended(self, attempt: Attempt, spender: Spender, receipt: Receipt) -> None:
        """Counted and logged as any call that ended."""
        if attempt.kind is None:
            return
        self._metrics.ended(
            attempt.route.provider.name,
            attempt.kind,
            attempt.usage.certainty,
            receipt,
            0.0,
            stream=False,
        )
        self._call_log.ended(attempt, spender, 0.0, stream=False)


def _settled(attempt: Attempt, bill: Bill) -> Receipt:
    """Close an attempt at what a bill says was used."""
    if bill.is_flat:
        usage = Usage(extra={"request": bill.requests})
        return attempt.charge_cost(bill.flat_nanos, usage, Reading())
    usage = Usage(input=bill.input_llm_tokens, output=bill.output_llm_tokens)
    return attempt.charge_told(usage, Reading())
