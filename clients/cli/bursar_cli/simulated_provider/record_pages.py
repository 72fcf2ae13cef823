"""`GET /simulated/calls`: the record, in pages or as lines."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import msgspec

from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    ServedCalls,
)

_PARAMETERS = ("page_size", "page_token", "call_id", "format")


class Page(NamedTuple):
    """What is sent."""

    body: bytes
    content_type: bytes


def calls_page(calls: ServedCalls, asked: Mapping[str, Sequence[str]], *, as_lines: bool) -> Page:
    """One page of the record as JSON, or (`format=jsonl`) as one JSON object a line.

    A page token is the sequence number of the last call of the page before. Raises ProviderError.
    """
    for name in asked:
        if name not in _PARAMETERS:
            expected = ", ".join(_PARAMETERS)
            raise ProviderError(
                400, f"Unknown parameter {name!r}; expected {expected}.", param=name
            )
    form = asked.get("format", ["jsonl" if as_lines else "json"])[-1]
    if form not in ("json", "jsonl"):
        raise ProviderError(
            400, f"format: {form!r} is unknown; expected json or jsonl.", param="format"
        )
    size = _number(asked, "page_size", default=DEFAULT_PAGE_SIZE, least=1, most=MAX_PAGE_SIZE)
    after = _number(asked, "page_token", default=0, least=0, most=2**63 - 1)
    call_id = asked["call_id"][-1] if "call_id" in asked else None
    found = list(islice(calls.after(after, call_id), size + 1))
    page, more = found[:size], len(found) > size
    if form == "jsonl":
        lines = b"".join(msgspec.json.encode(call) + b"\n" for call in page)
        return Page(lines, b"application/x-ndjson")
    next_page_token = str(page[-1].sequence) if more else ""
    body = msgspec.json.encode({"calls": page, "next_page_token": next_page_token})
    return Page(body, b"application/json")


def _number(
    asked: Mapping[str, Sequence[str]], name: str, *, default: int, least: int, most: int
) -> int:
    text = asked.get(name, [""])[-1]
    if not text:
        return default
    # isdecimal alone lets through digits of other scripts, which int() would read too.
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and least <= int(text) <= most):
        raise ProviderError(
            400, f"{name}: {text!r}; expected a whole number from {least} to {most}.", param=name
        )
    return int(text)
