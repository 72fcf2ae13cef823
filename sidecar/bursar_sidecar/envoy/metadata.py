"""What the Check tells the later services of a call through Envoy, as dynamic metadata.

Envoy puts what a Check answers below the namespace of its ext_authz filter, whatever the answer
says, and lets no client write there: of a call nothing else is believed.
"""

from collections.abc import Mapping
from typing import Any, Final

NAMESPACE: Final = "envoy.filters.http.ext_authz"
"""`HttpFilterNames::ExtAuthorization`: what `metadata_options.forwarding_namespaces.untyped` of
ext_proc and `%DYNAMIC_METADATA(...)%` of an access log have to name."""
FIELD: Final = "bursar"
"""Beneath it, ours."""
CHARGE_ID: Final = "charge_id"
SPENDER: Final = "spender"
PROVIDER: Final = "provider"
MODEL: Final = "model"
TIER: Final = "tier"
MAX_CHARGE_ID: Final = 64


def told(**fields: str) -> dict[str, Any]:
    """What a Check answers as `dynamic_metadata`."""
    return {FIELD: fields}


def charge_id_of(filter_metadata: Mapping[str, Any]) -> str:
    """The charge id in a message's metadata, whose values are `google.protobuf.Struct`; "" where
    there is none that could be ours."""
    if NAMESPACE not in filter_metadata:
        return ""
    ours = filter_metadata[NAMESPACE].fields.get(FIELD)
    if ours is None:
        return ""
    found = ours.struct_value.fields.get(CHARGE_ID)
    text = "" if found is None else str(found.string_value)
    return text if len(text) <= MAX_CHARGE_ID and text.isascii() else ""
