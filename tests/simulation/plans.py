"""What the provider will do with a call, as its label `run` tells: kind:true:told:target:least.

`true` is what it will cost, `told` what the sidecar will say of that; amounts in nanos.
"""

from bursar_sidecar.holds import Hold


def target_of(hold: Hold) -> int:
    """What a call may grow to; 0: it was reserved whole."""
    return _number(hold.opened.run, 3)


def least_of(plan: str) -> int:
    """What a call can do with if it may be clamped; 0: only with all."""
    return _number(plan, 4)


def _number(plan: str, place: int) -> int:
    return int((*plan.split(":"), "0", "0")[place])
