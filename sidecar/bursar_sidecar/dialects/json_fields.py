"""The top level of a JSON body: each field raw, so that what is not changed keeps its bytes.

For dialects whose requests are JSON objects. What a field holds is decoded only where the cost
depends on it, and whatever is wrong is told by the field's own name.
"""

import json
import re
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
    """The body with some fields set, or taken off (None); itself when nothing changes.

    `fields` are the top level of that very body. Every other byte stays, white space too: a field
    that is set keeps its place, one that is taken off goes with the comma before it (the first with
    the one behind it), and a new one comes behind the last.
    """
    if not changes:
        return body
    new = [
        b"%b:%b" % (msgspec.json.encode(name), raw)
        for name, raw in changes.items()
        if raw is not None and name not in fields
    ]
    wanted = [name for name in changes if name in fields]
    pieces: list[bytes] = []
    at, kept = (
        _rewritten(body, fields, changes, len(wanted), pieces) if wanted else (0, len(fields))
    )
    if new:
        end = _behind_the_last(body)
        pieces += (body[at:end], b"," if kept else b"", b",".join(new))
        at = end
    pieces.append(body[at:])
    return b"".join(pieces)


def changed_inside(
    value: msgspec.Raw, known: Mapping[str, msgspec.Raw], changes: Mapping[str, msgspec.Raw | None]
) -> msgspec.Raw:
    """The same for an object inside a body, whose fields were read as `known`."""
    text = bytes(value)
    try:
        return msgspec.Raw(changed(text, top_level(text), changes))
    except DialectError:  # a name is given twice: what was read of it is what goes on
        return raw({k: v for k, v in {**known, **changes}.items() if v is not None})


def _behind_the_last(body: bytes) -> int:
    """Where the last value of an object ends, or where its first would begin."""
    end = body.rindex(b"}")
    while body[end - 1] in _SPACE:
        end -= 1
    return end


def _rewritten(
    body: bytes,
    fields: Mapping[str, msgspec.Raw],
    changes: Mapping[str, msgspec.Raw | None],
    left: int,
    pieces: list[bytes],
) -> tuple[int, int]:
    """Add to `pieces` the body with the `left` fields changed that it has; how far that reaches in
    the body, and how many of its fields are kept."""
    at, copied, kept = body.index(b"{") + 1, 0, len(fields)
    is_first, drops = True, False  # whether all before it went, and went up to here
    for name, raw in fields.items():
        found = _NAME.match(body, at)
        if found is None:
            raise ValueError("these are not the fields of this body")
        if drops:
            copied, drops = found.start(1), False
        begin, end = found.end(), found.end() + len(memoryview(raw))
        if name not in changes:
            is_first = False
        elif (value := changes[name]) is not None:
            pieces += (body[copied:begin], bytes(value))
            copied, is_first, left = end, False, left - 1
        else:
            pieces.append(body[copied : found.start(1) if is_first else at])
            copied, drops, kept, left = end, is_first, kept - 1, left - 1
        at = end
        if not left and not drops:
            break
    return copied, kept


_SPACE: Final = b" \t\n\r"
_NAME: Final = re.compile(rb'[ \t\n\r,]*("(?:[^"\\]|\\.)*"[ \t\n\r]*:[ \t\n\r]*)')
"""A field of an object up to its value, with what is before it."""
