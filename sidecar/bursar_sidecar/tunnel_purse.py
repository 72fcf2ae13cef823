"""What pays for an open tunnel: a reservation that grows a minute ahead, while the key is good.

Nothing here waits on the path of a byte: a task asks, and what came of it is looked at by the
sweep. A journal that can't be written, a session that is closed and a control plane that is silent
all look like money that is not there.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from bursar_sidecar.attempt import Attempt
from bursar_sidecar.desk import Desk, Refusal
from bursar_sidecar.tunnel_minutes import Minutes

log = structlog.get_logger("bursar.tunnels")

KEY_CHECK_S: Final = 5.0
"""How often it is looked whether the key may still be used."""
_BAD_KEYS: Final = frozenset({"key_revoked", "key_disabled", "key_expired", "key_unknown"})


class Purse:
    """Of one tunnel."""

    def __init__(self, desk: Desk, attempt: Attempt, api_key: str, minutes: Minutes) -> None:
        self._desk = desk
        self._attempt = attempt
        self._api_key = api_key
        self.minutes = minutes
        self._key_at_s = KEY_CHECK_S
        self._task: asyncio.Task[None] | None = None
        self._short: Refusal | None = None
        self._end: Refusal | None = None

    def look(self, lasted_s: float) -> Refusal | None:
        """Ask for what is needed next; why the tunnel is to be closed now, or None."""
        if self._end is not None:
            return self._end
        if lasted_s >= self.minutes.close_at:
            return self._short or Refusal("no_allowance", "No answer came in time.")
        if self._task is None or self._task.done():
            if lasted_s >= self.minutes.ask_at:
                self._start(self._ask(lasted_s))
            elif lasted_s >= self._key_at_s:
                self._key_at_s = lasted_s + KEY_CHECK_S
                self._start(self._check_key())
        return None

    async def close(self) -> None:
        """The tunnel is over."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watched(coroutine), name="purse")

    async def _watched(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception:
            # A fault of ours: what nobody pays for is closed.
            log.exception("purse failed", charge_id=self._attempt.charge_id)
            self._end = Refusal("internal_error", "The sidecar failed.")

    async def _ask(self, lasted_s: float) -> None:
        try:
            await self._attempt.extend(self._desk, self.minutes.next_nanos)
        except Refusal as refusal:
            self._short = refusal
            self.minutes.refused(lasted_s)
        else:
            self._short = None
            self.minutes.granted()

    async def _check_key(self) -> None:
        try:
            await self._desk.identify(self._api_key)
        except Refusal as refusal:
            if refusal.reason in _BAD_KEYS:
                self._end = refusal
