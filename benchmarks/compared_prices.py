"""What calls cost here and according to genai-prices, on the models that both list.

`python -m benchmarks.compared_prices` prints every difference as a table, from the costs that are
kept in tests/data/genai_prices. With `--write`, genai-prices itself is asked anew; it has to be
installed then.
"""

import argparse
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from bursar.pricing import Price, PriceBook, charge, snapshot
from bursar.pricing.quote import plain_decimal
from bursar.usage import Usage

COSTS: Final = Path(__file__).resolve().parent.parent / "tests/data/genai_prices/costs.jsonl"

# A Wednesday, in the peak hours of those who have any.
AT: Final = datetime(2026, 11, 18, 2, tzinfo=UTC)
COUNT: Final = 1_000
LONG: Final = 1_000_000
RELATIVE: Final = Decimal("1e-9")
PER: Final = 1_000_000
LONG_OUTPUT: Final = "long input, with output"

# genai-prices' provider -> ours, where they are not called the same.
PROVIDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "aws": ("bedrock",),
    "fireworks": ("fireworks_ai",),
    "github-copilot": ("github_copilot",),
    "google": ("gemini", "vertex_ai"),
    "moonshotai": ("moonshot",),
    "together": ("together_ai",),
    "voyageai": ("voyage",),
    "x-ai": ("xai",),
}

TIERS: Final[Mapping[str, tuple[str, str]]] = {
    "batch": ("processing", "batch"),
    "flex": ("service_tier", "flex"),
    "priority": ("service_tier", "priority"),
}


class Probe(NamedTuple):
    """One usage, as genai-prices counts it and as it is counted here."""

    theirs: Mapping[str, int]
    ours: Usage


PROBES: Final[Mapping[str, Probe]] = {
    "input": Probe({"input_tokens": COUNT}, Usage(input=COUNT)),
    "output": Probe({"output_tokens": COUNT}, Usage(output=COUNT)),
    "cached input": Probe(
        {"input_tokens": COUNT, "cache_read_tokens": COUNT}, Usage(cached_input=COUNT)
    ),
    "cache write": Probe(
        {"input_tokens": COUNT, "cache_write_tokens": COUNT}, Usage(cache_write_5m=COUNT)
    ),
    "cache write, 1 h": Probe(
        {"input_tokens": COUNT, "cache_write_tokens": COUNT, "cache_write_1h_tokens": COUNT},
        Usage(cache_write_1h=COUNT),
    ),
    "audio input": Probe(
        {"input_tokens": COUNT, "input_audio_tokens": COUNT},
        Usage(input=COUNT, extra={"audio_input": COUNT}),
    ),
    "audio output": Probe(
        {"output_tokens": COUNT, "output_audio_tokens": COUNT},
        Usage(output=COUNT, extra={"audio_output": COUNT}),
    ),
    "long input": Probe({"input_tokens": LONG}, Usage(input=LONG)),
    LONG_OUTPUT: Probe(
        {"input_tokens": LONG, "output_tokens": COUNT}, Usage(input=LONG, output=COUNT)
    ),
}
IN_TIERS: Final = ("input", "output", "cached input")


# What a probe costs where nothing is listed for it: it says nothing more where both sides do so.
PARENTS: Final[Mapping[str, str]] = {
    "cached input": "input",
    "cache write": "input",
    "cache write, 1 h": "cache write",
    "audio input": "input",
    "audio output": "output",
    "long input": "input",
    "long output": "output",
}


class Difference(NamedTuple):
    """One model's probes that cost one thing here and another there, as "here / there".

    In USD per million LLM tokens.
    """

    provider: str
    model: str
    probes: tuple[tuple[str, str, str], ...]

    @property
    def text(self) -> str:
        """The probes, as the table has them."""
        return "; ".join(f"{name} {ours} / {theirs}" for name, ours, theirs in self.probes)


def kept() -> Iterator[dict[str, Any]]:
    """The costs by genai-prices that are in the repository, model by model."""
    for line in COSTS.read_text().splitlines():
        yield json.loads(line)


