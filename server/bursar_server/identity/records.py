"""The rows of identity, as the rest of the server sees them. A missing link is None and ""."""

from datetime import datetime

import msgspec


class OrganizationRecord(msgspec.Struct, frozen=True):
    """An organization."""

    id: int
    slug: str
    display_name: str
    currency: str
    shard_id: int
    disabled: bool
    policy_version: int
    price_overlay_version: int
    created_at: datetime
    updated_at: datetime

    @property
    def name(self) -> str:
        """ "organizations/acme"."""
        return f"organizations/{self.slug}"


class SpenderRecord(msgspec.Struct, frozen=True):
    """A team, a project or a user."""

    id: int
    organization_id: int
    slug: str
    display_name: str
    metadata: dict[str, str]
    disabled: bool
    created_at: datetime
    updated_at: datetime
    team_slug: str = ""
    """Of a project: the team that owns it."""
    email: str = ""
    """Of a user."""


class KeyRecord(msgspec.Struct, frozen=True):
    """A key with all that it leads to: enough to say whether a call of it is admitted at all."""

    id: int
    slug: str
    display_name: str
    organization_id: int
    organization_slug: str
    organization_disabled: bool
    currency: str
    team_id: int | None
    team_slug: str
    team_disabled: bool
    project_id: int | None
    project_slug: str
    project_disabled: bool
    user_id: int | None
    user_slug: str
    user_disabled: bool
    allowed_models: list[str]
    tags: list[str]
    metadata: dict[str, str]
    expires_at: datetime | None
    revoked_at: datetime | None
    disabled: bool
    secret_hash: bytes
    secret_prefix: str
    created_at: datetime
    updated_at: datetime
