"""A desk in memory: one budget, one price book, and a record of everything that was asked of it."""

from collections.abc import Mapping

import msgspec

from bursar.exchange import ExchangeRates
from bursar.pricing import PriceBook, snapshot
from bursar_sidecar.desk import (
    BudgetStanding,
    Call,
    Outcome,
    Receipt,
    Refusal,
    Reservation,
    Spender,
)

KEY = "bk-test"


class FakeReservation(msgspec.Struct):
    """A handle on a call that was admitted; it may grow."""

    charge_id: str
    ceiling_nanos: int
    grows: bool = False


class FakeDesk:
    """Admits while `limit_nanos` covers settled plus reserved; refuses a second settlement."""

    def __init__(
        self,
        limit_nanos: int | None = 10**12,
        *,
        book: PriceBook | None = None,
        spenders: Mapping[str, Spender] | None = None,
    ) -> None:
        """A limit of None means that no budget applies."""
        self.limit_nanos = limit_nanos
        self.book = book or snapshot()
        self.rates = ExchangeRates()
        self.spenders = dict(spenders or {KEY: spender()})
        self.settled_nanos = 0
        self.in_tail = False
        """Nothing begins small."""
        self.growths: list[int] = []
        """What reservations grew to."""
        self.open: dict[str, Call] = {}
        self.calls: list[Call] = []
        self.outcomes: list[Outcome] = []

    async def identify(self, api_key: str) -> Spender:
        """The spender of a known key."""
        found = self.spenders.get(api_key)
        if found is None:
            raise Refusal("key_unknown")
        return found

    def is_budgeted(self, spender: Spender, provider: str, model: str) -> bool:
        """Whether there is a limit."""
        return self.limit_nanos is not None

    def prices(self) -> PriceBook:
        """The book given at the start."""
        return self.book

    def exchange_rates(self) -> ExchangeRates:
        """Those a test put there."""
        return self.rates

    async def reserve(self, call: Call) -> FakeReservation:
        """Admit the call, clamped if it may be, or refuse it with the budget's standing."""
        standing, ceiling_nanos = self._standing(), call.ceiling_nanos
        if call.begin_nanos and not self.in_tail:
            ceiling_nanos = min(ceiling_nanos, call.begin_nanos)
        least_nanos = min(call.least_nanos, ceiling_nanos)
        if standing is not None and not call.is_made:
            left = standing.limit_nanos - standing.settled_nanos
            if least_nanos > left:
                raise Refusal("budget_exhausted", budgets=(standing,))
            if least_nanos > left - standing.reserved_nanos:
                raise Refusal("budget_reserved", retry_after_s=1.5, budgets=(standing,))
            ceiling_nanos = min(ceiling_nanos, left - standing.reserved_nanos)
        charge_id = f"7-{len(self.calls) + 1}"
        self.calls.append(call)
        self.open[charge_id] = msgspec.structs.replace(call, ceiling_nanos=ceiling_nanos)
        grows = not self.in_tail and 0 < call.begin_nanos <= ceiling_nanos < call.ceiling_nanos
        return FakeReservation(charge_id, ceiling_nanos, grows)

    def extend_here(self, reservation: Reservation, ceiling_nanos: int, least_nanos: int) -> bool:
        """Let an open call grow as far as what is left goes."""
        assert isinstance(reservation, FakeReservation)
        standing = self._standing()
        if standing is not None:
            left = standing.limit_nanos - standing.settled_nanos - standing.reserved_nanos
            ceiling_nanos = min(ceiling_nanos, reservation.ceiling_nanos + left)
        if ceiling_nanos < least_nanos or ceiling_nanos <= reservation.ceiling_nanos:
            return False
        self._grow(reservation, ceiling_nanos)
        return True

    def _grow(self, reservation: FakeReservation, ceiling_nanos: int) -> None:
        reservation.ceiling_nanos = ceiling_nanos
        self.growths.append(ceiling_nanos)
        self.open[reservation.charge_id] = msgspec.structs.replace(
            self.open[reservation.charge_id], ceiling_nanos=ceiling_nanos
        )

    async def extend(self, reservation: Reservation, ceiling_nanos: int) -> None:
        """Let an open call grow, or refuse it with the budget's standing."""
        assert isinstance(reservation, FakeReservation)
        standing = self._standing()
        if standing is not None:
            by_nanos = ceiling_nanos - reservation.ceiling_nanos
            left = standing.limit_nanos - standing.settled_nanos
            if by_nanos > left:
                raise Refusal("budget_exhausted", budgets=(standing,))
            if by_nanos > left - standing.reserved_nanos:
                raise Refusal("budget_reserved", retry_after_s=1.5, budgets=(standing,))
        if ceiling_nanos > reservation.ceiling_nanos:
            self._grow(reservation, ceiling_nanos)

    def settle(self, reservation: Reservation, outcome: Outcome) -> Receipt:
        """Close a reservation; a second time is an error of the caller's."""
        call = self.open.pop(reservation.charge_id, None)
        assert call is not None, f"{reservation.charge_id} was settled twice"
        self.outcomes.append(outcome)
        self.settled_nanos += outcome.cost_nanos
        standing = self._standing()
        remaining = None
        if standing is not None:
            remaining = standing.limit_nanos - standing.settled_nanos - standing.reserved_nanos
        return Receipt(reservation.charge_id, outcome.cost_nanos, call.spender.currency, remaining)

    @property
    def only_outcome(self) -> Outcome:
        """How the one call ended; asserts that there was one, and that none is open."""
        assert not self.open, f"still open: {sorted(self.open)}"
        assert len(self.outcomes) == 1, f"{len(self.outcomes)} settlements"
        return self.outcomes[0]

    def _standing(self) -> BudgetStanding | None:
        if self.limit_nanos is None:
            return None
        return BudgetStanding(
            name="budgets/b-1",
            scope="key/demo",
            limit_nanos=self.limit_nanos,
            settled_nanos=self.settled_nanos,
            reserved_nanos=sum(call.ceiling_nanos for call in self.open.values()),
            in_doubt_nanos=0,
            currency="USD",
            window_end="2030-01-01T00:00:00Z",
        )


def spender(*, allowed_models: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> Spender:
    """A key of the organization `acme`."""
    return Spender(
        organization="acme",
        organization_id=1,
        key="keys/k-1",
        key_id=1,
        allowed_models=allowed_models,
        tags=tags,
    )
