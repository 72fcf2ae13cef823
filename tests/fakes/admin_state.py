"""What the admin API that forgets keeps in memory, and how it refuses."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from bursar.v1 import (
    alerts_pb2,
    identity_pb2,
    ledger_pb2,
    policy_pb2,
    price_imports_pb2,
    prices_pb2,
    reports_pb2,
)

# Small, so that a test with a handful of rows turns pages.
PAGE = 2


async def refuse(
    context: Any,
    status: grpc.StatusCode,
    reason: str,
    message: str,
    violations: Iterable[tuple[str, str]] = (),
) -> NoReturn:
    """End a call as the control plane does."""
    whole = status_pb2.Status(code=status.value[0], message=message)
    packed = AnyMessage()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="bursar"))
    whole.details.append(packed)
    if wrong := list(violations):
        bad = AnyMessage()
        bad.Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
                    for field, text in wrong
                ]
            )
        )
        whole.details.append(bad)
    details = (("grpc-status-details-bin", whole.SerializeToString()),)
    await context.abort(status, message, trailing_metadata=details)
    raise AssertionError("abort returned")


class Rows:
    """What one service keeps, by (organization, name); pages in that order."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows: dict[tuple[str, str], Any] = {}

    async def find(self, context: Any, organization: str, name: str) -> Any:
        """The row, or NOT_FOUND."""
        row = self.rows.get((organization, name))
        if row is None:
            await refuse(
                context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"{self.kind} {name} is not there"
            )
        return row

    async def add(self, context: Any, row: Any) -> Any:
        """Keep a new row, or ALREADY_EXISTS."""
        place = (getattr(row, "organization", ""), row.name)
        if place in self.rows:
            await refuse(
                context, grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", f"{row.name} is taken"
            )
        row.create_time.FromDatetime(datetime.now(UTC))
        self.rows[place] = row
        return row

    async def change(self, context: Any, given: Any, mask: Any) -> Any:
        """Copy the masked fields, or INVALID_ARGUMENT without a mask."""
        row = await self.find(context, getattr(given, "organization", ""), given.name)
        if not mask.paths:
            await refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_ARGUMENT",
                "update_mask is empty",
                [("update_mask", "name at least one field")],
            )
        for path in mask.paths:
            row.ClearField(path)
            kept = type(given)()
            kept.CopyFrom(given)
            for field, _ in given.ListFields():
                if field.name != path:
                    kept.ClearField(field.name)
            row.MergeFrom(kept)
        return row

    def page(self, organization: str, request: Any) -> tuple[list[Any], str]:
        """Two rows and where to go on."""
        found = [row for (owner, _), row in sorted(self.rows.items()) if owner == organization]
        begin = int(request.page_token or "0")
        end = begin + PAGE
        return found[begin:end], str(end) if end < len(found) else ""

    async def remove(self, context: Any, organization: str, name: str) -> None:
        """Forget a row, or NOT_FOUND."""
        await self.find(context, organization, name)
        del self.rows[organization, name]


class AdminState:
    """Everything the services know; tests read and write it between calls."""

    def __init__(self) -> None:
        self.organizations = Rows("organization")
        self.teams = Rows("team")
        self.projects = Rows("project")
        self.users = Rows("user")
        self.keys = Rows("key")
        self.budgets = Rows("budget")
        self.sidecars = Rows("sidecar")
        self.looks_until_drained = 0
        """A sidecar that is to drain holds what it holds for so many looks more."""
        self.custom_prices: dict[str, prices_pb2.Price] = {}
        self.import_answer = price_imports_pb2.ImportPricesResponse()
        self.import_refusal = ""
        self.quote = prices_pb2.QuotePriceResponse()
        """What each quote has besides."""
        self.entries: list[ledger_pb2.Entry] = []
        self.propagation = [policy_pb2.Propagation()]
        """In turn; the last one again and again."""
        self.events: list[alerts_pb2.Event] = []
        self.spend = reports_pb2.QuerySpendResponse()
        self.verdict = ledger_pb2.VerifyLedgerResponse(ok=True)
        self.resolved = ledger_pb2.ResolveSessionResponse()
        self.requests: list[Any] = []
        """Every request, in order."""
        self.refuse_budgets = False
        self.made = 0

    def seen(self, kind: type[Any]) -> Any:
        """The last request of a kind."""
        return next(each for each in reversed(self.requests) if isinstance(each, kind))

    def add_organization(self, slug: str, currency: str = "USD") -> None:
        """Have an organization without asking for it."""
        name = f"organizations/{slug}"
        self.organizations.rows["", name] = identity_pb2.Organization(name=name, currency=currency)

    def of(self, organization: str) -> str:
        """The organization meant; "" is the only one besides the platform."""
        names = [name for _, name in self.organizations.rows if name != "organizations/platform"]
        return organization or names[0]
