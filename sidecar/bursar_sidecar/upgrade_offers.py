"""The body of a request whose head offered an upgrade, which is not taken up.

llhttp stops parsing at such an offer (Java's client makes one to h2c): a fresh parser reads the
body, and tells it to what is here.
"""

from typing import Protocol

from bursar_sidecar.http_messages import Headers


class Reader(Protocol):
    """What reads the request."""

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        ...

    def stop_parsing(self) -> None:
        """Nothing more is read as a request on this connection."""
        ...

    def enqueue(self, method: bytes) -> None:
        """The request is whole."""
        ...


class UpgradeBody:
    """Parser callbacks for the body of a request whose head offered an upgrade."""

    def __init__(self, connection: Reader, method: bytes) -> None:
        self._connection = connection
        self._method = method
        self._whole = False

    def on_body(self, data: bytes) -> None:
        """llhttp: a part of the body."""
        self._connection.on_body(data)

    def on_message_complete(self) -> None:
        """llhttp: the body is whole; what follows on this connection is not read."""
        if not self._whole:
            self._whole = True
            self._connection.stop_parsing()
            self._connection.enqueue(self._method)


def framing_of(headers: Headers) -> bytes:
    """The lines of a head that say how its body is framed; b"" where it has none."""
    return b"".join(
        b"%b: %b\r\n" % pair
        for pair in headers
        if pair[0] in (b"content-length", b"transfer-encoding")
    )