def differences(rows: Iterable[Mapping[str, Any]], book: PriceBook) -> list[Difference]:
    """Every model that does not cost the same in every probe."""
    found = []
    for row in rows:
        price = book.lookup(row["model"], row["provider"])
        if price is None:
            continue
        theirs = {name: Decimal(text) for name, text in row["costs"].items()}
        ours = {name: cost for name in theirs if (cost := _cost(price, name)) is not None}
        probes = tuple(_different(_rates(ours), _rates(theirs)))
        if probes:
            found.append(Difference(row["provider"], row["model"], probes))
    return found


def _cost(price: Price, name: str) -> Decimal | None:
    probe, _, tier = name.partition(" @")
    charged = charge(price, PROBES[probe].ours, service_tier=tier or "default", at=AT)
    return None if charged.unpriced else charged.cost


def _rates(costs: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """USD per million of what each probe counts."""
    rates = {
        name: cost * PER / (LONG if name == "long input" else COUNT)
        for name, cost in costs.items()
        if name != LONG_OUTPUT
    }
    if LONG_OUTPUT in costs and "long input" in costs:
        rates["long output"] = (costs[LONG_OUTPUT] - costs["long input"]) * PER / COUNT
    return rates


def _different(
    ours: Mapping[str, Decimal], theirs: Mapping[str, Decimal]
) -> Iterator[tuple[str, str, str]]:
    for name in (name for name in theirs if name in ours):
        here, there = ours[name], theirs[name]
        parent = PARENTS.get(name, "")
        inherited = here == ours.get(parent) and there == theirs.get(parent)
        if not inherited and abs(here - there) > RELATIVE * abs(there):
            yield name, plain_decimal(here), plain_decimal(there)


def ask(book: PriceBook) -> Iterator[dict[str, Any]]:
    """What genai-prices says, for every name that it spells out and that is priced here too."""
    genai = importlib.import_module("genai_prices")
    data = importlib.import_module("genai_prices.data")
    for theirs in data.providers:
        for model in theirs.models:
            for provider in PROVIDERS.get(theirs.id, (theirs.id,)):
                for name in sorted({model.id, *_spelled(model.match)}):
                    price = book.lookup(name, provider)
                    if price is None or not price.is_priced:
                        continue
                    costs = dict(_costs(genai, theirs.id, name, model))
                    if costs:
                        yield {"provider": provider, "model": name, "costs": costs}


def _spelled(clause: Any) -> set[str]:
    """The names that a clause spells out."""
    if hasattr(clause, "equals"):
        return {clause.equals}
    return {name for one in getattr(clause, "or_", ()) for name in _spelled(one)}


def _costs(genai: Any, provider: str, name: str, model: Any) -> Iterator[tuple[str, str]]:
    conditions = [one.when for one in model.price_variants or ()]
    tiers = [tier for tier, (key, value) in TIERS.items() if {key: value} in conditions]
    asked: list[tuple[str, str, dict[str, str]]] = [(probe, "", {}) for probe in PROBES]
    asked += [(probe, tier, dict([TIERS[tier]])) for tier in tiers for probe in IN_TIERS]
    for probe, tier, context in asked:
        try:
            found = genai.calc_price(
                genai.Usage(**PROBES[probe].theirs),
                name,
                provider_id=provider,
                genai_request_timestamp=AT,
                price_context=context,
            )
        except LookupError:
            return
        if found.model.id == model.id and found.total_price:
            yield f"{probe} @{tier}" if tier else probe, f"{found.total_price.normalize():f}"


def main() -> None:
    """Print the differences; with --write ask genai-prices anew first."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true", help="ask genai-prices, keep its costs")
    if arguments.parse_args().write:
        rows = [json.dumps(row) for row in ask(snapshot())]
        COSTS.write_text("".join(f"{row}\n" for row in sorted(set(rows))))
        print(f"{COSTS.name}: {len(set(rows))} models")
    for one in differences(kept(), snapshot()):
        print(f"| {one.provider} | {one.model} | {one.text} |")


if __name__ == "__main__":
    main()
