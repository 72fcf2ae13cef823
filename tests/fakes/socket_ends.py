"""Raw ends of real connections: a provider that answers what it is told, and an app."""

import socket
import ssl
import threading
from typing import Self

import httptools

from tests.fakes.raw_wire import Recorded

DEADLINE_S = 30.0
"""Far more than anything here takes."""


class SocketProvider:
    """Listens on a free port; answers every request with the pieces it was given last.

    Keeps the bytes of every request. With `tls` it speaks TLS.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer: tuple[bytes, ...] = ()
        self.requests: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="provider", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._wrapped(connection) as peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while request := read_request(peer):
                    self.requests.append(request)
                    for piece in self.answer:
                        peer.sendall(piece)
        except (ssl.SSLError, ConnectionError):
            return  # a client that does not trust us, or one that went away: part of the test

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_side=True)


def read_request(peer: socket.socket) -> bytes:
    """One request with its body, b"" at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        more = peer.recv(65536)
        if not more:
            return b""
        body += more
    return head + b"\r\n\r\n" + body


class _Whole:
    """Knows when an answer has come to its end."""

    def __init__(self) -> None:
        self.done = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """What came."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """llhttp."""
        self.done = self._parser.get_status_code() >= 200


def ask(address: str, request: tuple[bytes, ...]) -> bytes:
    """Send the pieces of a request to `host:port`; the whole answer, interim ones before it."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE_S) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in request:
            peer.sendall(piece)
        whole, received = _Whole(), b""
        while not whole.done:
            data = peer.recv(65536)
            if not data:
                break
            received += data
            whole.feed(data)
        return received


def for_peers(recorded: Recorded, replaced: dict[bytes, bytes]) -> Recorded:
    """A recorded exchange with other names in its request: the provider's, the key."""
    whole, size = b"".join(recorded.request), len(recorded.request[0])
    for old, new in replaced.items():
        whole = whole.replace(old, new)
    if len(recorded.request) == 1:
        size = len(whole)
    pieces = tuple(whole[start : start + size] for start in range(0, len(whole), size))
    return Recorded(pieces, recorded.answer)
