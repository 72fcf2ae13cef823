"""The tail of a window: when so little is left that every call asks for itself. Pure.

Money lent ahead of need lies where it came to lie. As long as there is plenty that costs nothing;
near the end it is what keeps a budget from being used to its last cent. So when what is left is
less than a few calls for each session, a window goes into its tail: nothing is lent ahead of need
any more, and what is free in the sidecars comes home.

    normal --(left < 2 N x call)--> tail --(left >= 4 N x call: raised, or much came home)--> normal

A window that a single session uses has no tail: all of it may lie there.
"""

from typing import Final, NamedTuple

from bursar_server.allowances.rules import WindowBalance

ENTER_CALLS: Final = 2
"""A window with less than so many calls left for each session enters its tail: what one session
may get ahead of need, a 2N-th of the rest, is then less than a call and so of no use."""
LEAVE_CALLS: Final = 4
"""It leaves the tail only with so many: between the two it stays as it is, so that the calls in
flight do not toss it to and fro."""


class Traffic(NamedTuple):
    """What connected sessions last said of a window; amounts in nanos."""

    sessions: int
    """How many used it lately."""
    call: int
    """The largest reservation of late, the mean over those sessions; 0: nobody said."""
    reserved: int
    """What calls in flight hold."""


NO_TRAFFIC: Final = Traffic(1, 0, 0)


def in_tail(window: WindowBalance, traffic: Traffic, *, call: int, was: bool) -> bool:
    """Whether a window is in its tail now; `was`: whether it was until now.

    `call` is the largest reservation that is asked for now, for a window nobody has reported on.
    """
    size = traffic.call or call
    if not window.hard or traffic.sessions < 2 or size <= 0:
        return False
    left = window.attainable - traffic.reserved
    calls = LEAVE_CALLS if was else ENTER_CALLS
    return left < calls * traffic.sessions * size
