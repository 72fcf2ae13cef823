"""Whom to ask for idle money. Pure."""

from collections.abc import Iterable, Mapping

from bursar_server.allowances.rules import Holder, Need


def choose_recalls(
    shortage: Mapping[int, int], waiting: Iterable[Need], holders: Iterable[Holder]
) -> list[Holder]:
    """Whom to ask for free money: the longest idle first, until what they said covers the lack.

    What a session said is old by a frame or two, so when it does not cover the lack, all others
    that hold something are asked too. A session is not asked for a window its own call waits on
    alone: its book uses its own free money first. Where nobody waits (a limit was cut, or overrun)
    only those that said they have something are asked: a session that has nothing would be asked,
    and would answer, for ever. What a silent session once said covers nothing: a process that died
    behind an open stream must not keep those that live from being asked.
    """
    waiters: dict[int, set[int]] = {}
    for epoch, window_ids in {(need.session_epoch, need.window_ids) for need in waiting}:
        for window_id in window_ids:
            waiters.setdefault(window_id, set()).add(epoch)
    chosen: list[Holder] = []
    covered: dict[int, int] = {}
    for holder in sorted(holders, key=lambda h: (-h.idle_ms, -h.free, h.session_epoch)):
        lack = shortage.get(holder.window_id)
        if lack is None or waiters.get(holder.window_id) == {holder.session_epoch}:
            continue
        if holder.window_id not in waiters and holder.free <= 0:
            continue
        if covered.get(holder.window_id, 0) < max(lack, 1):
            chosen.append(holder)
            if not holder.silent:
                covered[holder.window_id] = covered.get(holder.window_id, 0) + holder.free
    return chosen
