"""The rpcs on prices, and the registration of the built-in ones at the server's start."""

from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from google.protobuf.message import Message
from msgspec import structs

from bursar.exchange import Conversion, ExchangeRates
from bursar.money import EXACT, MAX_NANOS, ceil_to_nanos, format_nanos
from bursar.pricing import (
    Charge,
    Line,
    Meter,
    Price,
    PriceBook,
    booked_nanos,
    charge,
    rule_of,
    snapshot,
)
from bursar.pricing.model import LLM_TOKEN_METERS, LLM_TOKENS_PER
from bursar.usage import Usage
from bursar.v1 import money_pb2, prices_pb2, prices_pb2_grpc
from bursar.wire import (
    WireError,
    format_decimal,
    price_from_proto,
    price_to_proto,
    usage_from_proto,
)
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import BursarError, failed_precondition, invalid, not_found
from bursar_server.exchange_rates.store import rates_in_force
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.store import record_change, resolve_organization
from bursar_server.names import page_size, page_token_after, place_of_page, validate_text
from bursar_server.prices import contract_store, rules, store
from bursar_server.prices.books import book_from_now_on, book_through_time
from bursar_server.prices.contract_service import (
    ADMIN,
    MOST_CHARACTERS_OF_A_REASON,
    message_of,
)
from bursar_server.prices.imported import ImportedPrices
from bursar_server.prices.rules import PriceFault
from bursar_server.prices.store import PriceRecord
from bursar_server.request_ids import content_hash, remember, remembered
from bursar_server.times import instant, timestamp

SNAPSHOT_SOURCE: Final = "the snapshot that ships with bursar"
MOST_CHARACTERS_OF_A_TIER: Final = 64
# Between the two parts of a place in a page; in no name, because names are printable.
_BETWEEN: Final = "\n"
_PLATFORM: Final = "platform"


async def publish_snapshot(pool: Pool) -> int:
    """Make the built-in prices of this program the ones in force; returns how many were written.

    Quick (one query) when they are already. When several versions of the program run, the one
    that started last decides what reports show; a sidecar prices by its own.
    """
    book = snapshot()
    async with transaction(pool) as connection:
        await store.lock_publishing(connection)
        if await store.snapshot_in_force(connection, book.version):
            return 0
        return await store.replace_built_in(
            connection, book.version, SNAPSHOT_SOURCE, _all_prices(book)
        )


def _all_prices(book: PriceBook) -> list[Price]:
    prices = {}
    for name in book.models():
        provider, _, model = name.partition("/")
        price = book.lookup(model, provider)
        if price is not None:
            prices[price.provider, price.model] = price
    return list(prices.values())


