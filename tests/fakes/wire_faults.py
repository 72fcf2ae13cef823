"""A wire that fails on command: TCP between a sidecar and its control plane.

It listens on a port of its own and forwards to where it is aimed. It runs in a thread with a loop
of its own; a command holds from the moment it returns, for connections that are open and for those
to come. Up is from the sidecar to the control plane, down is back.

    with FaultyWire(("127.0.0.1", port)) as wire:
        wire.hold(up=True, down=True)   # a partition: the bytes wait, and arrive when it heals
        wire.swallow(down=True)         # they never arrive; healing resets those connections
        wire.heal()

Bytes that wait are delivered in order. A connection that was closed meanwhile at one end stays open
at the other until its last bytes and its end were delivered, as behind a router that is out.
"""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Self, TypeVar

COMMAND_TIMEOUT_S = 10.0
# What a direction holds before its sender has to wait: as much as a kernel's socket buffer.
MOST_HELD_BYTES = 4 << 20

T = TypeVar("T")


class Direction:
    """What becomes of bytes one way, on all connections."""

    def __init__(self) -> None:
        self.held = False
        self.swallowed = False
        self.delay_s = 0.0
        self.bytes_per_s = 0
        """0: as fast as it goes."""
        self.delivered_bytes = 0
        self.lost_bytes = 0

    def heal(self) -> None:
        """Forward everything at once from now on."""
        self.held = self.swallowed = False
        self.delay_s, self.bytes_per_s = 0.0, 0


