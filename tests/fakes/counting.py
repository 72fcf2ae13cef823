"""A counting process and its connection, in memory."""

import asyncio
from collections.abc import Callable

from bursar_sidecar.counting.counter import Counted, Streams
from bursar_sidecar.counting.frames import (
    PREFIX_BYTES,
    CountAnswer,
    CountRequest,
    Text,
    framed,
    read_request,
)


class Peer(asyncio.StreamWriter):
    """The writing end of a connection: keeps what was written."""

    def __init__(self, written: Callable[[], None] = lambda: None) -> None:
        self.sent = b""
        self.closed = False
        self._written = written

    def __del__(self) -> None:  # there is no transport to close
        return

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)
        self._written()

    async def drain(self) -> None:
        return

    def close(self) -> None:
        self.closed = True

    def requests(self) -> list[CountRequest]:
        """What was asked, in order."""
        found, data = [], self.sent
        while data:
            end = PREFIX_BYTES + int.from_bytes(data[:PREFIX_BYTES], "big")
            found.append(read_request(data[PREFIX_BYTES:end]))
            data = data[end:]
        return found


class FakeProcess:
    """A counting process that answers when the test says so."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.readers: list[asyncio.StreamReader] = []
        self.refusal: Exception | None = None
        self._changed = asyncio.Event()

    async def connect(self) -> Streams:
        if self.refusal is not None:
            raise self.refusal
        self.peers.append(Peer(self._changed.set))
        self.readers.append(asyncio.StreamReader())
        return self.readers[-1], self.peers[-1]

    async def asked(self, number: int = 1, connection: int = 1) -> None:
        """Until so many requests have arrived on that connection."""
        while len(self.peers) < connection or len(self.peers[connection - 1].requests()) < number:
            self._changed.clear()
            await self._changed.wait()

    def answer(self, number: int, llm_tokens: int = 0, fault: str = "") -> None:
        self.readers[-1].feed_data(framed(CountAnswer(number, llm_tokens, 0, fault)))


class FakeCounter:
    """Answers every count with the same numbers; None: never in time."""

    def __init__(self, produced: int | None, asked: int = 10_000) -> None:
        self._counted = None if produced is None else Counted(produced, asked)
        self.asked: list[tuple[str, tuple[Text, ...], float]] = []
        self.messages: list[bytes] = []
        self.closed = False

    async def count(
        self, encoding: str, texts: tuple[Text, ...], messages: bytes, within_s: float
    ) -> Counted | None:
        self.asked.append((encoding, texts, within_s))
        self.messages.append(messages)
        return None if self.closed else self._counted

    def close(self) -> None:
        self.closed = True
