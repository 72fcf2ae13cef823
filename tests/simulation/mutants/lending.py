"""Mutants of what the control plane lends, takes back and tells."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from msgspec import structs

from bursar.v1 import allowances_pb2
from bursar_server.allowances import hub, messages, rules, step, tick, windows, writer
from tests.simulation.database import Tables
from tests.simulation.mutants.registry import Replacement, mutant
from tests.simulation.stores import Store


def _free(tables: Tables, epochs: Collection[int]) -> None:
    """Take all that sessions hold as returned."""
    for (epoch, window_id), lent in list(tables.allowances.items()):
        held, doubt = lent.held, lent.in_doubt
        if epoch in epochs and held:
            window = tables.windows[window_id]
            tables.allowances[epoch, window_id] = lent._replace(
                returned=lent.returned + held, in_doubt=0
            )
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
def returns_as_deltas() -> list[Replacement]:
    original = rules.Books.give_back

    def give_back(self: rules.Books, epoch: int, window_id: int, returned: int) -> int:
        totals = self.of(epoch, window_id)
        return original(self, epoch, window_id, min(totals.granted, totals.returned + returned))

    return [(rules.Books, "give_back", give_back)]


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
def overrun_is_lent_again() -> list[Replacement]:
    def available(self: rules.WindowBalance) -> int:
        return self.limit - self.settled - self.outstanding - self.in_doubt + self.overrun

    return [(rules.WindowBalance, "available", property(available))]


@mutant
def a_cut_limit_is_not_applied() -> list[Replacement]:
    async def limits(*_ignored: Any) -> dict[int, tuple[int, int]]:
        return {}

    return [(windows.Windows, "limits", limits)]


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
def more_settled_than_its_journal_knows_is_refused() -> list[Replacement]:
    original = step._close

    def close(state: step.Slice, given: step.Input, output: step.Output) -> None:
        for _, frame in given.frames:
            for said in frame.closes:
                if said.last_n < state.sessions[said.session_epoch].highest_settled_n:
                    raise step.FrameFault("more is settled than the journal knows of")
        original(state, given, output)

    return [(step, "_close", close)]


@mutant
def a_closing_session_is_lent_to() -> list[Replacement]:
    original = step._lend

    def lend(state: step.Slice, given: step.Input, output: step.Output) -> None:
        rows = {e: structs.replace(row, state="open") for e, row in state.sessions.items()}
        original(step.Slice(rows, state.windows, state.books), given, output)

    return [(step, "_lend", lend)]


@mutant
def the_silent_are_believed() -> list[Replacement]:
    original = hub.Hub.holders

    def holders(self: hub.Hub, window_ids: Iterable[int]) -> list[rules.Holder]:
        return [replace(holder, silent=False) for holder in original(self, window_ids)]

    return [(hub.Hub, "holders", holders)]


@mutant
def an_unheard_grant_is_told_to_nobody() -> list[Replacement]:
    original = writer.Writer._tell

    def tell(self: writer.Writer, batch: Any, outcome: Any) -> None:
        self._unheard = False
        original(self, batch, outcome)

    return [(writer.Writer, "_tell", tell)]


@mutant
def what_an_older_stream_said_is_believed() -> list[Replacement]:
    original = hub.Hub.add

    def add(self: hub.Hub, session: hub.LiveSession) -> None:
        older = self.sessions.get(session.session_epoch)
        said = {} if older is None or older is session else dict(older.reports)
        original(self, session)
        for window_id, report in said.items():
            assert older is not None
            older.reports[window_id] = report
            self._reporters.setdefault(window_id, {})[older.session_epoch] = older

    return [(hub.Hub, "add", add)]


@mutant
def what_an_ended_stream_left_behind_is_applied() -> list[Replacement]:
    original = hub.Hub.remove

    def remove(self: hub.Hub, stream: hub.Stream) -> list[int]:
        gone = original(self, stream)
        self._left.clear()
        return gone

    return [(hub.Hub, "remove", remove)]


@mutant
def a_budget_without_a_window_is_known_for_ever() -> list[Replacement]:
    return [(windows.Windows, "_read_anew", lambda *_ignored: None)]
