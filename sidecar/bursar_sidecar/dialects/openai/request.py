"""What requests of the OpenAI dialect have in common: model, labels, tier, and our own fields."""

from typing import NamedTuple

import msgspec

from bursar_sidecar.dialects.facts import (
    DialectError,
    Facts,
    check_label,
    check_tags,
    checked_model,
)
from bursar_sidecar.dialects.json_fields import (
    OPTIONAL_OBJECT,
    OPTIONAL_STRING,
    STRING,
    STRINGS,
    Fields,
    changed_inside,
    field,
    missing,
    raw,
    top_level,
)


class Common(NamedTuple):
    """What every request of the dialect says."""

    fields: Fields
    model: str
    service_tier: str
    tags: tuple[str, ...]
    customer: str


def read_common(body: bytes, model: str = "", *, default_model: str = "") -> Common:
    """The body's fields with what they say of every call; `model` is the path's, where it names
    one, `default_model` what the provider takes where none is named. Raises DialectError."""
    return common_of(top_level(body), model, default_model=default_model)


def common_of(fields: Fields, model: str = "", *, default_model: str = "") -> Common:
    """What fields say of every call; see `read_common`."""
    named = model or field(fields, "model", STRING, "a string")
    if named is None:
        if not default_model:
            raise missing("model", "a string")
        named = default_model
    customer = field(fields, "user", OPTIONAL_STRING, "a string") or ""
    check_label(customer, "user")
    tags = (*_tags(fields, "tags", "tags"), *_metadata_tags(fields))
    return Common(
        fields=fields,
        model=checked_model(named),
        service_tier=field(fields, "service_tier", OPTIONAL_STRING, "a string") or "",
        tags=check_tags(tags, "tags"),
        customer=customer,
    )


def common_changes(facts: Facts, model: str) -> dict[str, msgspec.Raw | None]:
    """The edits that every request gets: the model's own name, and our fields taken off."""
    changes: dict[str, msgspec.Raw | None] = {}
    fields = facts.fields
    if model != facts.model or "model" not in fields:
        changes["model"] = raw(model)
    if "tags" in fields:
        changes["tags"] = None
    if "metadata" in fields and b"tags" in bytes(fields["metadata"]):
        changes.update(_without_metadata_tags(fields["metadata"]))
    return changes


def _tags(fields: Fields, name: str, param: str) -> list[str]:
    try:
        return field(fields, name, STRINGS, "a list of strings") or []
    except DialectError as error:
        raise DialectError(error.message, param) from None


def _metadata_tags(fields: Fields) -> list[str]:
    if "metadata" not in fields:
        return []
    metadata = field(fields, "metadata", OPTIONAL_OBJECT, "an object") or {}
    return _tags(metadata, "tags", "metadata.tags")


def _without_metadata_tags(metadata: msgspec.Raw) -> dict[str, msgspec.Raw | None]:
    known = OPTIONAL_OBJECT.decode(metadata) or {}
    if "tags" not in known:
        return {}
    is_all = len(known) == 1
    return {"metadata": None if is_all else changed_inside(metadata, known, {"tags": None})}
