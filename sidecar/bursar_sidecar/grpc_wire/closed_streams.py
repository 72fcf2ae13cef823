"""The streams of a connection that are over: who ended them decides what may still come.

RFC 9113, 5.1: what comes of a stream that the other end has ended is an error; what comes of one
that we reset was on its way, and is passed over.
"""

from typing import Final

from bursar_sidecar.grpc_wire.frames import PROTOCOL_ERROR, STREAM_CLOSED, WireError

MOST_REMEMBERED: Final = 1_024
"""What is on its way is of one of the latest."""


class ClosedStreams:
    """Of one connection."""

    __slots__ = ("_by_them",)

    def __init__(self) -> None:
        self._by_them: dict[int, bool] = {}

    def add(self, number: int, *, by_them: bool) -> None:
        """A stream is over. `by_them`: the other end has said all, or reset it."""
        self._by_them[number] = by_them
        if len(self._by_them) > MOST_REMEMBERED:
            del self._by_them[next(iter(self._by_them))]

    def check_data(self, number: int) -> None:
        """Data came of it. Raises WireError."""
        if self._by_them.get(number):
            raise WireError(STREAM_CLOSED, f"data of stream {number}, which was ended")

    def check_head(self, number: int) -> None:
        """A head came of it. Raises WireError."""
        by_them = self._by_them.get(number)
        if by_them is None:
            raise WireError(PROTOCOL_ERROR, f"stream {number} is begun behind a later one")
        if by_them:
            raise WireError(STREAM_CLOSED, f"a head of stream {number}, which was ended")
