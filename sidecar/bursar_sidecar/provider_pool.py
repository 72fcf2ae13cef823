"""A configured provider as the data path uses it: its pool and the head of every request to it."""

import ssl

from bursar_sidecar.http_messages import Request
from bursar_sidecar.passed_headers import RequestWriter
from bursar_sidecar.settings import Provider, Settings
from bursar_sidecar.upstream import Dial, Pool, PoolLimits


class ProviderPool:
    """A provider with its pool and the head that every request to it shares."""

    def __init__(self, provider: Provider, settings: Settings, dial: Dial) -> None:
        tls = ssl.create_default_context(cafile=provider.ca_file) if provider.ca_file else None
        self.pool = Pool(
            provider.base_url,
            PoolLimits(
                max_connections=provider.max_connections,
                connect_s=settings.connect_timeout_s,
                head_s=settings.answer_timeout_s,
                stall_s=settings.stall_timeout_s,
                longest_call_s=settings.longest_call_s,
            ),
            tls,
            dial=dial,
        )
        self.server = provider.server
        lines = [f"{name}: {value}" for name, value in provider.headers]
        if provider.api_key:
            lines.insert(0, f"{provider.spoken.credential}{provider.api_key}")
        self._writer = RequestWriter(
            self.pool.authority, self.pool.path, [line.encode() for line in lines]
        )

    def request(
        self, target: bytes, request: Request, body: bytes, *, stream: bool
    ) -> tuple[bytes, ...]:
        """The whole request as it goes over the wire; `target` is path and query.

        `body` is `request.body` itself where nothing was edited. Streams are asked for without
        compression, because events of ours come among theirs.
        """
        return self._writer.pieces(target, request, body, packed=not stream)
