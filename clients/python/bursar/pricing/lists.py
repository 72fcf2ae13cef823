"""A published price list, read whole: every price in it, or the reason why it can't be used.

Pure: the file's bytes in, prices out. A list is a source for the layer above the built-in one, so
nothing of it is taken over by halves: one rate that can't be refuses the list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from .book import PriceBook
from .compile_genai import compile_providers, read_providers
from .compile_litellm import compile_map, read_map
from .conditions import MAX_NAME_LENGTH, PriceError
from .model import LLM_TOKEN_METERS, LLM_TOKENS_PER, Price

# LiteLLM's map has 3.2 MB and genai-prices' data 2: ten times as much is another kind of file.
MAX_LIST_BYTES: Final = 32 * 1024 * 1024
MAX_LIST_PRICES: Final = 50_000

# Ten times the dearest LLM token, and three hundred times the dearest piece of anything else, that
# any list has. Beyond it a rate is a slip of the unit: per million written where one was meant.
MAX_LISTED_RATE: Final = Decimal(100_000)
MAX_LISTED_UNIT_RATE: Final = Decimal(1_000)
MAX_LISTED_FACTOR: Final = Decimal(100)

_VERSION_DIGITS: Final = 16


class ListForm(StrEnum):
    """Whose form a list has."""

    LITELLM = "litellm"
    GENAI_PRICES = "genai-prices"


class ImportedList(msgspec.Struct, frozen=True):
    """A list as it was read.

    - `version`: names the content: the same prices give the same version, however they were
      written.
    - `prices`: the prices of models, those that begin later too; every one can price a call.
    - `left_out`: how many entries are no price: they name no rate, or only zeros, which is how
      lists write "unknown", or no call can reach them. What is below the list stands for them.
    - `unmodelled`: by field, how many prices have one that the engine does not price.
    """

    form: ListForm
    version: str
    prices: tuple[Price, ...]
    left_out: int
    unmodelled: dict[str, int]


def read_list(data: bytes, book: PriceBook, at: datetime, form: str = "auto") -> ImportedList:
    """Every price of a file in force at `at` (aware) or later. Raises PriceError, which names the
    model, the field, the value and what was expected.

    `book` is what lies below the list; `form` one of ListForm, or "auto".
    """
    if len(data) > MAX_LIST_BYTES:
        raise PriceError(f"the list has {len(data)} bytes; expected at most {MAX_LIST_BYTES}")
    form = _form(data) if form in ("", "auto") else ListForm(form)
    if form is ListForm.LITELLM:
        entries, compiled = _of_map(data)
    else:
        compiled = compile_providers(read_providers(data), book, at)
        entries = len(compiled)
    if len(compiled) > MAX_LIST_PRICES:
        raise PriceError(f"the list has {len(compiled)} prices; expected at most {MAX_LIST_PRICES}")
    for price in compiled:
        _check(price)
    usable = [one for one in compiled if one.is_priced and not one.is_free]
    if not usable:
        raise PriceError(f"the list prices none of its {len(compiled)} entries; expected some")
    unmodelled: dict[str, int] = {}
    for price in usable:
        for field in price.unmodelled:
            unmodelled[field] = unmodelled.get(field, 0) + 1
    return ImportedList(
        form=form,
        version=list_version(usable),
        prices=tuple(usable),
        left_out=entries - len(usable),
        unmodelled=dict(sorted(unmodelled.items())),
    )


def plain(price: Price) -> Price:
    """The price without what does not decide a charge: which list it came from, and what is not
    priced. Two prices that are equal so charge the same for every call."""
    return msgspec.structs.replace(
        price,
        price_version="",
        unmodelled=(),
        multipliers=dict(sorted(price.multipliers.items())),
    )


def list_version(prices: Iterable[Price]) -> str:
    """The name of a list's content."""
    content = b"\n".join(sorted(msgspec.json.encode(plain(price)) for price in prices))
    return f"imported-{hashlib.sha256(content).hexdigest()[:_VERSION_DIGITS]}"


def _form(data: bytes) -> ListForm:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if head == b"{":
        return ListForm.LITELLM
    if head == b"[":
        return ListForm.GENAI_PRICES
    shown = data[:40].decode(errors="replace")
    raise PriceError(f"the list begins with {shown!r}; expected the JSON of one of the known forms")


def _of_map(data: bytes) -> tuple[int, list[Price]]:
    """How many entries LiteLLM's map has, and their prices. Where two of its keys name one model of
    one provider, provider/model wins over the model's own name unless it has no rates, as it does
    in the built-in list; and "acme/acme/small" is not reached where there is "acme/small"."""
    found: dict[tuple[str, str], Price] = {}
    entries = compile_map(read_map(data))
    for key, price in entries.items():
        name = (price.provider, price.model)
        if (
            name not in found
            or (key != price.model and price.components)
            or not found[name].components
        ):
            found[name] = price
    for provider, model in list(found):
        short = model.removeprefix(f"{provider}/")
        if short != model and (provider, short) in found:
            del found[provider, model]
    return len(entries), list(found.values())


def _check(price: Price) -> None:
    """Raises PriceError for what the engine could price, and no list means."""
    where = f"{price.provider}/{price.model}"[:120]
    characters = all(one.isprintable() and not one.isspace() for one in price.model)
    if not characters or len(price.provider) > MAX_NAME_LENGTH:
        raise PriceError(f"model {where!r} is no name; expected one without spaces")
    for component in price.components:
        of_llm_tokens = component.meter in LLM_TOKEN_METERS
        most = MAX_LISTED_RATE if of_llm_tokens else MAX_LISTED_UNIT_RATE
        per = LLM_TOKENS_PER if of_llm_tokens else 1
        if component.rate * per > most * component.per:
            unit = "a million LLM tokens" if of_llm_tokens else "one"
            raise PriceError(
                f"rate of {component.meter} of {where} is {component.rate:f} for {component.per}; "
                f"expected at most {most} for {unit}"
            )
    _check_factors(where, price.multipliers)


def _check_factors(where: str, factors: Mapping[str, Decimal]) -> None:
    for name, factor in factors.items():
        if not 0 < factor <= MAX_LISTED_FACTOR:
            raise PriceError(
                f"factor {name[:80]} of {where} is {factor:f}; "
                f"expected more than 0, at most {MAX_LISTED_FACTOR}"
            )
