"""Which price holds where another model answered than the one that was asked for."""

from __future__ import annotations

from .model import Price


def price_of_answer(asked: Price, found: Price | None, model: str, answered: str) -> Price:
    """The price of a call for `model` that `answered` answered.

    `asked` is the price of what was asked for, `found` that of what answered, None if the list does
    not know it. The price follows the answer; but the operator's own price of an alias is not
    undone by a dated name of the same model in an older layer.
    """
    if found is None or not found.is_priced:
        return asked
    if asked.price_version != found.price_version and is_dated(answered, model):
        return asked
    return found


def is_dated(answered: str, asked: str) -> bool:
    """Whether `answered` is `asked` with a date or version of digits behind it."""
    if not answered.startswith(f"{asked}-"):
        return False
    rest = answered[len(asked) + 1 :]
    return bool(rest) and rest.replace("-", "").isdigit()
