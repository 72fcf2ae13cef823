"""The refusals of the control plane: each has one status and one stable reason.

It owns the words that users and programs see; how they travel is `grpc_server`'s business, so
nothing here knows gRPC. Messages name the field, the value and what was expected, and never hold a
secret: callers pass names, not keys.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

# A value in a message is for recognising it; a megabyte of it would only hide the fault.
MOST_CHARACTERS_OF_A_SHOWN_VALUE = 80


class Status(StrEnum):
    """What kind of refusal it is; the names are those of gRPC's status codes."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    ABORTED = "ABORTED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


class FieldViolation(NamedTuple):
    """One field of a request that can't be accepted."""

    field: str
    """Its path in the request: "key.tags[3]"."""
    description: str


class BursarError(Exception):
    """A refusal that a user may see, whole."""

    def __init__(
        self,
        status: Status,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """Stable, UPPER_SNAKE: what programs compare."""
        self.message = message
        """For people."""
        self.metadata: dict[str, str] = dict(metadata or {})
        """Facts behind the message, for programs."""
        self.field_violations = list(field_violations)


def shown(value: object) -> str:
    """`value` as a message shows it: quoted where it is text, cut where it is long."""
    text = ascii(value)
    if len(text) > MOST_CHARACTERS_OF_A_SHOWN_VALUE:
        return f"{text[:MOST_CHARACTERS_OF_A_SHOWN_VALUE]}... ({len(text)} characters)"
    return text


def invalid(field: str, value: object, expected: str) -> BursarError:
    """A field holds what it can't hold; `expected` goes on after "expected"."""
    found = "it is empty" if value in ("", None) else f"{shown(value)} is not accepted"
    description = f"{found}, expected {expected}"
    return BursarError(
        Status.INVALID_ARGUMENT,
        "FIELD_INVALID",
        f"{field}: {description}",
        metadata={"field": field},
        field_violations=[FieldViolation(field, description)],
    )


def not_found(kind: str, name: str) -> BursarError:
    """There is no `kind` ("team") called `name` ("teams/search")."""
    return BursarError(
        Status.NOT_FOUND,
        f"{_upper(kind)}_NOT_FOUND",
        f"there is no {kind} {shown(name)}",
        metadata={"name": name},
    )


def already_exists(kind: str, name: str) -> BursarError:
    """The `kind` can't be made: `name` is taken."""
    return BursarError(
        Status.ALREADY_EXISTS,
        f"{_upper(kind)}_EXISTS",
        f"the {kind} {shown(name)} exists already",
        metadata={"name": name},
    )


def failed_precondition(
    reason: str, message: str, metadata: Mapping[str, str] | None = None
) -> BursarError:
    """The request is sound, but the state of things forbids it."""
    return BursarError(Status.FAILED_PRECONDITION, reason, message, metadata=metadata)


def unauthenticated(message: str, reason: str = "UNAUTHENTICATED") -> BursarError:
    """No credential, or one that is not known."""
    return BursarError(Status.UNAUTHENTICATED, reason, message)


def permission_denied(message: str, reason: str = "PERMISSION_DENIED") -> BursarError:
    """A known credential that may not do this."""
    return BursarError(Status.PERMISSION_DENIED, reason, message)


def unavailable(message: str, reason: str = "UNAVAILABLE") -> BursarError:
    """Try again later: nothing is known to have happened."""
    return BursarError(Status.UNAVAILABLE, reason, message)


def _upper(kind: str) -> str:
    return kind.upper().replace(" ", "_").replace("-", "_")
