"""The addresses a sidecar serves: the main one, those with an identity of their own, the admin's.

An app that brings no Bursar key is whom its door says it is.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from bursar_sidecar.app_headers import APP_HEADER
from bursar_sidecar.http_limits import Limits
from bursar_sidecar.http_messages import Request, Responder
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.listener_settings import Listener
from bursar_sidecar.listening import bound, inode_of, removed, shown
from bursar_sidecar.setting_checks import UNIX, split_address
from bursar_sidecar.settings import Settings
from bursar_sidecar.websocket_handshake import is_offer, presented_key

KEY_PREFIX: Final = b"bk-"
"""How Bursar's own keys begin. What else an app sends is what its SDK demanded of it."""
KEY_HEADERS: Final = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
"""Where SDKs put a key, in any dialect."""
_APP_HEADERS: Final = frozenset({APP_HEADER})
KEY_PARAMETER: Final = b"key="
"""Where Gemini's REST examples put it, in the query."""
Handle = Callable[[Request, Responder], Awaitable[None]]


class Door:
    """One more address for apps, with whom it stands for."""

    def __init__(self, listener: Listener, handle: Handle, limits: Limits) -> None:
        self._handle = handle
        self.server = HttpServer(self.handle, limits)
        self.listener = listener
        self.key_fault = ""
        """Why its key, which is from a file, could not be read again."""
        self.stand_for(listener)

    def stand_for(self, listener: Listener) -> None:
        """From the next call on."""
        self.listener = listener
        self._forbids = listener.own_keys == "forbid"
        self._app = listener.app.encode()
        self.rekey(listener.api_key)

    def rekey(self, api_key: str) -> None:
        """From the next call on this is the key of those who bring none."""
        self._key = b"Bearer " + api_key.encode() if api_key else b""

    async def handle(self, request: Request, respond: Responder) -> None:
        """One request that came by this door."""
        if self._app:
            _replace(request, _APP_HEADERS, APP_HEADER, self._app)
        if self._key and (self._forbids or not _brings_key(request)):
            if KEY_PARAMETER in request.query:
                _drop_key_parameter(request)
            _replace(request, KEY_HEADERS, b"authorization", self._key)
        await self._handle(request, respond)


def _replace(request: Request, names: frozenset[bytes], name: bytes, value: bytes) -> None:
    """One header instead of all of these names."""
    kept = [
        (pair, written)
        for pair, written in zip(request.headers, request.names, strict=True)
        if pair[0] not in names
    ]
    request.headers = [pair for pair, _ in kept] + [(name, value)]
    request.names = [written for _, written in kept] + [name]
    request.known = {}  # it is another head than came


def _drop_key_parameter(request: Request) -> None:
    pairs = request.query.split(b"&")
    request.query = b"&".join(pair for pair in pairs if not pair.startswith(KEY_PARAMETER))
    request.target = request.path + (b"?" + request.query if request.query else b"")


def _brings_key(request: Request) -> bool:
    for name, value in request.headers:
        if name in KEY_HEADERS and value.rpartition(b" ")[2].startswith(KEY_PREFIX):
            return True
    wanted = KEY_PARAMETER + KEY_PREFIX
    if any(pair.startswith(wanted) for pair in request.query.split(b"&")):
        return True
    return is_offer(request) and presented_key(request).startswith(KEY_PREFIX)


class Doors:
    """All of them: opened together, closed together."""

    def __init__(
        self, settings: Settings, handle: Handle, admin: Handle, given: "Given | None" = None
    ) -> None:
        """`given`: sockets that a parent bound, by address as the settings have it."""
        self._given = given or {}
        self._settings = settings
        limits = Limits(max_body_bytes=settings.max_request_bytes)
        self._main = HttpServer(handle, limits)
        self.doors = [Door(listener, handle, limits) for listener in settings.listeners]
        self._admin = HttpServer(admin)
        self._inodes: dict[str, int] = {}

    @property
    def http_address(self) -> str:
        """Where apps call, once open."""
        return self._main.address

    @property
    def admin_address(self) -> str:
        """Of the admin endpoints, once open; "" where a parent serves them."""
        return self._admin.address

    @property
    def listener_addresses(self) -> list[str]:
        """Of the other doors, once open."""
        return [door.server.address for door in self.doors]

    @property
    def draining(self) -> bool:
        """No new call is taken."""
        return self._main.draining

    def apply(self, settings: Settings) -> None:
        """Whom doors stand for and how much a request may be, from the next connection on."""
        limits = Limits(max_body_bytes=settings.max_request_bytes)
        self._main.limits = limits
        by_address = {listener.address: listener for listener in settings.listeners}
        for door in self.doors:
            door.server.limits = limits
            door.stand_for(by_address[door.listener.address])

    async def open(self) -> None:
        """Listen everywhere. Raises OSError when an address is taken."""
        settings = self._settings
        if settings.admin_address:
            await self._listen(self._admin, settings.admin_address, settings.socket_mode)
        await self._listen(self._main, settings.http_address, settings.socket_mode)
        for door in self.doors:
            mode = door.listener.socket_mode or settings.socket_mode
            await self._listen(door.server, door.listener.address, mode)

    async def close(self, within_s: float) -> None:
        """No new calls; those in flight may take so long. The admin endpoints go on."""
        servers = [self._main, *(door.server for door in self.doors)]
        for server in servers:
            self._unlink(server.address)
        await asyncio.gather(*(server.drain(within_s) for server in servers))

    async def close_admin(self) -> None:
        """The last door."""
        self._unlink(self._admin.address)
        await self._admin.drain(0)

    async def _listen(self, server: HttpServer, address: str, mode: str) -> None:
        if made := self._given.get(address):
            await server.listen(made, shown(made, address))
        elif address.startswith(UNIX):
            await server.listen(bound(address, mode=mode), address)
            self._inodes[address] = inode_of(address)
        else:
            await server.start(*split_address(address))

    def _unlink(self, address: str) -> None:
        removed(address, self._inodes.pop(address, 0))


Given = Mapping[str, socket.socket]
