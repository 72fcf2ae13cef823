"""The sidecar's side of counting: asks the process, starts it where there is none, waits a little.

Every way that it fails ends in "no count", never in an exception or a wait beyond the one named.
"""

import asyncio
import contextlib
import hashlib
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import structlog

from bursar_sidecar.counting.frames import (
    PREFIX_BYTES,
    CountRequest,
    FrameError,
    Text,
    framed,
    length_of,
    read_answer,
)

MAX_WAITING: Final = 64
"""Counts asked for and not answered yet; further ones are refused. One takes some milliseconds."""
MAX_KEPT: Final = 1_024
"""Counts remembered, by digest of what was counted: some 200 kB."""
START_WITHIN_S: Final = 20.0
"""From starting the process until it listens."""
START_AGAIN_S: Final = 30.0
"""After it could not be started, or broke, the next try waits so long."""
OTHER_STARTS_S: Final = 1.0
"""Another sidecar has just started the process: the next try need not wait long."""
MAX_SOCKET_PATH: Final = 100
"""Bytes; the system's limit is 108."""
SOCKET_NAME: Final = "llm-tokens.sock"

log = structlog.get_logger("bursar.counting")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


class Counted(NamedTuple):
    """LLM tokens."""

    produced: int
    asked: int
    """Of all strings in the messages; 0 where none were given."""


class LlmTokenCounter(Protocol):
    """Counts text exactly, or says that it can't now."""

    async def count(
        self, encoding: str, texts: tuple[Text, ...], messages: bytes, within_s: float
    ) -> Counted | None:
        """LLM tokens of all texts and of the messages (JSON); None when there is no count within
        so many seconds."""
        ...

    def close(self) -> None:
        """No more counts: whoever waits for one gets none."""
        ...


class Unavailable(Exception):
    """The counting process can't be reached or started; the next try is due in `again_s`."""

    def __init__(self, reason: str, again_s: float = START_AGAIN_S) -> None:
        super().__init__(reason)
        self.again_s = again_s


class SharedCounter:
    """Asks the counting process that all workers of one directory share."""

    def __init__(self, connect: Connect, monotonic: Callable[[], float]) -> None:
        self._connect = connect
        self._monotonic = monotonic
        self._kept: OrderedDict[bytes, Counted] = OrderedDict()
        self._waiting: dict[int, asyncio.Future[Counted | None]] = {}
        self._unanswered = 0
        """Sent on this connection; those that nobody waits for any more are still worked on."""
        self._number = 0
        self._connecting: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._not_before = 0.0
        self._closed = False

    async def count(
        self, encoding: str, texts: tuple[Text, ...], messages: bytes, within_s: float
    ) -> Counted | None:
        """LLM tokens of all texts and of the messages (JSON); None when there is no count within
        so many seconds."""
        key = _digest(encoding, texts, messages)
        known = self._kept.get(key)
        if known is not None:
            self._kept.move_to_end(key)
            return known
        if self._closed or len(self._waiting) >= MAX_WAITING or self._unanswered >= MAX_WAITING:
            return None
        try:
            async with asyncio.timeout(within_s):
                counted = await self._asked(encoding, texts, messages)
        except TimeoutError:
            return None
        if counted is not None:
            self._kept[key] = counted
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return counted

    def close(self) -> None:
        """No more counts; the process ends when the last of its sidecars is gone."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._forget("")

    async def _asked(
        self, encoding: str, texts: tuple[Text, ...], messages: bytes
    ) -> Counted | None:
        self._number += 1
        number = self._number
        answered: asyncio.Future[Counted | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            if self._writer is None:
                await self._connected()
            if self._writer is None:
                return None
            frame = framed(CountRequest(number, encoding, texts, messages))
            self._unanswered += 1
            self._writer.write(frame)
            return await answered
        except FrameError as error:
            log.warning("not counted", reason=str(error))
            return None
        finally:
            del self._waiting[number]

    async def _connected(self) -> None:
        """Wait until there is a connection, or the try to make one has failed."""
        if self._connecting is None:
            if self._monotonic() < self._not_before:
                return
            self._connecting = asyncio.create_task(self._dial(), name="counting process")
        # Not awaited itself: whoever waits gives up alone, the others and the next ones want it.
        await asyncio.wait((self._connecting,))

    async def _dial(self) -> None:
        try:
            reader, writer = await self._connect()
        except (OSError, Unavailable) as error:
            again_s = error.again_s if isinstance(error, Unavailable) else START_AGAIN_S
            self._not_before = self._monotonic() + again_s
            log.warning("no counting process", reason=str(error), again_in_s=again_s)
        else:
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader), name="counts")
        finally:
            self._connecting = None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason = ""
        try:
            while True:
                prefix = await reader.readexactly(PREFIX_BYTES)
                answer = read_answer(await reader.readexactly(length_of(prefix)))
                self._unanswered -= 1
                if answer.fault:
                    log.warning("not counted", reason=answer.fault)
                waiting = self._waiting.get(answer.number)
                if waiting is not None and not waiting.done():
                    counted = Counted(answer.llm_tokens, answer.input_llm_tokens)
                    waiting.set_result(None if answer.fault else counted)
        except asyncio.IncompleteReadError:
            pass  # it ended, as it does when idle; the next count starts another
        except (OSError, FrameError) as error:
            reason = str(error)
            self._not_before = self._monotonic() + START_AGAIN_S
        self._forget(reason)

    def _forget(self, reason: str) -> None:
        if reason:
            log.info("counting process is gone", reason=reason)
        reading, self._reading = self._reading, None
        writer, self._writer = self._writer, None
        self._unanswered = 0
        if writer is not None:
            writer.close()
        if self._closed and reading is not None:
            reading.cancel()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)


class StartedProcess:
    """How a sidecar reaches the process of its directory: connects, or starts it and connects.

    Nothing here ends the process: others may use it, and it ends by itself.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / SOCKET_NAME
        self._processes: list[subprocess.Popen[bytes]] = []

    async def connect(self) -> Streams:
        """Raises Unavailable or OSError."""
        if len(str(self._path).encode()) > MAX_SOCKET_PATH:
            raise Unavailable(f"{self._path} is too long for a unix socket")
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return await asyncio.open_unix_connection(self._path)
        await self._started()
        try:
            return await asyncio.open_unix_connection(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise Unavailable("another sidecar is starting it", OTHER_STARTS_S) from None

    def running(self) -> list[int]:
        """The process ids of those started here that still run; collects the others."""
        self._processes = [process for process in self._processes if process.poll() is None]
        return [process.pid for process in self._processes]

    async def _started(self) -> None:
        process = self._start()
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        try:
            async with asyncio.timeout(START_WITHIN_S):
                said = await reader.readline()
        except TimeoutError:
            process.kill()
            raise Unavailable(f"it did not listen within {START_WITHIN_S:g} s") from None
        finally:
            transport.close()
        if not said:
            raise Unavailable("it ended before it listened")

    def _start(self) -> subprocess.Popen[bytes]:
        self.running()
        # Not asyncio's: that one ends its process with the event loop, and others may be using it.
        process = subprocess.Popen(
            [sys.executable, "-m", "bursar_sidecar.counting", str(self._path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt of this sidecar is not for it
        )
        self._processes.append(process)
        return process


def _digest(encoding: str, texts: tuple[Text, ...], messages: bytes) -> bytes:
    digest = hashlib.sha256(f"{encoding} {len(messages)} ".encode())
    digest.update(messages)
    for text in texts:
        digest.update(len(text.data).to_bytes(8, "big"))
        digest.update(text.data)
        digest.update(repr(text.ends).encode())
    return digest.digest()
