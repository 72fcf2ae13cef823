"""What a connection asks of the server that it belongs to."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bursar_sidecar.grpc_wire.connection import Connection


class Server(Protocol):
    """Who listens, to its connections."""

    max_message_bytes: int

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
