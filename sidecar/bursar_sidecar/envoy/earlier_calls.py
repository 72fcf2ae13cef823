"""Calls of the light tier that an earlier life of this sidecar held when it ended.

They were charged as reserved, provisionally. The journal has each with its origin: what its answer
is to be read by. An entry that proves what it cost, in a log file that went on meanwhile, adjusts
it.
"""

from collections.abc import Callable, Mapping
from typing import Final

from bursar.usage import estimated
from bursar_sidecar.amendments import Late
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.clock import Clock
from bursar_sidecar.conversion import CallRates
from bursar_sidecar.desk import Desk, Spender
from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.dialects.registry import find
from bursar_sidecar.envoy.log_entries import LogEntry
from bursar_sidecar.envoy.logged_answers import NEVER_SENT, Asked, Proof, Sight, judge, sight
from bursar_sidecar.envoy.origins import Origin, named, origin_of
from bursar_sidecar.http_messages import Request
from bursar_sidecar.local_grpc.handed_out import Amending, Evidence, Handle
from bursar_sidecar.provider_settings import Provider
from bursar_sidecar.routing import Route, lookup
from bursar_sidecar.serving import Serving, Servings
from bursar_sidecar.terms import agree_amount

_PATHS: Final[Mapping[tuple[str, str], bytes]] = {
    ("openai", "chat"): b"/v1/chat/completions",
    ("openai", "completions"): b"/v1/completions",
    ("openai", "responses"): b"/v1/responses",
    ("openai", "embeddings"): b"/v1/embeddings",
    ("anthropic", "messages"): b"/v1/messages",
    ("gemini", "generateContent"): b"/v1beta/models/any:generateContent",
    ("gemini", "streamGenerateContent"): b"/v1beta/models/any:streamGenerateContent",
}
"""Where each endpoint that is read is found."""


def naming(serving: Serving, endpoint: Endpoint, spender: Spender) -> Callable[[Facts, Route], str]:
    """Names calls to an endpoint for the journal, once their facts and their route are known."""

    def name(facts: Facts, route: Route) -> str:
        seen = sight(endpoint, facts, serving.upstreams[route.provider.name].server)
        is_used = not (facts.flat_price or facts.untold_cost)
        origin = Origin(
            endpoint.dialect.name,
            endpoint.name,
            spender.currency,
            is_used and not seen.plain,
            is_used and not seen.stream,
        )
        return named(origin)

    return name


EMBEDDINGS: Final = "embeddings"


class EarlierCalls:
    """All that evidence may come about."""

    def __init__(
        self,
        recovered: Mapping[str, Late],
        evidence: Evidence,
        desk: Desk,
        clock: Clock,
        servings: Servings,
    ) -> None:
        self._open = dict(recovered)
        self._ended: set[str] = set()
        self._evidence = evidence
        self._desk = desk
        self._clock = clock
        self._servings = servings

    def knows(self, charge_id: str) -> bool:
        """Whether an earlier life left such a call."""
        return charge_id in self._open or charge_id in self._ended

    def settle(self, entry: LogEntry) -> Proof | None:
        """What the entry proved, after which the call is adjusted; None where it was before, or no
        cost is proven. Raises Refusal evidence_too_late."""
        late = self._open.get(entry.charge_id)
        if late is None:
            return None
        serving, name = self._servings.current, late.opened.provider
        provider = next((one for one in serving.settings.providers if one.name == name), None)
        origin = origin_of(late.opened.request_id)
        path = _PATHS.get((origin.dialect, origin.endpoint))
        found = None if path is None else find(Request(b"POST", path, [], b""))
        if found is None or provider is None:
            return None
        hidden = "what it costs is told where Envoy can't read it"
        seen = Sight("" if origin.plain else hidden, "" if origin.stream else hidden)
        facts = Facts(model=late.opened.model, stream=late.opened.stream)
        server = serving.upstreams[name].server
        verdict = judge(entry, Asked(found.endpoint, facts, server, seen))
        attempt = self._attempt(late, provider, origin.currency)
        attempt.status, attempt.request_id = entry.status, entry.request_id
        match verdict.proof:
            case "never_sent":
                attempt.charge_cost(0, estimated(NEVER_SENT), Reading())
            case "refused":
                attempt.fail()
            case "counted" if verdict.reading is not None:
                # Only embeddings may leave their output out.
                usage = verdict.reading.counted(0, None if origin.endpoint == EMBEDDINGS else 1)
                if not usage.is_exact or attempt.terms.price is None:
                    return None  # its bounds are not known any more
                attempt.charge_told(usage, verdict.reading)
            case _:
                return None
        del self._open[entry.charge_id]
        self._ended.add(entry.charge_id)
        return verdict.proof

    def _attempt(self, late: Late, provider: Provider, currency: str) -> Attempt:
        """Priced as now: which prices it was reserved at is known by name alone."""
        opened, book = late.opened, self._desk.prices()
        route = Route(provider, opened.model, lookup(book, opened.model, provider))
        rates = CallRates(self._desk.exchange_rates(), currency, opened.admitted_at)
        terms = agree_amount(opened.reserved_nanos, route, budgeted=False, rates=rates)
        return Attempt(
            Amending(self._evidence, late, currency),
            self._clock,
            book,
            Handle(late.charge_id, opened.reserved_nanos),
            route,
            terms,
        )
