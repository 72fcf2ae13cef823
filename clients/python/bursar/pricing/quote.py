"""Quotes without a server: what usages cost, row by row.

A row is a JSON object with a usage and what to price it by, either `price` (an entry in the form
of LiteLLM's map) or `model` and `provider`. Its usage is in LiteLLM's shape: `prompt_tokens`
includes cached and cache-write LLM tokens, `prompt_details` and `completion_details` break the
two totals down. `service_tier` is optional, and `kind` "batch" prices a batch job. A quote by row
is of the usage alone: fees per request are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, BinaryIO, Final

import msgspec

from bursar.usage import Usage, usage_from_openai

from .book import PriceBook, snapshot
from .charging import Charge, charge
from .compile_litellm import compile_entry
from .conditions import PriceError
from .explaining import rule_of
from .json_numbers import exact_number
from .model import BATCH_TIER, Price

# One row is a handful of numbers, or one entry of a price map; the longest of those is 12 kB.
MAX_ROW_BYTES: Final = 1_000_000
_SHOWN: Final = 80

_KINDS: Final = ("online", "batch")
_DETAILS: Final = {
    "prompt_details": "prompt_tokens_details",
    "completion_details": "completion_tokens_details",
}


class QuoteError(ValueError):
    """A row that can't be quoted; the message names the field and what was expected."""


class Quote(msgspec.Struct, frozen=True):
    """What a row costs, unrounded, split into input and output."""

    input_cost: Decimal
    output_cost: Decimal
    charge: Charge
    price: Price
    usage: Usage
    service_tier: str | None


def quote_rows(
    lines: Iterable[str | bytes], *, book: PriceBook | None = None, explain: bool = False
) -> Iterator[dict[str, Any]]:
    """One answer a line: `input_cost` and `output_cost` as decimal strings, or `error`.

    Blank lines are skipped; a row that can't be quoted gets its own error and stops nothing. With
    `explain` an answer also has `price_version` and `lines`: meter, quantity, rate, amount and the
    rule that chose the rate.
    """
    prices = book or snapshot()
    for line in lines:
        text = line.encode() if isinstance(line, str) else line
        if not text.strip():
            continue
        try:
            quoted = quote_row(_row(text), prices)
        except (QuoteError, PriceError) as error:
            yield {"error": str(error)}
        else:
            answer: dict[str, Any] = {
                "input_cost": plain_decimal(quoted.input_cost),
                "output_cost": plain_decimal(quoted.output_cost),
            }
            if explain:
                answer |= _explained(quoted)
            yield answer


def rows_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, none of them longer than is read of one: the rest of a longer one is
    passed over, and it gets its error."""
    while line := file.readline(MAX_ROW_BYTES + 1):
        yield line
        while len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES + 1)
            if not line:
                return


def quote_row(row: Mapping[str, Any], book: PriceBook) -> Quote:
    """Price one row. Raises QuoteError or PriceError."""
    price = _price_of(row, book)
    usage = _usage_of(row)
    kind = row.get("kind", "online")
    if kind not in _KINDS:
        raise QuoteError(f"kind is {_shown(kind)}; expected one of {', '.join(_KINDS)}")
    tier = row.get("service_tier")
    if tier is not None and not isinstance(tier, str):
        raise QuoteError(f"service_tier is {_shown(tier)}; expected text or null")
    tier = BATCH_TIER if kind == "batch" else tier
    charged = charge(price, usage, service_tier=tier)
    if charged.unpriced:
        raise QuoteError(
            f"model {price.model!r} of {price.provider!r} has no rate for "
            f"{', '.join(charged.unpriced)}"
        )
    return Quote(charged.input_cost, charged.output_cost, charged, price, usage, tier)


def _explained(quoted: Quote) -> dict[str, Any]:
    return {
        "price_version": quoted.charge.price_version,
        "lines": [
            {
                "meter": str(line.meter),
                "quantity": line.quantity,
                "rate": plain_decimal(line.rate),
                "amount": plain_decimal(line.amount),
                "rule": rule_of(quoted.price, line, quoted.usage, service_tier=quoted.service_tier),
            }
            for line in quoted.charge.breakdown
        ],
    }


def plain_decimal(amount: Decimal) -> str:
    """The decimal without exponent and without trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _row(text: bytes) -> dict[str, Any]:
    if len(text) > MAX_ROW_BYTES:
        raise QuoteError(f"row has more than {MAX_ROW_BYTES} bytes")
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QuoteError(f"row is not a JSON object: {error}") from error
    except RecursionError as error:
        raise QuoteError("row is nested too deeply to be one") from error


_DECODER: Final = msgspec.json.Decoder(dict[str, Any], float_hook=exact_number)


def _price_of(row: Mapping[str, Any], book: PriceBook) -> Price:
    entry = row.get("price")
    if entry is not None:
        price = compile_entry("price", entry)
        if not price.components:
            raise QuoteError("price has no rate above zero")
        return price
    model, provider = row.get("model"), row.get("provider")
    if not isinstance(model, str) or not model:
        raise QuoteError(f"model is {_shown(model)}; expected a name, or a price instead")
    if provider is not None and not isinstance(provider, str):
        raise QuoteError(f"provider is {_shown(provider)}; expected a name or null")
    found = book.lookup(model, provider)
    if found is None:
        raise QuoteError(f"model {_shown(model)} of provider {_shown(provider)} is not in the list")
    if not found.is_priced:
        raise QuoteError(f"model {_shown(model)} of provider {_shown(provider)} is unpriced")
    return found


def _usage_of(row: Mapping[str, Any]) -> Usage:
    usage = row.get("usage")
    if not isinstance(usage, Mapping):
        raise QuoteError(f"usage is {_shown(usage)}; expected an object")
    renamed = {_DETAILS.get(name, name): value for name, value in usage.items()}
    read = usage_from_openai(renamed)
    if not read.is_exact:
        raise QuoteError(f"usage: {read.estimate_reason}")
    # A row says what LLM tokens cost. Its usage counts no requests, so it pays no fee for one.
    return msgspec.structs.replace(read, extra={**read.extra, "request": 0})


def _shown(value: Any) -> str:
    return repr(value)[:_SHOWN]
