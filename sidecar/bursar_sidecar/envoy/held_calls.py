"""The calls that Envoy carries, between their admission and their end.

Each is in one of two hands. Of the strict tier, the processing stream *takes* it and owns its end
from then on; one that nobody takes is charged. Of the light tier, evidence *settles* it; what
nothing is known of by its deadline is charged at what was reserved, and evidence that comes later
adjusts that.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import structlog

from bursar_sidecar.admission import Admission, Admitted
from bursar_sidecar.amendments import Late
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.clock import NANOS_PER_SECOND, Clock
from bursar_sidecar.desk import Receipt, Refusal
from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.http_messages import Request
from bursar_sidecar.local_grpc.handed_out import Amending, Evidence
from bursar_sidecar.local_grpc.reservations import Entry, Reservations, State, TooManyError
from bursar_sidecar.provider_pool import ProviderPool
from bursar_sidecar.serving import Serving, Servings
from bursar_sidecar.settings import Settings

log = structlog.get_logger("bursar.envoy")

Tier = Literal["strict", "light"]
EXPIRED: Final = "reservation_expired"
"""Estimate reason of a call that nothing was heard of until its deadline."""
STOPPED: Final = "sidecar_stopped"
"""Estimate reason of a call that was under way when the sidecar was stopped."""
TAKE_WITHIN_S: Final = 60
"""Envoy opens the processing stream in the same turn in which it is told that a call may go on;
filters between the two may take their time."""
SWEEP_EVERY_S: Final = 1.0
"""How late a deadline may be noticed."""
MOST_REMEMBERED: Final = 4_096
"""Calls that ended, so that what is told twice is known as such."""
RETRY_AFTER_S: Final = 1.0
KEPT_FIELD_BYTES: Final = 256
"""Of a body's fields, how large those are that are kept with a call; of others only the names."""
_LARGE: Final = msgspec.Raw(b"null")
_HOLDER: Final = b"envoy"

Word = Callable[[Attempt], Receipt]
"""Settles an attempt, in whatever way the evidence says."""


class HeldCall:
    """One call that may go on, and what is needed to bring its answer back."""

    __slots__ = ("admitted", "edited", "endpoint", "late", "over", "request", "serving", "tier")

    def __init__(
        self,
        admitted: Admitted,
        endpoint: Endpoint,
        serving: Serving,
        request: Request,
        tier: Tier,
        edited: bytes | None = None,
    ) -> None:
        self.admitted = admitted
        self.endpoint = endpoint
        self.serving = serving
        """Begun with `Servings.begin`; ended with the call."""
        self.request = request
        self.edited = edited
        """The body to send instead of the app's, without any coding; None: the app's goes on as it
        came."""
        self.tier = tier
        self.over = False
        """Counted and logged, its serving given back."""
        self.late: Late | None = None
        """Once it expired."""

    def lighten(self) -> None:
        """Let go of the body: nobody sends it any more, and the call may be kept for long."""
        request, facts = self.request, self.facts
        request.body, request.encoded, self.edited = b"", None, None
        # A field is a part of the body, and keeps all of it.
        fields = {
            name: raw.copy() if memoryview(raw).nbytes <= KEPT_FIELD_BYTES else _LARGE
            for name, raw in facts.fields.items()
        }
        facts = msgspec.structs.replace(facts, fields=fields, prompt=None)
        self.admitted = self.admitted._replace(facts=facts)

    @property
    def attempt(self) -> Attempt:
        """Its reservation, until it is settled."""
        return self.admitted.attempt

    @property
    def facts(self) -> Facts:
        """Of the request as it is to be sent."""
        return self.admitted.facts

    @property
    def upstream(self) -> ProviderPool:
        """The provider it goes to; its `server` is what dialects ask for."""
        return self.serving.upstreams[self.attempt.route.provider.name]


