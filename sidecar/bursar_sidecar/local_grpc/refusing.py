"""How a refusal travels: one table from stable reasons to gRPC's statuses, and the details beside.

A refused rpc carries google.rpc.Status with ErrorInfo, BadRequest where fields are at fault,
QuotaFailure naming every budget that refused, and RetryInfo where time helps. A refused command of
a stream says the same in a SpendError.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from bursar.money import format_nanos
from bursar.v1 import spend_pb2
from bursar_sidecar import refusals
from bursar_sidecar.desk import BudgetStanding, Refusal
from bursar_sidecar.dialects.facts import DialectError

ERROR_DOMAIN: Final = "bursar"
DETAILS_KEY: Final = "grpc-status-details-bin"
# Details travel as a header, of which clients accept 8 kB in all by default.
MOST_CHARACTERS_OF_A_MESSAGE: Final = 1024
MOST_CHARACTERS_SHOWN: Final = 80
MOST_FIELD_VIOLATIONS: Final = 16
MOST_BUDGETS: Final = 16

_Code = grpc.StatusCode
_STATUSES: Final[Mapping[str, grpc.StatusCode]] = {
    "model_not_allowed": _Code.PERMISSION_DENIED,
    "evidence_too_late": _Code.FAILED_PRECONDITION,
}
"""By the reasons of the desk, where HTTP's status does not say it."""
_BY_HTTP: Final[Mapping[int, grpc.StatusCode]] = {
    401: _Code.UNAUTHENTICATED,
    402: _Code.RESOURCE_EXHAUSTED,
    403: _Code.FAILED_PRECONDITION,
    404: _Code.NOT_FOUND,
    429: _Code.RESOURCE_EXHAUSTED,
}
"""Others are UNAVAILABLE: it may go well another time."""


class Violation(NamedTuple):
    """What is wrong with one field."""

    field: str
    description: str


class SpendFault(Exception):
    """A refusal that an app may see, whole."""

    def __init__(
        self,
        status: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        budgets: Sequence[BudgetStanding] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """Stable, UPPER_SNAKE."""
        self.message = message[:MOST_CHARACTERS_OF_A_MESSAGE]
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations[:MOST_FIELD_VIOLATIONS])
        self.budgets = tuple(budgets[:MOST_BUDGETS])
        self.retry_after_s = retry_after_s


def invalid(field: str, value: object, expected: str) -> SpendFault:
    """A field holds what it can't hold; `expected` goes on after "expected"."""
    text = ascii(value)
    if len(text) > MOST_CHARACTERS_SHOWN:
        text = f"{text[:MOST_CHARACTERS_SHOWN]}... ({len(text)} characters)"
    found = "it is empty" if value in ("", b"", None) else f"{text} is not accepted"
    return _blamed(field, f"{found}, expected {expected}")


def _blamed(field: str, description: str) -> SpendFault:
    return SpendFault(
        _Code.INVALID_ARGUMENT,
        "FIELD_INVALID",
        f"{field}: {description}",
        metadata={"field": field},
        violations=[Violation(field, description)],
    )


def unreadable_request(error: DialectError, field: str) -> SpendFault:
    """A provider's request can't be read; `field` is where it stands."""
    return _blamed(f"{field}.{error.param}" if error.param else field, error.message)


def not_found(name: str) -> SpendFault:
    """No reservation of that name is this key's, as far as this sidecar knows."""
    return SpendFault(
        _Code.NOT_FOUND,
        "RESERVATION_NOT_FOUND",
        f"there is no reservation {name[:MOST_CHARACTERS_SHOWN]!r} of this key here: it ended long "
        "ago, or is another sidecar's",
        metadata={"name": name[:MOST_CHARACTERS_SHOWN]},
    )


def over(name: str, state: str) -> SpendFault:
    """The reservation has ended, and another word about it changes nothing."""
    return SpendFault(
        _Code.FAILED_PRECONDITION,
        f"RESERVATION_{state.upper()}",
        f"{name} is {state} already",
        metadata={"name": name},
    )


