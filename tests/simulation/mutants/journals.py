"""Mutants of what a journal keeps, and what is believed of it."""

from typing import Any

from msgspec import structs

from bursar_sidecar import (
    journal,
    journal_recovery,
)
from bursar_sidecar import settlements as settlements_module
from tests.simulation.mutants.late_writing import written_with_the_settlement
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def a_cut_journal_is_believed() -> list[Replacement]:
    original = journal_recovery.Recovery.sessions

    def sessions(self: journal_recovery.Recovery) -> Any:
        found = original(self)
        for session in found:
            session.journal = journal_recovery.COMPLETE
        return found

    return [(journal_recovery.Recovery, "sessions", sessions)]


@mutant
def open_calls_are_not_recovered() -> list[Replacement]:
    original = journal_recovery.Recovery.sessions

    def sessions(self: journal_recovery.Recovery) -> Any:
        found = original(self)
        for session in found:
            session.last_n -= len(session.open)
            session.open.clear()
        return found

    return [(journal_recovery.Recovery, "sessions", sessions)]


@mutant
def a_hang_up_is_free() -> list[Replacement]:
    original = settlements_module.settled

    def settled(opened: Any, outcome: Any) -> Any:
        cost = 0 if outcome.kind == "aborted" else outcome.cost_nanos
        return original(opened, structs.replace(outcome, cost_nanos=cost))

    return [(settlements_module, "settled", settled)]


@mutant
def journal_after_dispatch() -> list[Replacement]:
    return written_with_the_settlement("opened")


@mutant
def a_copied_journal_is_believed() -> list[Replacement]:
    return [(journal, "place_of", lambda boot_id, _lock: boot_id)]
