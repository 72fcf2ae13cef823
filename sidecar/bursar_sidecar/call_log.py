"""Log lines about calls: who, what, how it ended and what it cost; nothing that was said in them.

A refused or failed call is a warning, of each reason a few in each stretch of time: an app that
retries must not fill a disk. With the access log on, every call that ends is a line.
"""

from collections.abc import Callable
from typing import Final

import structlog

from bursar.money import format_nanos
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.desk import Spender

log = structlog.get_logger("bursar.calls")

HUNG_UP: Final = "app_hung_up"
"""No failure: most streams that are cut are cut by people who press stop."""
STRETCH_S: Final = 10.0
MOST_WARNINGS: Final = 10
"""Of one reason in one stretch; how many more there were is said with the next."""
MAX_REASONS: Final = 256
"""Reasons are ours; more of them would be a fault."""


class CallLog:
    """Writes them."""

    def __init__(self, now: Callable[[], float], *, access: bool) -> None:
        """`now` in seconds, on a clock that never goes back. `access`: a line for every call."""
        self.access = access
        self._now = now
        self._warned: dict[str, _Warned] = {}

    def refused(self, reason: str, spender: Spender | None = None, model: str = "") -> None:
        """A call that was not sent. `model` is a name of the price list or of the settings, never
        what an app wrote."""
        warned = self._may_warn(reason)
        if warned is not None:
            known = {} if spender is None else {"key": spender.key}
            log.warning("call_refused", reason=reason, **known, **_if_any("model", model), **warned)

    def ended(self, attempt: Attempt, spender: Spender, took_s: float, *, stream: bool) -> None:
        """A call that was settled."""
        receipt, reason = attempt.receipt, attempt.fault
        if receipt is None:
            return
        is_failed = (reason and reason != HUNG_UP) or attempt.status >= 400
        about: dict[str, object] = {}
        if is_failed:
            warned = self._may_warn(reason or f"status {attempt.status // 100}xx")
            if warned is None and not self.access:
                return
            about = dict(warned or {})
        elif not self.access:
            return
        log.log(
            _WARNING if is_failed else _INFO,
            "call_failed" if is_failed else "call",
            charge_id=attempt.charge_id,
            key=spender.key,
            provider=attempt.route.provider.name,
            model=attempt.route.model,
            status=attempt.status,
            outcome=attempt.kind,
            cost=format_nanos(receipt.cost_nanos),
            currency=receipt.currency,
            llm_tokens=attempt.usage.total_llm_tokens,
            stream=stream,
            took_ms=round(took_s * 1_000, 1),
            **_if_any("reason", reason),
            **_if_any("provider_request_id", attempt.request_id),
            **about,
        )

    def _may_warn(self, reason: str) -> dict[str, object] | None:
        """What is to be added to the line; None: no line."""
        now = self._now()
        warned = self._warned.get(reason)
        if warned is None:
            if len(self._warned) >= MAX_REASONS:
                return None
            warned = self._warned[reason] = _Warned(now)
        if now - warned.since >= STRETCH_S:
            warned.since, warned.count = now, 0
        warned.count += 1
        if warned.count > MOST_WARNINGS:
            warned.suppressed += 1
            return None
        suppressed, warned.suppressed = warned.suppressed, 0
        return {"more_before": suppressed} if suppressed else {}


class _Warned:
    __slots__ = ("count", "since", "suppressed")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.suppressed = 0


_WARNING: Final = 30
_INFO: Final = 20


def _if_any(name: str, value: str) -> dict[str, str]:
    return {name: value} if value else {}
