"""Settings as calls are served with them: one snapshot that a call keeps from its start to its end.

New settings are another snapshot, for the calls that begin from then on. A provider that did not
change keeps its pool; the pool of one that did ends when the last call that uses it has.
"""

import copy
from collections.abc import Mapping

import structlog

from bursar_sidecar.dialects.dialect import Found
from bursar_sidecar.dialects.registry import DEFAULT_DIALECT
from bursar_sidecar.dialects.unmetered import UnmeteredEndpoint
from bursar_sidecar.http_messages import Request
from bursar_sidecar.progressive_pairs import Pairs
from bursar_sidecar.provider_pool import ProviderPool
from bursar_sidecar.routing import Router
from bursar_sidecar.settings import Settings
from bursar_sidecar.shortages import Shortages
from bursar_sidecar.upstream import Dial
from bursar_sidecar.websocket_endpoint import WebsocketEndpoint
from bursar_sidecar.websocket_handshake import is_offer

log = structlog.get_logger("bursar.serving")


class Serving:
    """One snapshot."""

    __slots__ = (
        "_of_one",
        "_unmetered",
        "_websockets",
        "calls",
        "pairs",
        "router",
        "settings",
        "shortages",
        "upstreams",
    )

    def __init__(self, settings: Settings, upstreams: Mapping[str, ProviderPool]) -> None:
        self.settings = settings
        self.router = Router({provider.name: provider for provider in settings.providers})
        self.upstreams = dict(upstreams)
        self.pairs = Pairs(settings.progressive)
        self.shortages = Shortages(settings.when_short, settings.shortages)
        self._of_one: dict[str, Serving] = {}
        self.calls = 0
        """That began with it and have not ended."""
        self._unmetered = [
            (one, UnmeteredEndpoint(DEFAULT_DIALECT, one.method, one.flat_price, one.provider))
            for one in settings.unmetered
        ]
        for one in settings.unmetered:
            log.warning(
                "unmetered_path_allowed",
                method=one.method,
                path=one.path,
                flat_price=one.flat_price,
                provider=one.provider,
            )

        providers = {provider.name: provider for provider in settings.providers}
        self._websockets = [
            (line, WebsocketEndpoint(line, providers[line.provider]))
            for line in settings.websockets
        ]
        for line in settings.websockets:
            log.warning(
                "websocket_path_allowed",
                path=line.path,
                flat_price=line.flat_price,
                price_per_minute=line.price_per_minute,
                provider=line.provider,
            )

    def websocket(self, request: Request) -> Found | None:
        """What a websocket is served by, where one is asked for and the settings allow it."""
        if not self._websockets or not is_offer(request):
            return None
        for line, endpoint in self._websockets:
            if line.allows(request.path):
                return Found(endpoint, "")
        return None

    def of_one(self, provider: str) -> "Serving | None":
        """The same with that provider alone to route to; None where there is none of that name.

        What begins and ends with it is still counted here.
        """
        known = self._of_one.get(provider)
        if known is None:
            found = [one for one in self.settings.providers if one.name == provider]
            if not found:
                return None
            known = self._of_one[provider] = copy.copy(self)
            known.router = Router({provider: found[0]})
        return known

    def unmetered(self, request: Request) -> Found | None:
        """What a path that nobody meters is served by, where the settings allow it."""
        for one, endpoint in self._unmetered:
            if one.allows(request.method, request.path):
                return Found(endpoint, "")
        return None

    def most_nanos(self, endpoint: str, model: str) -> int | None:
        """What the operator takes such a call to cost at most; None where nothing is said."""
        for bound in self.settings.bounds:
            if bound.holds_for(endpoint, model):
                return bound.nanos
        return None


class Servings:
    """The present snapshot, and earlier ones that calls still use."""

    def __init__(self, settings: Settings, dial: Dial) -> None:
        """Raises OSError when a provider's `ca_file` can't be read."""
        self._dial = dial
        self._started = False
        self._earlier: list[Serving] = []
        self.current = Serving(settings, self._pools(settings, {}))

    def start(self) -> None:
        """Needs a running loop."""
        self._started = True
        for upstream in self.current.upstreams.values():
            upstream.pool.start()

    def apply(self, settings: Settings) -> None:
        """Serve so from the next call on. Raises OSError, and has changed nothing."""
        old = self.current
        upstreams = self._pools(settings, old.upstreams)
        for provider in settings.providers:
            upstreams[provider.name].rekey(provider.api_key)
        if self._started:
            for name, upstream in upstreams.items():
                if upstream is not old.upstreams.get(name):
                    upstream.pool.start()
        self.current = Serving(settings, upstreams)
        self._earlier.append(old)
        self._end_unused()

    def rekey(self, provider: str, api_key: str) -> None:
        """The provider's credential is another one, for every call from now on."""
        for serving in (self.current, *self._earlier):
            if provider in serving.upstreams:
                serving.upstreams[provider].rekey(api_key)

    def begin(self) -> Serving:
        """A call begins: what it is served with until `end`."""
        serving = self.current
        serving.calls += 1
        return serving

    def end(self, serving: Serving) -> None:
        """A call has ended."""
        serving.calls -= 1
        if serving is not self.current and not serving.calls:
            self._end_unused()

    def close(self) -> None:
        """Close every connection; calls in flight fail."""
        for serving in (self.current, *self._earlier):
            for upstream in serving.upstreams.values():
                upstream.pool.close()

    def described(self) -> list[dict[str, object]]:
        """Each provider with its pool, for people; also pools that only earlier calls use."""
        return [
            {
                "provider": name,
                "base_url": provider.base_url,
                "kind": provider.kind,
                "present": serving is self.current,
                "calls": serving.calls,
                **serving.upstreams[name].described(),
            }
            for serving in (self.current, *self._earlier)
            for provider in serving.settings.providers
            for name in (provider.name,)
        ]

    def _pools(
        self, settings: Settings, present: Mapping[str, ProviderPool]
    ) -> dict[str, ProviderPool]:
        pools = {}
        for provider in settings.providers:
            pool = present.get(provider.name)
            if pool is None or not pool.serves(provider, settings):
                pool = ProviderPool(provider, settings, self._dial)
            pools[provider.name] = pool
        return pools

    def _end_unused(self) -> None:
        over = [serving for serving in self._earlier if not serving.calls]
        self._earlier = [serving for serving in self._earlier if serving.calls]
        used = {
            upstream
            for serving in (self.current, *self._earlier)
            for upstream in serving.upstreams.values()
        }
        for serving in over:
            for upstream in serving.upstreams.values():
                if upstream not in used:
                    upstream.pool.close()
