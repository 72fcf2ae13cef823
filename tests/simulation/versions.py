"""Older builds, on either end of a stream: they know the protocol of the last release.

An older build says nothing of later fields and passes over those that it hears. It never
acknowledged a policy. A sidecar of it posts the open calls of a cut journal provisionally.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from bursar.v1 import allowances_pb2
from bursar_sidecar import prior

BASELINE: Final = Path(__file__).parents[2] / "proto" / "bursar.binpb"
"""The protos of the last release, which later ones are checked against."""
M = TypeVar("M", bound=Message)


def _older_types() -> dict[str, Any]:
    files = descriptor_pb2.FileDescriptorSet.FromString(BASELINE.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = [kind.DESCRIPTOR.full_name for kind in (_Up, _Down)]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names
    }


_Up = allowances_pb2.SidecarFrame
_Down = allowances_pb2.ControlFrame
_TYPES: Final = _older_types()


def as_older(message: M) -> M:
    """What is left of a frame where one end is an older build."""
    older = _TYPES[message.DESCRIPTOR.full_name].FromString(message.SerializeToString())
    older.DiscardUnknownFields()
    left = type(message).FromString(older.SerializeToString())
    if isinstance(left, _Up):
        left.ClearField("policy_ack")
    return left


@contextmanager
def reading_journals(*, older: bool) -> Iterator[None]:
    """A sidecar starts inside."""
    theirs: Any = prior
    truncated = theirs.TRUNCATED
    if older:
        theirs.TRUNCATED = "never"
    try:
        yield
    finally:
        theirs.TRUNCATED = truncated
