"""A configured provider as the data path uses it: its pool and the head of every request to it."""

import ssl

import msgspec

from bursar_sidecar.http_messages import Request
from bursar_sidecar.passed_headers import RequestWriter
from bursar_sidecar.settings import Provider, Settings
from bursar_sidecar.upstream import Dial, Pool, PoolLimits


class ProviderPool:
    """A provider with its pool and the head that every request to it shares."""

    def __init__(self, provider: Provider, settings: Settings, dial: Dial) -> None:
        tls = ssl.create_default_context(cafile=provider.ca_file) if provider.ca_file else None
        self._provider = _keyless(provider)
        self._limits = _limits(provider, settings)
        self.pool = Pool(provider.base_url, self._limits, tls, dial=dial)
        self.server = provider.server
        self._api_key = provider.api_key
        self._writer = self._made_writer()

    def serves(self, provider: Provider, settings: Settings) -> bool:
        """Whether it is what would be made of these settings, but for the credential.

        A certificate's file may hold another one than it did.
        """
        same = self._provider == _keyless(provider)
        return same and self._limits == _limits(provider, settings) and not provider.ca_file

    def rekey(self, api_key: str) -> None:
        """Every request from now on carries this credential; "" for none."""
        if api_key != self._api_key:
            self._api_key = api_key
            self._writer = self._made_writer()

    def described(self) -> dict[str, object]:
        """What it holds, for people."""
        return {
            "connections": self.pool.size,
            "idle": self.pool.idle_count,
            "most": self._limits.max_connections,
            "credential": "set" if self._api_key else "none",
        }

    def own_headers(self) -> dict[str, str]:
        """The headers of the operator that every request to it carries, its credential among them;
        names in lower case. Of two with one name the last counts."""
        pairs = (line.partition(": ") for line in self._lines())
        return {name.lower(): value for name, _, value in pairs}

    def _lines(self) -> list[str]:
        provider = self._provider
        lines = [f"{name}: {value}" for name, value in provider.headers]
        if self._api_key:
            lines.insert(0, f"{provider.spoken.credential}{self._api_key}")
        return lines

    def _made_writer(self) -> RequestWriter:
        lines = self._lines()
        return RequestWriter(self.pool.authority, self.pool.path, [line.encode() for line in lines])

    def request(
        self, target: bytes, request: Request, body: bytes, *, stream: bool
    ) -> tuple[bytes, ...]:
        """The whole request as it goes over the wire; `target` is path and query.

        `body` is `request.body` itself where nothing was edited. Streams are asked for without
        compression, because events of ours come among theirs.
        """
        if request.target[-1:] == b"?" and b"?" not in target:
            target += b"?"  # a query with nothing in it
        return self._writer.pieces(target, request, body, packed=not stream)


def _keyless(provider: Provider) -> Provider:
    return msgspec.structs.replace(provider, api_key="")


def _limits(provider: Provider, settings: Settings) -> PoolLimits:
    return PoolLimits(
        max_connections=provider.max_connections,
        connect_s=settings.connect_timeout_s,
        head_s=settings.answer_timeout_s,
        stall_s=settings.stall_timeout_s,
        longest_call_s=settings.longest_call_s,
    )