class _End(asyncio.Protocol):
    """One end of a connection; what it hears goes to its peer through `direction`."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.peer: _End | None = None
        self.damaged = False
        """Whether bytes it heard were swallowed: the stream can't be continued."""
        self.opened = asyncio.get_running_loop().create_future()
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._heard: deque[tuple[float, bytes]] = deque()
        """When to deliver what; empty bytes are the end."""
        self._heard_bytes = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._cut_with_reset: bool | None = None
        """Set when it was cut before it was there."""

    # -- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True
        self.opened.set_result(None)
        if self._cut_with_reset is not None:
            self.cut(reset=self._cut_with_reset)

    def data_received(self, data: bytes) -> None:
        if self.direction.swallowed:
            self.damaged = True
            self.direction.lost_bytes += len(data)
            return
        self._note(data)

    def eof_received(self) -> bool:
        self._note(b"")
        return True  # the other way stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._note(b"")

    # -- delivery ------------------------------------------------------------------------------

    def _note(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        due = max(self._last_due, now + self.direction.delay_s)
        if self.direction.bytes_per_s:
            due += len(data) / self.direction.bytes_per_s
        self._last_due = due
        self._heard.append((due, data))
        self._heard_bytes += len(data)
        self.deliver()

    def deliver(self) -> None:
        """Pass on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._heard and self.peer is not None and not self.direction.held:
            due, data = self._heard[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self.deliver)
                break
            self._heard.popleft()
            self._heard_bytes -= len(data)
            self.peer.write(data)
            self.direction.delivered_bytes += len(data)
        self._keep_bound()

    def hurry(self) -> None:
        """What waits for its time need not wait any more."""
        self._heard = deque((0.0, data) for _due, data in self._heard)
        self._last_due = 0.0
        self.deliver()

    def _keep_bound(self) -> None:
        too_much = self._heard_bytes > MOST_HELD_BYTES
        if self._transport is not None and self.is_open and too_much != self._is_paused:
            self._is_paused = too_much
            (self._transport.pause_reading if too_much else self._transport.resume_reading)()

    def write(self, data: bytes) -> None:
        """Bytes for the program at this end; none: the end of them."""
        if self._transport is None or not self.is_open:
            return
        if data:
            self._transport.write(data)
        elif self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.close()

    def cut(self, *, reset: bool) -> None:
        """Close at once: with RST, or in an orderly way with FIN."""
        if self._transport is None:
            self._cut_with_reset = reset
            return
        if not self.is_open:
            return
        if reset:
            connection: socket.socket = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()


class FaultyWire:
    """Forwards connections, and fails on command."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.up = Direction()
        self.down = Direction()
        self.connection_count = 0
        """How many were ever accepted."""
        self._target = target
        self._pairs: set[tuple[_End, _End]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where to connect to."""
        return f"127.0.0.1:{self.port}"

    @property
    def open_count(self) -> int:
        """Connections whose sidecar's end is open."""
        return self._do(lambda: sum(client.is_open for client, _server in self._pairs))

    def open(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(
            COMMAND_TIMEOUT_S
        )

    def close(self) -> None:
        """Cut everything and stop listening."""

        def end() -> None:
            assert self._server is not None
            self._server.close()
            for task in self._tasks:
                task.cancel()
            for end in self._ends():
                end.cut(reset=True)

        self._do(end)
        # What `end` scheduled comes first.
        self._loop.call_soon_threadsafe(self._loop.call_soon, self._loop.stop)
        self._thread.join(COMMAND_TIMEOUT_S)
        self._loop.close()

    # -- commands ------------------------------------------------------------------------------

    def aim(self, target: tuple[str, int]) -> None:
        """New connections go there."""
        self._do(lambda: setattr(self, "_target", target))

    def cut(self, *, reset: bool = True) -> None:
        """Cut every connection; new ones are let through."""

        def cut() -> None:
            for end in self._ends():
                end.cut(reset=reset)

        self._do(cut)

    def hold(self, *, up: bool = False, down: bool = False) -> None:
        """Let bytes wait, in these directions, until `heal`."""
        self._do(lambda: self._each(up, down, lambda way: setattr(way, "held", True)))

    def swallow(self, *, up: bool = False, down: bool = False) -> None:
        """Accept bytes and lose them, in these directions, until `heal`."""
        self._do(lambda: self._each(up, down, lambda way: setattr(way, "swallowed", True)))

    def slow(self, *, up_s: float = 0.0, down_s: float = 0.0, bytes_per_s: int = 0) -> None:
        """Deliver later, and no faster than `bytes_per_s` each way (0: any)."""

        def change() -> None:
            self.up.delay_s, self.down.delay_s = up_s, down_s
            self.up.bytes_per_s = self.down.bytes_per_s = bytes_per_s

        self._do(change)

    def heal(self) -> None:
        """Forward everything again. What waited is delivered; where bytes were lost, a connection
        can't go on and is reset."""

        def change() -> None:
            self.up.heal()
            self.down.heal()
            for pair in list(self._pairs):
                if any(end.damaged for end in pair):
                    for end in pair:
                        end.cut(reset=True)
                else:
                    for end in pair:
                        end.hurry()

        self._do(change)

    # -- in the thread -------------------------------------------------------------------------

    def _do(self, command: Callable[[], T]) -> T:
        async def run() -> T:
            return command()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(COMMAND_TIMEOUT_S)

    def _each(self, up: bool, down: bool, change: Callable[[Direction], Any]) -> None:
        assert up or down, "which way?"
        for chosen, direction in ((up, self.up), (down, self.down)):
            if chosen:
                change(direction)

    def _ends(self) -> list[_End]:
        return [end for pair in self._pairs for end in pair]

    async def _listen(self) -> int:
        self._server = await self._loop.create_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _accept(self) -> _End:
        self.connection_count += 1
        client = _End(self.up)
        task = self._loop.create_task(self._connect(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return client

    async def _connect(self, client: _End) -> None:
        await client.opened
        server = _End(self.down)
        pair = (client, server)
        # Seen by `cut` and `close` already while the other end is still being reached.
        self._pairs.add(pair)
        try:
            await self._loop.create_connection(lambda: server, *self._target)
        except OSError:  # nobody is there: the sidecar is told as by a refused connection
            self._pairs.discard(pair)
            client.cut(reset=True)
            return
        client.peer, server.peer = server, client
        self._pairs = {each for each in self._pairs if any(end.is_open for end in each)}
        client.deliver()
        server.deliver()
