"""Mutants of what heals a lost tail."""

from datetime import timedelta
from typing import Any

from bursar_server.allowances import claims, forgotten, healing, rules, step
from bursar_sidecar import roster as roster_module
from tests.simulation.forgotten import Restoring
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def what_was_acknowledged_is_not_said_again() -> list[Replacement]:
    return [(roster_module.Roster, "_say_again", lambda *_ignored: None)]


@mutant
def a_lost_tail_is_not_noticed() -> list[Replacement]:
    async def count(*_ignored: Any) -> None:
        """Whatever the database says."""

    async def note(*_ignored: Any) -> bool:
        return False

    return [(healing.Commits, "count", count), (healing, "note", note)]


@mutant
def a_frozen_window_lends() -> list[Replacement]:
    def available(self: rules.WindowBalance) -> int:
        return self.limit - self.settled - self.outstanding - self.in_doubt

    original = claims.restore

    def restore(books: rules.Books, claim: claims.Claim) -> int:
        forgotten = original(books, claim)
        books.windows[claim.window_id].frozen = False
        return forgotten

    original_lend = rules.lend

    def lend(books: rules.Books, *given: Any) -> rules.Decisions:
        for window in books.windows.values():
            window.frozen = False
        return original_lend(books, *given)

    return [
        (rules.WindowBalance, "available", property(available)),
        (claims, "restore", restore),
        (rules, "lend", lend),
    ]


@mutant
def a_proven_grant_is_not_believed() -> list[Replacement]:
    return [(step, "_heal", lambda *_ignored: None)]


@mutant
def a_forgotten_session_begins_anew() -> list[Replacement]:
    async def restore_session(*_ignored: Any) -> bool:
        return False

    return [(Restoring, "restore_session", restore_session)]


@mutant
def every_clock_is_right() -> list[Replacement]:
    return [(forgotten, "MOST_WRONG", timedelta(0))]
