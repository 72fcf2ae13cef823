"""What the mutants that write their journal too late have in common."""

import contextlib
from typing import Any

from bursar_sidecar import journal
from tests.simulation.mutants.registry import Replacement


def written_with_the_settlement(method: str) -> list[Replacement]:
    """`method` of the journal (that takes one record) writes no sooner than what settles it."""
    write, settled = getattr(journal.Journal, method), journal.Journal.settled
    late: dict[int, tuple[journal.Journal, list[Any]]] = {}

    def write_later(self: journal.Journal, record: Any) -> None:
        if self.fault:
            raise journal.JournalError(self.fault)
        late.setdefault(id(self), (self, []))[1].append(record)

    def settle(self: journal.Journal, rows: Any) -> None:
        _, records = late.pop(id(self), (self, []))
        for record in records:
            with contextlib.suppress(journal.JournalError):
                write(self, record)
        settled(self, rows)

    return [(journal.Journal, method, write_later), (journal.Journal, "settled", settle)]
