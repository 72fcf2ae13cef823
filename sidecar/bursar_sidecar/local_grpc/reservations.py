"""The registry of reservations that are handed out to apps.

A pure state machine: no event loop, `now` (nanoseconds of `Clock.boot_ns`) is an argument.

    being reserved -> reserved <-> extended -> settled | released
                              \\-> expired -> settled (by evidence that came late)

A holder is the hash of the key that reserved. (holder, request id) names an attempt: the same
content gives the same reservation, another content is refused. What has ended is remembered for a
while, so that a repeated last word is answered as the first one was.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from bursar_sidecar.clock import NANOS_PER_SECOND

REMEMBER_NS: Final = 3_600 * NANOS_PER_SECOND
"""How long what has ended is remembered: longer than anybody retries."""
MOST_REMEMBERED: Final = 10_000
"""Ended reservations that are remembered, the latest."""
MOST_EXPIRED: Final = 2_000
"""Expired ones that are kept for late evidence, the latest: each keeps its terms."""

Held = TypeVar("Held")


class State(StrEnum):
    """How far a reservation is."""

    RESERVING = "reserving"
    RESERVED = "reserved"
    EXTENDED = "extended"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


OPEN: Final = frozenset({State.RESERVED, State.EXTENDED})


class RequestIdReusedError(Exception):
    """The request id named another attempt before."""


class TooManyError(Exception):
    """As many reservations are open as there may be."""


@dataclass(slots=True, eq=False)
class Entry(Generic[Held]):
    """One attempt."""

    holder: bytes
    request_id: str
    content: bytes
    """What was asked for, as a hash."""
    state: State = State.RESERVING
    name: str = ""
    """Its charge id; "" until money is set aside."""
    opened_at: int = 0
    deadline: int = 0
    held: Held | None = None
    """What the caller keeps with it; gone once it can't change any more."""
    word: bytes = b""
    """The last word about it, as a hash."""
    answer: object = None
    """What that word was answered."""
    ended_at: int = 0

    @property
    def is_open(self) -> bool:
        """Whether money is set aside for it."""
        return self.state in OPEN


class Reservations(Generic[Held]):
    """All that are open, and the latest that ended."""

    def __init__(
        self,
        *,
        most_open: int,
        longest_ns: int,
        remember_ns: int = REMEMBER_NS,
        most_remembered: int = MOST_REMEMBERED,
        most_expired: int = MOST_EXPIRED,
    ) -> None:
        """No reservation is open for longer than `longest_ns`, however often it is extended."""
        self._most_open = most_open
        self.longest_ns = longest_ns
        self._remember_ns = remember_ns
        self._most_remembered = most_remembered
        self._most_expired = most_expired
        self._by_request: dict[tuple[bytes, str], Entry[Held]] = {}
        self._by_name: dict[str, Entry[Held]] = {}
        self._open: dict[str, Entry[Held]] = {}
        self._reserving = 0
        self._ended: OrderedDict[str, Entry[Held]] = OrderedDict()
        self._expired: OrderedDict[str, Entry[Held]] = OrderedDict()

    @property
    def open_count(self) -> int:
        """How many have money set aside, or wait for it."""
        return len(self._open) + self._reserving

    @property
    def remembered_count(self) -> int:
        """How many that ended are known still."""
        return len(self._ended) + len(self._expired)

    def begin(
        self, holder: bytes, request_id: str, content: bytes, now: int
    ) -> tuple[Entry[Held], bool]:
        """The attempt of this name, and whether it is new.

        Raises RequestIdReusedError and TooManyError.
        """
        self._forget(now)
        known = self._by_request.get((holder, request_id))
        if known is not None:
            if known.content != content:
                raise RequestIdReusedError
            return known, False
        if self.open_count >= self._most_open:
            raise TooManyError
        entry: Entry[Held] = Entry(holder, request_id, content)
        self._by_request[holder, request_id] = entry
        self._reserving += 1
        return entry, True

    def abandon(self, entry: Entry[Held]) -> None:
        """No money was set aside: the request id may be tried again."""
        del self._by_request[entry.holder, entry.request_id]
        self._reserving -= 1

    def opened(self, entry: Entry[Held], name: str, held: Held, now: int, hold_ns: int) -> None:
        """Money is set aside, for so long."""
        entry.state = State.RESERVED
        entry.name = name
        entry.held = held
        entry.opened_at = now
        entry.deadline = now + min(hold_ns, self.longest_ns)
        self._reserving -= 1
        self._open[name] = self._by_name[name] = entry

    def adopt(self, holder: bytes, request_id: str, name: str, held: Held, now: int) -> Entry[Held]:
        """One of an earlier life, which ended with it: evidence about it came."""
        entry: Entry[Held] = Entry(holder, request_id, b"", State.EXPIRED, name, held=held)
        entry.ended_at = now
        self._by_name[name] = self._expired[name] = entry
        self._by_request[holder, request_id] = entry
        self._trim()
        return entry

    def find(self, holder: bytes, name: str) -> Entry[Held] | None:
        """The reservation of that name, if that holder made it."""
        entry = self._by_name.get(name)
        return entry if entry is not None and entry.holder == holder else None

    def extend(self, entry: Entry[Held], hold_ns: int, now: int) -> None:
        """Move the deadline to so long from now; it only moves away, within the longest there is.

        `hold_ns` of 0 leaves it.
        """
        entry.state = State.EXTENDED
        if hold_ns:
            latest = entry.opened_at + self.longest_ns
            entry.deadline = max(entry.deadline, min(now + hold_ns, latest))

    def end(self, entry: Entry[Held], state: State, word: bytes, answer: object, now: int) -> None:
        """The last word about it, or its deadline. One that expired may end once more."""
        entry.state = state
        entry.word = word
        entry.answer = answer
        entry.ended_at = now
        self._open.pop(entry.name, None)
        self._expired.pop(entry.name, None)
        if state is State.EXPIRED:
            self._expired[entry.name] = entry
        else:
            entry.held = None
            self._ended[entry.name] = entry
        self._trim()

    def due(self, now: int) -> list[Entry[Held]]:
        """Those whose deadline has passed, the earliest first."""
        found = [entry for entry in self._open.values() if entry.deadline <= now]
        return sorted(found, key=lambda entry: entry.deadline)

    def open_entries(self) -> list[Entry[Held]]:
        """All that have money set aside."""
        return list(self._open.values())

    def next_deadline(self) -> int | None:
        """The earliest one; None when nothing is open."""
        return min((entry.deadline for entry in self._open.values()), default=None)

    def _forget(self, now: int) -> None:
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if now - oldest.ended_at < self._remember_ns:
                return
            self._drop(self._ended)

    def _trim(self) -> None:
        while len(self._ended) > self._most_remembered:
            self._drop(self._ended)
        while len(self._expired) > self._most_expired:
            self._drop(self._expired)

    def _drop(self, line: "OrderedDict[str, Entry[Held]]") -> None:
        name, entry = line.popitem(last=False)
        del self._by_name[name]
        self._by_request.pop((entry.holder, entry.request_id), None)
