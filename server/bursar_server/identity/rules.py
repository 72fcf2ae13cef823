"""What the fields of identity may hold. Pure; every fault names the field."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from bursar.money import CURRENCIES
from bursar_server.errors import BursarError, failed_precondition, invalid
from bursar_server.names import validate_text

# Labels are for finding and grouping, not for documents: a whole set of them stays below 70 kB.
MOST_LABELS = 64
MOST_CHARACTERS_OF_A_LABEL = 63
MOST_CHARACTERS_OF_A_LABEL_VALUE = 1024
# Written on every entry, so few and short.
MOST_TAGS = 64
MOST_CHARACTERS_OF_A_TAG = 256
# What SMTP can carry (RFC 5321, 4.5.3.1, as corrected).
MOST_CHARACTERS_OF_AN_EMAIL = 254
DEFAULT_CURRENCY = "USD"
# Postgres and protobuf both go further, people don't: a later expiry is a mistyped one.
LATEST_EXPIRY = datetime(2200, 1, 1, tzinfo=UTC)
# The name of the built-in organization.
PLATFORM = "platform"

_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")


def validate_metadata(labels: Mapping[str, str], field: str) -> dict[str, str]:
    """Free labels."""
    if len(labels) > MOST_LABELS:
        raise invalid(field, f"{len(labels)} labels", f"at most {MOST_LABELS}")
    for key, value in labels.items():
        if not key:
            raise invalid(f"{field} (a key)", key, "text")
        validate_text(key, f"{field} (a key)", MOST_CHARACTERS_OF_A_LABEL)
        validate_text(value, f"{field}[{key}]", MOST_CHARACTERS_OF_A_LABEL_VALUE)
    return dict(labels)


def validate_tags(tags: Sequence[str], field: str) -> list[str]:
    """Tags of each charge; repeats are dropped."""
    if len(tags) > MOST_TAGS:
        raise invalid(field, f"{len(tags)} tags", f"at most {MOST_TAGS}")
    for place, tag in enumerate(tags):
        path = f"{field}[{place}]"
        validate_text(tag, path, MOST_CHARACTERS_OF_A_TAG)
        # Lists of tags are written with commas, in headers and on the command line.
        if not tag or tag != tag.strip() or "," in tag:
            raise invalid(path, tag, 'a tag such as "env:prod", without commas or spaces around it')
    return list(dict.fromkeys(tags))


def validate_email(text: str, field: str) -> str:
    """An address, or nothing. Only its shape is known here; a message to it is the real test."""
    validate_text(text, field, MOST_CHARACTERS_OF_AN_EMAIL)
    if text and not _EMAIL.fullmatch(text):
        raise invalid(field, text, 'an address such as "ada@example.com", or nothing')
    return text


def validate_currency(text: str, field: str) -> str:
    """An ISO 4217 code; nothing means dollars."""
    if text and text not in CURRENCIES:
        raise invalid(field, text, 'an ISO 4217 code such as "EUR"')
    return text or DEFAULT_CURRENCY


def validate_expiry(time: Timestamp, field: str, now: datetime) -> datetime:
    """When a key ends: later than `now`."""
    expected = "a time in the future, before the year 2200"
    # Checked before it becomes a datetime, which ends with the year 9999.
    if not 0 <= time.seconds < LATEST_EXPIRY.timestamp() or not 0 <= time.nanos < 1_000_000_000:
        raise invalid(field, f"{time.seconds} s {time.nanos} ns", expected)
    expiry = datetime.fromtimestamp(time.seconds, UTC) + timedelta(microseconds=time.nanos // 1000)
    if expiry <= now:
        raise invalid(field, expiry.isoformat(), f"{expected} (it is {now.isoformat()})")
    return expiry


def platform_refuses(what: str) -> BursarError:
    """The built-in organization holds budgets and prices of all others, and nobody in it spends."""
    return failed_precondition(
        "PLATFORM_RESERVED",
        f"organizations/{PLATFORM} is built in: {what}",
        {"organization": f"organizations/{PLATFORM}"},
    )
