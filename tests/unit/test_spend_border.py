"""What the local gRPC service does not understand: the field is named, nothing is reserved."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from bursar.v1 import charges_pb2, money_pb2, spend_pb2
from tests.fakes.spending import MODEL, Refused, Spending, counted, spending, usd

S = spend_pb2
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def app() -> AsyncIterator[Spending]:
    async with spending() as made:
        yield made


def bounds(**counts: Any) -> spend_pb2.SpendCall:
    return S.SpendCall(model=MODEL, usage=S.CallBounds(**counts))


def request(path: str, body: bytes) -> spend_pb2.SpendCall:
    return S.SpendCall(request=S.ProviderRequest(path=path, body=body))


CHAT = "/v1/chat/completions"
CALLS = [
    (S.SpendCall(), "call.bound"),
    (S.SpendCall(model=MODEL), "call.bound"),
    (S.SpendCall(usage=S.CallBounds()), "call.model"),
    (counted(model="m" * 257), "call.model"),
    (counted(model="a\nb"), "call.model"),
    (counted(provider="Open AI"), "call.provider"),
    (counted(provider="p" * 64), "call.provider"),
    (counted(tags=["x"] * 65), "call.tags"),
    (counted(tags=["ok", "t" * 257]), "call.tags[1]"),
    (counted(tags=["a\x00b"]), "call.tags[0]"),
    (counted(customer="c" * 257), "call.customer"),
    (counted(run="r\r"), "call.run"),
    (counted(app="a" * 129), "call.app"),
    (bounds(input_llm_tokens=-1), "call.usage.input_llm_tokens"),
    (bounds(input_llm_tokens=10**9), "call.usage.input_llm_tokens"),
    (bounds(output_llm_tokens=-5), "call.usage.output_llm_tokens"),
    (bounds(output_llm_tokens=10**12), "call.usage.output_llm_tokens"),
    (bounds(choices=129), "call.usage.choices"),
    (bounds(choices=-1), "call.usage.choices"),
    (S.SpendCall(model=MODEL, usage=S.CallBounds(service_tier="t\n")), "call.usage.service_tier"),
    (counted(amount=usd(-1)), "call.amount.nanos"),
    (counted(amount=usd(10**18 + 1)), "call.amount.nanos"),
    (counted(amount=money_pb2.Money(nanos=1, currency="usd")), "call.amount.currency"),
    (counted(amount=money_pb2.Money(nanos=1)), "call.amount.currency"),
    (counted(amount=money_pb2.Money(nanos=1, currency="JPY")), "call.amount.currency"),
    (request("chat", b"{}"), "call.request.path"),
    (request("/v1/nothing", b"{}"), "call.request.path"),
    (request("/v1/models", b"{}"), "call.request.path"),
    (request(CHAT, b"no json"), "call.request.body"),
    (request(CHAT, b"{}"), "call.request.body.model"),
    (request(CHAT, b'{"model": "m", "model": "n"}'), "call.request.body.model"),
    (request(CHAT, b'{"model": "gpt-4o", "messages": 3}'), "call.request.body.messages"),
    (
        request(CHAT, b'{"model": "gpt-4o", "messages": [], "max_tokens": 0}'),
        "call.request.body.max_tokens",
    ),
    (request(CHAT, b'{"model": "gpt-4o", "messages": [], "n": 1e9}'), "call.request.body.n"),
]


@pytest.mark.parametrize(("call", "field"), CALLS)
async def test_a_call_that_makes_no_sense_is_refused_by_its_field(
    app: Spending, call: spend_pb2.SpendCall, field: str
) -> None:
    for ask in (app.quote(call), app.reserve(call=call)):
        with pytest.raises(Refused) as caught:
            await ask
        assert (caught.value.code, caught.value.reason) == (INVALID, "FIELD_INVALID")
        assert list(caught.value.fields) == [field]
        assert caught.value.message.startswith(f"{field}: ")
    assert not app.desk.calls


RESERVES: list[tuple[dict[str, Any], str]] = [
    ({"request_id": ""}, "request_id"),
    ({"request_id": "r" * 129}, "request_id"),
    ({"request_id": "a\tb"}, "request_id"),
    ({"hold_ms": -1}, "hold_ms"),
    ({"hold_ms": 1_800_001}, "hold_ms"),
    ({"least_output_llm_tokens": -1}, "least_output_llm_tokens"),
    (
        {"call": counted(amount=usd(1)), "least_output_llm_tokens": 1},
        "least_output_llm_tokens",
    ),
]


@pytest.mark.parametrize(("fields", "field"), RESERVES)
async def test_a_reserve_that_makes_no_sense_is_refused_by_its_field(
    app: Spending, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refused) as caught:
        await app.reserve(**fields)
    assert caught.value.code is INVALID
    assert list(caught.value.fields) == [field]
    assert not app.desk.calls


SETTLES: list[tuple[dict[str, Any], str]] = [
    ({}, "evidence"),
    ({"usage": charges_pb2.Usage(input_llm_tokens=-1)}, "usage.input_llm_tokens"),
    ({"usage": charges_pb2.Usage(reasoning_llm_tokens=2)}, "usage.reasoning_llm_tokens"),
    ({"usage": charges_pb2.Usage(further={"": 1})}, "usage.further"),
    ({"usage": charges_pb2.Usage(further={"search": -1})}, "usage.further[search]"),
    ({"answer": S.ProviderAnswer(dialect="openai_chat")}, "answer.body"),
    ({"answer": S.ProviderAnswer(dialect="nonsense", body=b"{}")}, "answer.dialect"),
    (
        {"answer": S.ProviderAnswer(dialect="openai_chat", body=b"{}", events=[b"{}"])},
        "answer.events",
    ),
    (
        {"answer": S.ProviderAnswer(dialect="openai_chat", events=[b"{}"] * 10_001)},
        "answer.events",
    ),
    ({"answer": S.ProviderAnswer(dialect="openai_embeddings", events=[b"{}"])}, "answer.dialect"),
    ({"cost": usd(-1)}, "cost.nanos"),
    ({"cost": money_pb2.Money(nanos=1, currency="XXX1")}, "cost.currency"),
    ({"cost": money_pb2.Money(nanos=1, currency="JPY")}, "cost.currency"),
    ({"failure": S.ProviderFailure()}, "failure.http_status"),
    ({"failure": S.ProviderFailure(http_status=200)}, "failure.http_status"),
    ({"failure": S.ProviderFailure(http_status=600)}, "failure.http_status"),
    ({"unknown": S.UnknownOutcome(reason="r" * 257)}, "unknown.reason"),
    ({"cost": usd(1), "answered_model": "m" * 257}, "answered_model"),
    ({"cost": usd(1), "provider_request_id": "i\n"}, "provider_request_id"),
    ({"cost": usd(1), "service_tier": "t\x7f"}, "service_tier"),
]


@pytest.mark.parametrize(("fields", "field"), SETTLES)
async def test_evidence_that_makes_no_sense_leaves_the_reservation_open(
    app: Spending, fields: dict[str, Any], field: str
) -> None:
    reservation = await app.reserve()
    with pytest.raises(Refused) as caught:
        await app.settle(reservation.name, **fields)
    assert caught.value.code is INVALID
    assert list(caught.value.fields) == [field]
    assert not app.desk.outcomes
    assert (await app.settle(reservation.name, cost=usd(7))).cost == usd(7)


@pytest.mark.parametrize(
    "name", ["", "7-1", "reservations/", "reservations/7", "reservations/7-x", "reservations/-1",
             "reservations/7-\N{SUPERSCRIPT TWO}", "reservations/" + "7" * 60 + "-1"]
)  # fmt: skip
async def test_a_name_that_is_none_is_refused(app: Spending, name: str) -> None:
    for ask in (app.settle(name, cost=usd(1)), app.release(name), app.extend(name, hold_ms=1)):
        with pytest.raises(Refused) as caught:
            await ask
        assert list(caught.value.fields) == ["reservation"]


EXTENDS: list[tuple[dict[str, Any], str]] = [
    ({}, "hold_ms"),
    ({"hold_ms": -1}, "hold_ms"),
    ({"output_llm_tokens": -1}, "output_llm_tokens"),
    ({"output_llm_tokens": 10**9}, "output_llm_tokens"),
    ({"amount": usd(-1)}, "amount.nanos"),
    ({"amount": money_pb2.Money(nanos=1, currency="JPY")}, "amount.currency"),
]


@pytest.mark.parametrize(("fields", "field"), EXTENDS)
async def test_an_extend_that_makes_no_sense_is_refused_by_its_field(
    app: Spending, fields: dict[str, Any], field: str
) -> None:
    reservation = await app.reserve()
    with pytest.raises(Refused) as caught:
        await app.extend(reservation.name, **fields)
    assert list(caught.value.fields) == [field]
    assert await app.reserve() == reservation


async def test_an_amount_does_not_grow_by_llm_tokens(app: Spending) -> None:
    reservation = await app.reserve(call=counted(amount=usd(5)))
    with pytest.raises(Refused) as caught:
        await app.extend(reservation.name, output_llm_tokens=5)
    assert list(caught.value.fields) == ["output_llm_tokens"]


async def test_a_model_that_nobody_is_known_to_sell_goes_to_the_only_provider(
    app: Spending,
) -> None:
    with pytest.raises(Refused) as caught:
        await app.quote(counted(model="nobody-sells-this"))
    assert caught.value.reason == "MODEL_UNPRICED"


async def test_without_providers_the_app_is_asked_who_sells_it() -> None:
    async with spending(providers=()) as app:
        assert (await app.quote()).provider == "openai"
        with pytest.raises(Refused) as caught:
            await app.quote(counted(model="nobody-sells-this"))
        assert list(caught.value.fields) == ["call.model"]
        assert "call.provider" in caught.value.message


@pytest.mark.parametrize(
    "metadata",
    [{}, {"authorization": "bk-test"}, {"authorization": "Basic bk-test"}, {"x_api_key": " "}],
)
async def test_who_shows_no_key_is_told_how(app: Spending, metadata: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        await app.ask("Quote", S.QuoteRequest(call=counted()), key="", **metadata)
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.reason == "KEY_MISSING"
    assert "x-api-key" in caught.value.message


async def test_a_key_may_also_be_shown_as_an_api_key(app: Spending) -> None:
    request = S.QuoteRequest(call=counted())
    assert await app.ask("Quote", request, key="", x_api_key="bk-test")
    with pytest.raises(Refused) as caught:
        await app.ask("Quote", request, key="bk-nobody")
    assert caught.value.reason == "KEY_UNKNOWN"


async def test_fields_of_a_younger_client_are_refused_by_their_place(app: Spending) -> None:
    newer = S.QuoteRequest.FromString(counted_with_an_unknown_field())
    with pytest.raises(Refused) as caught:
        await app.quote(newer.call)
    assert caught.value.code is INVALID
    assert list(caught.value.fields) == ["call.field 99"]


def counted_with_an_unknown_field() -> bytes:
    call = counted().SerializeToString() + b"\x98\x06\x01"  # field 99: 1
    return b"\x0a" + bytes([len(call)]) + call


async def test_bytes_that_are_no_message_are_refused(app: Spending) -> None:
    async with grpc.aio.insecure_channel(app.local.address) as channel:
        raw = channel.unary_unary("/bursar.v1.SpendService/Quote", bytes, bytes)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff\xff\xff", metadata=(("authorization", "Bearer bk-test"),))
    assert caught.value.code() is INVALID
    assert "bytes can't be read" in (caught.value.details() or "")


async def test_a_message_that_is_too_large_is_refused(app: Spending) -> None:
    with pytest.raises(Refused) as caught:
        await app.reserve(call=request(CHAT, b" " * (16 * 1024 * 1024)))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
