"""When a change of policy is effective everywhere. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec

LAPSE_MARGIN: Final = timedelta(seconds=1)
"""A sidecar measures the validity on its own clock; one that runs slow by 3 % lapses so much
later. No clock of a machine in order is as slow."""


class Holder(msgspec.Struct, frozen=True):
    """A session that is not closed, and the policy it acts on."""

    organization_id: int
    session_epoch: int
    sidecar_slug: str
    sidecar_organization_slug: str
    policy_version: int
    """It acts on nothing older."""
    last_seen_at: datetime
    """When its last frame was applied: its policy is valid for so long after it sent that."""


class Standing(msgspec.Struct, frozen=True):
    """How far a change has come."""

    applied: int
    """Sessions that act on it."""
    lapsed: int
    """Sessions that did not say so, and whose policy has lapsed since."""
    pending: tuple[Holder, ...]
    """Sessions that may act on what was before."""

    @property
    def is_effective(self) -> bool:
        """Whether nobody can act on what was before."""
        return not self.pending


def lapse_at(holder: Holder, valid_for: timedelta) -> datetime:
    """When a session's policy lapses at the latest, if nothing more is heard of it."""
    return holder.last_seen_at + valid_for + LAPSE_MARGIN


def standing(
    holders: Iterable[Holder],
    version: int,
    changed_at: datetime,
    now: datetime,
    valid_for: timedelta,
) -> Standing:
    """How far the change that made `version` has come. Sessions that had lapsed before it count
    for nothing."""
    applied = lapsed = 0
    pending: list[Holder] = []
    for holder in holders:
        if holder.policy_version >= version:
            applied += 1
        elif lapse_at(holder, valid_for) > now:
            pending.append(holder)
        elif lapse_at(holder, valid_for) > changed_at:
            lapsed += 1
    return Standing(applied, lapsed, tuple(pending))


def effective_version(
    holders: Iterable[Holder], latest: int, now: datetime, valid_for: timedelta
) -> int:
    """Changes up to this version, at most the latest one, are effective everywhere."""
    held = (h.policy_version for h in holders if lapse_at(h, valid_for) > now)
    return min(held, default=latest)
