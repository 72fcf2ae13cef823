"""The flow of one progressive answer: its reservation grows ahead of it, or it is cut.

`ask` is for the path of every piece and waits for nothing; `covers` is for what may not flow yet.

    room left --ask: free money is here--> grown (at once)
              --ask: it has to be asked for--> flowing on, a task asks (halves while it is refused)
    no room   --covers: the rest free here, a count that says it is less, the task's answer within
                HOLD_S--> flowing on
              --else--> to be cut

Failure cases: a journal that can't be written, a session that is closed, a budget that is gone and
a control plane that is silent all look like money that is not there; the task ends with the call.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from msgspec import structs

from bursar.usage import Usage
from bursar_sidecar.desk import Clock, Desk, Refusal, Reservation
from bursar_sidecar.growth import NEVER, Growth
from bursar_sidecar.progressive import covered_by, nanos_of
from bursar_sidecar.terms import Bounds

log = structlog.get_logger("bursar.flow")

HOLD_S: Final = 0.5
"""How long what is not covered yet may be held back, for a count or an answer of the control plane,
before the stream is cut. What the provider produces meanwhile is not seen, and must fit into the
slack: so it is as long for all waits together, until all that came meanwhile was seen."""
COUNT_AGAIN: Final = 1.25
"""A stream is counted again only when it is longer by this factor."""

COUNT_WAITS_S: Final = 2.0
"""How long a count may take while the stream flows on: the counting process may have to start."""

Count = Callable[[float], Awaitable[tuple[int, int, int] | None]]
"""Counts, within so many seconds, what was asked and what was produced until now, in LLM tokens,
both upper bounds; and how many bytes that were. None where that can't be known in time."""


InputTold = Callable[[], Usage | None]
"""What the provider counted of the input, if it tells that while it streams."""


