"""What a call that an app makes itself can cost: its provider, its price, its terms. Pure.

As in the data path, with two differences: the provider need not be configured here (nothing is sent
to it), and the app may say by itself how much the call can use.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import msgspec

from bursar.exchange import ExchangeRates
from bursar.pricing import PriceBook, UnpricedError
from bursar_sidecar.conversion import CallRates, UnconvertibleError
from bursar_sidecar.desk import Call, Refusal, Spender
from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import DialectError, Facts, check_tags
from bursar_sidecar.dialects.kinds import KINDS
from bursar_sidecar.dialects.registry import find, served
from bursar_sidecar.local_grpc.border import Amount, Body, Wanted
from bursar_sidecar.local_grpc.refusing import invalid, unreadable_request
from bursar_sidecar.routing import Route, lookup
from bursar_sidecar.settings import Provider
from bursar_sidecar.terms import Counts, Terms, agree, agree_amount, agree_counts


class Agreed(msgspec.Struct, frozen=True):
    """A call, priced and bounded; nothing is reserved for it yet."""

    route: Route
    terms: Terms
    book: PriceBook
    call: Call
    budgeted: bool
    output_limit: int
    """LLM tokens for each choice that the ceiling covers."""


class Circumstances(msgspec.Struct, frozen=True):
    """What holds while one call is looked at."""

    spender: Spender
    book: PriceBook
    rates: ExchangeRates
    now_wall_ns: int
    app: str
    """Of gRPC's own user agent."""


