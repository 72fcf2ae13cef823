"""Envoy's rate limit service over Bursar's budgets: `ShouldRateLimit`.

What Envoy 1.40 makes of an answer (rls.proto, and tried): OVER_LIMIT is a 429 with our headers and
body; OK lets the request on; UNKNOWN lets it on as well, so that it is never answered; an error of
gRPC lets it on unless the filter has `failure_mode_deny`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from envoy.service.ratelimit.v3 import rls_pb2

from bursar.money import format_nanos
from bursar_sidecar.clock import NANOS_PER_SECOND
from bursar_sidecar.desk import BudgetStanding, Refusal
from bursar_sidecar.envoy.descriptors import Asked, Bill, read_request
from bursar_sidecar.envoy.hit_charges import Charged, UnpaidError
from bursar_sidecar.envoy.limits_in_force import LimitsInForce, limits_of
from bursar_sidecar.envoy.parts import Parts
from bursar_sidecar.refusals import render, told

log = structlog.get_logger("bursar.envoy")

NAME: Final = "envoy.service.ratelimit.v3.RateLimitService"
OK: Final = rls_pb2.RateLimitResponse.OK
OVER_LIMIT: Final = rls_pb2.RateLimitResponse.OVER_LIMIT
MOST_REMAINING: Final = 2**32 - 1
"""Of a field of 32 bits."""
MAX_METADATA: Final = 256
"""Characters of a text in the metadata of an answer."""
_UNREADABLE: Final = frozenset({"limit_unknown", "descriptor_invalid"})


class RateLimits:
    """The service."""

    name = NAME

    def __init__(self, limits: LimitsInForce) -> None:
        self.limits = limits

    def methods(self) -> Mapping[str, Any]:
        """Its one rpc."""
        return {
            "ShouldRateLimit": grpc.unary_unary_rpc_method_handler(
                self.should_rate_limit,
                request_deserializer=rls_pb2.RateLimitRequest.FromString,
                response_serializer=rls_pb2.RateLimitResponse.SerializeToString,
            )
        }

    async def run(self) -> None:
        """Pay what is owed, until cancelled."""
        await self.limits.run()

    async def should_rate_limit(self, request: Any, context: Any) -> Any:
        """Charge, or refuse. What is wrong is refused too: Envoy lets errors pass by default."""
        limits = self.limits
        try:
            asked = read_request(request, *limits.now())
        except Refusal as refusal:
            limits.unreadable(refusal)
            if refusal.reason in _UNREADABLE and limits.settings.envoy_limit_unknown == "error":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal.message)
            return self._refused(refusal, [True] * len(request.descriptors))
        try:
            return await self._answered(asked)
        except UnpaidError as unpaid:
            bill, why = unpaid.bill, unpaid.refusal
            limits.refused(bill.limit, why)
            over = [asked.bills[place] is bill for place in asked.places]
            return self._refused(why, over, bill.limit.name)
        except Exception:
            log.exception("rate_limit_failed", limit=asked.bills[0].limit.name)
            fault = Refusal("internal", "The sidecar failed; its log says why.")
            return self._refused(fault, [True] * len(asked.places))

    async def _answered(self, asked: Asked) -> Any:
        charges, bills = self.limits.charges, asked.bills
        paid: dict[int, Charged] = {}
        for number, bill in enumerate(bills):
            if bill.limit.when == "after" and not bill.asks:
                # A fact, and nobody waits for it: it posts whatever becomes of the rest.
                found = await self.limits.told(bill)
                if found is not None:
                    paid[number] = found
        numbers = [i for i, bill in enumerate(bills) if bill.limit.when == "before"]
        paid |= zip(numbers, await charges.pay([bills[i] for i in numbers]), strict=True)
        for number in numbers:
            self.limits.counted(bills[number], "asked" if bills[number].asks else "charged")
        response = rls_pb2.RateLimitResponse(overall_code=OK)
        for place, hit in zip(asked.places, asked.hits, strict=True):
            status, charged = response.statuses.add(code=OK), paid.get(place)
            remaining = None if charged is None else charged.receipt.budget_remaining_nanos
            price = 0 if charged is None else charges.hit_nanos(bills[place], charged, hit.limit)
            if remaining is not None and price:
                status.limit_remaining = min(max(0, remaining) // price, MOST_REMAINING)
        _tell(response, [bills[i] for i in paid], list(paid.values()))
        return response

    def _refused(self, refusal: Refusal, over: list[bool], limit: str = "") -> Any:
        """`over`: for each descriptor, whether it is the one that is refused."""
        response = rls_pb2.RateLimitResponse(overall_code=OVER_LIMIT)
        settings = self.limits.settings
        _, headers, body = render(refusal, exhausted_status=settings.exhausted_status)
        for name, value in headers:
            response.response_headers_to_add.add(key=name.decode(), value=value.decode("latin-1"))
        response.raw_body = body
        standing = refusal.budgets[0] if refusal.budgets else None
        ceiling = refusal.ceiling_nanos
        for is_over in over:
            status = response.statuses.add(code=OVER_LIMIT if is_over else OK)
            if is_over and standing is not None and ceiling:
                self._show(status, standing, ceiling)
        fields = {"refused": refusal.reason, "detail": told(refusal, ceiling)[:MAX_METADATA]}
        if limit:
            fields["limit"] = limit
        response.dynamic_metadata.update(fields)
        return response

    def _show(self, status: Any, standing: BudgetStanding, ceiling_nanos: int) -> None:
        """How the budget stands that refused, in so many calls as this one."""
        limit = status.current_limit
        limit.name = standing.name
        limit.requests_per_unit = min(standing.limit_nanos // ceiling_nanos, MOST_REMAINING)
        left = standing.limit_nanos - standing.settled_nanos
        left -= standing.reserved_nanos + standing.in_doubt_nanos
        status.limit_remaining = min(max(0, left) // ceiling_nanos, MOST_REMAINING)
        seconds = seconds_until(standing.window_end, self.limits.wall_ns())
        if seconds is not None:
            status.duration_until_reset.seconds = seconds


def seconds_until(window_end: str, wall_ns: int) -> int | None:
    """Until a moment in RFC 3339, rounded up, at least 0; None for a window that does not end."""
    if not window_end:
        return None
    end = datetime.fromisoformat(window_end).astimezone(UTC)
    left_ns = round(end.timestamp() * NANOS_PER_SECOND) - wall_ns
    return max(0, -(-left_ns // NANOS_PER_SECOND))


def _tell(response: Any, bills: list[Bill], bought: list[Charged]) -> None:
    """Charge, cost and what is left, as headers of the app's answer and as metadata."""
    if not bought:
        return
    receipts = [charged.receipt for charged in bought]
    left = [r.budget_remaining_nanos for r in receipts if r.budget_remaining_nanos is not None]
    costs = [charged.receipt for bill, charged in zip(bills, bought, strict=True) if not bill.asks]
    told_of: dict[str, str] = {}
    if costs:
        told_of["charge_id"] = ",".join(receipt.charge_id for receipt in costs)
        told_of["cost"] = format_nanos(sum(receipt.cost_nanos for receipt in costs))
        told_of["currency"] = costs[0].currency
    if left:
        told_of["budget_remaining"] = format_nanos(min(left))
    for field, value in told_of.items():
        key = f"x-bursar-{field.replace('_', '-')}"
        response.response_headers_to_add.add(key=key, value=value[:MAX_METADATA])
    told_of["spender"] = bought[0].spender.key
    told_of["limit"] = bills[0].limit.name
    response.dynamic_metadata.update({k: v[:MAX_METADATA] for k, v in told_of.items()})


def service(parts: Parts) -> RateLimits:
    """Of one process."""
    return RateLimits(limits_of(parts))
