"""The desk: the seam between the data path and the money.

The proxy asks the desk who calls, whether a call may start, and tells it how each call ended.
Everything behind the seam (policy cache, allowances, journal, session) can be replaced by an
in-memory fake in tests. Amounts are integer nanos of the spender's currency, wall-clock times are
nanoseconds since the Unix epoch.
"""

import time
from typing import Literal, Protocol

import msgspec

from bursar.exchange import ExchangeRates
from bursar.pricing import PriceBook
from bursar.usage import Usage

OutcomeKind = Literal["final", "provider_error", "released", "aborted", "unknown"]


class Clock(Protocol):
    """Where the time comes from; injected so that tests decide what time it is."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()


class Spender(msgspec.Struct, frozen=True):
    """Who calls: the identity behind one key. Ids are 0 and names "" where there is none."""

    organization: str
    organization_id: int
    key: str
    key_id: int
    team_id: int = 0
    project_id: int = 0
    user_id: int = 0
    team: str = ""
    project: str = ""
    user: str = ""
    allowed_models: tuple[str, ...] = ()
    """Globs over `model` or `provider/model`; empty allows all."""
    tags: tuple[str, ...] = ()
    currency: str = "USD"


class Call(msgspec.Struct, frozen=True):
    """What is about to be bought, with the most it can cost."""

    spender: Spender
    provider: str
    """The configured provider's name."""
    model: str
    """The price list's name of the model."""
    requested_model: str
    """The name as the app wrote it."""
    ceiling_nanos: int
    """W: the most this call can cost."""
    least_nanos: int
    """The least reservation the call can start with; equals W unless the call may be clamped."""
    begin_nanos: int = 0
    """What it may begin with, to grow from there; 0: it does not grow."""
    may_wait: bool = True
    """Whether it waits for money that calls in flight hold."""
    tags: tuple[str, ...] = ()
    customer: str = ""
    app: str = ""
    """The app's user agent."""
    run: str = ""
    request_id: str = ""
    """The app's name of a reservation that is handed out to it, or ours of a call that Envoy's log
    tells of; "": nobody tells of it after this process."""
    stream: bool = False
    price_version: str = ""
    price_currency: str = ""
    """Where it is not the spender's; else ""."""
    exchange_rate: str = ""
    """With it: what `ceiling_nanos` was converted by (see `bursar.exchange.Conversion.text`)."""
    is_made: bool = False
    """It was made already, and what it used is known: nothing is set aside for it, and a budget
    without money is no reason to refuse it. Its ceiling is 0."""
    started_at: int = 0
    """Wall clock, nanoseconds."""


class Reservation(Protocol):
    """A handle on money set aside for one call in flight."""

    @property
    def charge_id(self) -> str:
        """`<epoch>-<n>`."""
        ...

    @property
    def ceiling_nanos(self) -> int:
        """What is set aside now; `Desk.extend` lets it grow."""
        ...

    @property
    def grows(self) -> bool:
        """Whether the call began with a part of its worst case, and is to grow with what flows;
        if less was set aside and it does not grow, it is to be clamped."""
        ...


class Outcome(msgspec.Struct, frozen=True):
    """How a call ended, told once per reservation.

    kind: "final" the provider answered, usage counted or estimated; "provider_error" the provider
    refused or failed, costs nothing; "released" provably never sent; "aborted" cut before its end
    (by the app, the provider or us), charged for what was produced as far as is known; "unknown"
    sent, and nothing says what became of it: all that was reserved, provisionally, until evidence.
    """

    kind: OutcomeKind
    usage: Usage
    cost_nanos: int
    provider_request_id: str = ""
    http_status: int = 0
    """The provider's status; 0 when there was no answer."""
    answered_model: str = ""
    price_version: str = ""
    service_tier: str = ""
    """The one it was priced at; "": the standard one."""
    region: str = ""
    """The one it was priced at; "": none in particular."""
    priced_as: str = ""
    """The price by its own names, "openai/gpt-4o"; "": there was none."""
    price_currency: str = ""
    """Where it is not the spender's; else ""."""
    exchange_rate: str = ""
    """With it: what `cost_nanos` was converted by."""
    finished_at: int = 0
    """Wall clock, nanoseconds."""


class Receipt(msgspec.Struct, frozen=True):
    """What the app is told about the charge."""

    charge_id: str
    cost_nanos: int
    currency: str
    budget_remaining_nanos: int | None
    """What is left of the tightest budget; None when no budget applies."""


class BudgetStanding(msgspec.Struct, frozen=True):
    """One budget as a refusal shows it."""

    name: str
    scope: str
    limit_nanos: int
    settled_nanos: int
    reserved_nanos: int
    in_doubt_nanos: int
    currency: str
    window_end: str
    """RFC 3339; "" for a lifetime budget."""


class Refusal(Exception):
    """A call that may not start, with its stable reason and every budget that refused it.

    Reasons: budget_exhausted, budget_reserved, rate_limited, no_allowance, key_unknown,
    key_revoked, key_expired, overloaded, evidence_too_late, and those of `refusals.REASONS`.
    """

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        retry_after_s: float | None = None,
        budgets: tuple[BudgetStanding, ...] = (),
    ) -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.budgets = budgets
        self.ceiling_nanos = 0
        """What the call could have cost, where money was short; 0 where that is not the reason."""
        self.model = ""
        """The one it was routed to, "" before that."""


class Settling(Protocol):
    """Where a call's end is told."""

    def settle(self, reservation: Reservation, outcome: Outcome) -> Receipt:
        """Close a reservation, exactly once."""
        ...


class Desk(Settling, Protocol):
    """Identity, prices and money for the data path."""

    async def identify(self, api_key: str) -> Spender:
        """The spender behind a key; usually answered from memory. Raises Refusal."""
        ...

    def is_budgeted(self, spender: Spender, provider: str, model: str) -> bool:
        """Whether a hard money budget applies to such a call."""
        ...

    def prices(self) -> PriceBook:
        """The current price book: the built-in snapshot and the overlays pushed since."""
        ...

    def exchange_rates(self) -> ExchangeRates:
        """What is known of exchange rates now, those that begin later included."""
        ...

    async def reserve(self, call: Call) -> Reservation:
        """Set W aside in every budget that applies, all or nothing.

        The open record is in the journal when it returns. Takes no real suspension unless the call
        has to wait for money. Raises Refusal. Cancelled while it waits, it leaves nothing reserved.
        """
        ...

    async def extend(self, reservation: Reservation, ceiling_nanos: int) -> None:
        """Let W of an open call grow to so much, in every budget it draws on or in none.

        The growth is in the journal when it returns: only then may what it covers flow. Takes no
        real suspension unless it has to wait for money, which it does before all calls that have
        not begun. Raises Refusal, and then W is what it was. One growth of a call at a time; it
        ends in a refusal when the call is settled.
        """
        ...

    def extend_here(self, reservation: Reservation, ceiling_nanos: int, least_nanos: int) -> bool:
        """Let W of an open call grow to so much from what is free here, or else as far as that
        goes, but not less than to the least. False: it did not grow. Asks and waits for nothing;
        written down as `extend` does.
        """
        ...
