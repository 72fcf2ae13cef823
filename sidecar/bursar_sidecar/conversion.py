"""The exchange rates of one call: those in force when it was admitted.

What is reserved and what is charged are converted by the same rates, so that a rate which changes
while the call is under way cannot make it cost more than was set aside.
"""

from datetime import UTC, datetime
from typing import Final

from bursar.exchange import Conversion, ExchangeRates
from bursar.pricing import Price
from bursar_sidecar.clock import NANOS_PER_SECOND

_MICROSECONDS: Final = 1_000_000


class UnconvertibleError(Exception):
    """No exchange rate is known for a currency; the message names both."""

    def __init__(self, price_currency: str, currency: str) -> None:
        super().__init__(f"no exchange rate from {price_currency} to {currency} is known")
        self.price_currency = price_currency
        self.currency = currency


class CallRates:
    """Converts prices' currencies to an organization's, as of a call's admission."""

    __slots__ = ("_admitted_at", "_last", "_rates", "currency")

    def __init__(self, rates: ExchangeRates, currency: str, admitted_at: int) -> None:
        """`currency` is the organization's; `admitted_at` is wall-clock time in nanoseconds."""
        self._rates = rates
        self._admitted_at = admitted_at
        self._last: Conversion | None = None
        self.currency = currency

    def conversion(self, price_currency: str) -> Conversion | None:
        """How a price's amounts become the organization's; None: they are in its currency.

        Raises UnconvertibleError.
        """
        if price_currency == self.currency:
            return None
        if self._last is not None and self._last.base == price_currency:
            return self._last
        found = self._rates.conversion(price_currency, self.currency, self.admitted_at)
        if found is None:
            raise UnconvertibleError(price_currency, self.currency)
        self._last = found
        return found

    @property
    def admitted_at(self) -> datetime:
        """When the call was admitted."""
        seconds, nanos = divmod(self._admitted_at, NANOS_PER_SECOND)
        microsecond = nanos * _MICROSECONDS // NANOS_PER_SECOND
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microsecond)

    def can_charge(self, price: Price) -> bool:
        """Whether a call can be charged by that price."""
        try:
            self.conversion(price.currency)
            if price.foreign_fee is not None:
                self.conversion(price.foreign_fee.currency)
        except UnconvertibleError:
            return False
        return True
