"""What a shadow budget would have refused, were it a hard one. Pure.

A hard budget refuses a call whose most could not be covered by what is left: what is settled plus
what the call reserves exceeds the limit. A shadow budget lets the call through and counts it, with
what it costs. What it counts so is left out when it judges the calls after it: a hard budget would
not have spent it.

    let through = settled - would refuse
    refused:      let through + reserved > limit

Nothing is lent here, so a call is judged when it is posted, in the order of posting; that calls in
flight would have been in each other's way (`contended`) is not seen. A reservation that was
released reached no provider and is not judged; a later difference of a charge follows the charge.
"""

from bursar_server.allowances.rules import MOST_BALANCE, Books, WindowBalance
from bursar_server.ledger.entries import Kind, Posting


class Judge:
    """Judges what is posted to the shadow windows of some books, in one step."""

    def __init__(self, books: Books) -> None:
        self._windows = {w.id: w for w in books.windows.values() if w.shadow}
        self._judged: dict[tuple[int, int], tuple[int, ...]] = {}

    def judge(self, entry: Posting) -> None:
        """Say on the first posting of a call, which is not yet in the books, who would have refused
        it; count it there."""
        settlement = entry.settlement
        if not self._windows or settlement.kind is Kind.RELEASED or settlement.kind is Kind.LOST:
            return
        refusing = tuple(
            window_id
            for window_id in settlement.budget_window_ids
            if (window := self._windows.get(window_id)) is not None
            and would_refuse(window, settlement.reserved_nanos)
        )
        if not refusing:
            return
        entry.would_refuse_window_ids = refusing
        self._judged[settlement.session_epoch, settlement.n] = refusing
        for window_id in refusing:
            window = self._windows[window_id]
            # Told once in a window.
            window.crossed = window.crossed or not window.would_refuse_count
            window.would_refuse_count += 1
            _count(window, entry.amount_nanos)

    def adjust(self, entry: Posting) -> None:
        """Let a later difference of a charge follow the charge."""
        call = (entry.settlement.session_epoch, entry.settlement.n)
        entry.would_refuse_window_ids = self._judged.get(call, entry.would_refuse_window_ids)
        for window_id in entry.would_refuse_window_ids:
            _count(self._windows[window_id], entry.amount_nanos)


def would_refuse(window: WindowBalance, reserved: int) -> bool:
    """Whether a call that reserves so much would have been refused."""
    return window.settled - window.would_refuse_nanos + reserved > window.limit


def _count(window: WindowBalance, amount: int) -> None:
    window.would_refuse_nanos += min(amount, MOST_BALANCE - window.would_refuse_nanos)
    window.changed = True
