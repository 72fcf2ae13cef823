"""What a connection asks of the server that it belongs to, and what its rpcs may hold together."""

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from bursar_sidecar.grpc_wire.connection import Connection


MOST_LARGE_BYTES: Final = 256 << 20
"""Of messages that are longer than a window and not here whole, in all."""


class Room:
    """For messages that come. Until one is whole nobody has looked at it, or at who sends it."""

    __slots__ = ("_left", "max_message_bytes")

    def __init__(self, max_message_bytes: int, most_large_bytes: int = MOST_LARGE_BYTES) -> None:
        self.max_message_bytes = max_message_bytes
        self._left = most_large_bytes

    def claim(self, size: int) -> bool:
        """Take so many bytes for a large message that begins; False: there is no room for it."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def leave(self, size: int) -> None:
        """Give them back."""
        self._left += size


class Server(Protocol):
    """Who listens, to its connections."""

    room: Room

    def admit(self, connection: "Connection") -> bool:
        """Take a new connection in; False when there are too many."""
        ...

    def forget(self, connection: "Connection") -> None:
        """It is gone."""
        ...

    def begin(self) -> bool:
        """An rpc begins; False when there are too many."""
        ...

    def over(self) -> None:
        """An rpc that began is over."""
        ...

    def handler(self, path: str) -> Any:
        """The `grpc.RpcMethodHandler` at a path, or None."""
        ...
