"""New settings while the sidecar runs: what changes at once, what needs a restart, what is refused.

A file with a fault changes nothing. What changes does so in one step, between two calls: a call
that is running ends as it began.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec
import structlog

from bursar_sidecar.settings import Settings, SettingsError

log = structlog.get_logger("bursar.reload")

LIVE: Final = frozenset(
    {
        "access_log",
        "answer_timeout_s",
        "bounds",
        "connect_timeout_s",
        "credential_check_s",
        "debug_page",
        "default_max_output",
        "drain_s",
        "envoy_hold_s",
        "envoy_limit_unknown",
        "envoy_limits",
        "envoy_tier",
        "envoy_unreserved",
        "exhausted_status",
        "finish_after_hang_up_s",
        "listeners",
        "log_level",
        "longest_call_s",
        "max_request_bytes",
        "max_waiters",
        "progressive",
        "providers",
        "reserve_wait_ms",
        "shortages",
        "stall_timeout_s",
        "unmetered",
        "websockets",
        "when_short",
    }
)
"""Settings that a reload changes. Everything else is told in the log and kept until a restart."""

Result = Literal["applied", "unchanged", "refused"]


class Change(NamedTuple):
    """What new settings come to."""

    settings: Settings
    """Those in force from now on."""
    changed: tuple[str, ...]
    kept: tuple[str, ...]
    """They differ, and need a restart."""


def merged(in_force: Settings, wanted: Settings) -> Change:
    """What can be changed is as wanted, the rest as it is."""
    changed, kept = [], []
    new: dict[str, object] = {}
    for field in msgspec.structs.fields(Settings):
        name = field.name
        value = getattr(wanted, name)
        if getattr(in_force, name) == value:
            continue
        if name in LIVE and not (name == "listeners" and _are_elsewhere(in_force, wanted)):
            changed.append(name)
            new[name] = value
        else:
            kept.append(name)
    settings = msgspec.structs.replace(in_force, **new)
    return Change(settings, tuple(changed), tuple(kept))


def _are_elsewhere(in_force: Settings, wanted: Settings) -> bool:
    # Their sockets were opened at the start; whom they stand for can change.
    return [(one.address, one.socket_mode) for one in in_force.listeners] != [
        (one.address, one.socket_mode) for one in wanted.listeners
    ]


class Reloading:
    """Takes new settings in when asked to."""

    def __init__(
        self,
        load: Callable[[], Settings],
        apply: Callable[[Settings], None],
        in_force: Settings,
    ) -> None:
        """`load` reads and checks, raising SettingsError; `apply` switches, or raises OSError or
        ValueError and has changed nothing."""
        self._load = load
        self._apply = apply
        self.settings = in_force
        self.counts: dict[Result, int] = {"applied": 0, "unchanged": 0, "refused": 0}
        self.last: Result | None = None
        self.kept: tuple[str, ...] = ()
        """What the last good file asked for that needs a restart."""

    def reload(self) -> Result:
        """Read the settings again and take them in; says in the log what came of it."""
        try:
            result = self._take_in(self._load())
        except SettingsError as error:
            result = self._refuse(error.faults)
        self.counts[result] += 1
        self.last = result
        return result

    def described(self) -> dict[str, object]:
        """For people."""
        counts: dict[str, object] = {str(result): count for result, count in self.counts.items()}
        return {**counts, "last": self.last, "waiting_for_restart": list(self.kept)}

    def _take_in(self, wanted: Settings) -> Result:
        change = merged(self.settings, wanted)
        self.kept = change.kept
        if change.kept:
            log.warning(
                "settings_need_restart",
                settings=list(change.kept),
                effect="they stay as they were at the start",
            )
        try:
            # Also where no setting differs: a certificate's file may hold another one.
            self._apply(change.settings)
        except (OSError, ValueError) as error:
            return self._refuse([str(error)])
        self.settings = change.settings
        log.info("settings_reloaded", changed=list(change.changed))
        return "applied" if change.changed else "unchanged"

    def _refuse(self, faults: list[str]) -> Result:
        log.error("settings_refused", faults=faults, effect="the settings in force stay")
        return "refused"
