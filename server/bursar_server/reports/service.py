"""The rpc on spend."""

from bursar.v1 import money_pb2, reports_pb2, reports_pb2_grpc
from bursar.windows import WindowError, check_time_zone
from bursar_server.database.pool import Pool, transaction
from bursar_server.errors import invalid
from bursar_server.identity.store import resolve_organization
from bursar_server.reports import rules, store
from bursar_server.reports.rules import QueryFault
from bursar_server.reports.store import SpendPeriod, SpendSum
from bursar_server.times import period


class ReportService(reports_pb2_grpc.ReportServiceServicer):
    """Reports read what was committed and change nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def QuerySpend(
        self, request: reports_pb2.QuerySpendRequest, context: object
    ) -> reports_pb2.QuerySpendResponse:
        """Sums spend."""
        try:
            check_time_zone(request.time_zone)
        except WindowError:
            raise invalid("time_zone", request.time_zone, "a name like Europe/Berlin") from None
        since, until = period(request)
        asked = SpendPeriod(since=since, until=until, time_zone=request.time_zone or "UTC")
        try:
            by = rules.dimensions(request.group_by)
            limit = rules.row_limit(request.limit)
            async with transaction(self._pool, read_only=True) as connection:
                organization = await resolve_organization(connection, request.organization)
                sums = await store.spend(connection, organization.id, asked, by, limit=limit + 1)
                # An entry with several tags is in several rows, but only once in the sum.
                (total,) = await store.spend(connection, organization.id, asked, [], limit=1)
        except QueryFault as fault:
            raise invalid(fault.field, fault.value, fault.expected) from fault
        return reports_pb2.QuerySpendResponse(
            rows=[_row(one, organization.currency) for one in sums[:limit]],
            total=_row(total, organization.currency),
            truncated=len(sums) > limit,
        )


def _row(one: SpendSum, currency: str) -> reports_pb2.SpendRow:
    return reports_pb2.SpendRow(
        values=one.values,
        cost=money_pb2.Money(nanos=one.cost_nanos, currency=currency),
        call_count=one.call_count,
        input_llm_tokens=one.input_llm_tokens,
        cache_llm_tokens=one.cache_llm_tokens,
        output_llm_tokens=one.output_llm_tokens,
        estimated_call_count=one.estimated_call_count,
    )
