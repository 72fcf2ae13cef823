"""One websocket between an app and a provider: bytes both ways, as they come, until it is over.

Nothing is gathered: what one side sends goes on in the same turn of the loop, and where the other
reads slower, the one is not read from. What flows is not understood but for where frames end.

    open --one side's connection ends----------------------> ending
    open --both sides have said that they close-------------> ending
    open --it is closed from here: a close frame to each----> ending
    ending --both connections are gone, or CLOSE_GRACE_S----> over
"""

import asyncio
from collections.abc import Callable
from typing import Final

from bursar_sidecar.websocket_frames import GOING_AWAY, Frames, close_frame

CLOSE_GRACE_S: Final = 5.0
"""From the beginning of its end until what is left of it is broken off."""
HIGH_WATER_BYTES: Final = 256 * 1024
"""Unsent bytes of either direction before the side that sends them is not read from."""


class Side:
    """One of the two. What comes from it goes to the other."""

    def __init__(self, tunnel: "Tunnel", name: str, *, masked: bool) -> None:
        self._tunnel = tunnel
        self.name = name
        self.frames = Frames(masked=masked)
        """Of what comes from it."""
        self.transport: asyncio.Transport | None = None
        self.bytes = 0
        """That came from it and went on."""
        self.has_ended = False
        """It sends no more."""
        self.is_lost = False
        self.full_since: float | None = None
        """Since when it takes no more, in seconds."""
        self.is_cut = False
        """What comes from it goes on no more: a close frame of ours went instead, or nothing."""
        self._farewell = b""
        self._is_finished = False
        self.other: Side = self

    # What its connection tells.

    def came(self, data: bytes) -> None:
        """Bytes from it."""
        tunnel = self._tunnel
        tunnel.last_bytes_at = tunnel.now()
        if self.is_cut:
            self.frames.feed(data)
        elif self._farewell:
            size = self.frames.finish(data)
            self._pass(data[:size])
            if self.frames.at_boundary or self.frames.is_lost:
                self._say_farewell()
            self.frames.feed(data[size:])
        else:
            self.frames.feed(data)
            self._pass(data)
        if self.frames.closing:
            tunnel.closing(self)

    def ended(self) -> None:
        """It sends no more."""
        self.has_ended = True
        self._tunnel.side_ended(self)

    def lost(self) -> None:
        """Its connection is gone."""
        self.has_ended = self.is_lost = True
        self._tunnel.side_ended(self)

    def crowded(self, *, paused: bool) -> None:
        """It stops taking bytes, or takes them again: the other is not read from meanwhile."""
        self.full_since = self._tunnel.now() if paused else None
        source = self.other.transport
        if source is None or source.is_closing():
            return
        if paused:
            source.pause_reading()
        else:
            source.resume_reading()

    # What the tunnel does with it.

    def write(self, data: bytes) -> None:
        """Bytes to it; dropped when it takes none any more."""
        if self.transport is not None and not self._is_finished and not self.is_lost:
            self.transport.write(data)

    def cut(self, farewell: bytes) -> None:
        """Let nothing more go on but the frame that is open; then a close frame of ours, to the
        other side."""
        if self.is_cut or self._farewell or self.frames.closing:
            return
        self._farewell = farewell
        if self.frames.at_boundary or self.frames.is_lost:
            self._say_farewell()

    def finish(self) -> None:
        """Nothing more comes for it: what was written still arrives."""
        if self.transport is None or self.is_lost or self.transport.is_closing():
            return
        if self.has_ended or not self.transport.can_write_eof():
            self.transport.close()
        elif not self._is_finished:
            self.transport.write_eof()
        self._is_finished = True

    def close(self) -> None:
        """Both directions at once; what was written still arrives."""
        self._is_finished = True
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Without ceremony."""
        if self.transport is not None and not self.is_lost:
            self.transport.abort()

    def _pass(self, data: bytes) -> None:
        if data:
            self.bytes += len(data)
            self.other.write(data)

    def _say_farewell(self) -> None:
        self.is_cut = True
        if self.frames.at_boundary and not self.frames.closing:
            self.other.write(self._farewell)


class Tunnel:
    """Both sides, and the end."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` in seconds, on a clock that never goes back."""
        self.now = now
        self.app = Side(self, "app", masked=True)
        self.provider = Side(self, "provider", masked=False)
        self.app.other, self.provider.other = self.provider, self.app
        self.opened_at = self.last_bytes_at = now()
        self.ended_at: float | None = None
        """When its end began."""
        self.ended_by = ""
        """Whose doing that was: "app", "provider", or a reason of ours."""
        self.close_code = 0
        """Of our close frame; 0 where there was none."""
        self.over = asyncio.Event()

    @property
    def lasted_s(self) -> float:
        """Until its end began, or until now."""
        return (self.now() if self.ended_at is None else self.ended_at) - self.opened_at

    @property
    def said_farewell(self) -> bool:
        """Whether a side has said that it closes."""
        return self.app.frames.closing or self.provider.frames.closing

    def close(self, code: int, reason: str, ended_by: str) -> None:
        """End it from here: the app is told why, the provider that the app goes away."""
        if self.ended_at is not None:
            return
        self.close_code = code
        self.provider.cut(close_frame(code, reason, masked=False))
        self.app.cut(close_frame(GOING_AWAY, "", masked=True))
        self._end(ended_by)

    def abort(self, ended_by: str) -> None:
        """Break it off at once."""
        self._end(ended_by)
        self.app.abort()
        self.provider.abort()

    def sweep(self, now: float) -> None:
        """Break off what does not come to its end."""
        if self.ended_at is not None and now - self.ended_at >= CLOSE_GRACE_S:
            self.abort(self.ended_by)

    def full_since(self) -> float | None:
        """Since when a side takes no more; None where both do."""
        times = [side.full_since for side in (self.app, self.provider)]
        return min((time for time in times if time is not None), default=None)

    # What the sides tell.

    def closing(self, side: Side) -> None:
        """A side has said that it closes."""
        if side.other.is_cut:  # it answers ours: there is nothing more to wait for
            side.close()
        if side.other.frames.closing:
            self._end(side.other.name)  # who said it first

    def side_ended(self, side: Side) -> None:
        """A side sends no more, or is gone."""
        self._end(side.name)
        side.other.finish()
        if side.other.has_ended:
            side.finish()
        if self.app.is_lost and self.provider.is_lost:
            self.over.set()

    def _end(self, ended_by: str) -> None:
        if self.ended_at is None:
            self.ended_at = self.now()
            self.ended_by = ended_by