def reused(request_id: str) -> SpendFault:
    """The id of an attempt named another one before."""
    return SpendFault(
        _Code.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
        f"request_id: {request_id} was used before, with another content; a new attempt needs a "
        "new id",
        metadata={"field": "request_id"},
    )


def interrupted(request_id: str, name: str) -> SpendFault:
    """The attempt was under way when the sidecar ended."""
    return SpendFault(
        _Code.FAILED_PRECONDITION,
        "RESERVATION_INTERRUPTED",
        f"request_id: {request_id} was reserved as {name} before the sidecar was started again, "
        "and charged provisionally; settle or release it, and take a new id for a new attempt",
        metadata={"reservation": name},
    )


def of_refusal(refusal: Refusal, ceiling_nanos: int = 0) -> SpendFault:
    """A refusal of the desk's. `ceiling_nanos` is what the call could have cost."""
    retry_after_s = refusal.retry_after_s
    rule = refusals.REASONS.get(refusal.reason)
    if retry_after_s is None and rule is not None and rule.retry:
        retry_after_s = refusals.DEFAULT_RETRY_S
    if refusal.reason == "budget_exhausted":
        retry_after_s = None  # what clients would retry of their own accord
    metadata = {}
    if refusal.budgets:
        tightest = refusal.budgets[0]
        metadata = {
            "budget": tightest.name,
            "limit": format_nanos(tightest.limit_nanos),
            "settled": format_nanos(tightest.settled_nanos),
            "reserved": format_nanos(tightest.reserved_nanos),
            "in_doubt": format_nanos(tightest.in_doubt_nanos),
            "currency": tightest.currency,
            "window_end": tightest.window_end,
        }
        if ceiling_nanos:
            metadata["call_ceiling"] = format_nanos(ceiling_nanos)
    by_http = _BY_HTTP.get(rule.status) if rule is not None else None
    return SpendFault(
        _STATUSES.get(refusal.reason) or by_http or _Code.UNAVAILABLE,
        refusal.reason.upper(),
        refusals.told(refusal, ceiling_nanos),
        metadata=metadata,
        budgets=refusal.budgets,
        retry_after_s=retry_after_s,
    )


def details_of(fault: SpendFault) -> bytes:
    """The refusal as a serialized google.rpc.Status."""
    info = error_details_pb2.ErrorInfo(
        reason=fault.reason, domain=ERROR_DOMAIN, metadata=fault.metadata
    )
    result = status_pb2.Status(code=fault.status.value[0], message=fault.message)
    result.details.append(_packed(info))
    if fault.violations:
        bad = error_details_pb2.BadRequest()
        for violation in fault.violations:
            bad.field_violations.add(
                field=violation.field,
                description=violation.description[:MOST_CHARACTERS_OF_A_MESSAGE],
            )
        result.details.append(_packed(bad))
    if fault.budgets:
        quota = error_details_pb2.QuotaFailure()
        for budget in fault.budgets:
            quota.violations.add(subject=budget.name, description=refusals.budget_told(budget))
        result.details.append(_packed(quota))
    if fault.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(_milliseconds(fault.retry_after_s))
        result.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    data: bytes = result.SerializeToString()
    return data


def error_of(fault: SpendFault) -> spend_pb2.SpendError:
    """The refusal as a stream tells it."""
    return spend_pb2.SpendError(
        code=fault.status.value[0],
        reason=fault.reason,
        message=fault.message,
        metadata=fault.metadata,
        field_violations=[
            spend_pb2.SpendFieldViolation(field=v.field, description=v.description)
            for v in fault.violations
        ],
        retry_after_ms=0 if fault.retry_after_s is None else _milliseconds(fault.retry_after_s),
    )


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))


def _packed(
    detail: (
        error_details_pb2.ErrorInfo
        | error_details_pb2.BadRequest
        | error_details_pb2.QuotaFailure
        | error_details_pb2.RetryInfo
    ),
) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed
