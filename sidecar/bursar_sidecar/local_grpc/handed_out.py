"""What is kept with a reservation that is handed out, and how it is shown."""

import asyncio
from typing import Final, Protocol

import msgspec

from bursar.v1 import money_pb2, spend_pb2
from bursar.wire import usage_to_proto
from bursar_sidecar.amendments import Late
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.clock import NANOS_PER_MS, Clock
from bursar_sidecar.desk import Outcome, Receipt, Reservation
from bursar_sidecar.local_grpc import border
from bursar_sidecar.local_grpc.bounds import Agreed
from bursar_sidecar.local_grpc.reservations import Entry, State

_STATES: Final = {
    State.RESERVED: spend_pb2.RESERVATION_STATE_RESERVED,
    State.EXTENDED: spend_pb2.RESERVATION_STATE_EXTENDED,
    State.SETTLED: spend_pb2.RESERVATION_STATE_SETTLED,
    State.RELEASED: spend_pb2.RESERVATION_STATE_RELEASED,
    State.EXPIRED: spend_pb2.RESERVATION_STATE_EXPIRED,
}


class Evidence(Protocol):
    """Where what comes late is told; see `amendments`."""

    def late(self, hold: Reservation) -> Late:
        """A reservation that was just settled provisionally."""
        ...

    def amend(self, late: Late, outcome: Outcome, currency: str) -> Receipt:
        """Post what it really cost. Raises Refusal."""
        ...


class Held(msgspec.Struct):
    """What is kept with a reservation."""

    attempt: Attempt
    reservation: Reservation
    agreed: Agreed
    output_limit: int
    working: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    """One growth at a time."""
    late: Late | None = None
    """Once it expired."""
    reserved_nanos: int = 0
    """Once it ended."""


class Amending:
    """Where an attempt's end is told once it is an adjustment."""

    def __init__(self, told: Evidence, late: Late, currency: str) -> None:
        self._told = told
        self._late = late
        self._currency = currency

    def settle(self, reservation: Reservation, outcome: Outcome) -> Receipt:
        return self._told.amend(self._late, outcome, self._currency)


class Handle(msgspec.Struct, frozen=True):
    """A reservation of an earlier life."""

    charge_id: str
    ceiling_nanos: int
    grows: bool = False


def held_of(entry: Entry[Held]) -> Held:
    """What is kept with one that is open or expired."""
    if entry.held is None:
        raise ValueError(f"nothing is kept with {entry.name}, which is {entry.state}")
    return entry.held


class Shared:
    """A reserving that all who ask for the same wait for; it ends with the last of them."""

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self.task = task
        self._waiting = 0

    async def result(self) -> None:
        self._waiting += 1
        try:
            await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if self._waiting == 1 and not self.task.done():
                # Nobody is left who could be told of the reservation.
                self.task.cancel()
            raise
        finally:
            self._waiting -= 1


def money(nanos: int, currency: str) -> money_pb2.Money:
    """An amount as it travels."""
    return money_pb2.Money(nanos=nanos, currency=currency)


def shown(entry: Entry[Held], clock: Clock) -> spend_pb2.Reservation:
    """As it stands; of one that ended, what its last word was answered says the rest."""
    state = _STATES[entry.state]
    name = border.name_of(entry.name)
    if not entry.is_open:
        reserved = told(entry).reserved
        return spend_pb2.Reservation(
            name=name, state=state, reserved=reserved, charge_id=entry.name
        )
    held = held_of(entry)
    left_ns = max(0, entry.deadline - clock.boot_ns())
    open_one = spend_pb2.Reservation(
        name=name,
        state=state,
        reserved=money(held.reservation.ceiling_nanos, held.agreed.call.spender.currency),
        expires_in_ms=left_ns // NANOS_PER_MS,
        output_llm_tokens=held.output_limit,
        charge_id=entry.name,
    )
    open_one.expire_time.FromNanoseconds(clock.wall_ns() + left_ns)
    return open_one


def told(entry: Entry[Held]) -> spend_pb2.Receipt:
    """What its last word was answered."""
    answer = entry.answer
    if isinstance(answer, spend_pb2.Receipt):
        return answer
    return spend_pb2.Receipt(
        reservation=border.name_of(entry.name),
        state=_STATES[entry.state],
        charge_id=entry.name,
        provisional=True,
    )


def receipt_of(
    charge_id: str,
    state: State,
    receipt: Receipt,
    attempt: Attempt,
    reserved_nanos: int,
    *,
    adjusted: bool = False,
) -> spend_pb2.Receipt:
    """What is answered to its last word."""
    answer = spend_pb2.Receipt(
        reservation=border.name_of(charge_id),
        state=_STATES[state],
        charge_id=charge_id,
        cost=money(receipt.cost_nanos, receipt.currency),
        reserved=money(reserved_nanos, receipt.currency),
        usage=usage_to_proto(attempt.usage),
        provisional=attempt.kind == "unknown",
        adjusted=adjusted,
    )
    if receipt.budget_remaining_nanos is not None:
        answer.budget_remaining.CopyFrom(money(receipt.budget_remaining_nanos, receipt.currency))
    return answer
