"""A worker's side of the channel to its supervisor."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from bursar_sidecar.settings import Settings
from bursar_sidecar.workers.channel import Channel, opened

FIRST_WORD_TIMEOUT_S: Final = 10.0
"""For the settings, which the supervisor says at once."""

Answer = Callable[[], Any]


class Given(NamedTuple):
    """What a worker is told at its start."""

    number: int
    settings: Settings
    sockets: dict[str, socket.socket]
    """Bound, by address as the settings have it."""
    shared_dir: str
    """What all workers share: the sidecar's own data directory."""


class Link:
    """Says when the worker serves, answers questions, and hands on what it is told."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.stopping = asyncio.Event()
        """Set when the worker is to drain and end: it was told so, or the supervisor is gone."""
        self.settings: Settings | None = None
        """Those told last, after the first ones."""
        self.settings_told: Callable[[], object] | None = None
        """Called when there are new ones."""

    @classmethod
    async def from_fd(cls, fd: int) -> "tuple[Link, Given]":
        """The link over an inherited socket, with what the supervisor says first. Raises OSError
        when it says nothing of use."""
        channel = await opened(socket.socket(fileno=fd))
        async with asyncio.timeout(FIRST_WORD_TIMEOUT_S):
            first = await channel.receive()
        if first is None:
            raise ConnectionResetError("the supervisor is gone")
        given = Given(
            number=int(first["worker"]),
            settings=msgspec.convert(first["settings"], Settings),
            sockets={
                address: socket.socket(fileno=number)
                for address, number in first["sockets"].items()
            },
            shared_dir=str(first["shared_dir"]),
        )
        return cls(channel), given

    async def serving(self) -> None:
        """Say that calls are served."""
        await self._channel.send({"event": "serving"})

    async def run(self, answers: Mapping[str, Answer]) -> None:
        """Answer until the supervisor is gone."""
        while (message := await self._channel.receive()) is not None:
            if (question := message.get("ask")) is not None:
                answer = answers.get(question)
                told = answer() if answer is not None else None
                await self._channel.send({"answer": told, "id": message["id"]})
            elif "stop" in message:
                self.stopping.set()
            elif "settings" in message:
                self.settings = msgspec.convert(message["settings"], Settings)
                if self.settings_told is not None:
                    self.settings_told()
        self.stopping.set()
