"""Mutants of what a sidecar holds, admits and says."""

from typing import Any

from msgspec import structs

from bursar_sidecar import (
    allowances,
    cashier,
    identity,
    outbox,
    overlay,
    pools,
)
from bursar_sidecar import roster as roster_module
from bursar_sidecar import session as session_module
from bursar_sidecar import settlements as settlements_module
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def estimate_below_the_worst_case() -> list[Replacement]:
    reserve, wait = allowances.Book.reserve, allowances.Book.wait
    return [
        (allowances.Book, "reserve", lambda self, plan, w, now: reserve(self, plan, w // 2, now)),
        (allowances.Book, "wait", lambda self, plan, w, *t: wait(self, plan, w // 2, *t)),
    ]


@mutant
def grants_as_deltas() -> list[Replacement]:
    original = pools.Leg.hear

    def hear(self: pools.Leg, word: pools.AllowanceWord, **times: int) -> pools.Pool:
        known = self.pools.get(word.window_id)
        before = known.granted_nanos if known is not None else 0
        pool = original(self, word, **times)
        pool.granted_nanos = before + word.granted_nanos
        return pool

    return [(pools.Leg, "hear", hear)]


@mutant
def return_not_deducted() -> list[Replacement]:
    original = pools.Pool.give_back

    def give_back(self: pools.Pool, at_most_nanos: int | None = None) -> int:
        amount = original(self, at_most_nanos)
        self.granted_nanos += amount
        return amount

    return [(pools.Pool, "give_back", give_back)]


@mutant
def validity_never_lapses() -> list[Replacement]:
    def fault(self: roster_module.Roster, _now: int, _stream_fault: str) -> str:
        organization = self._book.organization
        known = organization is not None and organization.policy_known
        return "" if known else "not known yet"

    return [(roster_module.Roster, "fault", fault)]


@mutant
def a_revocation_is_not_heard() -> list[Replacement]:
    original = identity.Identity._learn

    def learn(self: identity.Identity, key: Any, *rest: Any) -> None:
        if not key.refusal or key.key_hash not in self._keys:
            original(self, key, *rest)

    return [(identity.Identity, "_learn", learn)]


@mutant
def platform_budgets_are_passed_by() -> list[Replacement]:
    original = cashier.Cashier._plan

    def plan(self: cashier.Cashier, *question: Any) -> allowances.Plan:
        return allowances.Plan(original(self, *question).organization)

    return [(cashier.Cashier, "_plan", plan)]


@mutant
def unapplied_charges_are_not_said_again() -> list[Replacement]:
    original = outbox.Outbox.resume

    def resume(self: outbox.Outbox, last_seq: int) -> Any:
        applied = self.applied(last_seq)
        for frame in self.sent:
            frame.charges.clear()
        again = original(self, last_seq)
        applied.charges += again.charges
        return applied

    return [(outbox.Outbox, "resume", resume)]


@mutant
def totals_begin_anew() -> list[Replacement]:
    original = pools.Leg.forget

    def forget(self: pools.Leg, window_id: int) -> None:
        original(self, window_id)
        self._past.clear()

    return [(pools.Leg, "forget", forget)]


@mutant
def an_undone_number_is_skipped() -> list[Replacement]:
    original = allowances.Book.undo

    def undo(self: allowances.Book, reservation: allowances.Reservation) -> None:
        original(self, reservation)
        for part in reservation.parts:
            part.leg.last_n += 1

    return [(allowances.Book, "undo", undo)]


@mutant
def the_line_moves_after_the_lapse() -> list[Replacement]:
    def pump(self: session_module.Session) -> None:
        if self.listener is not None:
            for waiter in self._book.admit(self._clock.boot_ns()):
                self.listener.admitted(waiter)

    return [(session_module.Session, "pump", pump)]


@mutant
def a_window_ends_a_little_late() -> list[Replacement]:
    original = pools.Pool.place

    def place(self: pools.Pool, *, ends_in_ms: int, **times: int) -> None:
        original(self, ends_in_ms=ends_in_ms + 1 if ends_in_ms else 0, **times)

    return [(pools.Pool, "place", place)]


@mutant
def what_has_just_come_is_idle() -> list[Replacement]:
    def is_idle_in_tail(self: pools.Pool, now: int) -> bool:
        return self.tail and self.free_nanos > 0 and now - self.last_used_at >= self.hold_idle_ns

    return [(pools.Pool, "is_idle_in_tail", is_idle_in_tail)]


@mutant
def a_budget_that_is_back_stays_closed() -> list[Replacement]:
    def reopen_budget(self: pools.Leg, budget_id: int) -> None:
        for pool in self.by_budget.get(budget_id, ()):
            pool.closing = False

    return [(pools.Leg, "reopen_budget", reopen_budget)]


@mutant
def a_changed_price_is_not_heard() -> list[Replacement]:
    original = overlay.Overlay.hear

    def hear(self: overlay.Overlay, part: Any) -> None:
        if not self.version:
            original(self, part)

    return [(overlay.Overlay, "hear", hear)]


@mutant
def a_charge_forgets_its_price() -> list[Replacement]:
    original = settlements_module.settled

    def settled(opened: Any, outcome: Any) -> Any:
        return original(structs.replace(opened, price_version=""), outcome)

    return [(settlements_module, "settled", settled)]
