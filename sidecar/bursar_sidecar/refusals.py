"""Refusals in the dialect's own error shape: one table from stable reason to status.

A refusal names every budget that refused, what it holds and when it frees, in the body, in
headers, and in a sentence that a person understands without the documentation.
"""

from typing import Any, Final, NamedTuple

from bursar.money import format_nanos
from bursar_sidecar.desk import BudgetStanding, Refusal
from bursar_sidecar.dialects.dialect import Dialect, Refused
from bursar_sidecar.dialects.registry import DEFAULT_DIALECT
from bursar_sidecar.http_messages import Headers

MAX_BUDGET_HEADERS: Final = 16
"""Budgets named in headers; the body names them all."""
DEFAULT_RETRY_S: Final = 1.0
"""Retry-After where the desk knows no better: reservations in flight come home within seconds."""


class Rule(NamedTuple):
    """How a reason is told."""

    status: int
    kind: str
    message: str
    retry: bool = False


REASONS: Final[dict[str, Rule]] = {
    "budget_exhausted": Rule(402, "insufficient_quota", "A budget is exhausted."),
    "budget_reserved": Rule(
        429, "rate_limit_error", "The rest of a budget is held by calls in flight.", True
    ),
    "rate_limited": Rule(429, "rate_limit_error", "A rate limit is reached.", True),
    "overloaded": Rule(503, "server_error", "Too many calls are waiting.", True),
    "no_allowance": Rule(
        503,
        "server_error",
        "The control plane cannot be reached and this sidecar holds no allowance for the call.",
        True,
    ),
    "key_missing": Rule(
        401, "authentication_error", "No key given; send `Authorization: Bearer bk-...`."
    ),
    "key_unknown": Rule(401, "authentication_error", "The key is not known."),
    "key_revoked": Rule(401, "authentication_error", "The key is revoked."),
    "key_disabled": Rule(401, "authentication_error", "The key is disabled."),
    "key_expired": Rule(401, "authentication_error", "The key has expired."),
    "model_not_allowed": Rule(403, "permission_error", "The key may not call this model."),
    "model_unpriced": Rule(
        403, "permission_error", "The model has no price, and the call falls under a money budget."
    ),
    "exchange_rate_missing": Rule(
        403, "permission_error", "No exchange rate is known for the currency of the model's price."
    ),
    "unbounded_input": Rule(
        403, "permission_error", "The input's cost has no bound, under a hard budget."
    ),
    "unbounded_tools": Rule(
        403, "permission_error", "A tool's cost has no bound, under a hard budget."
    ),
    "unbounded_cost": Rule(
        403, "permission_error", "Nothing bounds what the call can cost, under a hard budget."
    ),
    "untold_cost": Rule(
        403, "permission_error", "The answer does not tell the cost, under a hard budget."
    ),
    "split_required": Rule(403, "permission_error", "A budget needs a value to split by."),
    "limit_unknown": Rule(
        403, "permission_error", "No limit is set up for what this request is counted as."
    ),
    "descriptor_invalid": Rule(
        403, "permission_error", "What this request is counted as cannot be read."
    ),
    "model_not_found": Rule(404, "invalid_request_error", "The model is not known."),
    "unknown_path": Rule(404, "invalid_request_error", "This path is not served."),
    "method_not_allowed": Rule(405, "invalid_request_error", "This method is not served here."),
    "body_too_large": Rule(413, "invalid_request_error", "The body is too large."),
    "not_as_it_is": Rule(
        400, "invalid_request_error", "The call would have to be edited, and nobody can."
    ),
    "envoy_misconfigured": Rule(
        503, "server_error", "Envoy is not set up so that the call can be judged."
    ),
    "internal_error": Rule(500, "server_error", "A fault of the sidecar; nothing was sent."),
    "body_encoded": Rule(415, "invalid_request_error", "The body's compression cannot be read."),
    "not_reserved": Rule(
        503, "server_error", "Nothing is reserved for this call at the sidecar that Envoy asks."
    ),
    "provider_unreachable": Rule(
        502, "server_error", "The provider cannot be reached; nothing was charged.", True
    ),
    "provider_broke": Rule(502, "server_error", "The provider broke off before its answer."),
    "provider_timeout": Rule(504, "server_error", "The provider did not answer in time."),
}
_UNKNOWN: Final = Rule(503, "server_error", "The call was refused.")


