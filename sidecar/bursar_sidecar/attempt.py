"""One attempt at one provider: it ends in exactly one settlement, whatever happens to it."""

from typing import Final

import msgspec

from bursar.pricing import (
    Price,
    PriceBook,
    booked_nanos,
    charge,
    integer_rates,
    price_of_answer,
)
from bursar.usage import Usage, estimated
from bursar_sidecar.desk import Clock, Desk, Outcome, OutcomeKind, Receipt, Reservation, Settling
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.flow import Flow
from bursar_sidecar.meter import count
from bursar_sidecar.produced import CUT_SLACK_LLM_TOKENS
from bursar_sidecar.progressive import Start
from bursar_sidecar.routing import Route, lookup
from bursar_sidecar.terms import Terms

MAX_NAME: Final = 256
"""Characters kept of a provider's request id or model name."""
_NO_USAGE: Final = Usage()


class AlreadySettled(RuntimeError):
    """A second settlement was tried: a fault of ours, never of a peer."""


class Attempt:
    """Holds a reservation from admission until it is settled."""

    __slots__ = (
        "_book",
        "_clock",
        "_desk",
        "_reservation",
        "_streaming_since",
        "assembles",
        "counted",
        "fault",
        "flow",
        "input_bound",
        "kind",
        "reading",
        "receipt",
        "request_id",
        "route",
        "sent",
        "status",
        "terms",
        "usage",
        "was_cut",
    )

    def __init__(
        self,
        desk: Settling,
        clock: Clock,
        book: PriceBook,
        reservation: Reservation,
        route: Route,
        terms: Terms,
    ) -> None:
        self._desk = desk
        self._clock = clock
        self._book = book
        self._reservation = reservation
        self.route = route
        self.terms = terms
        self.sent = False
        """Bytes of the call may have reached the provider."""
        self.status = 0
        self.fault = ""
        """Why no whole answer came, in one word of ours; "" where one did."""
        self.request_id = ""
        """The provider's own, from its headers."""
        self.reading: Reading | None = None
        """What the answer has said so far; None before it began."""
        self.counted: int | None = None
        """LLM tokens of the text the reading kept, once they are counted."""
        self.flow: Flow | None = None
        """Of a call that began with a part of its worst case."""
        self.assembles = False
        """The app asked for a plain answer, and the call runs as a stream."""
        self.was_cut = False
        """It was cut where its money ended."""
        self.input_bound = terms.input_bound
        """LLM tokens; lower than the terms' once the input is counted."""
        self._streaming_since = 0.0
        self.receipt: Receipt | None = None
        self.usage: Usage = _NO_USAGE
        self.kind: OutcomeKind | None = None

    @property
    def charge_id(self) -> str:
        """The charge's id, known from the reservation on."""
        return self._reservation.charge_id

    @property
    def reservation(self) -> Reservation:
        """What is set aside for it."""
        return self._reservation

    def again(self, desk: Settling) -> "Attempt":
        """The same call, to be settled once more, there: evidence came late."""
        return Attempt(desk, self._clock, self._book, self._reservation, self.route, self.terms)

    def charge(self, reading: Reading) -> Receipt:
        """The answer came to its end: settle on the provider's usage, or on bounds without it."""
        settles = self.terms.settles
        if settles == "reserved":
            return self.charge_reserved("what it costs is not told by its answer")
        if settles == "flat":
            return self._settle_flat("final")
        usage = count(
            reading,
            input_bound=self.input_bound,
            output_bound=self.terms.output_bound,
            hidden_output=self.terms.hidden_output,
            counted=self.counted,
        )
        if settles == "told" and not usage.is_exact:
            return self.charge_reserved(usage.estimate_reason, "final")
        return self._settle_used("final", usage, reading)

    def charge_told(self, usage: Usage, reading: Reading, kind: OutcomeKind = "final") -> Receipt:
        """Whoever made the call says what it used; `reading` holds what the answer said besides."""
        return self._settle_used(kind, usage, reading)

    def charge_cost(
        self, cost_nanos: int, usage: Usage, reading: Reading, kind: OutcomeKind = "final"
    ) -> Receipt:
        """Whoever made the call says what it cost."""
        return self._settle(kind, usage, cost_nanos, self.terms.price, reading)

    async def extend(self, desk: Desk, ceiling_nanos: int) -> None:
        """Let what is set aside grow to so much. Raises Refusal."""
        await desk.extend(self._reservation, ceiling_nanos)

    def grow(self, desk: Desk, start: Start, facts: Facts) -> Facts:
        """The call was admitted with a part of its worst case, and grows. Returns its facts as it
        is sent: as a stream."""
        bounds = self.terms.bounds
        if bounds is None:
            raise ValueError(f"{self.charge_id} has no bounds to grow within")
        growth = start.growth(bounds, self._reservation.ceiling_nanos)
        reservation = self._reservation
        self.flow = Flow(desk, self._clock, reservation, growth, bounds, start.limit)
        self.assembles = not facts.stream
        # What it hides was looked at when it was let begin so.
        self.terms = msgspec.structs.replace(self.terms, hidden_output=False)
        return facts if facts.stream else msgspec.structs.replace(facts, stream=True)

    def _settle_flat(self, kind: OutcomeKind) -> Receipt:
        usage = Usage(extra={"request": 1})
        return self._settle(kind, usage, self._reservation.ceiling_nanos, None)

    def streams(self, reading: Reading) -> None:
        """The answer has begun, and is a stream."""
        self.reading = reading
        self._streaming_since = self._clock.monotonic()

    def release(self) -> Receipt:
        """Provably never sent: costs nothing."""
        return self._settle("released", _NO_USAGE, 0, self.terms.price)

    def fail(self) -> Receipt:
        """The provider answered with an error: costs nothing."""
        return self._settle("provider_error", _NO_USAGE, 0, self.terms.price)

    def charge_reserved(self, reason: str, kind: OutcomeKind = "unknown") -> Receipt:
        """What was used is not known: all that was reserved, an estimate that refunds nothing."""
        usage = estimated(
            reason,
            input_llm_tokens=self.terms.input_bound,
            output_llm_tokens=self.terms.output_bound,
        )
        return self._settle(kind, usage, self._reservation.ceiling_nanos, self.terms.price)

    def cut(self, reason: str, *, nothing_produced: bool = False, hung_up: bool = True) -> Receipt:
        """The answer did not come to its end: charge what was produced, as far as is known.

        `nothing_produced` says that no answer had begun and the request was for a stream: only
        what the model may hide can have been produced. `hung_up`: the provider was cut off, and may
        have gone on for a moment.
        """
        if self.terms.settles == "flat":
            return self._settle_flat("aborted")
        if self.terms.settles != "used":
            return self.charge_reserved(reason)
        if self.reading is None and nothing_produced and not self.terms.hidden_output:
            output = min(self.terms.output_bound, CUT_SLACK_LLM_TOKENS)
            usage = estimated(reason, input_llm_tokens=self.input_bound, output_llm_tokens=output)
            return self._settle_used("aborted", usage, Reading())
        if self.reading is None:
            return self.charge_reserved(reason)
        usage = count(
            self.reading,
            input_bound=self.input_bound,
            output_bound=self.terms.output_bound,
            cut=reason,
            hidden_output=self.terms.hidden_output,
            counted=self.counted,
            streamed_for_s=self._clock.monotonic() - self._streaming_since if hung_up else None,
        )
        return self._settle_used("aborted", usage, self.reading)

    def abandon(self) -> None:
        """The last line of defence: whatever left the attempt open closes it, refunding nothing."""
        if self.receipt is None and self.kind is None:
            if self.sent:
                self.cut("the call was broken off by the sidecar")
            else:
                self.release()

    def _settle_used(self, kind: OutcomeKind, usage: Usage, reading: Reading) -> Receipt:
        price = self._price_of(reading.model)
        if price is None:
            return self._settle(kind, usage, 0, None, reading)
        reserved = self._reservation.ceiling_nanos
        tier = reading.service_tier or self.terms.service_tier
        # Off-peak hours are judged by the time of the admission, as a later rating does.
        at = self.terms.rates.admitted_at if price.windows else None
        region = reading.region or self.route.provider.region or None
        if price.currency == self.terms.rates.currency and price.foreign_fee is None:
            usual = integer_rates.charged_nanos(price, usage, tier or None, region)
            if usual is not None:
                if not usage.is_exact:
                    usual = min(usual, reserved)
                return self._settle(kind, usage, usual, price, reading, service_tier=tier)
        charged = charge(price, usage, service_tier=tier or None, region=region, at=at)
        cost_nanos = booked_nanos(price, charged.cost, self.terms.rates.conversion)
        if charged.unpriced:
            # Part of the cost is unknown, not zero.
            usage = msgspec.structs.replace(
                usage,
                certainty="estimated",
                estimate_reason=f"no rate for {', '.join(charged.unpriced)}",
            )
            cost_nanos = max(cost_nanos, reserved)
        elif not usage.is_exact:
            cost_nanos = min(cost_nanos, reserved)
        return self._settle(kind, usage, cost_nanos, price, reading, service_tier=tier)

    def _price_of(self, answered: str) -> Price | None:
        """The price follows the model that answered, when the list knows it under another name."""
        asked = self.terms.price
        if asked is None or not answered or answered == self.route.listed:
            return asked
        found = lookup(self._book, answered, self.route.provider)
        if found is not None and not self.terms.rates.can_charge(found):
            return asked
        return price_of_answer(asked, found, self.route.listed, answered)

    def _settle(
        self,
        kind: OutcomeKind,
        usage: Usage,
        cost_nanos: int,
        price: Price | None,
        reading: Reading | None = None,
        *,
        service_tier: str = "",
    ) -> Receipt:
        if self.kind is not None:
            raise AlreadySettled(f"{self.charge_id} is settled as {self.kind}, not {kind}")
        self.kind = kind
        self.usage = usage
        if self.flow is not None:
            self.flow.close()
        conversion = self.terms.rates.conversion(price.currency) if price is not None else None
        answered_id, answered_model = (
            ("", "") if reading is None else (reading.request_id, reading.model)
        )
        self.receipt = self._desk.settle(
            self._reservation,
            Outcome(
                kind=kind,
                usage=usage,
                cost_nanos=cost_nanos,
                provider_request_id=_name(self.request_id or answered_id),
                http_status=self.status,
                answered_model=_name(answered_model),
                price_version=price.price_version if price is not None else "unpriced",
                service_tier=_name(service_tier),
                region=_name(
                    (reading.region or self.route.provider.region) if reading is not None else ""
                ),
                priced_as=f"{price.provider}/{price.model}" if price is not None else "",
                price_currency=conversion.base if conversion is not None else "",
                exchange_rate=conversion.text if conversion is not None else "",
                finished_at=self._clock.wall_ns(),
            ),
        )
        return self.receipt


def _name(text: str) -> str:
    # What a provider calls things goes into the ledger: bounded, and without control characters.
    return text[:MAX_NAME] if text.isprintable() else ""