class Flow:
    """The growth of one open call."""

    __slots__ = (
        "_bounds",
        "_clock",
        "_closed",
        "_count",
        "_counted_bytes",
        "_counting",
        "_desk",
        "_hold_left_s",
        "_limit",
        "_produced",
        "_reservation",
        "_since",
        "_task",
        "_told",
        "growth",
    )

    def __init__(
        self,
        desk: Desk,
        clock: Clock,
        reservation: Reservation,
        growth: Growth,
        bounds: Bounds,
        limit: int,
    ) -> None:
        """`limit` is the worst case, in LLM tokens of output."""
        self._desk = desk
        self._clock = clock
        self._reservation = reservation
        self._bounds = bounds
        self._limit = limit
        self._since = clock.monotonic()
        self._produced = 0
        self._counted_bytes = 0
        self._hold_left_s = HOLD_S
        self._count: Count | None = None
        self._counting: asyncio.Task[None] | None = None
        self._told: InputTold | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.growth = growth
        """Its `ask_at` and `cut_at` are what the path of every piece compares with."""

    def begin(self, count: Count | None = None, told: InputTold | None = None) -> None:
        """The answer begins now. `count` counts it, where that is possible; `told` says what the
        provider told of its input."""
        self._since = self._clock.monotonic()
        self._count = count
        self._told = told

    def ask(self, produced_bytes: int) -> None:
        """It is time to grow: from what is free here, or else by asking."""
        self._produced = produced_bytes
        elapsed_s = self._elapsed()
        growth = self.growth
        if self._asks() or self._closed or not growth.may_ask(elapsed_s):
            return
        target = growth.target(produced_bytes, elapsed_s)
        wanted = nanos_of(self._bounds, target)
        if self._desk.extend_here(self._reservation, wanted, wanted):
            growth.grew(target, produced_bytes, elapsed_s)
        else:
            self._task = asyncio.get_running_loop().create_task(self._asking(), name="growth")

    async def covers(self, produced_bytes: int) -> bool:
        """Whether so much may flow after all; False: the stream is to be cut."""
        self._produced = produced_bytes
        growth, began = self.growth, self._clock.monotonic()
        self._take_here()
        if produced_bytes > growth.cut_at and self._told is not None:
            told, self._told = self._told(), None
            self._know_input(None if told is None else told.input_llm_tokens)
        if produced_bytes > growth.cut_at and self._hold_left_s > 0:
            self._begin_count()
            self.ask(produced_bytes)
        while produced_bytes > growth.cut_at:
            left_s = self._hold_left_s - (self._clock.monotonic() - began)
            tasks = self._running()
            if left_s <= 0 or not tasks:
                await self._stop_asking()
                self._take_here()
                break
            await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        self._hold_left_s -= self._clock.monotonic() - began
        return produced_bytes <= growth.cut_at

    async def wait_for(self, waiting: Awaitable[None]) -> bool:
        """Wait while nothing more is seen; False where that takes too long."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._hold_left_s)):
                await waiting
        except TimeoutError:
            return False
        finally:
            self._hold_left_s -= self._clock.monotonic() - began
        return True

    def caught_up(self) -> None:
        """All that came is seen."""
        self._hold_left_s = HOLD_S

    async def whole(self) -> bool:
        """Whether the worst case could be reserved: for answers that can't be watched any more."""
        if not self.growth.is_whole:
            await self._stop_asking()
            try:
                async with asyncio.timeout(HOLD_S / 2):
                    worst = nanos_of(self._bounds, self._limit)
                    await self._desk.extend(self._reservation, worst)
            except (Refusal, TimeoutError):
                return False
            self._grew()
        return self.growth.cut_at == NEVER

    def close(self) -> None:
        """The call ends: nothing is asked for any more."""
        self._closed = True
        tasks = [task for task in (self._task, self._counting) if task is not None]
        self._task = self._counting = None
        for task in tasks:
            if not task.done():
                task.cancel()
            elif not task.cancelled() and (error := task.exception()) is not None:
                log.error("growth_failed", charge_id=self._reservation.charge_id, exc_info=error)

    async def _asking(self) -> None:
        """Ask the control plane for more, and for less of it while that is refused."""
        growth = self.growth
        while growth.may_ask(self._elapsed()):
            target = growth.target(self._produced, self._elapsed())
            try:
                await self._desk.extend(self._reservation, nanos_of(self._bounds, target))
            except Refusal:
                growth.refused(self._produced, self._elapsed())
                self._begin_count()
            else:
                growth.grew(target, self._produced, self._elapsed())
                return

    def _asks(self) -> bool:
        """Whether a task asks for more now. Raises what went wrong in one that is over."""
        if self._task is None:
            return False
        if not self._task.done():
            return True
        task, self._task = self._task, None
        task.result()
        return False

    def _take_here(self) -> None:
        """Grow as far as what is free here goes, if that lets what is seen flow."""
        if self._produced <= self.growth.cut_at or self._asks() or self._closed:
            return
        elapsed_s = self._elapsed()
        growth = self.growth
        least = nanos_of(self._bounds, growth.least(self._produced, elapsed_s))
        wanted = nanos_of(self._bounds, growth.target(self._produced, elapsed_s))
        if self._desk.extend_here(self._reservation, wanted, least):
            self._grew()

    def _grew(self) -> None:
        """What is covered now follows from what is reserved now."""
        covered = covered_by(self._bounds, self._reservation.ceiling_nanos, self._limit)
        self.growth.grew(covered, self._produced, self._elapsed())

    async def _stop_asking(self) -> None:
        if self._asks() and self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait((task,))
            self._grew()  # its money may have come in the same moment

    def _running(self) -> list[asyncio.Task[None]]:
        """What may let more flow. Raises what went wrong in what is over."""
        self._asks()
        if self._counting is not None and self._counting.done():
            task, self._counting = self._counting, None
            task.result()
        return [task for task in (self._task, self._counting) if task is not None]

    def _begin_count(self) -> None:
        """What was asked and produced may be known better than by its bytes."""
        self._running()
        if self._count is None or self._closed or self._counting is not None:
            return
        if self._produced >= self._counted_bytes * COUNT_AGAIN:
            self._counting = asyncio.get_running_loop().create_task(self._recount(self._count))

    async def _recount(self, count: Count) -> None:
        counted = await count(COUNT_WAITS_S)
        if counted is None:
            return
        asked, produced, self._counted_bytes = counted
        self._know_input(asked)
        self.growth.counted(self._counted_bytes, produced, self._elapsed())

    def _know_input(self, llm_tokens: int | None) -> None:
        """The input is so much at most: what is reserved covers more output."""
        if llm_tokens is not None and llm_tokens < self._bounds.input_llm_tokens:
            self._bounds = structs.replace(self._bounds, input_llm_tokens=llm_tokens)
            self._grew()

    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._since
