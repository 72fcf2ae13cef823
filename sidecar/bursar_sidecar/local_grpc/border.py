"""What apps may say: requests, checked field by field, as plain values. Pure.

Every fault names the field, the value and what was expected.
"""

import hashlib
from typing import Any, Final, TypeAlias

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from bursar.money import CURRENCIES
from bursar.usage import Usage
from bursar.v1 import money_pb2, spend_pb2
from bursar.wire import WireError, usage_from_proto
from bursar_sidecar.dialects.facts import (
    MAX_LABEL_LENGTH,
    MAX_MODEL_LENGTH,
    MAX_OUTPUT_LIMIT,
    MAX_TAGS,
)
from bursar_sidecar.local_grpc.refusing import invalid
from bursar_sidecar.settlements import MAX_NANOS
from bursar_sidecar.terms import Counts

MAX_REQUEST_ID: Final = 128
MAX_APP: Final = 128
MAX_PROVIDER: Final = 63
MAX_CHOICES: Final = 128
MAX_INPUT_LLM_TOKENS: Final = 100_000_000
"""No context window is near it."""
MAX_EVENTS: Final = 10_000
MAX_NAME: Final = 64
MAX_REASON: Final = 256
MAX_PATH: Final = 512
DEFAULT_HOLD_MS: Final = 60_000
_NAME: Final = "reservations/"
_PROVIDER_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


class Body(msgspec.Struct):
    """A provider's request: an `Asked` of the dialects, without headers."""

    path: bytes
    body: bytes
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = []
    method: bytes = b"POST"

    def header(self, name: bytes) -> bytes:
        """None was told."""
        return b""


class Amount(msgspec.Struct, frozen=True):
    """An amount of money that an app says."""

    nanos: int
    currency: str
    field: str
    """Where it stood."""


Bound: TypeAlias = Counts | Body | Amount


class Wanted(msgspec.Struct, frozen=True):
    """A call that an app is about to make."""

    provider: str
    model: str
    bound: Bound
    tags: tuple[str, ...] = ()
    customer: str = ""
    run: str = ""
    app: str = ""
    stream: bool = False


