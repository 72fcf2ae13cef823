"""How much of a budget is used, in virtual time: 1, 10 or 100 sidecars, the real programs.

Calls come at random, last two seconds on average, may cost five times what they cost in the end,
and go on coming until every one is refused. Told is how the budget stood at the first refusal of
any kind, at the first that says "exhausted", and at the end. See docs/proof.md.

What is missing at the first refusal is what came free within one way home and back, so it grows
with the rate: `--rate` with `--duration` (of a call, ms), `--commit` and `--network` (ms) show it.
"""

from msgspec import structs

from benchmarks import spending
from benchmarks.measuring import parsed, title
from benchmarks.money_side import serving
from benchmarks.simulated_installation import DELAYS, KEY, Delays, Installation, simulated
from benchmarks.spending import Load, Result, Tally
from benchmarks.virtual_time import VirtualLoop, run

SIDECARS = (1, 10)
"""A hundred (`--sidecars 100`) take minutes."""
CALLS_A_SECOND = {1: 20, 10: 50, 100: 100}
MOST_S = 3_600.0


def one_run(load: Load, *, explain: bool, delays: Delays = DELAYS) -> Result:
    """One budget from its first call to its last. Raises RuntimeError if it is overspent."""

    async def main(loop: VirtualLoop) -> Result:
        async with simulated(loop, len(load.weights), load.limit_nanos, delays) as made:
            tally = Tally(load.limit_nanos)
            if explain:
                tally.on_first = lambda reason: _explain(made, tally, reason, loop.time())
            await spending.spend(load, serving(made.sidecars, KEY), tally, MOST_S)
            posted = made.window().settled
            if max(posted, tally.settled_nanos) > load.limit_nanos:
                raise RuntimeError(f"overspent: {tally.settled_nanos}, posted {posted}")
            if explain:
                _explain(made, tally, "the end", loop.time())
            return spending.result_of(load, tally)

    return run(main)


def _explain(made: Installation, tally: Tally, when: str, now_s: float) -> None:
    """Where the money is, in parts of the limit."""
    limit = tally.limit_nanos
    window = made.window()
    left = limit - window.settled - window.outstanding
    idle = made.idle_nanos()
    parts = {
        "settled": tally.settled_nanos,
        "reserved": tally.reserved_nanos,
        "free in sidecars": idle,
        "not lent": left,
        "on its way": limit - left - idle - tally.settled_nanos - tally.reserved_nanos,
    }
    told = ", ".join(f"{name} {spending.share(part, limit):.5f}" for name, part in parts.items())
    print(
        f"  {when} at {now_s:.1f} s: {told}; {tally.in_flight} in flight,"
        f" refused {dict(tally.refused)}",
        flush=True,
    )


def main() -> None:
    """Run it."""
    option = parsed(
        __doc__, repeats=1, small=200, large=2_000, sidecars=0, ratio=5, rate=0, explain=0,
        duration=2_000, commit=5, network=1,
    )  # fmt: skip
    delays = Delays(option("network") / 1_000, option("commit") / 1_000)
    title("Utilisation in virtual time")
    for sidecars in (option("sidecars"),) if option("sidecars") else SIDECARS:
        rate = option("rate") or CALLS_A_SECOND.get(sidecars, 100)
        spreads = (("even", spending.even), ("skewed", spending.zipf))
        for spread, weights in spreads if sidecars > 1 else spreads[:1]:
            for calls in (option("small"), option("large")):
                if calls:
                    load = Load(
                        rate, weights(sidecars), calls, option("ratio"), option("duration") / 1_000
                    )
                    results = [
                        one_run(
                            structs.replace(load, seed=seed),
                            explain=bool(option("explain")),
                            delays=delays,
                        )
                        for seed in range(option("repeats"))
                    ]
                    name = (
                        f"{sidecars} sidecars, {spread} load, {rate} calls/s,"
                        f" a budget of {calls} calls"
                    )
                    spending.report(name, results)


if __name__ == "__main__":
    main()
