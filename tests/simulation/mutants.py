"""Faults put into the cores on purpose, one at a time: the simulation must catch each.

A mutant is a list of attributes that are replaced while it lives. Nothing of this is in the
programs; a mutant that no history notices means that the invariants or the histories are too weak.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from msgspec import structs

from bursar.v1 import allowances_pb2
from bursar_server.allowances import messages, rules, step, tick, writer
from bursar_server.ledger import entries
from bursar_sidecar import (
    allowances,
    cashier,
    identity,
    journal,
    journal_recovery,
    outbox,
    pools,
    prior,
)
from bursar_sidecar import roster as roster_module
from bursar_sidecar import session as session_module
from bursar_sidecar import settlements as settlements_module
from tests.simulation.database import Store, Tables

Replacement = tuple[Any, str, Any]
MUTANTS: dict[str, Callable[[], list[Replacement]]] = {}
"""Name -> what it replaces; asked for anew each time, so that nothing is carried over."""
OLDER_BUILD: Replacement = (prior, "TRUNCATED", "never")
"""A sidecar that posts the open calls of a cut journal provisionally, as older builds do."""


def mutant(make: Callable[[], list[Replacement]]) -> Callable[[], list[Replacement]]:
    """Register one under its name."""
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def alive(name: str) -> Iterator[None]:
    """The mutant lives inside."""
    replacements = MUTANTS[name]()
    before = [(owner, attribute, owner.__dict__[attribute]) for owner, attribute, _ in replacements]
    for owner, attribute, value in replacements:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)


def _free(tables: Tables, epochs: Collection[int]) -> None:
    """Take all that sessions hold as returned."""
    for (epoch, window_id), (granted, returned, settled, doubt) in list(tables.allowances.items()):
        held = max(0, granted - returned - settled)
        if epoch in epochs and held:
            window = tables.windows[window_id]
            tables.allowances[epoch, window_id] = (granted, returned + held, settled, 0)
            tables.windows[window_id] = replace(
                window,
                outstanding=window.outstanding - held + doubt,
                in_doubt=window.in_doubt - doubt,
            )


@mutant
def release_on_expiry() -> list[Replacement]:
    async def check_shard(_self: Store, tables: Tables, _shard_id: int) -> int:
        latest = max((s.seen_at for s in tables.sessions.values()), default=None)
        if latest is not None:
            expired = {
                s.epoch
                for s in tables.sessions.values()
                if s.seen_at < latest - timedelta(seconds=30)
            }
            _free(tables, expired)
        return tables.owner_epoch

    return [(Store, "check_shard", check_shard)]


@mutant
def disk_loss_is_a_return() -> list[Replacement]:
    original = Store.open_session

    async def open_session(self: Store, tables: Tables, *rest: Any) -> Any:
        known = set(tables.sessions)
        opened = await original(self, tables, *rest)
        if not opened.resumed:
            sidecar_id = tables.sessions[opened.session_epoch].sidecar_id
            _free(tables, {e for e in known if tables.sessions[e].sidecar_id == sidecar_id})
        return opened

    return [(Store, "open_session", open_session)]


@mutant
def check_then_act() -> list[Replacement]:
    seen: dict[int, tuple[rules.WindowBalance, int]] = {}

    def available(self: rules.WindowBalance) -> int:
        known = seen.get(id(self))
        if known is None or known[0] is not self:
            now = self.limit - self.settled - self.outstanding - self.in_doubt
            known = seen[id(self)] = (self, now)
        return known[1]

    return [(rules.WindowBalance, "available", property(available))]


@mutant
def estimate_below_the_worst_case() -> list[Replacement]:
    reserve, wait = allowances.Book.reserve, allowances.Book.wait
    return [
        (allowances.Book, "reserve", lambda self, plan, w, now: reserve(self, plan, w // 2, now)),
        (allowances.Book, "wait", lambda self, plan, w, *t: wait(self, plan, w // 2, *t)),
    ]


@mutant
def no_deduplication() -> list[Replacement]:
    original = entries.plan
    return [(entries, "plan", lambda settlements, _so_far: original(settlements, {}))]


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
def returns_as_deltas() -> list[Replacement]:
    original = rules.Books.give_back

    def give_back(self: rules.Books, epoch: int, window_id: int, returned: int) -> int:
        totals = self.of(epoch, window_id)
        return original(self, epoch, window_id, min(totals.granted, totals.returned + returned))

    return [(rules.Books, "give_back", give_back)]


@mutant
def return_not_deducted() -> list[Replacement]:
    original = pools.Pool.give_back

    def give_back(self: pools.Pool, at_most_nanos: int | None = None) -> int:
        amount = original(self, at_most_nanos)
        self.granted_nanos += amount
        return amount

    return [(pools.Pool, "give_back", give_back)]


@mutant
def grant_before_commit() -> list[Replacement]:
    original = tick.Tick.apply

    async def apply(self: tick.Tick, connection: Any, batch: Any, now: Any, *rest: Any, **k: Any):  # type: ignore[no-untyped-def]
        outcome = await original(self, connection, batch, now, *rest, **k)
        for session, frame in messages.of_outcome(
            self._hub, batch, outcome, [], now, self._settings
        ):
            session.send(frame)
        return outcome

    return [(tick.Tick, "apply", apply)]


@mutant
def acknowledge_before_commit() -> list[Replacement]:
    original = writer.Writer.submit

    async def submit(self: writer.Writer, session: Any, frame: Any) -> None:
        await original(self, session, frame)
        session.applied_seq = frame.seq
        session.send(allowances_pb2.ControlFrame())

    return [(writer.Writer, "submit", submit)]


@mutant
def close_before_settlements() -> list[Replacement]:
    original = step._close

    def close(state: step.Slice, given: step.Input, output: step.Output) -> None:
        original(state, given, output)
        for row in state.sessions.values():
            if row.last_n is not None and row.state == "fenced":
                state.books.close(row.session_epoch)

    return [(step, "_close", close)]


@mutant
def a_cut_journal_frees() -> list[Replacement]:
    return [(rules.Books, "doubt", rules.Books.close)]


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


def _postings(change: Callable[[Tables, entries.Settlement], entries.Settlement | None]) -> Any:
    original = tick.Tick._postings

    async def postings(self: tick.Tick, connection: Any, batch: tick.Batch, *rest: Any) -> Any:
        frames = []
        for session, frame in batch.frames:
            changed = [change(connection, settlement) for settlement in frame.settlements]
            kept = tuple(settlement for settlement in changed if settlement is not None)
            frames.append((session, structs.replace(frame, settlements=kept)))
        return await original(self, connection, structs.replace(batch, frames=frames), *rest)

    return [(tick.Tick, "_postings", postings)]


@mutant
def fencing_drops_settlements() -> list[Replacement]:
    def change(tables: Tables, settlement: entries.Settlement) -> entries.Settlement | None:
        return settlement if tables.sessions[settlement.session_epoch].state == "open" else None

    replaced: list[Replacement] = _postings(change)
    return replaced


@mutant
def selectors_run_again_over_history() -> list[Replacement]:
    def change(tables: Tables, settlement: entries.Settlement) -> entries.Settlement | None:
        budgets = {tables.windows[w].row.budget_id for w in settlement.budget_window_ids}
        current: dict[int, int] = {}
        for id, window in sorted(tables.windows.items()):
            if window.row.budget_id in budgets:
                current[window.row.budget_id] = id
        return structs.replace(settlement, budget_window_ids=tuple(sorted(current.values())))

    replaced: list[Replacement] = _postings(change)
    return replaced


@mutant
def overrun_is_lent_again() -> list[Replacement]:
    def available(self: rules.WindowBalance) -> int:
        return self.limit - self.settled - self.outstanding - self.in_doubt + self.overrun

    return [(rules.WindowBalance, "available", property(available))]


@mutant
def a_final_is_dropped_after_its_provisional() -> list[Replacement]:
    original = entries.plan

    def plan(
        settlements: Sequence[entries.Settlement],
        so_far: Mapping[tuple[int, int], entries.PostedSoFar],
    ) -> list[entries.Posting]:
        fresh = [s for s in settlements if (s.session_epoch, s.n) not in so_far]
        return original(fresh, so_far)

    return [(entries, "plan", plan), OLDER_BUILD]


@mutant
def journal_after_dispatch() -> list[Replacement]:
    opened, settled = journal.Journal.opened, journal.Journal.settled
    late: dict[int, tuple[journal.Journal, list[Any]]] = {}

    def write_later(self: journal.Journal, record: Any) -> None:
        if self.fault:
            raise journal.JournalError(self.fault)
        late.setdefault(id(self), (self, []))[1].append(record)

    def settle(self: journal.Journal, rows: Any) -> None:
        _, records = late.pop(id(self), (self, []))
        for record in records:
            with contextlib.suppress(journal.JournalError):
                opened(self, record)
        settled(self, rows)

    return [(journal.Journal, "opened", write_later), (journal.Journal, "settled", settle)]


@mutant
def a_deposed_owner_writes_on() -> list[Replacement]:
    async def check_shard(_self: Store, tables: Tables, _shard_id: int) -> int:
        return 1

    original = tick.Tick.apply

    async def apply(self: tick.Tick, *rest: Any, **named: Any) -> Any:
        self.owner_epoch = 1
        return await original(self, *rest, **named)

    return [(Store, "check_shard", check_shard), (tick.Tick, "apply", apply)]


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
def a_cut_limit_is_not_applied() -> list[Replacement]:
    async def limits(*_ignored: Any) -> dict[int, tuple[int, int]]:
        return {}

    return [(tick.Tick, "_limits", limits)]


@mutant
def an_undone_number_is_skipped() -> list[Replacement]:
    original = allowances.Book.undo

    def undo(self: allowances.Book, reservation: allowances.Reservation) -> None:
        original(self, reservation)
        for part in reservation.parts:
            part.leg.last_n += 1

    return [(allowances.Book, "undo", undo)]


@mutant
def a_copied_journal_is_believed() -> list[Replacement]:
    return [(journal, "place_of", lambda boot_id, _lock: boot_id)]


@mutant
def the_line_moves_after_the_lapse() -> list[Replacement]:
    def pump(self: session_module.Session) -> None:
        if self.listener is not None:
            for waiter in self._book.admit(self._clock.boot_ns()):
                self.listener.admitted(waiter)

    return [(session_module.Session, "pump", pump)]