def content_of(request: Message) -> bytes:
    """SHA-256 of a message: what was asked for."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def wanted(call: spend_pb2.SpendCall, field: str = "call") -> Wanted:
    """The call, checked. Raises SpendFault."""
    provider, model = call.provider, call.model
    if provider and (len(provider) > MAX_PROVIDER or not _PROVIDER_LETTERS.issuperset(provider)):
        expected = f"a-z, 0-9, '_', '.', '-', at most {MAX_PROVIDER}"
        raise invalid(f"{field}.provider", provider, expected)
    bound = _bound(call, field)
    if not model and not isinstance(bound, Body):
        raise invalid(f"{field}.model", model, "a model's name")
    if len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise invalid(f"{field}.model", model, f"at most {MAX_MODEL_LENGTH} printable characters")
    if len(call.tags) > MAX_TAGS:
        raise invalid(f"{field}.tags", f"{len(call.tags)} tags", f"at most {MAX_TAGS}")
    for place, tag in enumerate(call.tags):
        label(tag, f"{field}.tags[{place}]")
    label(call.customer, f"{field}.customer")
    label(call.run, f"{field}.run")
    label(call.app, f"{field}.app", MAX_APP)
    return Wanted(
        provider,
        model,
        bound,
        tuple(tag for tag in call.tags if tag),
        call.customer,
        call.run,
        call.app,
        call.stream,
    )


def _bound(call: spend_pb2.SpendCall, field: str) -> Bound:
    match call.WhichOneof("bound"):
        case "usage":
            return _counts(call.usage, f"{field}.usage")
        case "request":
            path = call.request.path
            if not path.startswith("/") or len(path) > MAX_PATH or not path.isprintable():
                raise invalid(f"{field}.request.path", path, 'a path like "/v1/chat/completions"')
            path, _, query = path.partition("?")
            return Body(path.encode(), call.request.body, query.encode())
        case "amount":
            return amount(call.amount, f"{field}.amount")
        case _:
            raise invalid(f"{field}.bound", "", "one of usage, request, amount")


def _counts(bounds: spend_pb2.CallBounds, field: str) -> Counts:
    for name, most in (
        ("input_llm_tokens", MAX_INPUT_LLM_TOKENS),
        ("output_llm_tokens", MAX_OUTPUT_LIMIT),
        ("choices", MAX_CHOICES),
    ):
        number(getattr(bounds, name), f"{field}.{name}", most)
    label(bounds.service_tier, f"{field}.service_tier")
    return Counts(
        input_llm_tokens=bounds.input_llm_tokens,
        output_limit=bounds.output_llm_tokens,
        choices=bounds.choices or 1,
        service_tier=bounds.service_tier,
        text_only=bounds.text_only,
    )


def amount(money: money_pb2.Money, field: str) -> Amount:
    """An amount, checked. Raises SpendFault."""
    number(money.nanos, f"{field}.nanos", MAX_NANOS)
    if money.currency not in CURRENCIES:
        raise invalid(f"{field}.currency", money.currency, "an ISO 4217 code such as USD")
    return Amount(money.nanos, money.currency, field)


def number(value: int, field: str, most: int) -> int:
    """A count, checked. Raises SpendFault."""
    if not 0 <= value <= most:
        raise invalid(field, value, f"0 to {most}")
    return value


def label(text: str, field: str, most: int = MAX_LABEL_LENGTH) -> str:
    """A name that goes into reports. Raises SpendFault."""
    if len(text) > most or not text.isprintable():
        raise invalid(field, text, f"at most {most} printable characters")
    return text


def request_id(text: str) -> str:
    """The name of an attempt, checked. Raises SpendFault."""
    if not text or len(text) > MAX_REQUEST_ID or not text.isprintable():
        raise invalid("request_id", text, f"1 to {MAX_REQUEST_ID} printable characters")
    return text


def hold_ms(value: int, longest_ms: int) -> int:
    """A duration, checked. Raises SpendFault."""
    if not 0 <= value <= longest_ms:
        raise invalid("hold_ms", value, f"0 to {longest_ms}, the longest call of this sidecar")
    return value


def charge_id(name: str) -> str:
    """The charge id in a reservation's name. Raises SpendFault."""
    found = name.removeprefix(_NAME)
    epoch, _, n = found.partition("-")
    digits = (epoch + n).isascii() and epoch.isdigit() and n.isdigit()
    if found == name or not digits or len(name) > MAX_NAME:
        raise invalid("reservation", name, 'a name like "reservations/7-12"')
    return found


def name_of(charge: str) -> str:
    """The reservation's name of a charge id."""
    return _NAME + charge


def usage(message: spend_pb2.SettleRequest) -> Usage:
    """The counts of a settlement, checked. Raises SpendFault."""
    try:
        return usage_from_proto(message.usage)
    except WireError as error:
        raise invalid(f"usage.{error.field}", error.value, error.expected) from error


def check_known(request: Any) -> None:
    """A field that this program does not know may be the one that matters to its sender. Raises
    SpendFault."""
    if path := _unknown_field(request):
        name = request.DESCRIPTOR.full_name
        raise invalid(path, "a field", f"a field of {name} that this sidecar knows; is it older?")


def check_settle(request: spend_pb2.SettleRequest) -> None:
    """What every settlement has. Raises SpendFault."""
    if request.WhichOneof("evidence") is None:
        raise invalid("evidence", "", "one of usage, answer, cost, failure, unknown")
    label(request.answered_model, "answered_model")
    label(request.provider_request_id, "provider_request_id")
    label(request.service_tier, "service_tier")
    label(request.unknown.reason, "unknown.reason", MAX_REASON)


def _unknown_field(message: Message) -> str:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        return f"field {unknown[0].field_number}"
    for descriptor, value in message.ListFields():
        for inner in _messages(descriptor, value):
            if found := _unknown_field(inner):
                return f"{descriptor.name}.{found}"
    return ""


def _messages(descriptor: FieldDescriptor, value: Any) -> list[Message]:
    if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
        return []
    return [value] if isinstance(value, Message) else list(value)
