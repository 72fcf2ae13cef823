"""The top level of a JSON body: each field raw, so that what is not changed keeps its bytes.

For dialects whose requests are JSON objects. What a field holds is decoded only where the cost
depends on it, and whatever is wrong is told by the field's own name.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from bursar_sidecar.dialects.facts import MAX_OUTPUT_LIMIT, DialectError

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]

DEPENDS_ON_BODY: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises because of what a body holds."""

STRING: Final = msgspec.json.Decoder(str)
OPTIONAL_STRING: Final = msgspec.json.Decoder(str | None)
OPTIONAL_INT: Final = msgspec.json.Decoder(int | None)
OPTIONAL_BOOL: Final = msgspec.json.Decoder(bool | None)
OPTIONAL_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
STRINGS: Final = msgspec.json.Decoder(list[str] | None)
LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def top_level(body: bytes) -> Fields:
    """The fields of a body. Raises DialectError when it is no JSON object, or names one twice."""
    try:
        fields = _fields_decoder.decode(body)
    except msgspec.ValidationError:
        raise DialectError("The body must be a JSON object.", code="invalid_json") from None
    except (*DEPENDS_ON_BODY, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DialectError(f"The body is not valid JSON: {reason}", code="invalid_json") from None
    # Which of two equal fields counts differs between parsers, so that a limit we read might not
    # be the one the provider reads. A body as long as its compact form has no field twice.
    compact = 1 + sum(len(name) + len(memoryview(raw)) + 4 for name, raw in fields.items())
    if len(body) != compact:
        _refuse_doubles(body)
    return fields


def _refuse_doubles(body: bytes) -> None:
    doubled: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        # Called for inner objects first: what stands at the end is the top level's answer.
        names = [name for name, _ in pairs]
        doubled[:] = (
            [name for name in names if names.count(name) > 1]
            if (len(set(names)) != len(names))
            else []
        )

    try:
        json.loads(body, object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        raise DialectError(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if doubled:
        raise DialectError(
            f"The field {doubled[0][:40]!r} is given twice.", doubled[0][:40], "duplicate_field"
        )


def field(
    fields: Mapping[str, msgspec.Raw],
    name: str,
    decoder: "msgspec.json.Decoder[T]",
    expected: str,
) -> T | None:
    """One field, None where it is not there. Raises DialectError naming it when it is not as
    `expected`."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (*DEPENDS_ON_BODY, ValueError):
        shown_value = shown(bytes(raw).decode("utf-8", "replace"))
        raise DialectError(f"{name} is {shown_value}; expected {expected}.", name) from None


def missing(name: str, expected: str) -> DialectError:
    """The error for a field that must be there."""
    return DialectError(f"{name} is missing; expected {expected}.", name, "missing_field")


def given(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    """Whether a field is there, and is not null."""
    raw = fields.get(name)
    return raw is not None and bytes(memoryview(raw)[:4]) != b"null"


def limit_of(fields: Mapping[str, msgspec.Raw], name: str) -> int | None:
    """An output limit in LLM tokens; None where it is not there."""
    limit = field(fields, name, OPTIONAL_INT, "a whole number")
    if limit is not None and not 1 <= limit <= MAX_OUTPUT_LIMIT:
        raise DialectError(f"{name} is {shown(limit)}; expected 1 to {MAX_OUTPUT_LIMIT}.", name)
    return limit


def shown(value: object) -> str:
    """A value as an error shows it: short."""
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def raw(value: object) -> msgspec.Raw:
    """A value as JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def changed(
    body: bytes, fields: Mapping[str, msgspec.Raw], changes: Mapping[str, msgspec.Raw | None]
) -> bytes:
    """The body with some fields set, or taken off (None); itself when nothing changes."""
    if not changes:
        return body
    merged: dict[str, msgspec.Raw | None] = {**fields, **changes}
    return msgspec.json.encode({k: v for k, v in merged.items() if v is not None})
