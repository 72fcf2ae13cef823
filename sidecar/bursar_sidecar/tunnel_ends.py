"""The two connections that a tunnel joins: the app's, handed over behind its offer to upgrade, and
the provider's, which begins as any call's does and switches with the answer of 101.

Each tells the tunnel what comes, and when the other side has to wait.
"""

import asyncio
from typing import Protocol

from bursar_sidecar.upstream_connection import Malformed, UpstreamConnection
from bursar_sidecar.upstream_connection import Owner as Pool


class Listener(Protocol):
    """What an end tells the tunnel."""

    def came(self, data: bytes) -> None:
        """Bytes from this side."""
        ...

    def ended(self) -> None:
        """This side sends no more; it may read on."""
        ...

    def lost(self) -> None:
        """This side's connection is gone."""
        ...

    def crowded(self, *, paused: bool) -> None:
        """This side stops taking bytes, or takes them again."""
        ...


class AppEnd(asyncio.Protocol):
    """The app's side of a tunnel. The connection that it was before keeps the time and the count,
    and is told what happens to it."""

    def __init__(self, before: asyncio.Protocol, tunnel: Listener) -> None:
        self._before = before
        self._tunnel = tunnel

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._tunnel.came(data)

    def eof_received(self) -> bool:
        """asyncio: the app sent its last byte; what the provider has still to say goes to it."""
        self._tunnel.ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._before.connection_lost(exc)
        self._tunnel.lost()

    def pause_writing(self) -> None:
        """asyncio: the app reads too slowly."""
        self._before.pause_writing()
        self._tunnel.crowded(paused=True)

    def resume_writing(self) -> None:
        """asyncio: the app has read on."""
        self._before.resume_writing()
        self._tunnel.crowded(paused=False)


class ProviderEnd(UpstreamConnection):
    """The provider's side. Until the tunnel has it, an exchange does: for an answer that takes no
    upgrade up it is a connection like any other."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._tunnel: Listener | None = None
        self._has_switched = False
        self._early = b""

    @property
    def transport(self) -> asyncio.Transport | None:
        """None before it is connected."""
        return self._transport

    def on_headers_complete(self) -> None:
        """llhttp: the head is whole."""
        if self._parser.get_status_code() != 101:
            super().on_headers_complete()
            return
        if not self._parser.should_upgrade() or self._parser.get_http_version() != "1.1":
            raise Malformed("an answer of 101 that upgrades nothing")
        if {b"content-length", b"transfer-encoding"} & {name for name, _ in self._headers}:
            raise Malformed("an answer of 101 with a body")
        self._interim = self._has_switched = True

    def switched(self, rest: bytes) -> bool:
        """What the provider sends from now on is for the tunnel."""
        exchange, transport = self.exchange, self._transport
        if not self._has_switched or exchange is None or transport is None:
            return False
        transport.pause_reading()  # until the tunnel has it
        self._early = rest
        exchange.got_head(101, self._reason, self._headers, self._names)
        return True

    def hand_over(self, tunnel: Listener) -> None:
        """What comes goes to the tunnel from now on."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.got_end([])
        self._tunnel = tunnel
        early, self._early = self._early, b""
        if early:
            tunnel.came(early)
        if self._lost:
            tunnel.lost()
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        if self._tunnel is not None:
            self._tunnel.came(data)
        elif self._has_switched:
            self._early += data
        else:
            super().data_received(data)

    def eof_received(self) -> bool:
        """asyncio: the provider sent its last byte; `connection_lost` follows."""
        if self._tunnel is not None:
            self._tunnel.ended()
            return False
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        super().connection_lost(exc)
        if self._tunnel is not None:
            self._tunnel.lost()

    def pause_writing(self) -> None:
        """asyncio: the provider reads too slowly."""
        if self._tunnel is not None:
            self._tunnel.crowded(paused=True)

    def resume_writing(self) -> None:
        """asyncio: the provider has read on."""
        if self._tunnel is not None:
            self._tunnel.crowded(paused=False)
