"""What a settlement becomes: entries, planned before they are written. Pure.

A settlement sent again plans nothing. A final that meets its own provisional takes the provisional
back and posts what the call really cost, as two further entries (k above 0); nothing is changed.

What a session held when it was resolved as spent is posted as lost, and what evidence says of it
later is taken back by a further entry of that kind. They are no calls: their n is negative.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

PROVISIONAL_ACCOUNT = "provisional"
LOST_ACCOUNT = "lost"
"""What was counted as spent although nobody knows to whom it is owed. Not the provisional account:
that one holds single calls, each of which waits for its own evidence."""
LOST_REASON = "the session's record of it is lost"


class Kind(StrEnum):
    """How a reservation ended."""

    FINAL = "final"
    PROVISIONAL = "provisional"
    RELEASED = "released"
    LOST = "lost"
    CORRECTION = "correction"
    """No ending: a later difference, because the price was wrong."""


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """A settlement as it passed the border. Amounts in nanos of the organization's currency."""

    organization_id: int
    session_epoch: int
    n: int
    kind: Kind
    budget_window_ids: tuple[int, ...]
    reserved_nanos: int
    cost_nanos: int
    key_id: int
    customer: str
    app: str
    run: str
    tags: tuple[str, ...]
    provider: str
    model: str
    requested_model: str
    price_version: str
    input_llm_tokens: int
    cached_input_llm_tokens: int
    cache_write_5m_llm_tokens: int
    cache_write_1h_llm_tokens: int
    output_llm_tokens: int
    reasoning_llm_tokens: int
    further_usage: Mapping[str, int]
    estimate_reason: str
    provider_request_id: str
    http_status: int
    stream: bool
    admitted_at: datetime
    finished_at: datetime
    service_tier: str = ""
    region: str = ""
    priced_as: str = ""
    """The price by its own names: "openai/gpt-4o"."""
    price_currency: str = ""
    """Where it is not the organization's."""
    exchange_rate: str = ""
    """With it: how much of the organization's currency one of it was at admission."""


class PostedSoFar(msgspec.Struct, frozen=True, gc=False):
    """What the ledger holds of one (session epoch, n)."""

    last_k: int
    amount_nanos: int
    final: bool
    would_refuse_window_ids: tuple[int, ...] = ()
    drawn: tuple[int, ...] = ()
    """The windows that its draw set names."""
    armed: tuple[int, ...] = ()
    """Those of them that it did not draw on when it was admitted."""


class Posting(msgspec.Struct, gc=False):
    """One entry to write; what only the writer of balances knows, it fills in."""

    settlement: Settlement
    k: int
    kind: Kind
    amount_nanos: int
    credit_account: str
    debit_account: str = ""
    currency: str = ""
    draw_set_id: int = 0
    team_id: int | None = None
    project_id: int | None = None
    user_id: int | None = None
    overrun_nanos: int = 0
    would_refuse_window_ids: tuple[int, ...] = ()
    """The shadow windows that would have refused the call."""
    rerating_id: int | None = None
    """Of a correction: its batch."""
    armed_window_ids: tuple[int, ...] = ()
    """Of its windows those of budgets that were armed while it was under way: nothing was lent for
    it there."""

    @property
    def lent_window_ids(self) -> tuple[int, ...]:
        """The windows it drew on when it was admitted."""
        drawn = self.settlement.budget_window_ids
        if not self.armed_window_ids:
            return drawn
        return tuple(w for w in drawn if w not in self.armed_window_ids)


def plan(
    settlements: Iterable[Settlement], so_far: Mapping[tuple[int, int], PostedSoFar]
) -> list[Posting]:
    """What to write for `settlements`, given what is posted; repeats, also among themselves, drop.

    Pure. The order of `settlements` is kept.
    """
    known: dict[tuple[int, int], PostedSoFar] = {}
    postings: list[Posting] = []
    for settlement in settlements:
        identity = (settlement.session_epoch, settlement.n)
        posted = known.get(identity) or so_far.get(identity)
        if posted is None:
            amount = 0 if settlement.kind is Kind.RELEASED else settlement.cost_nanos
            credit = (
                PROVISIONAL_ACCOUNT
                if settlement.kind is Kind.PROVISIONAL
                else payable(settlement.provider)
            )
            postings.append(Posting(settlement, 0, settlement.kind, amount, credit))
            known[identity] = PostedSoFar(0, amount, settlement.kind is Kind.FINAL)
        elif settlement.kind is Kind.FINAL and not posted.final:
            k, cost = posted.last_k, settlement.cost_nanos
            back = Posting(
                settlement, k + 1, Kind.PROVISIONAL, -posted.amount_nanos, PROVISIONAL_ACCOUNT
            )
            final = Posting(settlement, k + 2, Kind.FINAL, cost, payable(settlement.provider))
            for entry in (back, final):
                entry.would_refuse_window_ids = posted.would_refuse_window_ids
                postings.append(entry)
            known[identity] = PostedSoFar(k + 2, cost, True)
    return postings


def contradictions(
    settlements: Iterable[Settlement], so_far: Mapping[tuple[int, int], PostedSoFar]
) -> Iterator[Settlement]:
    """Those that come again as something else than the final that is posted. Pure.

    The first one holds: a repeat that were believed could be made up later.
    """
    for settlement in settlements:
        posted = so_far.get((settlement.session_epoch, settlement.n))
        if posted is None or not posted.final or settlement.kind is Kind.PROVISIONAL:
            continue
        if posted.amount_nanos != settlement.cost_nanos:
            yield settlement


def lost(
    organization_id: int,
    session_epoch: int,
    number: int,
    amount_nanos: int,
    budget_window_ids: tuple[int, ...],
    now: datetime,
) -> Posting:
    """The posting of what a session lost (or, negative, of what evidence takes back): its
    `number`-th, from 1. Dated when it is decided: when it was spent is not known."""
    settlement = Settlement(
        organization_id=organization_id,
        session_epoch=session_epoch,
        n=-number,
        kind=Kind.LOST,
        budget_window_ids=budget_window_ids,
        reserved_nanos=0,
        cost_nanos=amount_nanos,
        key_id=0,
        customer="",
        app="",
        run="",
        tags=(),
        provider="",
        model="",
        requested_model="",
        price_version="",
        input_llm_tokens=0,
        cached_input_llm_tokens=0,
        cache_write_5m_llm_tokens=0,
        cache_write_1h_llm_tokens=0,
        output_llm_tokens=0,
        reasoning_llm_tokens=0,
        further_usage={},
        estimate_reason=LOST_REASON,
        provider_request_id="",
        http_status=0,
        stream=False,
        admitted_at=now,
        finished_at=now,
    )
    return Posting(settlement, 0, Kind.LOST, amount_nanos, LOST_ACCOUNT)


def spend(organization: str) -> str:
    """The account of what an organization spent; `organization` is its slug."""
    return f"spend/{organization}"


def payable(provider: str) -> str:
    """The account of what is owed to a provider."""
    return f"payable/{provider}"
