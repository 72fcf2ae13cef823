"""What makes a custom price acceptable. Pure."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from bursar.pricing import Price, PriceBook

# As price lists and sidecars' configurations spell providers.
MOST_CHARACTERS_OF_A_PROVIDER: Final = 64
_PROVIDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
# The longest name on the price map has 88.
MOST_CHARACTERS_OF_A_MODEL: Final = 256

DEFAULT_MODE: Final = "chat"
# What can be called so far; a mistyped one would be a price that no call ever finds.
MODES: Final = frozenset({DEFAULT_MODE, "completion", "embedding", "responses"})

# Nobody sold LLM tokens before; and no price list is made for longer ahead.
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LONGEST_AHEAD: Final = timedelta(days=3_660)

# What the operator's prices are called by the charges that name them.
_CUSTOM: Final = "custom"
_PLATFORM: Final = "platform"


class PriceFault(ValueError):
    """A custom price that can't be; `field`, `value` and `expected` say why."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field}: {value!r} is not accepted, expected {expected}")
        self.field = field
        self.value = value
        self.expected = expected


def provider_name(text: str, field: str) -> str:
    """A provider's name, if it is one. Raises PriceFault."""
    if len(text) > MOST_CHARACTERS_OF_A_PROVIDER or not _PROVIDER.fullmatch(text):
        raise PriceFault(field, text, 'a name such as "openai"')
    return text


def model_name(text: str, provider: str, field: str) -> str:
    """A model's name as the price list has it: without its provider. Raises PriceFault."""
    bare = text.removeprefix(f"{provider}/") if provider else text
    if (
        not bare
        or len(bare) > MOST_CHARACTERS_OF_A_MODEL
        or any(character.isspace() or not character.isprintable() for character in bare)
    ):
        wanted = f"1 to {MOST_CHARACTERS_OF_A_MODEL} characters without spaces"
        raise PriceFault(field, text, f'{wanted}, such as "gpt-4o-mini"')
    return bare


def single_model_name(text: str, provider: str, field: str) -> str:
    """The name that a price is set for. Raises PriceFault also for a glob: the price would be of a
    model of that very name, which no call asks for."""
    bare = model_name(text, provider, field)
    if "*" in bare or "?" in bare:
        raise PriceFault(field, text, "the name of one model; globs are for contracts")
    return bare


def complete(price: Price, in_force: Price | None) -> Price:
    """The price with what was left open: mode and limits of the one in force, else a chat model's.

    Raises PriceFault if there is no such mode, or if it could not price a call of it.
    """
    if price.mode and price.mode not in MODES and (in_force is None or price.mode != in_force.mode):
        raise PriceFault("mode", price.mode, f"one of {', '.join(sorted(MODES))}")
    mode = price.mode or (in_force.mode if in_force is not None else "") or DEFAULT_MODE
    most_input, most_output = price.max_input_llm_tokens, price.max_output_llm_tokens
    if in_force is not None:
        most_input = most_input or in_force.max_input_llm_tokens
        most_output = most_output or in_force.max_output_llm_tokens
    completed = msgspec.structs.replace(
        price, mode=mode, max_input_llm_tokens=most_input, max_output_llm_tokens=most_output
    )
    if not completed.is_priced:
        meters = sorted({component.meter.value for component in completed.components})
        wanted = f"rates that price a {mode} call: input and output without conditions"
        raise PriceFault("components", ", ".join(meters), f"{wanted}, 0 where it is free")
    return completed


def remnants(
    effective_at: datetime,
    expires_at: datetime | None,
    since: datetime,
    until: datetime | None,
) -> list[tuple[datetime, datetime | None]]:
    """What is left of a stretch of time without what lies between `since` and `until` (None: for
    good), which it overlaps."""
    left: list[tuple[datetime, datetime | None]] = []
    if effective_at < since:
        left.append((effective_at, since))
    if until is not None and (expires_at is None or expires_at > until):
        left.append((until, expires_at))
    return left


def check_period(since: datetime | None, until: datetime | None, now: datetime, field: str) -> None:
    """Whether what is set may hold from `since` until `until`, None being open. Raises PriceFault.

    `field` is what holds the two fields, with a point behind, or "".
    """
    for name, at in (("effective_time", since), ("expire_time", until)):
        if at is not None and not EARLIEST <= at <= now + LONGEST_AHEAD:
            wanted = f"{EARLIEST.date()} to {(now + LONGEST_AHEAD).date()}"
            raise PriceFault(f"{field}{name}", at.isoformat(), wanted)
    if until is not None and until <= (since or now):
        raise PriceFault(
            f"{field}expire_time", until.isoformat(), f"after {(since or now).isoformat()}"
        )


def price_version(*, platform: bool, counter: int) -> str:
    """What a charge names: "custom@17", or "platform@4" for a price of all organizations."""
    return f"{_PLATFORM if platform else _CUSTOM}@{counter}"


def source(what: str, actor: str, reason: str) -> str:
    """What the history says of a change: "set openai/gpt-4o by admin: the list was wrong"."""
    return f"{what} by {actor}" + (f": {reason}" if reason else "")


def contract_version(*, platform: bool, number: int) -> str:
    """What a charge names: "contract@17", or "platform-contract@4" for one of everybody."""
    return f"{'platform-' if platform else ''}contract@{number}"


def find(book: PriceBook, text: str) -> tuple[Price | None, list[str]]:
    """The price of "gpt-4o-mini" or "openai/gpt-4o-mini"; without one, who sells that name.

    With a provider it is the one that a sidecar prices by: the provider's, of the rest of the name.
    """
    provider, slash, model = text.partition("/")
    price = book.lookup(model, provider) if slash and model else None
    if price is None:
        price = book.lookup(text)
    return price, ([] if price is not None else book.provider_of(text))
