"""Names, pages and masks: what every service reads from a request in the same way.

It owns the shape of names and of free text (lengths, characters), not whether something of that
name exists. Every fault is an `errors.invalid` naming the field.
"""

import base64
import binascii
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Collection, Sequence

import msgspec
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from bursar_server.errors import invalid

# As in a host name, so that an organization or a team can become a label in one.
MOST_CHARACTERS_OF_A_SLUG = 63
# What fits on a line of a table.
MOST_CHARACTERS_OF_A_DISPLAY_NAME = 200
# The longest model name in the price map has 88 characters; a provider's prefix may come before.
MOST_CHARACTERS_OF_A_GLOB = 256
# A glob is matched on each call, so a list of them stays short.
MOST_GLOBS = 64
# A star may match anywhere, so each one multiplies the work of a mismatch.
MOST_STARS_OF_A_GLOB = 8
DEFAULT_PAGE_SIZE = 100
# A page of the largest rows stays well under the limit of one gRPC message.
MOST_OF_A_PAGE = 1000
# Ours are under 600; what is longer was not made here, and is not decoded.
MOST_CHARACTERS_OF_A_PAGE_TOKEN = 2048

_SLUG = re.compile(r"[a-z0-9-]+")
_SLUG_EXPECTED = f'1 to {MOST_CHARACTERS_OF_A_SLUG} of a-z, 0-9 and "-"'


def validate_slug(text: str, field: str = "name") -> str:
    """The last part of a name, if it is one."""
    if len(text) > MOST_CHARACTERS_OF_A_SLUG or not _SLUG.fullmatch(text):
        raise invalid(field, text, _SLUG_EXPECTED)
    return text


def parse_name(collection: str, text: str, field: str = "name") -> str:
    """The slug of a name in a collection: "search" of "teams/search"."""
    prefix, slash, slug = text.partition("/")
    if (
        prefix != collection
        or not slash
        or len(slug) > MOST_CHARACTERS_OF_A_SLUG
        or not _SLUG.fullmatch(slug)
    ):
        raise invalid(field, text, f'"{collection}/" and {_SLUG_EXPECTED}')
    return slug


def parse_optional_name(collection: str, text: str, field: str) -> str:
    """As `parse_name`, but nothing stays nothing: "" of ""."""
    return parse_name(collection, text, field) if text else ""


def parse_organization(text: str, field: str = "organization") -> str:
    """The slug of "organizations/acme"; "" of "" (the only one there is, if there is one)."""
    return parse_optional_name("organizations", text, field)


def format_name(collection: str, slug: str | None) -> str:
    """ "teams/search" of ("teams", "search"); "" where there is no slug."""
    return f"{collection}/{slug}" if slug else ""


def new_slug(prefix: str) -> str:
    """A name for what was given none: "k-3f9a1c07d2e4"."""
    return f"{prefix}-{secrets.token_hex(6)}"


def validate_text(text: str, field: str, most: int) -> str:
    """Text for people: at most `most` characters, none of them a control character."""
    if len(text) > most:
        raise invalid(field, text, f"at most {most} characters, not {len(text)}")
    # Control characters and the marks that turn writing around: they make a log or a table lie.
    # Cs (lone surrogates) can't come through protobuf, but can from elsewhere.
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text) or any(
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069" for character in text
    ):
        raise invalid(field, text, "text without control characters")
    return text


def validate_display_name(text: str, field: str = "display_name") -> str:
    """What people read instead of a name."""
    return validate_text(text, field, MOST_CHARACTERS_OF_A_DISPLAY_NAME)


def validate_globs(values: Sequence[str], field: str) -> list[str]:
    """Globs over names of models or providers ("gpt-4o*"); repeats are dropped."""
    if len(values) > MOST_GLOBS:
        raise invalid(field, f"{len(values)} globs", f"at most {MOST_GLOBS}")
    for place, glob in enumerate(values):
        path = f"{field}[{place}]"
        validate_text(glob, path, MOST_CHARACTERS_OF_A_GLOB)
        if not glob or any(character.isspace() for character in glob):
            raise invalid(path, glob, 'a glob without spaces, such as "gpt-4o*"')
        if glob.count("*") > MOST_STARS_OF_A_GLOB:
            raise invalid(path, glob, f'at most {MOST_STARS_OF_A_GLOB} "*"')
    return list(dict.fromkeys(values))


def page_size(requested: int, field: str = "page_size") -> int:
    """How many to answer with: 0 means 100."""
    if not 0 <= requested <= MOST_OF_A_PAGE:
        raise invalid(field, requested, f"1 to {MOST_OF_A_PAGE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return requested or DEFAULT_PAGE_SIZE


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """What a page token says: after which row the next page begins, and of which list."""

    last: str
    query: str


def _query_of(request: Message) -> str:
    # A page token is of one list: the same request, but for its page fields.
    plain = type(request)()
    plain.CopyFrom(request)
    for field in ("page_size", "page_token"):
        plain.ClearField(field)
    described = plain.DESCRIPTOR.full_name.encode() + plain.SerializeToString(deterministic=True)
    return hashlib.sha256(described).hexdigest()[:16]


def page_token_after(last: str, request: Message) -> str:
    """The page token of the page after the row `last` (its slug, or what the list is ordered by).

    `request` is the List request; its page token is good for the same list only.
    """
    place = msgspec.json.encode(_Place(last, _query_of(request)))
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def place_of_page(page_token: str, request: Message) -> str:
    """Where `page_token` begins: the `last` it was made of; "" for the first page."""
    if not page_token:
        return ""
    fault = invalid(
        "page_token", page_token, "next_page_token of the page before, with the same request"
    )
    if len(page_token) > MOST_CHARACTERS_OF_A_PAGE_TOKEN or not page_token.isascii():
        raise fault
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
        place = msgspec.json.decode(decoded, type=_Place)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        raise fault from None
    if place.query != _query_of(request) or not place.last:
        raise fault
    return place.last


def masked_fields(mask: FieldMask, allowed: Collection[str]) -> frozenset[str]:
    """The fields that an Update changes; all of them must be among `allowed`, and one at least."""
    expected = f"one or more of {', '.join(sorted(allowed))}"
    if not mask.paths:
        raise invalid("update_mask", "", expected)
    for path in mask.paths:
        if path not in allowed:
            raise invalid("update_mask", path, expected)
    return frozenset(mask.paths)