class Seat:
    """A place for one call, taken before money is set aside for it."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry[HeldCall]) -> None:
        self.entry = entry


class HeldCalls:
    """All of them."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        admission: Admission,
        servings: Servings,
        evidence: Evidence,
    ) -> None:
        self._clock = clock
        self._admission = admission
        self._servings = servings
        self._evidence = evidence
        self._registry: Reservations[HeldCall] = Reservations(
            most_open=settings.envoy_max_calls,
            longest_ns=settings.longest_call_s * NANOS_PER_SECOND,
            most_remembered=MOST_REMEMBERED,
        )
        self._taken: set[HeldCall] = set()
        self._seats = 0
        self._draining = False
        self._ended = asyncio.Event()
        """Something has: looked at by who waits for the last."""
        self.ended: Counter[str] = Counter()
        """How many ended: "taken", "settled", "expired", "adjusted"."""
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Deadlines of the calls from now on."""
        self._registry.longest_ns = settings.longest_call_s * NANOS_PER_SECOND
        self._hold_ns = settings.envoy_hold_s * NANOS_PER_SECOND

    @property
    def open_count(self) -> int:
        """Calls that are held, or about to be: neither taken nor ended."""
        return self._registry.open_count

    @property
    def taken_count(self) -> int:
        """Calls whose processing streams have them."""
        return len(self._taken)

    # -- from the Check --------------------------------------------------------------------------

    def seat(self) -> Seat:
        """A place for a call that is about to be admitted: `open` it or `give_up`.

        Raises Refusal overloaded.
        """
        if self._draining:
            raise Refusal("overloaded", "The sidecar is going down.", retry_after_s=RETRY_AFTER_S)
        self._seats += 1
        try:
            entry, _ = self._registry.begin(_HOLDER, str(self._seats), b"", self._clock.boot_ns())
        except TooManyError:
            raise Refusal(
                "overloaded",
                f"{self.open_count} calls are held for Envoy, the most there may be.",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        return Seat(entry)

    def give_up(self, seat: Seat) -> None:
        """The call was not admitted."""
        self._registry.abandon(seat.entry)

    def open(self, seat: Seat, call: HeldCall) -> str:
        """Hold it until it is taken, settled, or due. Returns its charge id."""
        attempt = call.attempt
        attempt.sent = True  # from here on nobody can prove that it was not
        hold_ns = self._hold_ns
        if call.tier == "strict":
            hold_ns = min(hold_ns, TAKE_WITHIN_S * NANOS_PER_SECOND)
        else:
            call.lighten()
        now = self._clock.boot_ns()
        self._registry.opened(seat.entry, attempt.charge_id, call, now, hold_ns)
        return attempt.charge_id

    # -- strict ----------------------------------------------------------------------------------

    def take(self, charge_id: str) -> HeldCall | None:
        """The call, whose end is now the caller's: settle its attempt, then `over`, whatever
        happens. None where it was taken before, ended, or never was."""
        entry = self._registry.find(_HOLDER, charge_id)
        if entry is None or not entry.is_open or entry.held is None:
            return None
        call = entry.held
        self._registry.end(entry, State.SETTLED, b"", None, self._clock.boot_ns())
        self._taken.add(call)
        self.ended["taken"] += 1
        return call

    def over(self, call: HeldCall) -> None:
        """Whoever took it has done with it. What is still open of it is closed, refunding nothing.

        A second time does nothing.
        """
        self._taken.discard(call)
        if not call.over:
            call.over = True
            self._admission.over(call.admitted)
            self._servings.end(call.serving)
        self._ended.set()

    # -- light -----------------------------------------------------------------------------------

    def held(self, charge_id: str) -> HeldCall | None:
        """A call that can still be settled or adjusted, for who has to read evidence about it."""
        entry = self._registry.find(_HOLDER, charge_id)
        return None if entry is None else entry.held

    def knows(self, charge_id: str) -> bool:
        """Whether there was such a call, as far as what ended is remembered."""
        return self._registry.find(_HOLDER, charge_id) is not None

    def settle(self, charge_id: str, word: Word) -> Receipt | None:
        """Evidence of what a call cost: `word` settles the attempt that it is given.

        One that expired is adjusted. None where nothing is held by that name: taken, settled
        before, or forgotten. Raises Refusal evidence_too_late, and what `word` raises; then
        nothing has changed.
        """
        entry = self._registry.find(_HOLDER, charge_id)
        if entry is None or entry.held is None:
            return None
        call = entry.held
        if entry.is_open:
            receipt = word(call.attempt)
            self.over(call)
            self.ended["settled"] += 1
        elif call.late is not None:
            currency = call.admitted.spender.currency
            receipt = word(call.attempt.again(Amending(self._evidence, call.late, currency)))
            self.ended["adjusted"] += 1
        else:
            return None
        self._registry.end(entry, State.SETTLED, b"", None, self._clock.boot_ns())
        return receipt

    # -- time ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Charge what is due, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.sweep()

    def sweep(self) -> int:
        """Charge what is due; returns how many that were."""
        due = self._registry.due(self._clock.boot_ns())
        for entry in due:
            self._expire(entry, EXPIRED)
        return len(due)

    async def drain(self, timeout_s: float) -> None:
        """Hold no more, and let those that there are come to their ends for so long."""
        self._draining = True
        end = self._clock.boot_ns() + round(timeout_s * NANOS_PER_SECOND)
        while self.open_count or self._taken:
            left_s = (end - self._clock.boot_ns()) / NANOS_PER_SECOND
            self._ended.clear()
            try:
                async with asyncio.timeout(max(0, left_s)):
                    await self._ended.wait()
            except TimeoutError:
                return

    def close(self) -> None:
        """Charge what has not come to its end."""
        left = self._registry.open_entries()
        for entry in left:
            self._expire(entry, STOPPED)
        taken = list(self._taken)
        for call in taken:
            self.over(call)
        if left or taken:
            log.warning("envoy_calls_charged_at_stop", count=len(left) + len(taken))

    def _expire(self, entry: Entry[HeldCall], reason: str) -> None:
        call = entry.held
        if call is None:
            raise ValueError(f"nothing is kept with {entry.name}, which is {entry.state}")
        attempt = call.attempt
        attempt.charge_reserved(reason)
        call.lighten()
        call.late = self._evidence.late(attempt.reservation)
        self.over(call)
        self._registry.end(entry, State.EXPIRED, b"", None, self._clock.boot_ns())
        self.ended["expired"] += 1
        log.warning("envoy_call_expired", charge_id=entry.name, tier=call.tier, reason=reason)
