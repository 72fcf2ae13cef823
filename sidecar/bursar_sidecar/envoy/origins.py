"""How a call of the light tier is named in the journal, so that evidence about it may outlive the
process that admitted it."""

from collections.abc import Mapping
from typing import Final

import msgspec

from bursar_sidecar.amendments import Late

MARK: Final = "\x1fenvoy "
"""How the journal's name of such a call begins. An app's own name of a reservation is printable."""


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a call besides its open record."""

    dialect: str
    endpoint: str
    currency: str
    """The spender's."""
    plain: bool
    """A plain answer to it shows what it costs."""
    stream: bool
    """A stream does."""


_origin = msgspec.json.Decoder(Origin)


def named(origin: Origin) -> str:
    """The name of a call of this origin."""
    return MARK + msgspec.json.encode(origin).decode()


def origin_of(name: str) -> Origin:
    """The origin that a name of ours tells. Raises msgspec.DecodeError."""
    return _origin.decode(name.removeprefix(MARK))


def of_envoy(recovered: Mapping[str, Late], *, ours: bool = True) -> dict[str, Late]:
    """Of what a journal has, the calls that Envoy carried; not `ours`: all others."""
    return {
        charge_id: late
        for charge_id, late in recovered.items()
        if late.opened.request_id.startswith(MARK) is ours
    }
