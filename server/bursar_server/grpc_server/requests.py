"""What a request may not be, whatever its rpc: unreadable, or with fields we don't know.

A field that this program does not know may be the one that matters to its sender (a selector of a
budget, say), so it is refused rather than left out in silence.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from bursar_server.errors import BursarError, FieldViolation, Status

# The other services on this server (health, reflection) have their own rules.
OUR_PACKAGE = "bursar."


class Malformed:
    """In place of a request whose bytes can't be read."""


MALFORMED = Malformed()


def tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """As `deserialize`, but unreadable bytes become MALFORMED: gRPC itself would blame us."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return MALFORMED

    return read


def malformed() -> BursarError:
    """The bytes are no message of this rpc."""
    return BursarError(
        Status.INVALID_ARGUMENT,
        "REQUEST_MALFORMED",
        "the request is not a message of this rpc: its bytes can't be read",
    )


def check_request(request: object) -> None:
    """Raise INVALID_ARGUMENT for a request that is MALFORMED or has unknown fields."""
    if request is MALFORMED:
        raise malformed()
    if isinstance(request, Message) and request.DESCRIPTOR.full_name.startswith(OUR_PACKAGE):
        path = _unknown_field(request)
        if path:
            name = request.DESCRIPTOR.full_name
            description = f"is not known to this server (in {name}): is the client newer?"
            raise BursarError(
                Status.INVALID_ARGUMENT,
                "FIELD_UNKNOWN",
                f"{path}: {description}",
                metadata={"field": path},
                field_violations=[FieldViolation(path, description)],
            )


def _unknown_field(message: Message) -> str:
    """The path of the first field that is not in the contract ("key.field 99"), or ""."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        return f"field {unknown[0].field_number}"
    for descriptor, value in message.ListFields():
        for inner in _messages(descriptor, value):
            if found := _unknown_field(inner):
                return f"{descriptor.name}.{found}"
    return ""


def _messages(descriptor: FieldDescriptor, value: Any) -> list[Message]:
    if descriptor.message_type is None:
        return []
    if isinstance(value, Message):
        return [value]
    if descriptor.message_type.GetOptions().map_entry:
        return [one for one in value.values() if isinstance(one, Message)]
    return list(value)
