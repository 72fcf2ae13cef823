"""The headers between the app and us: what it says about a call, and what it is told.

Ours never go to a provider: everything that begins with one of `OURS` stays here.
"""

from typing import Final, Protocol

from bursar.money import format_nanos
from bursar_sidecar.content_coding import READABLE, Undecodable, coding_of, decoded
from bursar_sidecar.desk import Receipt, Refusal, Spender
from bursar_sidecar.dialects.dialect import Dialect
from bursar_sidecar.dialects.facts import Facts, check_label, check_tags
from bursar_sidecar.http_messages import Headers, Request

MAX_USER_AGENT: Final = 128
"""Characters kept of an app's name in reports."""
APP_HEADER: Final = b"x-bursar-app"
"""What the app calls itself, or its listener calls it, instead of its user agent."""
OURS: Final = (b"x-bursar-", b"x-litellm-")
"""Beginnings of the names of headers that concern us alone."""


class Room(Protocol):
    """Where bytes are counted that are held for a request."""

    def hold(self, size: int) -> bool:
        """Count so many more; False: too many are held."""
        ...


def key_of(request: Request, dialect: Dialect) -> str:
    """The key that the app presents. Raises Refusal key_missing."""
    known: str | None = request.known.get(dialect)
    if known is None:
        known = request.known[dialect] = _presented_key(request, dialect)
    return known


def _presented_key(request: Request, dialect: Dialect) -> str:
    scheme, _, key = request.header(b"authorization").partition(b" ")
    if scheme.lower() == b"bearer" and (found := key.strip()):
        return found.decode("latin-1")
    for name in dialect.key_headers:
        if found := request.header(name).strip():
            return found.decode("latin-1")
    if request.query and (found := dialect.key_in_query(request.query)):
        return found.decode("latin-1")
    raise Refusal("key_missing")


def unpack(request: Request, room: Room, most: int) -> None:
    """Decompress a body that came compressed, to at most `most` bytes, so that it can be read.

    Raises Refusal for what cannot be read, and for what another reader might read differently.
    """
    coding: str | None = request.known.get("coding")
    if coding is None:
        coding = request.known["coding"] = coding_of(request.headers)
    if not coding:
        return
    if coding not in READABLE:
        raise Refusal(
            "body_encoded",
            f"content-encoding is {coding[:40]!r}; expected gzip, deflate or none.",
        )
    try:
        plain = decoded(request.body, coding, most, strict=True)
    except Undecodable as error:
        raise Refusal("body_encoded", f"The body cannot be read: {error}.") from None
    if not room.hold(len(plain)):
        raise Refusal("overloaded", "Too many large requests at once; try again.")
    request.encoded, request.body = request.body, plain


def labels_of(request: Request, facts: Facts, spender: Spender) -> tuple[tuple[str, ...], str, str]:
    """(tags, customer, run) of a call: the key's own, the headers' and the body's together."""
    told: tuple[tuple[str, ...], str, str] | None = request.known.get("labels")
    if told is None:
        told = request.known["labels"] = _told_labels(request)
    tags, customer, run = told
    if spender.tags or facts.tags or tags:
        tags = check_tags((*spender.tags, *facts.tags, *tags), "tags")
    return tags, customer or facts.customer, run


def _told_labels(request: Request) -> tuple[tuple[str, ...], str, str]:
    """(tags, customer, run) that the headers tell."""
    tags: tuple[str, ...] = ()
    customer = run = ""
    for name, value in request.headers:
        if not name.startswith(OURS):
            continue
        text = value.decode("utf-8", "replace").strip()
        if name in (b"x-bursar-tags", b"x-litellm-tags"):
            given = [tag.strip() for tag in text.split(",")]
            tags = (*tags, *check_tags(given, name.decode()))
        elif name == b"x-bursar-customer":
            check_label(text, "x-bursar-customer")
            customer = text or customer
        elif name == b"x-bursar-run":
            check_label(text, "x-bursar-run")
            run = text
    return tags, customer, run


def user_agent_of(request: Request) -> str:
    """The app's name for reports, "" when it gives none that can be shown."""
    known: str | None = request.known.get("app")
    if known is None:
        known = request.known["app"] = _named_app(request)
    return known


def _named_app(request: Request) -> str:
    named = request.header(APP_HEADER) or request.header(b"user-agent")
    text = named[:MAX_USER_AGENT].decode("latin-1")
    return text if text.isprintable() else ""


def cost_headers(receipt: Receipt, llm_tokens: int) -> Headers:
    """What the app is told about the charge."""
    cost = format_nanos(receipt.cost_nanos).encode()
    headers: Headers = [
        (b"x-bursar-cost", cost),
        (b"x-bursar-currency", receipt.currency.encode()),
        (b"x-bursar-charge-id", receipt.charge_id.encode()),
        (b"x-litellm-response-cost", cost),
        (b"x-litellm-response-tokens", b"%d" % llm_tokens),
    ]
    if receipt.budget_remaining_nanos is not None:
        remaining = format_nanos(receipt.budget_remaining_nanos).encode()
        headers.append((b"x-bursar-budget-remaining", remaining))
    return headers
