"""The rpcs that take over a published price list."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Final

from bursar.pricing.comparing import ChangeOf, PriceChange, RateChange
from bursar.pricing.lists import MAX_LIST_BYTES, ListForm
from bursar.v1 import price_imports_pb2, price_imports_pb2_grpc
from bursar.wire import format_decimal
from bursar_server.changes import ChangeFeed
from bursar_server.clock import Clock
from bursar_server.database.pool import Pool, transaction
from bursar_server.errors import BursarError, Status, failed_precondition, invalid
from bursar_server.grpc_server.requests import check_request
from bursar_server.identity.store import resolve_organization
from bursar_server.names import validate_text
from bursar_server.prices import import_rules, importing
from bursar_server.prices.import_rules import DEFAULT_MAX_REMOVED_PERCENT, MOST_PERCENT, Limits
from bursar_server.prices.importing import Outcome
from bursar_server.prices.sync import PriceSync
from bursar_server.times import timestamp

MOST_BYTES_OF_A_CHUNK: Final = 1024 * 1024
# A file that is still not here then is on a dead network.
ARRIVAL_TIMEOUT_S: Final = 120.0
# Each holds a whole file in memory, and half a second of a processor.
MOST_IMPORTS_AT_ONCE: Final = 4
MOST_CHARACTERS_OF_A_SOURCE: Final = 512
# Of changes in an answer: the rest is only counted, so that an answer has some MB at most.
MOST_CHANGES: Final = 5_000
MOST_RATES: Final = 20_000
_HASH_BYTES: Final = 32

_FORMS: Final = {
    price_imports_pb2.PRICE_LIST_FORM_UNSPECIFIED: "auto",
    price_imports_pb2.PRICE_LIST_FORM_LITELLM: ListForm.LITELLM.value,
    price_imports_pb2.PRICE_LIST_FORM_GENAI_PRICES: ListForm.GENAI_PRICES.value,
}
_FORM_OF: Final = {name: form for form, name in _FORMS.items()}
_KINDS: Final = {
    ChangeOf.ADDED: price_imports_pb2.PRICE_CHANGE_KIND_ADDED,
    ChangeOf.REMOVED: price_imports_pb2.PRICE_CHANGE_KIND_REMOVED,
    ChangeOf.CHANGED: price_imports_pb2.PRICE_CHANGE_KIND_CHANGED,
}

Requests = AsyncIterator[price_imports_pb2.ImportPricesRequest]


class PriceImportService(price_imports_pb2_grpc.PriceImportServiceServicer):
    """Lists that others publish."""

    def __init__(self, pool: Pool, feed: ChangeFeed, clock: Clock, sync: PriceSync) -> None:
        self._pool = pool
        self._feed = feed
        self._clock = clock
        self._sync = sync
        self._under_way = 0

    async def ImportPrices(
        self, request_iterator: Requests, context: object
    ) -> price_imports_pb2.ImportPricesResponse:
        """Takes a list over, or tells what that would change."""
        if self._under_way >= MOST_IMPORTS_AT_ONCE:
            raise BursarError(
                Status.RESOURCE_EXHAUSTED,
                "TOO_MANY_IMPORTS",
                f"{self._under_way} imports are under way: try again",
            )
        self._under_way += 1
        try:
            return await self._import(request_iterator)
        finally:
            self._under_way -= 1

    async def _import(self, requests: Requests) -> price_imports_pb2.ImportPricesResponse:
        try:
            async with asyncio.timeout(ARRIVAL_TIMEOUT_S):
                asked, data = await _gather(requests)
        except TimeoutError:
            wanted = f"the whole file within {ARRIVAL_TIMEOUT_S:.0f} s"
            raise failed_precondition("FILE_INCOMPLETE", f"chunk: expected {wanted}") from None
        form = _FORMS.get(asked.form)
        if form is None:
            raise invalid("wanted.form", asked.form, "litellm, genai-prices or none")
        validate_text(asked.source, "wanted.source", MOST_CHARACTERS_OF_A_SOURCE)
        limits = _limits(asked)
        if asked.content_sha256 and asked.content_sha256 != hashlib.sha256(data).digest():
            wanted = f"the hash of the {len(data)} bytes that arrived"
            raise invalid("wanted.content_sha256", asked.content_sha256.hex(), wanted)
        # Before half a second of work: is there such an organization?
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, asked.organization)
        read = await importing.read(data, form, self._clock.now())
        async with transaction(self._pool, read_only=True) as connection:
            plan = await importing.plan(connection, organization.id, read, limits)
        if asked.dry_run:
            return _response(plan.outcome, dry_run=True, force=asked.force)
        async with transaction(self._pool) as connection:
            outcome = await importing.take_over(
                connection, organization.id, plan, asked.source, limits, force=asked.force
            )
        if outcome.change is not None:
            self._feed.publish(outcome.change)
        return _response(outcome, dry_run=False, force=asked.force)

    async def ClearImportedPrices(
        self, request: price_imports_pb2.ClearImportedPricesRequest, context: object
    ) -> price_imports_pb2.ClearImportedPricesResponse:
        """Takes the imported list back, from now on."""
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            count, change = await importing.clear(connection, organization.id)
        if change is not None:
            self._feed.publish(change)
        return price_imports_pb2.ClearImportedPricesResponse(removed_count=count)

    async def GetPriceSync(
        self, request: price_imports_pb2.GetPriceSyncRequest, context: object
    ) -> price_imports_pb2.PriceSync:
        """What the sync did last, and when it looks again."""
        settings = self._sync.settings
        record, version = await self._sync.state()
        message = price_imports_pb2.PriceSync(
            enabled=bool(settings.url),
            url=settings.shown_url,
            interval_seconds=settings.interval_s if settings.url else 0,
            max_change_percent=str(settings.max_change_percent) if settings.url else "",
            version=version,
        )
        if record is not None and record.url_hash == settings.url_hash:
            message.outcome, message.detail = record.outcome, record.detail
            message.failure_count = record.failures
            message.attempt_time.CopyFrom(timestamp(record.attempted_at))
            message.next_time.CopyFrom(timestamp(record.next_at))
            if record.succeeded_at is not None:
                message.success_time.CopyFrom(timestamp(record.succeeded_at))
        return message


async def _gather(requests: Requests) -> tuple[price_imports_pb2.PriceImport, bytes]:
    """What is wanted, and the whole file."""
    asked: price_imports_pb2.PriceImport | None = None
    data = bytearray()
    async for request in requests:
        check_request(request)
        part = request.WhichOneof("part")
        if (part == "wanted") != (asked is None):
            raise invalid("part", part or "", "`wanted` first and once, then the file in chunks")
        if part == "wanted":
            asked = request.wanted
            continue
        if part is None or len(request.chunk) > MOST_BYTES_OF_A_CHUNK:
            size = f"{len(request.chunk)} bytes"
            raise invalid("chunk", size, f"at most {MOST_BYTES_OF_A_CHUNK} bytes")
        if len(data) + len(request.chunk) > MAX_LIST_BYTES:
            raise invalid("chunk", "the file", f"at most {MAX_LIST_BYTES} bytes in all")
        data += request.chunk
    if asked is None or not data:
        raise invalid("chunk" if asked else "wanted", "", "`wanted`, then the file in chunks")
    return asked, bytes(data)


def _limits(asked: price_imports_pb2.PriceImport) -> Limits:
    change: Decimal | None = None
    if asked.max_change_percent:
        change = import_rules.percent_of(asked.max_change_percent, MOST_PERCENT)
        if not change:
            wanted = f"a percentage above 0, at most {MOST_PERCENT}"
            raise invalid("wanted.max_change_percent", asked.max_change_percent, wanted)
    removed: Decimal | None = DEFAULT_MAX_REMOVED_PERCENT
    if asked.max_removed_percent:
        removed = import_rules.percent_of(asked.max_removed_percent, Decimal(100))
    if removed is None:
        wanted = "a percentage, 0 to 100"
        raise invalid("wanted.max_removed_percent", asked.max_removed_percent, wanted)
    return Limits(change, removed)


def _response(
    outcome: Outcome, *, dry_run: bool, force: bool
) -> price_imports_pb2.ImportPricesResponse:
    counts = {
        kind: len({(one.provider, one.model) for one in outcome.changes if one.kind is kind})
        for kind in ChangeOf
    }
    response = price_imports_pb2.ImportPricesResponse(
        outcome=_outcome_of(outcome, dry_run=dry_run, force=force),
        form=_FORM_OF[outcome.read.form.value],
        version=outcome.read.version,
        previous_version=outcome.previous_version,
        price_count=len(outcome.read.prices),
        left_out_count=outcome.read.left_out,
        added_count=counts[ChangeOf.ADDED],
        removed_count=counts[ChangeOf.REMOVED],
        changed_count=counts[ChangeOf.CHANGED],
        left_the_list_count=len(outcome.left),
        refusals=outcome.refusals,
        unmodelled_fields=outcome.read.unmodelled,
    )
    rates = 0
    for change in outcome.changes[:MOST_CHANGES]:
        rates += len(change.rates)
        if rates > MOST_RATES:
            break
        response.changes.append(_change_message(change, outcome))
    response.further_change_count = len(outcome.changes) - len(response.changes)
    return response


def _outcome_of(
    outcome: Outcome, *, dry_run: bool, force: bool
) -> "price_imports_pb2.PriceImportOutcome.ValueType":
    if outcome.unchanged:
        return price_imports_pb2.PRICE_IMPORT_OUTCOME_UNCHANGED
    if not dry_run:
        return price_imports_pb2.PRICE_IMPORT_OUTCOME_IMPORTED
    if outcome.refusals and not force:
        return price_imports_pb2.PRICE_IMPORT_OUTCOME_WOULD_REFUSE
    return price_imports_pb2.PRICE_IMPORT_OUTCOME_WOULD_IMPORT


def _change_message(change: PriceChange, outcome: Outcome) -> price_imports_pb2.PriceChange:
    message = price_imports_pb2.PriceChange(
        kind=_KINDS[change.kind],
        provider=change.provider,
        model=change.model,
        rates=[_rate_message(rate) for rate in change.rates],
        notes=change.notes,
        change_percent=_percent(change.percent),
        left_the_list=(change.provider, change.model) in outcome.left,
    )
    if change.since is not None:
        message.effective_time.CopyFrom(timestamp(change.since))
    return message


def _rate_message(rate: RateChange) -> price_imports_pb2.RateChange:
    return price_imports_pb2.RateChange(
        rate=rate.what,
        old="" if rate.old is None else format_decimal(rate.old),
        new="" if rate.new is None else format_decimal(rate.new),
        per=rate.per,
        change_percent=_percent(rate.percent),
    )


def _percent(percent: Decimal | None) -> str:
    return "" if percent is None else f"{percent:.2f}"
