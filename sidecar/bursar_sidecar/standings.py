"""How budgets stand, as refusals and receipts show it to the app."""

from bursar.v1 import allowances_pb2
from bursar_sidecar.allowances import Book, Reservation, Waiter
from bursar_sidecar.desk import BudgetStanding
from bursar_sidecar.identity import Identity
from bursar_sidecar.pools import Pool


class Standings:
    """Budgets with their names, from what was told and from what is held here."""

    def __init__(self, book: Book, identity: Identity) -> None:
        self._book = book
        self._identity = identity

    def told(self, binding: allowances_pb2.BindingBudget) -> BudgetStanding:
        """A budget as the control plane's verdict tells of it."""
        end = ""
        if binding.HasField("window_end_time"):
            end = binding.window_end_time.ToJsonString()
        return self._shown(
            binding.budget_id,
            limit_nanos=binding.limit_nanos,
            settled_nanos=binding.settled_nanos,
            reserved_nanos=binding.outstanding_nanos,
            in_doubt_nanos=binding.in_doubt_nanos,
            window_end=end,
        )

    def known_here(self, waiter: Waiter, now: int) -> tuple[BudgetStanding, ...]:
        """The budgets a call is short of, as far as they are known without an answer."""
        shown = []
        for leg in (self._book.organization, self._book.platform):
            for budget_id in sorted(waiter.short) if leg else ():
                pool = leg.current_pool(budget_id, now) if leg else None
                if pool is not None:
                    shown.append(
                        self._shown(
                            budget_id,
                            limit_nanos=pool.limit_nanos,
                            settled_nanos=pool.limit_nanos - pool.remaining_nanos,
                            reserved_nanos=pool.reserved_nanos,
                            in_doubt_nanos=0,
                            window_end=pool.window_end,
                        )
                    )
        return tuple(shown)

    def _shown(
        self,
        budget_id: int,
        *,
        limit_nanos: int,
        settled_nanos: int,
        reserved_nanos: int,
        in_doubt_nanos: int,
        window_end: str,
    ) -> BudgetStanding:
        policy = self._identity.budget(budget_id)
        scope = policy.scope if policy else ""
        organization = self._book.organization
        return BudgetStanding(
            name=policy.name if policy else f"budget {budget_id}",
            scope=scope or (organization.organization if organization else ""),
            limit_nanos=limit_nanos,
            settled_nanos=settled_nanos,
            reserved_nanos=reserved_nanos,
            in_doubt_nanos=in_doubt_nanos,
            currency=organization.currency if organization else "",
            window_end=window_end,
        )


def remaining_nanos(reservation: Reservation) -> int | None:
    """What is left of the tightest hard budget; of the tightest soft one if there is no other."""
    pools: list[Pool] = [pool for part in reservation.parts for pool in part.pools]
    tight = [pool.remaining_nanos for pool in pools if pool.lent]
    tight = tight or [pool.remaining_nanos for pool in pools]
    return max(0, min(tight)) if tight else None
