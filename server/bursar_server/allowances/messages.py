"""What is said after a tick: committed balances as frames of the session stream."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import allowances_pb2
from bursar_server.allowances import metrics, rules
from bursar_server.allowances.hub import Hub, LiveSession
from bursar_server.allowances.records import WindowRow
from bursar_server.allowances.settings import LendingSettings
from bursar_server.allowances.tick import Batch, Outcome
from bursar_server.allowances.waiting import WaitingNeed


def timestamp(at: datetime) -> Timestamp:
    """`at` on the wire."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def milliseconds_until(at: datetime | None, now: datetime) -> int:
    """Milliseconds from now until `at`, at least 1; 0 for never."""
    return 0 if at is None else max(1, int((at - now).total_seconds() * 1000))


def allowance(
    window: WindowRow,
    balance: rules.WindowBalance,
    totals: rules.Totals,
    now: datetime,
    proof: bytes = b"",
) -> allowances_pb2.Allowance:
    """What one session was lent of one window."""
    return allowances_pb2.Allowance(
        budget_window_id=window.id,
        budget_id=window.budget_id,
        mode=(
            allowances_pb2.ALLOWANCE_MODE_LENT
            if balance.hard
            else allowances_pb2.ALLOWANCE_MODE_OBSERVED
        ),
        granted_nanos=totals.granted,
        returned_nanos=totals.returned,
        # Rounded up: a sidecar must never think that a window has begun before it has.
        starts_in_ms=max(0, -((now - window.start_at) // timedelta(milliseconds=1))),
        ends_in_ms=milliseconds_until(window.end_at, now),
        window_end_time=timestamp(window.end_at) if window.end_at else None,
        limit_nanos=balance.limit,
        settled_nanos=balance.settled,
        grant_proof=proof,
    )


def contended(need: WaitingNeed, retry_ms: int) -> None:
    """Tell one waiting call to come again."""
    need.session.send(
        allowances_pb2.ControlFrame(
            verdicts=[
                allowances_pb2.Verdict(
                    need_id=need.request.need_id,
                    outcome=allowances_pb2.NEED_OUTCOME_CONTENDED,
                    retry_after_ms=retry_ms,
                )
            ]
        )
    )


def of_outcome(
    hub: Hub,
    batch: Batch,
    outcome: Outcome,
    recalls: Iterable[rules.Holder],
    now: datetime,
    settings: LendingSettings,
) -> Iterator[tuple[LiveSession, allowances_pb2.ControlFrame]]:
    """One frame for each live session that a tick concerns."""
    frames: dict[int, allowances_pb2.ControlFrame] = {}

    def frame(epoch: int) -> allowances_pb2.ControlFrame:
        return frames.setdefault(epoch, allowances_pb2.ControlFrame())

    shown: set[tuple[int, int]] = set(outcome.decisions.touched)
    for session, said in batch.frames:
        frame(session.session_epoch)
        shown.update((session.session_epoch, r.window_id) for r in said.reports)
    for need in (*outcome.decisions.granted, *outcome.decisions.clamped):
        shown.update((need.session_epoch, line.window_id) for line in need.lines)
    if outcome.unheard:
        # What an earlier try granted is why the same call waits now: its session has the money,
        # and would never be asked for it, nor report on it.
        shown.update(pair for pair, totals in outcome.books.totals.items() if totals.granted)
    for epoch, window_id in sorted(shown):
        window, totals = outcome.windows[window_id], outcome.books.of(epoch, window_id)
        live = hub.sessions.get(epoch)
        proof = live.prove(window, totals.granted) if live is not None else b""
        message = allowance(window, outcome.books.windows[window_id], totals, now, proof)
        if window_id in hub.tail:
            message.tail = True
            # While a call waits, nothing is kept idle: it comes home without being asked for.
            is_short = window_id in outcome.decisions.shortage
            message.hold_idle_ms = 0 if is_short else settings.hold_idle_ms
        frame(epoch).allowances.append(message)
    for epoch, verdict in _verdicts(outcome, now, settings.contended_retry_ms):
        frame(epoch).verdicts.append(verdict)
    for holder in recalls:
        frame(holder.session_epoch).recalls.append(
            allowances_pb2.Recall(
                budget_window_id=holder.window_id, tail=holder.window_id in hub.tail
            )
        )
    for epoch, spoken in frames.items():
        live = hub.sessions.get(epoch)
        if live is not None:
            yield live, spoken


def _verdicts(
    outcome: Outcome, now: datetime, contended_retry_ms: int
) -> Iterator[tuple[int, allowances_pb2.Verdict]]:
    decisions = outcome.decisions
    for need in decisions.granted:
        metrics.VERDICTS.labels("granted").inc()
        yield (
            need.session_epoch,
            allowances_pb2.Verdict(
                need_id=need.need_id, outcome=allowances_pb2.NEED_OUTCOME_GRANTED
            ),
        )
    for need in decisions.clamped:
        metrics.VERDICTS.labels("clamped").inc()
        yield (
            need.session_epoch,
            allowances_pb2.Verdict(
                need_id=need.need_id, outcome=allowances_pb2.NEED_OUTCOME_CLAMPED
            ),
        )
    for need, window_ids in decisions.exhausted:
        metrics.VERDICTS.labels("exhausted").inc()
        ends = [outcome.windows[w].end_at for w in window_ids]
        # The call fits again when the last of the windows that lack money has ended.
        last_end = None if any(end is None for end in ends) else max(e for e in ends if e)
        yield (
            need.session_epoch,
            allowances_pb2.Verdict(
                need_id=need.need_id,
                outcome=allowances_pb2.NEED_OUTCOME_EXHAUSTED,
                binding=_binding(outcome, window_ids),
                retry_after_ms=milliseconds_until(last_end, now),
            ),
        )
    for need, window_ids in decisions.contended:
        metrics.VERDICTS.labels("contended").inc()
        yield (
            need.session_epoch,
            allowances_pb2.Verdict(
                need_id=need.need_id,
                outcome=allowances_pb2.NEED_OUTCOME_CONTENDED,
                binding=_binding(outcome, window_ids),
                retry_after_ms=contended_retry_ms,
            ),
        )
    for need in decisions.stale:
        metrics.VERDICTS.labels("stale").inc()
        yield (
            need.session_epoch,
            allowances_pb2.Verdict(need_id=need.need_id, outcome=allowances_pb2.NEED_OUTCOME_STALE),
        )
    for waiting in outcome.stale:
        metrics.VERDICTS.labels("stale").inc()
        yield (
            waiting.session.session_epoch,
            allowances_pb2.Verdict(
                need_id=waiting.request.need_id, outcome=allowances_pb2.NEED_OUTCOME_STALE
            ),
        )


def _binding(outcome: Outcome, window_ids: Sequence[int]) -> list[allowances_pb2.BindingBudget]:
    binding = []
    for window_id in window_ids:
        balance, window = outcome.books.windows[window_id], outcome.windows[window_id]
        binding.append(
            allowances_pb2.BindingBudget(
                budget_id=window.budget_id,
                budget_window_id=window_id,
                limit_nanos=balance.limit,
                settled_nanos=balance.settled,
                outstanding_nanos=balance.outstanding,
                in_doubt_nanos=balance.in_doubt,
                window_end_time=timestamp(window.end_at) if window.end_at else None,
            )
        )
    return binding
