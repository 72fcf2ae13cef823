"""What a control plane says, held against what is committed at that moment.

Nothing is told that is not committed: no grant, no acknowledgement; so a deposed owner, which can't
commit, can't tell either. `exhausted` is said only when the call would not fit if every reservation
came home, `contended` only when it would.
"""

from datetime import datetime

from bursar.v1 import allowances_pb2
from tests.simulation.database import NOTHING, Broken, Tables


class Honesty:
    """Listens to one control plane."""

    def __init__(self) -> None:
        self._least: dict[tuple[int, int], dict[int, int]] = {}
        """(session epoch, need) -> budget -> the least amount that would do."""
        self._grows_in: dict[tuple[int, int], set[int]] = {}
        """(session epoch, need) -> the windows it was admitted in, where an open call asks."""

    def asked(self, frame: allowances_pb2.SidecarFrame) -> None:
        """A sidecar's frame came."""
        for need in frame.needs:
            self._least[frame.session_epoch, need.need_id] = {
                line.budget_id: min(line.least_nanos, line.amount_nanos) for line in need.lines
            }
            self._grows_in[frame.session_epoch, need.need_id] = {
                line.budget_window_id for line in need.lines if line.budget_window_id
            }

    def told(self, frame: allowances_pb2.ControlFrame, tables: Tables, now: datetime) -> None:
        """The control plane sends a frame. Raises Broken."""
        epoch = frame.session_epoch
        session = tables.sessions[epoch]
        if frame.applied_seq > session.applied_seq:
            raise Broken(f"2: frame {frame.applied_seq} of {epoch} is acknowledged, not committed")
        for allowance in frame.allowances:
            lent = tables.allowances.get((epoch, allowance.budget_window_id), NOTHING)
            if allowance.granted_nanos > lent.granted:
                raise Broken(
                    f"2: {allowance.granted_nanos} is told to {epoch}, {lent.granted} is committed"
                )
        for verdict in frame.verdicts:
            self._judged(epoch, verdict, tables, now)

    def _judged(
        self, epoch: int, verdict: allowances_pb2.Verdict, tables: Tables, now: datetime
    ) -> None:
        least = self._least[epoch, verdict.need_id]
        if verdict.outcome == allowances_pb2.NEED_OUTCOME_EXHAUSTED:
            for binding in verdict.binding:
                attainable = _attainable(tables, binding.budget_window_id)
                # None: a need of the same number was asked anew, for other budgets, on a stream
                # that came after; this answers the one before.
                enough = least.get(binding.budget_id)
                if enough is not None and attainable >= enough:
                    raise Broken(
                        f"honest: exhausted is said of budget {binding.budget_id} where "
                        f"{attainable} could be had and {enough} would do"
                    )
        if verdict.outcome == allowances_pb2.NEED_OUTCOME_CONTENDED:
            grows_in = self._grows_in[epoch, verdict.need_id]
            # Nothing is lent from a frozen window, whatever is there or not.
            frozen = {w.row.budget_id for w in tables.windows.values() if w.frozen}
            for id, window in tables.windows.items():
                row = window.row
                runs = row.start_at <= now and (row.end_at is None or now < row.end_at)
                if grows_in:
                    # What began in a window grows in it, whichever has begun since.
                    runs = id in grows_in
                needed = least.get(row.budget_id)
                if needed is None or row.budget_id in frozen:
                    continue
                if runs and window.hard and _attainable(tables, id) < needed:
                    raise Broken(
                        f"honest: contended is said of budget {row.budget_id} where {needed} is "
                        f"needed and {_attainable(tables, id)} could be had at most"
                    )


def _attainable(tables: Tables, window_id: int) -> int:
    """What could be lent if every reservation came home."""
    window = tables.windows[window_id]
    return window.limit - window.settled - window.in_doubt