class PriceService(prices_pb2_grpc.PriceServiceServicer):
    """Prices in force for an organization."""

    def __init__(self, pool: Pool, feed: ChangeFeed) -> None:
        self._pool = pool
        self._feed = feed
        self._imported = ImportedPrices()

    async def GetPrice(
        self, request: prices_pb2.GetPriceRequest, context: object
    ) -> prices_pb2.Price:
        """The price of one model on the list in force, without contracts."""
        asked_at = _instant(request, "at_time")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            book, at = await self._book(connection, organization, asked_at)
            price = _listed(book, _found(book, request.model))
            history = await store.price_history(
                connection, organization.id, price.provider, price.model
            )
        for record in history:
            same = record.price.price_version == price.price_version
            if same and structs.replace(record.price, **record.period).is_in_force(at):
                return _message(record)
        return price_to_proto(structs.replace(price, effective_at=None, expires_at=None))

    async def ListPrices(
        self, request: prices_pb2.ListPricesRequest, context: object
    ) -> prices_pb2.ListPricesResponse:
        """A page of those in force."""
        size = page_size(request.page_size)
        place = place_of_page(request.page_token, request)
        provider, _, model = place.partition(_BETWEEN)
        validate_text(request.model, "model", rules.MOST_CHARACTERS_OF_A_MODEL)
        if request.provider:
            _provider(request.provider, "provider")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            records = await store.price_page(
                connection,
                organization.id,
                after=(provider, model),
                provider=request.provider,
                model_pattern=_like(request.model),
                custom_only=request.custom_only,
                size=size + 1,
                at=_instant(request, "at_time"),
            )
        following = ""
        if len(records) > size:
            last = records[size - 1].price
            following = page_token_after(f"{last.provider}{_BETWEEN}{last.model}", request)
        return prices_pb2.ListPricesResponse(
            prices=[_message(record) for record in records[:size]], next_page_token=following
        )

    async def ListPriceLists(
        self, request: prices_pb2.ListPriceListsRequest, context: object
    ) -> prices_pb2.ListPriceListsResponse:
        """The layers they come from, the weakest first."""
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            records = await store.price_lists(connection, organization.id)
        return prices_pb2.ListPriceListsResponse(
            price_lists=[
                prices_pb2.PriceList(
                    name=f"priceLists/{record.layer}",
                    organization=f"organizations/{record.organization_slug}",
                    version=record.version,
                    price_count=record.price_count,
                    source=record.source,
                    create_time=timestamp(record.created_at),
                )
                for record in records
            ]
        )

    async def SetPrice(
        self, request: prices_pb2.SetPriceRequest, context: object
    ) -> prices_pb2.Price:
        """Sets a custom price for a stretch of time; sidecars know within a second."""
        asked = _read(request.price)
        why = validate_text(request.reason, "reason", MOST_CHARACTERS_OF_A_REASON)
        content = content_hash(request)
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            memory = (organization.id, request.request_id, "SetPrice", content)
            known = await remembered(connection, *memory)
            if known is not None:
                return await _known_price(connection, organization, known)
            counter = await store.raise_overlay_version(connection, organization.id)
            now = await store.time_of_change(connection)
            since = asked.effective_at or now
            try:
                rules.check_period(asked.effective_at, asked.expires_at, now, "")
                book, _ = await self._book(connection, organization, since)
                price = rules.complete(asked, book.listed(asked.model, asked.provider))
            except PriceFault as fault:
                raise invalid(f"price.{fault.field}", fault.value, fault.expected) from fault
            where = (organization.id, price.provider, price.model)
            until = asked.expires_at or await store.next_beginning(connection, *where, since)
            version = rules.price_version(
                platform=organization.id == PLATFORM_ORGANIZATION_ID, counter=counter
            )
            source = rules.source(f"set {price.provider}/{price.model}", ADMIN, why)
            list_id = await store.insert_list(connection, organization.id, str(counter), source)
            await store.supersede(connection, *where, since=since, until=until, now=now)
            price_id = await store.insert_price(
                connection,
                organization.id,
                list_id,
                structs.replace(price, price_version=version),
                since=since,
                until=until,
                now=now,
            )
            await remember(connection, *memory, f"prices/{price_id}")
            answer = await _known_price(connection, organization, f"prices/{price_id}")
            change = Change(organization.id, ChangeKind.PRICES, price_id)
            await record_change(connection, change)
        self._feed.publish(change)
        return answer

    async def DeletePrice(
        self, request: prices_pb2.DeletePriceRequest, context: object
    ) -> prices_pb2.DeletePriceResponse:
        """Takes a custom price back, from now on or another time."""
        provider = _provider(request.provider, "provider")
        model = _model(request.model, provider, "model")
        asked_at = _instant(request, "effective_time")
        async with transaction(self._pool) as connection:
            organization = await resolve_organization(connection, request.organization)
            counter = await store.raise_overlay_version(connection, organization.id)
            now = await store.time_of_change(connection)
            try:
                rules.check_period(asked_at, None, now, "")
            except PriceFault as fault:
                raise _refused(fault) from fault
            ended = await store.supersede(
                connection,
                organization.id,
                provider,
                model,
                since=asked_at or now,
                until=None,
                now=now,
            )
            if not ended:
                raise not_found("custom price", f"{provider}/{model}")
            source = rules.source(f"delete {provider}/{model}", ADMIN, "")
            await store.insert_list(connection, organization.id, str(counter), source)
            change = Change(organization.id, ChangeKind.PRICES, ended[0])
            await record_change(connection, change)
        self._feed.publish(change)
        return prices_pb2.DeletePriceResponse()

    async def ListPriceHistory(
        self, request: prices_pb2.ListPriceHistoryRequest, context: object
    ) -> prices_pb2.ListPriceHistoryResponse:
        """Every version of one model's price, the newest first."""
        provider = _provider(request.provider, "provider")
        model = _model(request.model, provider, "model")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            records = await store.price_history(
                connection,
                organization.id,
                provider,
                model,
                superseded=request.include_superseded,
            )
        if not records:
            raise not_found("price", f"{provider}/{model}")
        return prices_pb2.ListPriceHistoryResponse(prices=[_message(one) for one in records])

    async def QuotePrice(
        self, request: prices_pb2.QuotePriceRequest, context: object
    ) -> prices_pb2.QuotePriceResponse:
        """What a call would cost now, or at another time."""
        try:
            usage = usage_from_proto(request.usage)
        except WireError as error:
            raise invalid(f"usage.{error.field}", error.value, error.expected) from error
        for field in ("service_tier", "region"):
            validate_text(getattr(request, field), field, MOST_CHARACTERS_OF_A_TIER)
        asked_at = _instant(request, "at_time")
        async with transaction(self._pool, read_only=True) as connection:
            organization = await resolve_organization(connection, request.organization)
            book, at = await self._book(connection, organization, asked_at)
            price = _found(book, request.model)
            contracts = await contract_store.contracts(connection, organization.id, ended=True)
            rates = await rates_in_force(connection, organization.id, at)
        if not price.is_priced:
            raise failed_precondition(
                "MODEL_UNPRICED",
                f"{price.provider}/{price.model} has no rates: it is unpriced, not free",
                {"model": price.model, "provider": price.provider},
            )
        call = _Call(
            usage=usage,
            service_tier=request.service_tier or None,
            region=request.region or None,
            at=at,
        )
        quoted = charge(
            price, usage, service_tier=call.service_tier, region=call.region, at=call.at
        )
        if quoted.unpriced:
            raise failed_precondition(
                "METER_UNPRICED",
                f"{price.provider}/{price.model} has no rate for {', '.join(quoted.unpriced)}",
                {"model": price.model, "meters": ",".join(quoted.unpriced)},
            )
        if quoted.cost_nanos > MAX_NANOS:
            raise invalid("usage", format_nanos(quoted.cost_nanos), "a cost that can be counted")
        answer = _quote_message(price, quoted, call)
        _convert(answer, price, quoted, _Books(rates, organization.currency, at))
        listed = _listed(book, price)
        versions = set(book.terms_for(listed).versions)
        if price is not listed:
            answer.list_price.CopyFrom(price_to_proto(listed))
            answer.contracts.extend(
                message_of(record) for record in contracts if record.is_in_force(at, versions)
            )
        return answer

    async def _book(
        self, connection: Connection, organization: OrganizationRecord, asked_at: datetime | None
    ) -> tuple[PriceBook, datetime]:
        """The book of an instant (None: now), and the instant."""
        now = await store.time_of_change(connection)
        at = asked_at or now
        if at < now:
            book = await book_through_time(connection, organization.id, at, at)
        else:
            below = await self._imported.of(connection, organization.id)
            book = await book_from_now_on(connection, organization.id, below)
        return book.at(at), at


