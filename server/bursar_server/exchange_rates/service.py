"""The rpcs on exchange rates: each translates, runs one transaction, and answers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from bursar.exchange import (
    ExchangeError,
    ExchangeRate,
    ExchangeRates,
    format_rate,
    parse_rate,
)
from bursar.money import CURRENCIES
from bursar.v1 import exchange_rates_pb2, exchange_rates_pb2_grpc
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.clock import Clock
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, failed_precondition, invalid, not_found
from bursar_server.exchange_rates import rules, store
from bursar_server.exchange_rates.rules import RateChange
from bursar_server.exchange_rates.store import RateRecord
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import record_change, resolve_organization
from bursar_server.names import page_size, page_token_after, place_of_page, validate_text
from bursar_server.request_ids import content_hash, remember, remembered
from bursar_server.times import instant, timestamp

# Who changes things, until there are roles: the holder of the admin key.
ADMIN: Final = "admin"
_COLLECTION: Final = "exchangeRates"


class ExchangeRateService(exchange_rates_pb2_grpc.ExchangeRateServiceServicer):
    """What currencies are worth in each other."""

    def __init__(self, pool: Pool, feed: ChangeFeed, clock: Clock) -> None:
        self._pool = pool
        self._feed = feed
        self._clock = clock

    async def SetExchangeRate(
        self, request: exchange_rates_pb2.SetExchangeRateRequest, context: object
    ) -> exchange_rates_pb2.ExchangeRate:
        """Records a rate, from now on or from the time it names; sidecars know within a second."""
        now = self._clock.now()
        asked = request.exchange_rate
        rate = _rate(asked, "exchange_rate", now)
        source = _source(asked.source, "exchange_rate.source")
        return await self._record(request, "SetExchangeRate", rate, source)

    async def EndExchangeRate(
        self, request: exchange_rates_pb2.EndExchangeRateRequest, context: object
    ) -> exchange_rates_pb2.ExchangeRate:
        """Takes the rates of a pair back, from an instant on."""
        now = self._clock.now()
        ended = exchange_rates_pb2.ExchangeRate(
            base_currency=request.base_currency, quote_currency=request.quote_currency
        )
        if request.HasField("effective_time"):
            ended.effective_time.CopyFrom(request.effective_time)
        rate = _rate(ended, "", now, ends=True)
        return await self._record(request, "EndExchangeRate", rate, "")

    async def ListExchangeRates(
        self, request: exchange_rates_pb2.ListExchangeRatesRequest, context: object
    ) -> exchange_rates_pb2.ListExchangeRatesResponse:
        """A page of those in force, or of all."""
        size = page_size(request.page_size)
        if request.currency and request.currency not in CURRENCIES:
            raise invalid("currency", request.currency, "an ISO 4217 code such as EUR, or nothing")
        at = instant(request.time, "time") if request.HasField("time") else None
        if request.history and at is not None:
            raise invalid("time", at.isoformat(), "no time where all history is asked for")
        place = _place(request)
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            if request.history:
                records = await store.rate_history(
                    connection, organization.id, request.currency, after=place, size=size + 1
                )
            else:
                found = await self._in_force(connection, organization, at, request.currency)
                after = 0 if place is None else place[1]
                records = found[after : after + size + 1]
        following = ""
        if len(records) > size:
            last = records[size - 1]
            mark = last.id if request.history else after + size
            following = page_token_after(f"{last.effective_at.isoformat()} {mark}", request)
        return exchange_rates_pb2.ListExchangeRatesResponse(
            exchange_rates=[_message(record) for record in records[:size]],
            next_page_token=following,
        )

    async def ImportExchangeRates(
        self, request: exchange_rates_pb2.ImportExchangeRatesRequest, context: object
    ) -> exchange_rates_pb2.ImportExchangeRatesResponse:
        """Records many rates in one transaction: all or none."""
        now = self._clock.now()
        rates = _rates(request, now)
        source = _source(request.source, "source")
        content = content_hash(request)
        if request.dry_run:
            async with transaction(self._pool, read_only=True) as connection:
                organization = await resolve_organization(connection, request.organization)
                recorded = await store.recorded_before(connection, organization.id, rates)
            return _imported(rules.changes(rates, recorded), len(rates), organization)
        change: Change | None = None
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            memory = (organization.id, request.request_id, "ImportExchangeRates", content)
            known = await remembered(connection, *memory)
            if known is not None:
                counts = [int(word) for word in known.split("/")[1:]]
                return exchange_rates_pb2.ImportExchangeRatesResponse(
                    changed_count=counts[0], unchanged_count=counts[1]
                )
            await store.raise_overlay_version(connection, organization.id)
            recorded = await store.recorded_before(connection, organization.id, rates)
            changes = rules.changes(rates, recorded)
            if changes:
                new = [each.rate for each in changes]
                ids = await store.record_rates(
                    connection, organization.id, new, source=source, actor=ADMIN
                )
                await _refuse_crowd(connection, organization.id, now)
                change = Change(organization.id, ChangeKind.PRICES, ids[-1])
                await record_change(connection, change)
            # What a repeat is answered with: the counts alone.
            counted = f"{_COLLECTION}/{len(changes)}/{len(rates) - len(changes)}"
            await remember(connection, *memory, counted)
        if change is not None:
            self._feed.publish(change)
        return _imported(changes, len(rates), organization)

    async def _record(
        self,
        request: (
            exchange_rates_pb2.SetExchangeRateRequest | exchange_rates_pb2.EndExchangeRateRequest
        ),
        method: str,
        rate: ExchangeRate,
        source: str,
    ) -> exchange_rates_pb2.ExchangeRate:
        content = content_hash(request)
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            memory = (organization.id, request.request_id, method, content)
            known = await remembered(connection, *memory)
            if known is not None:
                rate_id = int(known.removeprefix(f"{_COLLECTION}/"))
                return await _known(connection, organization.id, rate_id)
            await store.raise_overlay_version(connection, organization.id)
            if rate.rate is None:
                before = (await store.recorded_before(connection, organization.id, [rate]))[0]
                if before is None or before.rate is None:
                    raise not_found("exchange rate", f"{rate.base} {rate.quote}")
            ids = await store.record_rates(
                connection, organization.id, [rate], source=source, actor=ADMIN
            )
            await _refuse_crowd(connection, organization.id, self._clock.now())
            await remember(connection, *memory, f"{_COLLECTION}/{ids[0]}")
            answer = await _known(connection, organization.id, ids[0])
            change = Change(organization.id, ChangeKind.PRICES, ids[0])
            await record_change(connection, change)
        self._feed.publish(change)
        return answer

    async def _in_force(
        self,
        connection: Connection,
        organization: OrganizationRecord,
        at: datetime | None,
        currency: str,
    ) -> list[RateRecord]:
        """By pair, each pair's oldest first: what holds at an instant, or now and what begins
        later."""
        moment = at or self._clock.now()
        platform = await store.rates_since(connection, PLATFORM_ORGANIZATION_ID, moment)
        own: list[RateRecord] = []
        if organization.id != PLATFORM_ORGANIZATION_ID:
            own = await store.rates_since(connection, organization.id, moment)
        upper, lower = ExchangeRates(own), ExchangeRates(platform)
        shown: list[RateRecord] = []
        for pair in sorted({*upper.pairs(), *lower.pairs()}):
            if currency and currency not in pair:
                continue
            held = upper.in_force(*pair, moment) or lower.in_force(*pair, moment)
            scheduled = [
                rate
                for rate in (*upper.of(*pair), *lower.of(*pair))
                if at is None and rate.effective_at > moment
            ]
            rates = ([] if held is None else [held]) + sorted(
                scheduled, key=lambda rate: rate.effective_at
            )
            shown += [rate for rate in rates if isinstance(rate, RateRecord)]
        return shown


def _place(
    request: exchange_rates_pb2.ListExchangeRatesRequest,
) -> tuple[datetime, int] | None:
    text = place_of_page(request.page_token, request)
    if not text:
        return None
    when, _, mark = text.partition(" ")
    try:
        return datetime.fromisoformat(when), int(mark)
    except ValueError:
        raise invalid(
            "page_token", request.page_token, "next_page_token of the page before"
        ) from None


def _rates(
    request: exchange_rates_pb2.ImportExchangeRatesRequest, now: datetime
) -> list[ExchangeRate]:
    asked = request.exchange_rates
    if not 1 <= len(asked) <= rules.MOST_IMPORTED:
        raise invalid("exchange_rates", f"{len(asked)} rates", f"1 to {rules.MOST_IMPORTED}")
    rates = []
    for place, message in enumerate(asked):
        if not message.HasField("effective_time"):
            raise invalid(f"exchange_rates[{place}].effective_time", "", "from when it holds")
        rates.append(_rate(message, f"exchange_rates[{place}]", now))
    twice = rules.first_repeat(rates)
    if twice is not None:
        shown = f"{rates[twice].base} {rates[twice].quote}"
        raise invalid(f"exchange_rates[{twice}]", shown, "each pair once for an instant")
    return rates


def _rate(
    message: exchange_rates_pb2.ExchangeRate, path: str, now: datetime, *, ends: bool = False
) -> ExchangeRate:
    """The rate a message holds, checked; without a time it is from now on."""
    prefix = f"{path}." if path else ""
    effective_at = now
    if message.HasField("effective_time"):
        effective_at = instant(message.effective_time, f"{prefix}effective_time")
    if not rules.is_acceptable(effective_at, now):
        wanted = f"a time from {rules.EARLIEST:%Y} to {rules.MOST_AHEAD.days} days ahead"
        raise invalid(f"{prefix}effective_time", effective_at.isoformat(), wanted)
    try:
        value: Decimal | None = None if ends else parse_rate(message.rate)
        return ExchangeRate(message.base_currency, message.quote_currency, value, effective_at)
    except ExchangeError as error:
        field = rules.FIELDS.get(error.field, error.field)
        raise invalid(f"{prefix}{field}", error.value, error.expected) from error


def _source(text: str, field: str) -> str:
    return validate_text(text, field, rules.MOST_CHARACTERS_OF_A_SOURCE)


async def _refuse_crowd(connection: Connection, organization_id: int, now: datetime) -> None:
    """All that is scheduled travels to every sidecar, so it has a limit; after the insertion."""
    count = await store.scheduled_count(connection, organization_id, now)
    if count > rules.MOST_SCHEDULED:
        raise failed_precondition(
            "EXCHANGE_RATES_TOO_MANY",
            f"{count} rates would begin later; at most {rules.MOST_SCHEDULED} are kept scheduled",
            {"most": str(rules.MOST_SCHEDULED)},
        )


async def _known(
    connection: Connection, organization_id: int, rate_id: int
) -> exchange_rates_pb2.ExchangeRate:
    record = await store.rate_by_id(connection, organization_id, rate_id)
    if record is None:
        raise _gone(rate_id)
    return _message(record)


def _gone(rate_id: int) -> BursarError:
    return not_found("exchange rate", f"{_COLLECTION}/{rate_id}")


def _message(record: RateRecord) -> exchange_rates_pb2.ExchangeRate:
    message = _plain(record, f"organizations/{record.organization_slug}")
    message.name = f"{_COLLECTION}/{record.id}"
    message.source = record.source
    message.record_time.CopyFrom(timestamp(record.recorded_at))
    return message


def _plain(rate: ExchangeRate, organization: str) -> exchange_rates_pb2.ExchangeRate:
    return exchange_rates_pb2.ExchangeRate(
        organization=organization,
        base_currency=rate.base,
        quote_currency=rate.quote,
        rate="" if rate.rate is None else format_rate(rate.rate),
        effective_time=timestamp(rate.effective_at.astimezone(UTC)),
    )


def _imported(
    changes: Sequence[RateChange], count: int, organization: OrganizationRecord
) -> exchange_rates_pb2.ImportExchangeRatesResponse:
    return exchange_rates_pb2.ImportExchangeRatesResponse(
        changes=[
            exchange_rates_pb2.ExchangeRateChange(
                exchange_rate=_plain(each.rate, organization.name),
                previous_rate=_previous(each),
                corrects=each.corrects,
            )
            for each in changes[: rules.MOST_CHANGES_TOLD]
        ],
        changed_count=len(changes),
        unchanged_count=count - len(changes),
    )


def _previous(change: RateChange) -> str:
    """The rate before, in the direction of the new one."""
    before = change.previous
    if before is None or before.rate is None:
        return ""
    text = format_rate(before.rate)
    return text if before.base == change.rate.base else f"1/{text}"
