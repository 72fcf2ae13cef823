"""From Envoy's descriptors to bills: who pays for how many hits of what. Pure.

What Envoy sends is checked here: nothing beyond this module sees a value that it has not bounded.
Messages are read by their fields' names, so that Envoy's classes need not be loaded for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from bursar_sidecar.desk import Refusal
from bursar_sidecar.envoy_limit_settings import EnvoyLimit
from bursar_sidecar.identity import MAX_KEY_LENGTH
from bursar_sidecar.settlements import MAX_NANOS

MOST_DESCRIPTORS: Final = 32
MOST_ENTRIES: Final = 32
MAX_DOMAIN: Final = 256
MAX_ENTRY_KEY: Final = 256
MAX_ENTRY_VALUE: Final = 4_096
"""Characters; a key of an app comes as the value of its header."""
MOST_HITS: Final = 100_000_000
"""Of one descriptor; more LLM tokens than any call uses."""
MAX_MODEL: Final = 256
_SHOWN: Final = 80
_BEARER: Final = "bearer "


class Hit(msgspec.Struct, frozen=True):
    """What one descriptor asks for, or tells."""

    limit: EnvoyLimit
    number: int
    """0: a question, whether there is money."""
    key: str
    """Secret: the Bursar key that pays."""
    model: str
    """As it was written; "" where none is meant."""


class Bill(msgspec.Struct):
    """Hits that are one charge: the same payer, provider, model and moment."""

    limit: EnvoyLimit
    """The first of them; the others differ in what they count."""
    key: str
    model: str
    asks: bool
    """Nothing is bought; it is a question."""
    flat_nanos: int = 0
    requests: int = 0
    """Hits that have a price of their own."""
    input_llm_tokens: int = 0
    output_llm_tokens: int = 0

    @property
    def is_flat(self) -> bool:
        """Whether its hits have a price of their own."""
        return bool(self.limit.flat_price)


class Asked(msgspec.Struct):
    """A whole request: its bills, and which of them each of its descriptors is in."""

    bills: list[Bill]
    places: list[int]
    hits: list[Hit]


def read_request(request: Any, limits: Sequence[EnvoyLimit], keys: Mapping[str, str]) -> Asked:
    """A `RateLimitRequest`. `keys` are those of limits that have one, by the limit's name.

    Raises Refusal: descriptor_invalid, limit_unknown, key_missing.
    """
    if not request.descriptors or len(request.descriptors) > MOST_DESCRIPTORS:
        raise _invalid(
            "descriptors", f"{len(request.descriptors)} descriptors", f"1 to {MOST_DESCRIPTORS}"
        )
    # RateLimitRequest.hits_addend: "If the value is not set in the message, a request increases
    # the matched limit by 1."
    usual = request.hits_addend or 1
    hits = []
    for i, descriptor in enumerate(request.descriptors):
        where = f"descriptors[{i}]"
        entries = read_entries(((e.key, e.value) for e in descriptor.entries), where)
        number = usual
        if descriptor.HasField("hits_addend"):
            number = descriptor.hits_addend.value
        if number > MOST_HITS:
            raise _invalid(f"{where}.hits_addend", str(number), f"at most {MOST_HITS}")
        hits.append(hit_of(request.domain, entries, number, limits, keys, where))
    return _billed(hits)


def read_entries(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, str]:
    """The entries of a descriptor or of a bucket. Raises Refusal."""
    entries: dict[str, str] = {}
    for count, (key, value) in enumerate(pairs):
        if count >= MOST_ENTRIES:
            raise _invalid(where, "more entries", f"at most {MOST_ENTRIES}")
        if not key or len(key) > MAX_ENTRY_KEY:
            raise _invalid(where, f"a key of {len(key)}", f"1 to {MAX_ENTRY_KEY} characters")
        if len(value) > MAX_ENTRY_VALUE:
            found = f"{len(value)} characters"
            raise _invalid(f"{where}.{key[:_SHOWN]}", found, f"at most {MAX_ENTRY_VALUE}")
        if entries.setdefault(key, value) != value:
            # Which of two counts would be a guess, and one of them may pay.
            raise _invalid(f"{where}.{key[:_SHOWN]}", "two values", "one")
    if not entries:
        raise _invalid(where, "no entry", f"1 to {MOST_ENTRIES}")
    return entries


def hit_of(
    domain: str,
    entries: Mapping[str, str],
    number: int,
    limits: Sequence[EnvoyLimit],
    keys: Mapping[str, str],
    where: str,
) -> Hit:
    """What a descriptor or a bucket is worth: by the first limit that is for it. Raises Refusal."""
    if len(domain) > MAX_DOMAIN:
        raise _invalid("domain", f"{len(domain)} characters", f"at most {MAX_DOMAIN}")
    limit = next((each for each in limits if each.is_for(domain, entries)), None)
    if limit is None:
        shown = ", ".join(sorted(entries))[:_SHOWN]
        raise Refusal(
            "limit_unknown",
            f"No [[envoy_limits]] of this sidecar is for domain {domain[:_SHOWN]!a} and a "
            f"descriptor with the entries {shown!a}.",
        )
    key = keys.get(limit.name, limit.api_key)
    if limit.key_entry:
        key = entries.get(limit.key_entry, "").strip()
        if key[: len(_BEARER)].lower() == _BEARER:
            key = key[len(_BEARER) :].strip()
    if not key:
        raise Refusal("key_missing", f"{where} has no entry {limit.key_entry!r} with a key in it.")
    if len(key) > MAX_KEY_LENGTH:
        raise Refusal("key_unknown")
    model = entries.get(limit.model_entry, "") if limit.model_entry else limit.model
    if limit.model_entry and not model:
        raise _invalid(f"{where}.{limit.model_entry}", "nothing", "a model's name")
    if len(model) > MAX_MODEL or not model.isprintable():
        found = f"{len(model)} characters"
        raise _invalid(f"{where}.{limit.model_entry}", found, f"at most {MAX_MODEL}, printable")
    return Hit(limit, number, key, model)


def _billed(hits: list[Hit]) -> Asked:
    bills: dict[tuple[object, ...], Bill] = {}
    order: list[Bill] = []
    places = []
    for hit in hits:
        limit = hit.limit
        # The input and the output of one call are one charge.
        about = (hit.key, hit.model, limit.provider, limit.when)
        same = (*about, bool(limit.flat_price), not hit.number)
        bill = bills.get(same)
        if bill is None:
            bill = bills[same] = Bill(limit, hit.key, hit.model, asks=not hit.number)
            order.append(bill)
        add(bill, limit, hit.number or limit.least_hits)
        if bill.flat_nanos > MAX_NANOS:
            raise _invalid("hits_addend", f"{hit.number} at {limit.flat_price}", "an amount")
        places.append(order.index(bill))
    return Asked(order, places, hits)


def add(bill: Bill, limit: EnvoyLimit, number: int) -> None:
    """So many hits more."""
    if limit.flat_price:
        bill.flat_nanos += limit.flat_nanos * number
        bill.requests += number
    elif limit.counts == "input":
        bill.input_llm_tokens += number
    else:
        bill.output_llm_tokens += number


def _invalid(field: str, found: str, expected: str) -> Refusal:
    return Refusal("descriptor_invalid", f"{field} has {found}; expected {expected}.")