class _Call(NamedTuple):
    """What a quote is for."""

    usage: Usage
    service_tier: str | None
    region: str | None
    at: datetime


def _read(message: prices_pb2.Price) -> Price:
    """The price a request holds, checked as far as it can be alone."""
    provider = _provider(message.provider, "price.provider")
    try:
        model = rules.single_model_name(message.model, provider, "price.model")
    except PriceFault as fault:
        raise _refused(fault) from fault
    if not message.components:
        raise invalid("price.components", "", "one rate at least; zeros where it is free")
    plain = prices_pb2.Price()
    plain.CopyFrom(message)
    plain.provider, plain.model, plain.version = provider, model, ""
    plain.currency = message.currency or "USD"
    try:
        return price_from_proto(plain)
    except WireError as error:
        raise invalid(f"price.{error.field}", error.value, error.expected) from error


def _instant(request: Message, field: str) -> datetime | None:
    return instant(getattr(request, field), field) if request.HasField(field) else None


def _found(book: PriceBook, name: str) -> Price:
    """The price that a call of a name is charged by."""
    _model(name, "", "model")
    price, sellers = rules.find(book, name)
    if price is not None:
        return price
    if sellers:
        raise invalid("model", name, f"PROVIDER/{name} with one of {', '.join(sellers[:20])}")
    raise not_found("price", name)


