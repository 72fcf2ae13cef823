"""The verbs on reservations that are handed out: quote, reserve, extend, settle, release, expire.

Over the same desk as the data path. Each verb is idempotent: reserving by its request id, the last
word about a reservation by its content.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from bursar.pricing import UnpricedError
from bursar.v1 import spend_pb2
from bursar_sidecar.amendments import Late
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.clock import NANOS_PER_MS, NANOS_PER_SECOND, Clock
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Call, Desk, Receipt, Refusal, Spender
from bursar_sidecar.dialects.facts import MAX_OUTPUT_LIMIT
from bursar_sidecar.identity import MAX_KEY_LENGTH, hash_of
from bursar_sidecar.local_grpc import border, evidence
from bursar_sidecar.local_grpc.bounds import Agreed, Bounds, Circumstances, own_nanos
from bursar_sidecar.local_grpc.handed_out import (
    Amending,
    Evidence,
    Handle,
    Held,
    Shared,
    held_of,
    money,
    receipt_of,
    shown,
    told,
)
from bursar_sidecar.local_grpc.refusing import (
    interrupted,
    invalid,
    not_found,
    of_refusal,
    over,
    reused,
)
from bursar_sidecar.local_grpc.reservations import (
    Entry,
    RequestIdReusedError,
    Reservations,
    State,
    TooManyError,
)
from bursar_sidecar.settings import Settings
from bursar_sidecar.terms import Terms, agree_amount, clamp

log = structlog.get_logger("bursar.spend")

EXPIRED: Final = "reservation_expired"
"""Estimate reason of what no last word came about until its deadline."""
STOPPED: Final = "sidecar_stopped"
"""Estimate reason of what was open when the sidecar was stopped."""
RETRY_AFTER_S: Final = 1.0


class Till:
    """All reservations that this sidecar handed out."""

    def __init__(
        self,
        settings: Settings,
        desk: Desk,
        clock: Clock,
        evidence_to: Evidence,
        recovered: Mapping[str, Late],
    ) -> None:
        """`recovered` are reservations of earlier lives that evidence may come about."""
        self._desk = desk
        self._clock = clock
        self._evidence = evidence_to
        self._recovered = dict(recovered)
        self._registry: Reservations[Held] = Reservations(
            most_open=settings.max_reservations,
            longest_ns=settings.longest_call_s * NANOS_PER_SECOND,
        )
        self.apply(settings)
        self._tasks: dict[int, Shared] = {}
        self._draining = False
        self._changed = asyncio.Event()
        self.ended: Counter[str] = Counter()
        """How many reservations ended, by state."""

    def apply(self, settings: Settings) -> None:
        """What holds for calls from now on."""
        self._bounds = Bounds(settings.providers, default_max_output=settings.default_max_output)
        self._longest_ms = settings.longest_call_s * 1_000
        self._registry.longest_ns = settings.longest_call_s * NANOS_PER_SECOND

    @property
    def open_count(self) -> int:
        """How many have money set aside, or wait for it."""
        return self._registry.open_count

    # -- verbs ---------------------------------------------------------------------------------

    async def quote(
        self, key: str, app: str, request: spend_pb2.QuoteRequest
    ) -> spend_pb2.QuoteResponse:
        """What a call can cost. Raises SpendFault and Refusal."""
        wanted = border.wanted(request.call)
        spender = await self._desk.identify(key)
        agreed = self._agree(wanted, spender, app)
        return spend_pb2.QuoteResponse(
            most=money(agreed.terms.ceiling_nanos, spender.currency),
            input_llm_tokens=agreed.terms.input_bound,
            output_llm_tokens=agreed.output_limit,
            price_version=agreed.call.price_version,
            budgeted=agreed.budgeted,
            provider=agreed.call.provider,
            model=agreed.call.model,
        )

    async def reserve(
        self, key: str, app: str, request: spend_pb2.ReserveRequest
    ) -> spend_pb2.Reservation:
        """Set money aside. Raises SpendFault and Refusal."""
        request_id = border.request_id(request.request_id)
        hold_ms = border.hold_ms(request.hold_ms, self._longest_ms)
        least = border.number(
            request.least_output_llm_tokens, "least_output_llm_tokens", MAX_OUTPUT_LIMIT
        )
        wanted = border.wanted(request.call)
        if least and isinstance(wanted.bound, border.Amount):
            raise invalid("least_output_llm_tokens", least, "0 for an amount")
        spender = await self._desk.identify(key)
        self._check_not_interrupted(spender, request_id)
        holder = hash_of(key)
        try:
            entry, is_new = self._registry.begin(
                holder, request_id, border.content_of(request), self._clock.boot_ns()
            )
        except RequestIdReusedError:
            raise reused(request_id) from None
        except TooManyError:
            raise of_refusal(
                Refusal(
                    "overloaded",
                    f"{self.open_count} reservations are open, the most there may be.",
                    retry_after_s=RETRY_AFTER_S,
                )
            ) from None
        if is_new:
            working = self._reserve(entry, wanted, spender, app, request_id, least, hold_ms)
            self._tasks[id(entry)] = Shared(asyncio.create_task(working))
        if shared := self._tasks.get(id(entry)):
            await shared.result()
        return shown(entry, self._clock)

    async def extend(self, key: str, request: spend_pb2.ExtendRequest) -> spend_pb2.Reservation:
        """Time, money or both. Raises SpendFault and Refusal."""
        entry = self._open(key, border.charge_id(request.reservation))
        hold_ms = border.hold_ms(request.hold_ms, self._longest_ms)
        held = held_of(entry)
        more = request.WhichOneof("more")
        if more is not None:
            await self._desk.identify(key)
            async with held.working:
                if not entry.is_open:
                    raise over(request.reservation, entry.state)
                await self._grow(held, request, more)
            if not entry.is_open:
                raise over(request.reservation, entry.state)
        elif not hold_ms:
            raise invalid("hold_ms", 0, "a duration, or more to be set aside")
        self._registry.extend(entry, hold_ms * NANOS_PER_MS, self._clock.boot_ns())
        self._changed.set()
        return shown(entry, self._clock)

    async def settle(self, key: str, request: spend_pb2.SettleRequest) -> spend_pb2.Receipt:
        """What a call used. Raises SpendFault and Refusal."""
        border.check_settle(request)
        entry = await self._known(key, request.reservation)
        word = border.content_of(request)
        is_unknown = request.WhichOneof("evidence") == "unknown"
        if entry.is_open:
            held = held_of(entry)
            receipt = evidence.settle(held.attempt, request)
            state = State.EXPIRED if is_unknown else State.SETTLED
            return self._end(entry, held, state, receipt, word)
        if entry.word == word or (is_unknown and entry.state is State.EXPIRED):
            return told(entry)
        late = self._late_attempt(entry, request.reservation)
        receipt = evidence.settle(late, request)
        return self._adjusted(entry, late, State.SETTLED, receipt, word)

    async def release(self, key: str, request: spend_pb2.ReleaseRequest) -> spend_pb2.Receipt:
        """Never sent. Raises SpendFault and Refusal."""
        entry = await self._known(key, request.reservation)
        word = border.content_of(request)
        if entry.is_open:
            held = held_of(entry)
            return self._end(entry, held, State.RELEASED, held.attempt.release(), word)
        if entry.state is State.RELEASED:
            return told(entry)
        late = self._late_attempt(entry, request.reservation)
        receipt = evidence.release_late(late)
        return self._adjusted(entry, late, State.RELEASED, receipt, word)

    # -- time ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Charge what is due, until cancelled."""
        while True:
            self._changed.clear()
            deadline = self._registry.next_deadline()
            wait_s = None
            if deadline is not None:
                wait_s = max(0, deadline - self._clock.boot_ns()) / NANOS_PER_SECOND
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                self.sweep()

    def sweep(self) -> int:
        """Charge what is due; returns how many that were."""
        due = self._registry.due(self._clock.boot_ns())
        for entry in due:
            self._expire(entry, EXPIRED)
        return len(due)

    async def drain(self, timeout_s: float) -> None:
        """Reserve nothing more, let last words come for so long, charge the rest."""
        self._draining = True
        end = self._clock.boot_ns() + round(timeout_s * NANOS_PER_SECOND)
        while self.open_count:
            left_s = (end - self._clock.boot_ns()) / NANOS_PER_SECOND
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0, left_s)):
                    await self._changed.wait()
            except TimeoutError:
                break
        for shared in list(self._tasks.values()):
            shared.task.cancel()
        await asyncio.gather(*(s.task for s in self._tasks.values()), return_exceptions=True)
        left = self._registry.open_entries()
        for entry in left:
            self._expire(entry, STOPPED)
        if left:
            log.warning("reservations_charged_at_stop", count=len(left))

    # -- parts ---------------------------------------------------------------------------------

    def _agree(
        self,
        wanted: border.Wanted,
        spender: Spender,
        app: str,
        least: int = 0,
        request_id: str = "",
    ) -> Agreed:
        given = Circumstances(
            spender,
            self._desk.prices(),
            self._desk.exchange_rates(),
            self._clock.wall_ns(),
            app,
        )
        return self._bounds.agree(
            wanted,
            given,
            budgeted=self._desk.is_budgeted,
            least_output=least,
            request_id=request_id,
        )

    async def _reserve(
        self,
        entry: Entry[Held],
        wanted: border.Wanted,
        spender: Spender,
        app: str,
        request_id: str,
        least: int,
        hold_ms: int,
    ) -> None:
        try:
            if self._draining:
                raise Refusal("draining", "The sidecar is being stopped.")
            agreed = self._agree(wanted, spender, app, least, request_id)
            try:
                reservation = await self._desk.reserve(agreed.call)
            except Refusal as refusal:
                raise of_refusal(refusal, agreed.terms.ceiling_nanos) from refusal
        except BaseException:
            self._registry.abandon(entry)
            raise
        finally:
            del self._tasks[id(entry)]
            self._changed.set()
        limit, terms = agreed.output_limit, agreed.terms
        if reservation.ceiling_nanos < terms.ceiling_nanos:
            terms = clamp(terms, reservation.ceiling_nanos)
            limit = terms.clamped_output or limit
        attempt = Attempt(self._desk, self._clock, agreed.book, reservation, agreed.route, terms)
        held = Held(attempt, reservation, agreed, limit)
        self._registry.opened(
            entry,
            reservation.charge_id,
            held,
            self._clock.boot_ns(),
            (hold_ms or border.DEFAULT_HOLD_MS) * NANOS_PER_MS,
        )

    async def _grow(self, held: Held, request: spend_pb2.ExtendRequest, more: str) -> None:
        terms = held.attempt.terms
        if more == "amount":
            asked = own_nanos(border.amount(request.amount, "amount"), terms.rates)
            grown = msgspec.structs.replace(terms, ceiling_nanos=max(terms.ceiling_nanos, asked))
            limit = held.output_limit
        else:
            limit = border.number(request.output_llm_tokens, "output_llm_tokens", MAX_OUTPUT_LIMIT)
            bounds = terms.bounds
            if bounds is None:
                raise invalid("output_llm_tokens", limit, "an amount, as was reserved")
            limit = max(limit, held.output_limit)
            try:
                nanos = bounds.ceiling_nanos(limit)
            except UnpricedError as error:
                raise invalid("output_llm_tokens", limit, "0: the model produces none") from error
            grown = msgspec.structs.replace(
                terms,
                ceiling_nanos=max(terms.ceiling_nanos, nanos),
                output_bound=(limit + bounds.predicted) * bounds.choices,
            )
        try:
            await self._desk.extend(held.reservation, grown.ceiling_nanos)
        except Refusal as refusal:
            raise of_refusal(refusal, grown.ceiling_nanos) from refusal
        held.attempt.terms = grown
        held.output_limit = limit

    def _expire(self, entry: Entry[Held], reason: str) -> None:
        held = held_of(entry)
        receipt = held.attempt.charge_reserved(reason)
        log.info("reservation_expired", charge_id=entry.name, reason=reason)
        self._end(entry, held, State.EXPIRED, receipt, b"")

    def _end(
        self, entry: Entry[Held], held: Held, state: State, receipt: Receipt, word: bytes
    ) -> spend_pb2.Receipt:
        held.reserved_nanos = held.reservation.ceiling_nanos
        answer = receipt_of(entry.name, state, receipt, held.attempt, held.reserved_nanos)
        if state is State.EXPIRED:
            held.late = self._evidence.late(held.reservation)
        self._registry.end(entry, state, word, answer, self._clock.boot_ns())
        self.ended[state.value] += 1
        self._changed.set()
        return answer

    def _adjusted(
        self, entry: Entry[Held], late: Attempt, state: State, receipt: Receipt, word: bytes
    ) -> spend_pb2.Receipt:
        held = held_of(entry)
        answer = receipt_of(entry.name, state, receipt, late, held.reserved_nanos, adjusted=True)
        self._registry.end(entry, state, word, answer, self._clock.boot_ns())
        self.ended["adjusted"] += 1
        return answer

    def _late_attempt(self, entry: Entry[Held], name: str) -> Attempt:
        """The attempt of an expired reservation, to be settled once more. Raises SpendFault."""
        held = entry.held
        if entry.state is not State.EXPIRED or held is None or held.late is None:
            raise over(name, entry.state)
        before = held.attempt
        amending = Amending(self._evidence, held.late, held.agreed.call.spender.currency)
        return Attempt(
            amending,
            self._clock,
            held.agreed.book,
            held.reservation,
            before.route,
            before.terms,
        )

    def _open(self, key: str, charge_id: str) -> Entry[Held]:
        entry = self._registry.find(hash_of(key), charge_id)
        if entry is None:
            raise not_found(border.name_of(charge_id))
        if not entry.is_open:
            raise over(border.name_of(charge_id), entry.state)
        return entry

    async def _known(self, key: str, name: str) -> Entry[Held]:
        """The reservation, of this life or of an earlier one. Raises SpendFault and Refusal."""
        charge_id = border.charge_id(name)
        if len(key) > MAX_KEY_LENGTH:
            raise Refusal("key_unknown")
        holder = hash_of(key)
        entry = self._registry.find(holder, charge_id)
        if entry is not None:
            return entry
        late = self._recovered.get(charge_id)
        if late is None:
            raise not_found(name)
        spender = await self._desk.identify(key)
        if spender.key_id != late.opened.key_id:
            raise not_found(name)
        # Two who ask at once find one.
        entry = self._registry.find(holder, charge_id)
        if entry is None:
            del self._recovered[charge_id]
            held = self._of_an_earlier_life(late, spender)
            now = self._clock.boot_ns()
            entry = self._registry.adopt(holder, late.opened.request_id, charge_id, held, now)
        return entry

    def _of_an_earlier_life(self, late: Late, spender: Spender) -> Held:
        """Priced as now: which prices it was reserved at is known by name alone."""
        opened = late.opened
        book = self._desk.prices()
        route = self._bounds.known_route(opened.provider, opened.model, book)
        rates = CallRates(self._desk.exchange_rates(), spender.currency, opened.admitted_at)
        terms: Terms = agree_amount(opened.reserved_nanos, route, budgeted=False, rates=rates)
        call = Call(
            spender=spender,
            provider=opened.provider,
            model=opened.model,
            requested_model=opened.requested_model,
            ceiling_nanos=opened.reserved_nanos,
            least_nanos=opened.reserved_nanos,
        )
        handle = Handle(late.charge_id, opened.reserved_nanos)
        attempt = Attempt(self._desk, self._clock, book, handle, route, terms)
        agreed = Agreed(route, terms, book, call, budgeted=True, output_limit=0)
        return Held(attempt, handle, agreed, 0, late=late, reserved_nanos=opened.reserved_nanos)

    def _check_not_interrupted(self, spender: Spender, request_id: str) -> None:
        for charge_id, late in self._recovered.items():
            if (late.opened.key_id, late.opened.request_id) == (spender.key_id, request_id):
                raise interrupted(request_id, border.name_of(charge_id))
