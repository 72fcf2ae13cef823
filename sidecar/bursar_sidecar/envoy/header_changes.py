"""Headers as Envoy is told of them: only what is to change, of those that it has.

Rules of Envoy's ext_proc (`envoy/service/ext_proc/v3/external_processor.proto`, HeaderMutation):
names are in lower case, values travel in `raw_value`, and what is not named stays as it is.
"""

from collections.abc import Iterable
from typing import Final

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.http_messages import Headers

_ADD: Final = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
_SET: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_ENVOYS: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"trailer"})
"""Framing, which Envoy does anew on each side."""


def read(headers: base_pb2.HeaderMap) -> Headers:
    """Those of a message, as pairs; pseudo-headers (`:path`) are among them."""
    return [
        (one.key.encode("latin-1", "replace"), one.raw_value or one.value.encode())
        for one in headers.headers
    ]


def set_to(mutation: ext_proc.HeaderMutation, name: bytes, *values: bytes) -> None:
    """A header shall have these values and no others."""
    for number, value in enumerate(values):
        option = mutation.set_headers.add(append_action=_ADD if number else _SET)
        option.header.key = name.decode("latin-1")
        option.header.raw_value = value


def change(mutation: ext_proc.HeaderMutation, present: Headers, wanted: Headers) -> None:
    """Make of the headers that Envoy has (`present`) those that are `wanted`."""
    has, wants = _by_name(present), _by_name(wanted)
    for name in has:
        if name not in wants and not name.startswith(b":") and name not in _ENVOYS:
            mutation.remove_headers.append(name.decode("latin-1"))
    for name, values in wants.items():
        if has.get(name) != values and name not in _ENVOYS:
            set_to(mutation, name, *values)


def _by_name(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found