def _listed(book: PriceBook, price: Price) -> Price:
    """The price of the list that this one was made of by contracts."""
    return book.listed(price.model, price.provider) or price


async def _known_price(
    connection: Connection, organization: OrganizationRecord, name: str
) -> prices_pb2.Price:
    record = await store.price_by_id(connection, organization.id, int(name.removeprefix("prices/")))
    if record is None:
        raise not_found("price", name)
    return _message(record)


def _message(record: PriceRecord) -> prices_pb2.Price:
    message = price_to_proto(structs.replace(record.price, **record.period))
    platform = record.organization_slug == _PLATFORM
    message.layer = _PLATFORM if record.layer == "custom" and platform else record.layer
    message.record_time.CopyFrom(timestamp(record.created_at))
    if record.superseded_at is not None:
        message.supersede_time.CopyFrom(timestamp(record.superseded_at))
    message.source = record.source
    return message


def _quote_message(price: Price, quoted: Charge, call: _Call) -> prices_pb2.QuotePriceResponse:
    return prices_pb2.QuotePriceResponse(
        cost=money_pb2.Money(nanos=quoted.cost_nanos, currency=quoted.currency),
        exact_cost=format_decimal(quoted.cost),
        lines=[_quote_line(price, line, call) for line in quoted.breakdown],
        price=price_to_proto(price),
    )


class _Unconvertible(Exception):
    """No exchange rate is known."""


class _Books:
    """Converts to an organization's currency, by the rates of an instant."""

    def __init__(self, rates: ExchangeRates, currency: str, at: datetime) -> None:
        self._rates = rates
        self._at = at
        self.currency = currency

    def conversion(self, currency: str) -> Conversion | None:
        """None: it is the organization's. Raises _Unconvertible."""
        if currency == self.currency:
            return None
        found = self._rates.conversion(currency, self.currency, self._at)
        if found is None:
            raise _Unconvertible
        return found


def _convert(
    answer: prices_pb2.QuotePriceResponse, price: Price, quoted: Charge, books: _Books
) -> None:
    """Say it in the organization's currency too, as a call would be charged; not if no exchange
    rate is known."""
    if price.foreign_fee is not None:
        answer.foreign_fee.nanos = ceil_to_nanos(price.foreign_fee.amount)
        answer.foreign_fee.currency = price.foreign_fee.currency
    try:
        nanos = booked_nanos(price, quoted.cost, books.conversion)
        conversion = books.conversion(price.currency)
    except _Unconvertible:
        return
    if nanos > MAX_NANOS:
        raise invalid("usage", format_nanos(nanos), "a cost that can be counted")
    answer.organization_cost.nanos = nanos
    answer.organization_cost.currency = books.currency
    if conversion is not None:
        answer.exchange_rate = conversion.text


def _quote_line(price: Price, line: Line, call: _Call) -> prices_pb2.QuoteLine:
    # As price lists print it: per million LLM tokens, else for one.
    name = line.meter.partition(".")[0]
    per = LLM_TOKENS_PER if Meter(name) in LLM_TOKEN_METERS else 1
    return prices_pb2.QuoteLine(
        meter=str(line.meter),
        quantity=line.quantity,
        rate=format_decimal(EXACT.multiply(line.rate, Decimal(per))),
        per=per,
        amount=format_decimal(line.amount),
        rule=rule_of(
            price,
            line,
            call.usage,
            service_tier=call.service_tier,
            region=call.region,
            at=call.at,
        ),
    )


def _provider(text: str, field: str) -> str:
    try:
        return rules.provider_name(text, field)
    except PriceFault as fault:
        raise _refused(fault) from fault


def _model(text: str, provider: str, field: str) -> str:
    try:
        return rules.model_name(text, provider, field)
    except PriceFault as fault:
        raise _refused(fault) from fault


def _refused(fault: PriceFault) -> BursarError:
    return invalid(fault.field, fault.value, fault.expected)


def _like(glob: str) -> str:
    """A glob ("gpt-4o*", "o?-mini") as a pattern of SQL's LIKE."""
    escaped = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")