def render(
    refusal: Refusal,
    dialect: Dialect = DEFAULT_DIALECT,
    *,
    exhausted_status: int = 402,
) -> tuple[int, Headers, bytes]:
    """(status, headers, body) of a refusal, as a dialect tells it."""
    ceiling_nanos = refusal.ceiling_nanos
    rule = REASONS.get(refusal.reason, _UNKNOWN)
    status = exhausted_status if refusal.reason == "budget_exhausted" else rule.status
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"x-bursar-refused", refusal.reason.encode("ascii", "replace")),
    ]
    retry_after_s = refusal.retry_after_s
    if retry_after_s is None and rule.retry:
        retry_after_s = DEFAULT_RETRY_S
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, -int(-retry_after_s // 1))))
    if refusal.reason == "budget_exhausted":
        # SDKs retry a 429 of their own accord; no retry helps against an exhausted budget.
        headers.append((b"x-should-retry", b"false"))
    headers += [
        (b"x-bursar-budget", _budget_header(budget))
        for budget in refusal.budgets[:MAX_BUDGET_HEADERS]
    ]
    details: dict[str, Any] = {}
    if refusal.budgets:
        details["budgets"] = [_standing(budget) for budget in refusal.budgets]
    if ceiling_nanos and refusal.budgets:
        details["call_ceiling"] = format_nanos(ceiling_nanos)
    if retry_after_s is not None:
        details["retry_after_s"] = retry_after_s
    message = _message(refusal, rule, ceiling_nanos)
    refused = Refused(status, refusal.reason, rule.kind, message, details=details)
    return status, headers, dialect.error(refused)


def told(refusal: Refusal, ceiling_nanos: int = 0) -> str:
    """A refusal in sentences, for people."""
    return _message(refusal, REASONS.get(refusal.reason, _UNKNOWN), ceiling_nanos)


def _message(refusal: Refusal, rule: Rule, ceiling_nanos: int) -> str:
    if not refusal.budgets:
        return refusal.message or rule.message
    sentences = [budget_told(budget) for budget in refusal.budgets]
    if ceiling_nanos:
        currency = refusal.budgets[0].currency
        sentences.append(f"This call could cost up to {format_nanos(ceiling_nanos)} {currency}.")
    if refusal.reason == "budget_reserved":
        sentences.append("Calls in flight hold the rest; try again when they have ended.")
    return " ".join(sentences)


def budget_told(budget: BudgetStanding) -> str:
    """How a budget stands, in a sentence."""
    left = max(
        0,
        budget.limit_nanos - budget.settled_nanos - budget.reserved_nanos - budget.in_doubt_nanos,
    )
    text = (
        f"Budget {budget.name!r} ({budget.scope}) has {format_nanos(left)} of "
        f"{format_nanos(budget.limit_nanos)} {budget.currency} left"
    )
    held = []
    if budget.reserved_nanos:
        held.append(f"{format_nanos(budget.reserved_nanos)} reserved by calls in flight")
    if budget.in_doubt_nanos:
        held.append(f"{format_nanos(budget.in_doubt_nanos)} in doubt")
    if held:
        text += f" ({', '.join(held)})"
    if budget.window_end:
        return f"{text}; its window ends {budget.window_end}."
    return f"{text}; its window does not end."


def _standing(budget: BudgetStanding) -> dict[str, str]:
    return {
        "name": budget.name,
        "scope": budget.scope,
        "limit": format_nanos(budget.limit_nanos),
        "settled": format_nanos(budget.settled_nanos),
        "reserved": format_nanos(budget.reserved_nanos),
        "in_doubt": format_nanos(budget.in_doubt_nanos),
        "currency": budget.currency,
        "window_end": budget.window_end,
    }


def _budget_header(budget: BudgetStanding) -> bytes:
    text = (
        f"{budget.name}; scope={budget.scope}; limit={format_nanos(budget.limit_nanos)}; "
        f"settled={format_nanos(budget.settled_nanos)}; "
        f"reserved={format_nanos(budget.reserved_nanos)}; "
        f"in_doubt={format_nanos(budget.in_doubt_nanos)}; currency={budget.currency}; "
        f"window_end={budget.window_end}"
    )
    return "".join(c if c.isprintable() else "?" for c in text).encode("ascii", "replace")
