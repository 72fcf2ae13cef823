"""The tables, as SQLAlchemy Core metadata: the one description that migrations must equal.

Every table of an organization leads with `organization_id`, in its primary key too, so that the
store can be spread by it. Amounts are whole nanos of the organization's currency. Enumerations
are text with a CHECK, so that a row can be read without the program.
"""

from bursar_server.database.schema import (
    budgets,
    exchange_rates,
    identity,
    ledger,
    lending,
    prices,
    ratings,
)
from bursar_server.database.schema.columns import PLATFORM_ORGANIZATION_ID, metadata

__all__ = [
    "PLATFORM_ORGANIZATION_ID",
    "budgets",
    "exchange_rates",
    "identity",
    "ledger",
    "lending",
    "metadata",
    "prices",
    "ratings",
]
