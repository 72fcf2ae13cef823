"""What a service tells the rest of the process after it committed a change.

It owns the announcement, not the change: a listener reads the rows again. One process hears only
its own announcements; this is the seam where those of other processes come in.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec


class ChangeKind(StrEnum):
    """Which noun changed."""

    ORGANIZATION = "organization"
    TEAM = "team"
    PROJECT = "project"
    USER = "user"
    KEY = "key"
    BUDGET = "budget"
    PRICES = "prices"
    SIDECAR = "sidecar"


class Change(msgspec.Struct, frozen=True):
    """One committed change of one thing."""

    organization_id: int
    kind: ChangeKind
    id: int
    secret_hashes: tuple[bytes, ...] = ()
    """For keys: the hashes that mean something else now (new, rotated away, revoked)."""


class ChangeFeed:
    """Tells every listener of every change, in order, in the publisher's own turn of the loop.

    Listeners must be quick and must not raise: they note what to read again.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[Change], None]] = []

    def listen(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` for each change from now on."""
        self._listeners.append(listener)

    def publish(self, change: Change) -> None:
        """Say that `change` is committed."""
        for listener in self._listeners:
            listener(change)
