"""Posting: how a settlement becomes immutable entries, once.

The settlement row is the ledger entry: debit and credit account stand on it. A settlement sent
again changes nothing. A final that meets its own provisional takes the provisional back and posts
what the call really cost, as two further entries (k above 0); nothing is ever changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from bursar_server.database.pool import Connection
from bursar_server.database.queries import Queries

QUERIES = Queries.load(__package__, "posting.sql")

PROVISIONAL_ACCOUNT = "provisional"


class Kind(StrEnum):
    """How a reservation ended."""

    FINAL = "final"
    PROVISIONAL = "provisional"
    RELEASED = "released"


class Settlement(msgspec.Struct, frozen=True):
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


class PostedSoFar(msgspec.Struct, frozen=True):
    """What the ledger holds of one (session epoch, n)."""

    last_k: int
    amount_nanos: int
    final: bool


class Posting(msgspec.Struct):
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


def plan(
    settlements: Iterable[Settlement], so_far: Mapping[tuple[int, int], PostedSoFar]
) -> list[Posting]:
    """What to write for `settlements`, given what is posted; repeats, also among themselves, drop.

    Pure. The order of `settlements` is kept.
    """
    known = dict(so_far)
    postings: list[Posting] = []
    for settlement in settlements:
        identity = (settlement.session_epoch, settlement.n)
        posted = known.get(identity)
        if posted is None:
            amount = 0 if settlement.kind is Kind.RELEASED else settlement.cost_nanos
            credit = (
                PROVISIONAL_ACCOUNT
                if settlement.kind is Kind.PROVISIONAL
                else payable(settlement.provider)
            )
            postings.append(Posting(settlement, 0, settlement.kind, amount, credit))
            known[identity] = PostedSoFar(0, amount, settlement.kind is not Kind.PROVISIONAL)
        elif settlement.kind is Kind.FINAL and not posted.final:
            k = posted.last_k
            postings.append(
                Posting(
                    settlement, k + 1, Kind.PROVISIONAL, -posted.amount_nanos, PROVISIONAL_ACCOUNT
                )
            )
            cost = settlement.cost_nanos
            postings.append(
                Posting(settlement, k + 2, Kind.FINAL, cost, payable(settlement.provider))
            )
            known[identity] = PostedSoFar(k + 2, cost, True)
    return postings


def spend(organization: str) -> str:
    """The account of what an organization spent; `organization` is its slug."""
    return f"spend/{organization}"


def payable(provider: str) -> str:
    """The account of what is owed to a provider."""
    return f"payable/{provider}"


async def posted_so_far(
    connection: Connection, organization_id: int, settlements: Sequence[Settlement]
) -> dict[tuple[int, int], PostedSoFar]:
    """What the ledger holds of these settlements' identities."""
    rows = await connection.fetch(
        QUERIES.entries_so_far,
        organization_id,
        [s.session_epoch for s in settlements],
        [s.n for s in settlements],
    )
    return {
        (row["session_epoch"], row["n"]): PostedSoFar(
            row["last_k"], row["amount_nanos"], row["final"]
        )
        for row in rows
    }


async def write(connection: Connection, postings: Sequence[Posting], posted_at: datetime) -> None:
    """Write entries, of one organization or several.

    Raises RuntimeError if one of them exists already: then somebody else writes this ledger, and
    the transaction must not commit.
    """
    columns = list(zip(*(_row(p) for p in postings), strict=True))
    written = await connection.fetch(QUERIES.insert_entries, *columns, posted_at)
    if len(written) != len(postings):
        raise RuntimeError(
            f"{len(postings) - len(written)} of {len(postings)} entries were there already"
        )


def _row(posting: Posting) -> tuple[object, ...]:
    settlement = posting.settlement
    further = settlement.further_usage
    return (
        settlement.organization_id,
        settlement.session_epoch,
        settlement.n,
        posting.k,
        posting.kind.value,
        posting.debit_account,
        posting.credit_account,
        posting.amount_nanos,
        posting.currency,
        settlement.reserved_nanos,
        posting.draw_set_id,
        settlement.key_id or None,
        posting.team_id,
        posting.project_id,
        posting.user_id,
        settlement.customer,
        settlement.app,
        settlement.run,
        array_literal(settlement.tags),
        settlement.provider,
        settlement.model,
        settlement.requested_model,
        settlement.price_version,
        settlement.input_llm_tokens,
        settlement.cached_input_llm_tokens,
        settlement.cache_write_5m_llm_tokens,
        settlement.cache_write_1h_llm_tokens,
        settlement.output_llm_tokens,
        settlement.reasoning_llm_tokens,
        msgspec.json.encode(dict(further)).decode() if further else None,
        settlement.estimate_reason,
        settlement.provider_request_id,
        settlement.http_status,
        settlement.stream,
        settlement.admitted_at,
        settlement.finished_at,
        posting.overrun_nanos,
    )


def array_literal(values: Iterable[str]) -> str:
    """`values` as a Postgres array literal: '{"a","b"}' (PostgreSQL manual, 8.15.2)."""
    quoted = ('"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for v in values)
    return "{" + ",".join(quoted) + "}"
