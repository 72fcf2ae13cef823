"""What the provider will do with a call, as its label `run` tells: kind:true:told:target:least.

`true` is what it will cost, `told` what the sidecar will say of that; amounts in nanos. A call that
is priced where it is made has the label priced:most:used instead: the LLM tokens of output that it
may have, and those that it will have.
"""

from decimal import Decimal

from bursar.pricing import Component, Meter, Price, PriceBook, ceiling, charge
from bursar.usage import Usage
from bursar_sidecar.holds import Hold

PROVIDER = "simulated"
MODEL = "simulated-model"


def target_of(hold: Hold) -> int:
    """What a call may grow to; 0: it was reserved whole."""
    return _number(hold.opened.run, 3)


def least_of(plan: str) -> int:
    """What a call can do with if it may be clamped; 0: only with all."""
    return _number(plan, 4)


def _number(plan: str, place: int) -> int:
    return int((*plan.split(":"), "0", "0")[place])


def price_of(rate: int, version: int) -> Price:
    """The price of a version: so many nanos for an LLM token of output."""
    per_million = Decimal(rate) / 1000
    rates = tuple(Component(meter, per_million) for meter in (Meter.INPUT, Meter.OUTPUT))
    return Price(PROVIDER, MODEL, components=rates, price_version=version_name(version))


def version_name(version: int) -> str:
    """As a charge names it."""
    return f"custom@{version}"


def priced(plan: str, book: PriceBook) -> tuple[int, str, str] | None:
    """(W, label, price version) of a priced call under the prices in force; None without one."""
    price = book.lookup(MODEL, PROVIDER)
    if price is None:
        return None
    most, used = (int(number) for number in plan.split(":")[1:])
    worst = ceiling(price, input_llm_tokens=0, output_llm_tokens=most)
    told = charge(price, Usage(output=used)).cost_nanos
    return worst, f"final:{told}:{told}", price.price_version
