"""Emptying the sidecar because the control plane asks for it, while the process stays.

serving --asked--> draining --all settled and given back--> drained
   ^                   |                                       |
   +-------------- let in again: a new life of the sidecar ----+
"""

import asyncio
from typing import Final

import structlog

from bursar_sidecar.cashier import Cashier
from bursar_sidecar.session import Session

log = structlog.get_logger("bursar.draining")

CLOSE_TIMEOUT_S: Final = 5.0
"""For the acknowledgement of the last charges; what is missing then is sent on."""


class Draining:
    """Does what the control plane asks: `session` tells it of every wish.

    Calls in flight may take as long as any call: `longest_call_s`, in seconds.
    """

    def __init__(self, cashier: Cashier, session: Session, *, longest_call_s: float) -> None:
        self._cashier = cashier
        self.longest_call_s = longest_call_s
        self._session = session
        self._task: asyncio.Task[None] | None = None
        session.on_drain = self.asked

    def asked(self, wanted: bool) -> None:
        """The control plane wants the sidecar emptied, or no longer; repeats change nothing."""
        if wanted and self._task is None:
            log.info("drain_asked")
            self._task = asyncio.create_task(self._run(), name="drain")
        elif not wanted and self._task is not None:
            log.info("drain_over")
            self._task.cancel()
            self._task = None
            self._cashier.resume()
            # The sessions are closed, or about to be: nothing is lent to them any more.
            self._session.renew()

    async def stop(self) -> None:
        """The process ends: its own drain does the rest."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        whole = await self._cashier.drain(self.longest_call_s, CLOSE_TIMEOUT_S)
        log.info("drained", all_acknowledged=whole)