class Bounds:
    """Looks calls up: providers and what is assumed where a request says nothing."""

    def __init__(self, providers: tuple[Provider, ...], *, default_max_output: int) -> None:
        self._providers: Mapping[str, Provider] = {each.name: each for each in providers}
        self._default_max_output = default_max_output

    def facts(self, wanted: Wanted) -> tuple[Facts | None, Endpoint | None]:
        """What the request says, where there is one, and which endpoint it is for. Raises
        SpendFault."""
        if not isinstance(wanted.bound, Body):
            return None, None
        found = find(wanted.bound)
        if found is None or found.endpoint.rule != "metered":
            path = wanted.bound.path.decode()
            raise invalid("call.request.path", path, f"one of {served()}")
        try:
            return found.endpoint.read(wanted.bound, found.named), found.endpoint
        except DialectError as error:
            raise unreadable_request(error, "call.request.body") from error

    def route(
        self,
        provider: str,
        name: str,
        dialect: str,
        spender: Spender,
        book: PriceBook,
        field: str,
    ) -> Route:
        """Whom a model is bought from; `dialect` is that of the request, "" where there is none.

        Raises SpendFault, and Refusal model_not_allowed.
        """
        seller, slash, rest = name.partition("/")
        if provider:
            found = self._seller(provider)
            model = rest if slash and seller == provider else name
        elif slash and rest and (seller in self._providers or book.lookup(rest, seller)):
            found, model = self._seller(seller), rest
        else:
            found, model = self._seller(self._only_seller(name, dialect, book, field)), name
        allowed, listed = spender.allowed_models, found.listed_model(model)
        names = (listed, f"{found.name}/{listed}")
        if allowed and not any(fnmatchcase(each, glob) for glob in allowed for each in names):
            raise Refusal(
                "model_not_allowed",
                f"Model {name!r} is not among those that this key may call ({', '.join(allowed)}).",
            )
        return Route(found, model, lookup(book, listed, found), listed)

    def known_route(self, provider: str, model: str, book: PriceBook) -> Route:
        """Of a call that was admitted before."""
        found = self._seller(provider)
        return Route(found, model, lookup(book, model, found))

    def agree(
        self,
        wanted: Wanted,
        given: Circumstances,
        *,
        budgeted: Callable[[Spender, str, str], bool],
        least_output: int = 0,
        request_id: str = "",
    ) -> Agreed:
        """The terms of a call. Raises SpendFault and Refusal.

        `budgeted` says whether a hard money budget applies to a provider's model; `least_output` is
        the least output for each choice that it may begin with, 0 where all of it is needed.
        """
        facts, endpoint = self.facts(wanted)
        spender, book = given.spender, given.book
        requested = wanted.model or (facts.model if facts is not None else "")
        field = "call.model" if wanted.model else "call.request.body.model"
        dialect = endpoint.dialect.name if endpoint is not None else ""
        route = self.route(wanted.provider, requested, dialect, spender, book, field)
        rates = CallRates(given.rates, spender.currency, given.now_wall_ns)
        is_budgeted = budgeted(spender, route.provider.name, route.listed)
        terms = self._terms(wanted, facts, endpoint, route, rates, is_budgeted)
        if least_output:
            terms = _clampable(terms, least_output)
        exchanged = terms.conversion
        customer = wanted.customer or (facts.customer if facts is not None else "")
        call = Call(
            spender=spender,
            provider=route.provider.name,
            model=route.listed,
            requested_model=requested,
            ceiling_nanos=terms.ceiling_nanos,
            least_nanos=terms.least_nanos,
            tags=_tags(spender, wanted, facts),
            customer=customer,
            app=wanted.app or given.app,
            run=wanted.run,
            request_id=request_id,
            stream=facts.stream if facts is not None else wanted.stream,
            price_version=terms.price.price_version if terms.price is not None else "unpriced",
            price_currency=exchanged.base if exchanged is not None else "",
            exchange_rate=exchanged.text if exchanged is not None else "",
            started_at=given.now_wall_ns,
        )
        choices = terms.bounds.choices if terms.bounds is not None else 1
        predicted = terms.bounds.predicted if terms.bounds is not None else 0
        limit = max(0, terms.output_bound // choices - predicted)
        return Agreed(route, terms, book, call, is_budgeted, limit)

    def _terms(
        self,
        wanted: Wanted,
        facts: Facts | None,
        endpoint: Endpoint | None,
        route: Route,
        rates: CallRates,
        budgeted: bool,
    ) -> Terms:
        if facts is not None:
            return agree(
                facts,
                route,
                budgeted=budgeted,
                rates=rates,
                default_max_output=self._default_max_output,
                free=endpoint is not None and endpoint.name in route.provider.spoken.free,
            )
        if isinstance(wanted.bound, Amount):
            nanos = own_nanos(wanted.bound, rates)
            return agree_amount(nanos, route, budgeted=budgeted, rates=rates)
        assert isinstance(wanted.bound, Counts)  # the third of three
        return agree_counts(wanted.bound, route, budgeted=budgeted, rates=rates)

    def _seller(self, name: str) -> Provider:
        """As configured; of a provider that is not, only the name under which prices are listed."""
        kind = name if name in KINDS else "compatible"
        return self._providers.get(name) or Provider(name, "", kind=kind)

    def _only_seller(self, model: str, dialect: str, book: PriceBook, field: str) -> str:
        naming = [p.name for p in self._providers.values() if _names(p, model)]
        listed = book.provider_of(model)
        configured = [p for p in listed if p in self._providers]
        # Who asks in the words of a provider buys from it, where it sells the model.
        speaking = [
            p.name
            for p in self._providers.values()
            if dialect in p.spoken.dialects and lookup(book, model, p) is not None
        ]
        own = [dialect] if dialect and book.lookup(model, dialect) is not None else []
        for candidates in (naming, configured, speaking, own, listed):
            if len(candidates) == 1:
                return candidates[0]
        if not listed and len(self._providers) == 1:
            return next(iter(self._providers))
        found = f"sold by {', '.join(sorted(listed)[:8])}" if listed else "in no price list"
        raise invalid(field, model, f"call.provider with it: the model is {found}")


def own_nanos(amount: Amount, rates: CallRates) -> int:
    """An amount in the organization's currency, rounded up. Raises SpendFault."""
    try:
        conversion = rates.conversion(amount.currency)
    except UnconvertibleError as error:
        expected = f"{rates.currency}, or a currency with an exchange rate to it"
        raise invalid(f"{amount.field}.currency", amount.currency, expected) from error
    return amount.nanos if conversion is None else conversion.ceil_nanos(amount.nanos)


def _clampable(terms: Terms, least_output: int) -> Terms:
    bounds = terms.bounds
    if bounds is None or least_output >= bounds.output_limit:
        return terms
    try:
        least_nanos = bounds.ceiling_nanos(least_output)
    except UnpricedError:
        return terms
    return msgspec.structs.replace(terms, least_nanos=least_nanos)


def _names(provider: Provider, model: str) -> bool:
    return any(fnmatchcase(model, glob) for glob in provider.models)


def _tags(spender: Spender, wanted: Wanted, facts: Facts | None) -> tuple[str, ...]:
    of_request = facts.tags if facts is not None else ()
    try:
        return check_tags((*spender.tags, *of_request, *wanted.tags), "call.tags")
    except DialectError as error:
        raise unreadable_request(error, "call") from error
