"""Forms: the fields of a `multipart/form-data` body, read strictly, because a provider must read
the same fields as we do.

RFC 7578. Refused is whatever two readers could understand in two ways: a field that decides the
cost given twice, a part in a transfer encoding, a body that does not begin and end as it should.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from bursar_sidecar.dialects.facts import DialectError

MAX_PARTS: Final = 128
"""Parts of one form; edits of pictures take some twenty."""
MAX_PART_HEADERS: Final = 2_048
"""Bytes of one part's headers."""
_TYPE: Final = re.compile(
    rb'multipart/form-data\s*;\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s";,]{1,70}))\s*', re.IGNORECASE
)
_DISPOSITION: Final = re.compile(rb"content-disposition\s*:\s*form-data\s*(;.*)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb';\s*(name|filename)="([^"\r\n]{0,512})"', re.IGNORECASE)


class Part(NamedTuple):
    """One field of a form."""

    name: str
    is_file: bool
    start: int
    end: int
    """Where its value is in the body."""


class Form(NamedTuple):
    """A form that was read."""

    body: bytes
    parts: tuple[Part, ...]

    def text(self, name: str) -> str:
        """A field given once, as text; "" where it is not there. Raises DialectError."""
        found = [part for part in self.parts if part.name == name]
        if len(found) > 1:
            raise DialectError(f"The field {name!r} is given twice.", name, "duplicate_field")
        if not found or found[0].is_file:
            return ""
        try:
            return self.value(found[0]).decode()
        except UnicodeDecodeError:
            raise DialectError(f"{name} is no text.", name) from None

    def files(self, *names: str) -> list[Part]:
        """The files in fields of those names, `name[]` among them."""
        every = {*names, *(f"{name}[]" for name in names)}
        return [part for part in self.parts if part.name in every and part.is_file]

    def value(self, part: Part) -> bytes:
        """What a part holds."""
        return self.body[part.start : part.end]

    def changed(self, values: Mapping[str, str]) -> bytes:
        """The body with other values in some text fields, all else byte for byte."""
        out: list[bytes] = []
        at = 0
        for part in self.parts:
            if part.name in values and not part.is_file:
                out += [self.body[at : part.start], values[part.name].encode()]
                at = part.end
        return b"".join((*out, self.body[at:])) if out else self.body


def read_form(content_type: bytes, body: bytes) -> Form:
    """The fields of a form. Raises DialectError."""
    matched = _TYPE.fullmatch(content_type.strip())
    if matched is None:
        raise DialectError("The body must be a form: content-type multipart/form-data.")
    mark = b"--" + (matched[1] or matched[2])
    if not body.startswith(mark + b"\r\n"):
        raise DialectError("The form does not begin with its boundary.", code="invalid_form")
    parts: list[Part] = []
    at = len(mark) + 2
    while True:
        end = body.find(b"\r\n" + mark, at)
        if end < 0 or len(parts) >= MAX_PARTS:
            reason = "does not end with its boundary" if end < 0 else f"has over {MAX_PARTS} parts"
            raise DialectError(f"The form {reason}.", code="invalid_form")
        parts.append(_part(body, at, end))
        at = end + 2 + len(mark)
        if body[at : at + 2] == b"--":
            if body[at + 2 :].strip():
                raise DialectError("Something follows the form's end.", code="invalid_form")
            return Form(body, tuple(parts))
        if body[at : at + 2] != b"\r\n":
            raise DialectError("The form's boundary is not alone.", code="invalid_form")
        at += 2


def _part(body: bytes, start: int, end: int) -> Part:
    blank = body.find(b"\r\n\r\n", start, min(end, start + MAX_PART_HEADERS))
    if blank < 0:
        raise DialectError("A part of the form has no headers.", code="invalid_form")
    name = filename = None
    for line in body[start:blank].split(b"\r\n"):
        if line.lower().startswith(b"content-transfer-encoding"):
            raise DialectError("A part of the form is in a transfer encoding.", code="invalid_form")
        disposition = _DISPOSITION.fullmatch(line)
        if disposition is None:
            continue
        given = _PARAMETER.findall(disposition[1])
        named = {key.lower(): value for key, value in given}
        if len(named) != len(given) or name is not None:
            raise DialectError("A part of the form is named twice.", code="invalid_form")
        name, filename = named.get(b"name"), named.get(b"filename")
    if name is None:
        raise DialectError("A part of the form has no name.", code="invalid_form")
    is_file = filename is not None or b"filename" in body[start:blank].lower()
    return Part(name.decode("utf-8", "replace"), is_file, blank + 4, end)
