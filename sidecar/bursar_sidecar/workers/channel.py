"""What a supervisor and a worker say to each other: lines of JSON over a pair of sockets.

Either side sees the other's end, however it came, as the end of the lines.
"""

import asyncio
import socket
from typing import Any, Final

import msgspec

MAX_LINE_BYTES: Final = 64 << 20
"""Settings are some kilobytes; what a worker holds is a line for each reservation."""


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, message: dict[str, Any]) -> None:
        """Say something. Raises OSError when the other side is gone."""
        self._writer.write(msgspec.json.encode(message) + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """What the other side says next; None when it is gone."""
        try:
            line = await self._reader.readline()
        except (ValueError, OSError):  # a line without end: nothing of ours
            return None
        if not line.endswith(b"\n"):
            return None
        message: dict[str, Any] = msgspec.json.decode(line)
        return message

    def close(self) -> None:
        """Nothing more is said."""
        self._writer.close()


async def opened(end: socket.socket) -> Channel:
    """The channel over one of a pair of sockets."""
    end.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE_BYTES)
    return Channel(reader, writer)
