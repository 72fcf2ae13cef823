"""What is said of a call that was made: from an app's words to one settlement of its attempt."""

import msgspec

from bursar import usage as readers
from bursar.usage import Usage, estimated
from bursar.v1 import spend_pb2
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.desk import OutcomeKind, Receipt
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.local_grpc import border
from bursar_sidecar.local_grpc.bounds import own_nanos
from bursar_sidecar.local_grpc.refusing import invalid

ASSERTED = "cost told by the app"
NO_BOUND = "usage is missing, and no count bounds it"
NEVER_SENT = "never sent, told after it was charged"
LOWEST_FAILURE = 300
HIGHEST_FAILURE = 599


class Said(msgspec.Struct, frozen=True):
    """What an app says that a call used."""

    usage: Usage
    reading: Reading


def settle(attempt: Attempt, request: spend_pb2.SettleRequest) -> Receipt:
    """Close the attempt by what the app says, exactly once.

    Raises SpendFault, and then it is as open as before.
    """
    match request.WhichOneof("evidence"):
        case "cost":
            amount = border.amount(request.cost, "cost")
            nanos = own_nanos(amount, attempt.terms.rates)
            return attempt.charge_cost(nanos, estimated(ASSERTED), _told(request))
        case "failure":
            status = request.failure.http_status
            if not LOWEST_FAILURE <= status <= HIGHEST_FAILURE:
                expected = f"{LOWEST_FAILURE} to {HIGHEST_FAILURE}"
                raise invalid("failure.http_status", status, expected)
            attempt.status = status
            attempt.request_id = request.provider_request_id
            return attempt.fail()
        case "unknown":
            return attempt.charge_reserved(request.unknown.reason or "outcome unknown")
        case "answer":
            said = _answered(attempt, request)
        case _:
            said = Said(border.usage(request), _told(request))
    usage = said.usage
    terms = attempt.terms
    unbounded = terms.bounds is None and terms.ceiling_nanos
    if unbounded and (terms.price is None or not usage.is_exact):
        # An estimate is worth no more than the bounds it is made of, and there are none.
        return attempt.charge_reserved(usage.estimate_reason or NO_BOUND, "final")
    kind: OutcomeKind = "aborted" if request.broken_off else "final"
    return attempt.charge_told(usage, said.reading, kind)


def release_late(attempt: Attempt) -> Receipt:
    """It was charged at its deadline, and was never sent: its adjustment to nothing."""
    return attempt.charge_cost(0, estimated(NEVER_SENT), Reading())


def _told(request: spend_pb2.SettleRequest) -> Reading:
    reading = Reading()
    reading.model = request.answered_model
    reading.request_id = request.provider_request_id
    reading.service_tier = request.service_tier
    return reading


def _answered(attempt: Attempt, request: spend_pb2.SettleRequest) -> Said:
    answer = request.answer
    if answer.body and answer.events:
        raise invalid("answer.events", f"{len(answer.events)} events", "a body or events, not both")
    if len(answer.events) > border.MAX_EVENTS:
        found = f"{len(answer.events)} events"
        raise invalid("answer.events", found, f"at most {border.MAX_EVENTS}")
    if not answer.body and not answer.events:
        raise invalid("answer.body", b"", "the answer's JSON, or events")
    terms = attempt.terms
    bounds = (terms.input_bound or None, terms.output_bound or None)
    try:
        if answer.events:
            stream = readers.read_stream(
                answer.dialect, input_bound=bounds[0], output_bound=bounds[1]
            )
            for event in answer.events:
                stream.feed(event)
            metered = stream.metered()
        else:
            metered = readers.read_usage(
                answer.dialect, answer.body, input_bound=bounds[0], output_bound=bounds[1]
            )
    except readers.UnknownDialectError as error:
        raise invalid("answer.dialect", answer.dialect, "a dialect; see docs/usage.md") from error
    reading = Reading()
    reading.model = request.answered_model or metered.model
    reading.request_id = request.provider_request_id or metered.request_id
    reading.service_tier = request.service_tier or metered.service_tier
    return Said(metered.usage, reading)
