"""The messages of the local gRPC service as a client makes them: no connection, no waiting."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from bursar.money import Money, parse_amount
from bursar.usage import Usage
from bursar.v1 import money_pb2, spend_pb2
from bursar.wire import usage_to_proto

Amount: TypeAlias = Money | money_pb2.Money
Evidence: TypeAlias = Usage | Amount


def usd(amount: str) -> Money:
    """An amount of US dollars as people write it: "0.25"."""
    return parse_amount(amount, "USD")


def call_of(
    model: str = "",
    *,
    provider: str = "",
    input_llm_tokens: int | None = None,
    output_llm_tokens: int = 0,
    choices: int = 1,
    service_tier: str = "",
    text_only: bool = False,
    path: str = "",
    body: Mapping[str, Any] | bytes | None = None,
    amount: Amount | None = None,
    tags: Iterable[str] = (),
    customer: str = "",
    run: str = "",
    app: str = "",
    stream: bool = False,
) -> spend_pb2.SpendCall:
    """A call that is about to be made, bounded in one of three ways: by `input_llm_tokens` and
    `output_llm_tokens` (for each of `choices`), by the request itself (its `body`, and the `path`
    it would have at the sidecar), or by an `amount`. Raises ValueError for none or several."""
    call = spend_pb2.SpendCall(
        provider=provider,
        model=model,
        tags=tags,
        customer=customer,
        run=run,
        app=app,
        stream=stream,
    )
    ways = [input_llm_tokens is not None, body is not None, amount is not None]
    if sum(ways) != 1:
        raise ValueError("a call is bounded by input_llm_tokens, body or amount: one of them")
    if input_llm_tokens is not None:
        call.usage.input_llm_tokens = input_llm_tokens
        call.usage.output_llm_tokens = output_llm_tokens
        call.usage.choices = choices
        call.usage.service_tier = service_tier
        call.usage.text_only = text_only
    elif body is not None:
        call.request.path = path
        call.request.body = _json(body)
    elif amount is not None:
        call.amount.CopyFrom(_money(amount))
    return call


class Held:
    """A reservation as its holder sees it; what sync and async clients have in common."""

    def __init__(self, request: spend_pb2.ReserveRequest) -> None:
        self._request = request
        self._state: spend_pb2.Reservation | None = None
        self._dispatched = False
        self.receipt: spend_pb2.Receipt | None = None
        """What the last word was answered; None before it."""

    @property
    def state(self) -> spend_pb2.Reservation:
        """As the sidecar last told it. Raises RuntimeError before money was set aside."""
        if self._state is None:
            raise RuntimeError("nothing is reserved yet: enter the block, or call `open`")
        return self._state

    @property
    def name(self) -> str:
        """ "reservations/7-12"."""
        return self.state.name

    @property
    def charge_id(self) -> str:
        """In the ledger, "7-12"."""
        return self.state.charge_id

    @property
    def request_id(self) -> str:
        """By which the attempt was reserved."""
        return self._request.request_id

    @property
    def reserved(self) -> money_pb2.Money:
        """What is set aside."""
        return self.state.reserved

    @property
    def output_llm_tokens(self) -> int:
        """LLM tokens of output for each choice that are covered: the limit to send."""
        return self.state.output_llm_tokens

    def dispatched(self) -> None:
        """The call is about to be sent: from now on an exception releases nothing."""
        self._dispatched = True

    def is_unsent(self) -> bool:
        """Whether nothing can have been sent, and nothing was said."""
        return self.receipt is None and not self._dispatched

    def settling(
        self,
        evidence: Evidence | spend_pb2.SettleRequest,
        answered_model: str,
        provider_request_id: str,
        service_tier: str,
        broken_off: bool,
    ) -> spend_pb2.SettleRequest:
        """What says so."""
        if isinstance(evidence, spend_pb2.SettleRequest):
            request = evidence
            request.reservation = self.name
        else:
            request = spend_pb2.SettleRequest(reservation=self.name)
            if isinstance(evidence, Usage):
                request.usage.CopyFrom(usage_to_proto(evidence))
            else:
                request.cost.CopyFrom(_money(evidence))
        request.answered_model = answered_model
        request.provider_request_id = provider_request_id
        request.service_tier = service_tier
        request.broken_off = broken_off
        return request

    def extending(
        self, hold_s: float, output_llm_tokens: int | None, amount: Amount | None
    ) -> spend_pb2.ExtendRequest:
        """What asks for it."""
        request = spend_pb2.ExtendRequest(reservation=self.name, hold_ms=round(hold_s * 1_000))
        if output_llm_tokens is not None:
            request.output_llm_tokens = output_llm_tokens
        if amount is not None:
            request.amount.CopyFrom(_money(amount))
        return request


def reserving(
    model: str, request_id: str, hold_s: float, least: int, call: Mapping[str, Any]
) -> spend_pb2.ReserveRequest:
    """What asks for money."""
    return spend_pb2.ReserveRequest(
        request_id=request_id or str(uuid.uuid4()),
        call=call_of(model, **call),
        hold_ms=round(hold_s * 1_000),
        least_output_llm_tokens=least,
    )


def _money(amount: Amount) -> money_pb2.Money:
    if isinstance(amount, money_pb2.Money):
        return amount
    return money_pb2.Money(nanos=amount.nanos, currency=amount.currency)


def _json(value: Mapping[str, Any] | bytes) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def answered(
    dialect: str, answer: Mapping[str, Any] | bytes | Iterable[bytes]
) -> spend_pb2.SettleRequest:
    """The provider\'s own answer: a body, or the data of events."""
    request = spend_pb2.SettleRequest(answer=spend_pb2.ProviderAnswer(dialect=dialect))
    if isinstance(answer, bytes | Mapping):
        request.answer.body = _json(answer)
    else:
        request.answer.events.extend(answer)
    return request


def failed(http_status: int) -> spend_pb2.SettleRequest:
    """The provider refused or failed."""
    return spend_pb2.SettleRequest(failure=spend_pb2.ProviderFailure(http_status=http_status))


def unknown(reason: str) -> spend_pb2.SettleRequest:
    """Nobody knows what became of it."""
    return spend_pb2.SettleRequest(unknown=spend_pb2.UnknownOutcome(reason=reason))
