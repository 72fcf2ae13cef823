"""What must hold at the end of a history, when everything was healed."""

from bursar_server.ledger.entries import Kind
from tests.simulation.database import Broken, Tables
from tests.simulation.oracle import Oracle, nanos_of


def settled_at_last(oracle: Oracle) -> None:
    """Everything was healed and every sidecar ended orderly: nothing is lost or stranded."""
    if oracle.forgot:
        oracle.unproven |= oracle.unkept
    tables = oracle.database.tables
    for (epoch, n), attempt in oracle.attempts.items():
        if not attempt.dispatched or epoch in oracle.unproven:
            continue
        amount, k = 0, 0
        while (entry := tables.entries.get((epoch, n, k))) is not None:
            amount += entry.amount
            k += 1
        if not k:
            raise Broken(f"5: charge {epoch}-{n} was dispatched and never posted")
        exact = attempt.told if attempt.told is not None else attempt.ceiling
        choice = {exact, attempt.ceiling} if attempt.unsure else {exact}
        if attempt.growing_to is not None:
            choice.add(attempt.growing_to)
        if amount not in choice:
            raise Broken(f"5: charge {epoch}-{n} is posted at {amount}, expected {choice}")
    used = {epoch for epoch, _window in tables.allowances}
    for session in tables.sessions.values():
        # One that was opened and never heard of by its sidecar holds nothing.
        if session.epoch not in used or session.epoch in oracle.unproven:
            continue
        if session.state != "closed":
            raise Broken(f"stranded: session {session.epoch} is {session.state} for ever")
    for (epoch, window_id), lent in tables.allowances.items():
        if epoch in oracle.unproven:
            continue
        if lent.held:
            raise Broken(f"stranded: session {epoch} holds {lent.held} of window {window_id}")
        if lent.lost:
            raise Broken(f"stranded: {lent.lost} of {epoch} is lost, though all is accounted")
    now_ns = oracle.time.now_ns
    for window_id, window in tables.windows.items():
        end_at = window.row.end_at
        told = window.version == tables.budgets[window.row.budget_id].version
        if not told and (end_at is None or nanos_of(end_at) > now_ns):
            raise Broken(f"stranded: window {window_id} never heard of its budget's limit")
    if oracle.provisional != _provisional_open(tables):
        raise Broken(f"6: {oracle.provisional} stands on the provisional account")


def nothing_is_held_for_ever(oracle: Oracle) -> None:
    """Nobody was heard of for longer than the silence and the horizon."""
    for window_id, window in oracle.database.tables.windows.items():
        if window.outstanding or window.in_doubt:
            raise Broken(
                f"stranded: {window.outstanding} + {window.in_doubt} of window {window_id} are"
                " out for ever"
            )


def _provisional_open(tables: Tables) -> int:
    finals = {(e.epoch, e.n) for e in tables.entries.values() if e.kind is not Kind.PROVISIONAL}
    return sum(e.amount for e in tables.entries.values() if (e.epoch, e.n) not in finals)
