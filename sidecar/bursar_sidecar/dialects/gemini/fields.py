"""Fields of a Gemini request, which may be spelled in two ways.

JSON of a protobuf message takes `maxOutputTokens` and `max_output_tokens` alike ("ProtoJSON Format"
on protobuf.dev), so a limit is looked for under both names. Both at once are refused: which one
the provider follows is not known.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.json_fields import Fields, given, top_level

_object = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


def spelled(name: str) -> str:
    """A name in the other spelling: `candidateCount` as `candidate_count`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def named(fields: Mapping[str, msgspec.Raw], name: str) -> str:
    """Under which spelling a field is there; the usual one where it is not. Raises DialectError
    where both are."""
    other = spelled(name)
    if other == name or not given(fields, other):
        return name
    if given(fields, name):
        raise DialectError(f"{name} is given twice, also as {other}.", name, "duplicate_field")
    return other


def section(fields: Mapping[str, msgspec.Raw], name: str, param: str = "") -> Fields:
    """An object within a request, {} where it is not there. Raises DialectError when it is none, or
    names a field twice."""
    found = named(fields, name)
    if not given(fields, found):
        return {}
    try:
        return top_level(bytes(fields[found]))
    except DialectError as error:
        where = f"{param}{name}"
        raise DialectError(f"{where}: {error.message}", where, error.code) from None


COMMON_MODEL: Final = "model"
"""Where a body may repeat the model of its path."""
PREFIX: Final = "models/"
