"""Mutants of what time does to sessions."""

from typing import Any

from bursar_server.allowances import life, rules, step
from tests.simulation.mutants.registry import Replacement, mutant


@mutant
def silence_frees() -> list[Replacement]:
    def doubt(row: Any, books: rules.Books, _served_ms: int) -> None:
        books.close(row.session_epoch)
        row.stage = life.OVER

    return [(life, "doubt", doubt)]


@mutant
def time_frees_what_is_in_doubt() -> list[Replacement]:
    def lose(self: rules.Books, session_epoch: int) -> dict[int, int]:
        self.close(session_epoch)
        return {}

    original = life.pass_time

    def pass_time(*given: Any) -> life.Passed:
        passed = original(*given)
        return life.Passed(passed.row, {}, lost=False, fenced=passed.fenced)

    return [(rules.Books, "lose", lose), (life, "pass_time", pass_time)]


@mutant
def what_was_lost_is_counted_twice() -> list[Replacement]:
    return [(rules.Books, "find", lambda *_ignored: {})]


@mutant
def a_silent_session_is_never_ended() -> list[Replacement]:
    return [(life, "is_due", lambda *_ignored: False)]


@mutant
def a_silent_session_goes_on_spending() -> list[Replacement]:
    original = life.pass_time

    def pass_time(row: Any, *given: Any) -> life.Passed:
        state = row.state
        passed = original(row, *given)
        if row.state == "fenced":
            row.state = state
        return life.Passed(passed.row, passed.held, passed.lost, fenced=False)

    return [(life, "pass_time", pass_time)]


@mutant
def who_was_closed_stays_closed() -> list[Replacement]:
    original = step._close

    def close(state: step.Slice, given: step.Input, output: step.Output) -> None:
        closed = [row for row in state.sessions.values() if row.state == "closed"]
        original(state, given, output)
        for row in closed:
            row.state = "closed"

    return [(step, "_close", close)]
