"""A configured provider as the data path uses it: its pool and the head of every request to it."""

import ssl
from typing import Final

from bursar_sidecar.app_headers import OURS
from bursar_sidecar.http_messages import Request
from bursar_sidecar.settings import Provider, Settings
from bursar_sidecar.upstream import Dial, Pool, PoolLimits

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"content-length",
    }
)
"""Headers that concern one connection only, and framing, which each side does anew."""

_NOT_FORWARDED: Final = HOP_BY_HOP | {
    b"host",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"api-key",
    b"x-goog-api-key",
    b"cookie",
    # Usage has to be read along: the provider is asked not to compress.
    b"accept-encoding",
    # The credential is the operator's, and so is what it is billed to.
    b"openai-organization",
    b"openai-project",
}


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
        self.dropped = _NOT_FORWARDED | {name.encode() for name, _ in provider.headers}
        lines = [b"host: " + self.pool.authority, b"accept-encoding: identity"]
        if provider.api_key:
            lines.append(f"{provider.spoken.credential}{provider.api_key}".encode())
        lines += [f"{name}: {value}".encode() for name, value in provider.headers]
        self._shared = b"".join(line + b"\r\n" for line in lines)

    def request(self, target: bytes, request: Request, body: bytes) -> bytes:
        """The whole request as it goes over the wire; `target` is path and query."""
        forwarded = [
            b"%b: %b\r\n" % (name, value)
            for name, value in request.headers
            if name not in self.dropped and not name.startswith(OURS)
        ]
        return b"%b %b%b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
            request.method,
            self.pool.path,
            target,
            self._shared,
            b"".join(forwarded),
            len(body),
            body,
        )
