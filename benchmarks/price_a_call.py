"""What it takes to price a call: its ceiling before it starts, its exact charge when it ended.

Against the least such a computation could be: five exact products and their sum in the same
decimals, with the rates at hand. If litellm happens to be installed, against its cost_per_token.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from benchmarks.measuring import parsed, ratios, say, spread, title
from bursar.pricing import ceiling, charge, snapshot
from bursar.usage import Usage

MODEL, PROVIDER = "gpt-4o-mini", "openai"
USAGE = Usage(input=1_200, cached_input=800, output=350, reasoning=100)
RATES = [Decimal(text) for text in ("0.15", "0.075", "0.15", "0.60", "0.60")]
COUNTS = (USAGE.input, USAGE.cached_input, 0, USAGE.output - USAGE.reasoning, USAGE.reasoning)
PER = Decimal(1_000_000)
MICROSECONDS = 1_000_000


def reference() -> Decimal:
    """Five products, their sum, one division."""
    cost = Decimal(0)
    for rate, count in zip(RATES, COUNTS, strict=True):
        cost += rate * count
    return cost / PER


def took_us(work: Callable[[], Any], calls: int) -> float:
    """Microseconds of one call, the mean of `calls`."""
    began = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - began) * MICROSECONDS / calls


def contestants() -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    book = snapshot()
    price = book.lookup(MODEL, PROVIDER)
    assert price is not None
    found: dict[str, Callable[[], Any]] = {
        "reference": reference,
        "charge": lambda: charge(price, USAGE),
        "ceiling": lambda: ceiling(price, input_llm_tokens=1_500, output_llm_tokens=500),
        "look up and charge": lambda: charge(book.lookup(MODEL, PROVIDER) or price, USAGE),
    }
    if importlib.util.find_spec("litellm") is not None:
        litellm = importlib.import_module("litellm")
        found["litellm"] = lambda: litellm.cost_per_token(
            model=MODEL, prompt_tokens=2_000, completion_tokens=350
        )
    return found


def main() -> None:
    """Run it."""
    option = parsed(__doc__, repeats=15, calls=2_000)
    title("Pricing a call")
    took: dict[str, list[float]] = {name: [] for name in contestants()}
    for _ in range(option("repeats")):
        for name, work in contestants().items():
            took[name].append(took_us(work, option("calls")))
    for name, values in took.items():
        target = "<= 40 us" if name in ("charge", "ceiling", "look up and charge") else ""
        say(name, spread(values), "us", target=target)
    say("charge, ratio", ratios(took["charge"], took["reference"]), against="five bare products")
    if "litellm" in took:
        say("charge, ratio", ratios(took["charge"], took["litellm"]), against="litellm")


if __name__ == "__main__":
    main()
