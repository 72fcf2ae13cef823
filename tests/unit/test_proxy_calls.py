"""The life of a call, through every way it can end: each settles exactly once."""

import asyncio
import json
from typing import Any

import pytest

from bursar.pricing import PriceBook, llm_token_price, snapshot
from bursar_sidecar.desk import Call, Outcome
from bursar_sidecar.http_connection import Connection
from bursar_sidecar.http_server import HttpServer
from bursar_sidecar.proxy import Proxy, build_proxy
from bursar_sidecar.settings import Provider, Settings
from tests.fakes.desk import KEY, FakeDesk, FakeReservation, spender
from tests.fakes.wire import Answer, FakeApp, FakeProvider, delivered, join

USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
COST_NANOS = 13_500  # gpt-4o-mini: 10 at 0.15 and 20 at 0.60 USD a million
CHAT: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 100,
}


class FixedClock:
    """Time stands still."""

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def monotonic(self) -> float:
        return 1.0


class Bench:
    """A proxy between an app and a provider, all in memory."""

    def __init__(self, desk: FakeDesk | None = None, **settings: Any) -> None:
        self.desk = desk or FakeDesk()
        self.provider = FakeProvider()
        upstream = settings.pop("upstream", {})
        openai = Provider("openai", "http://provider.test/v1", api_key="sk-upstream", **upstream)
        self.settings = Settings(providers=(openai,), **settings)
        self.proxy: Proxy = build_proxy(
            self.settings, self.desk, FixedClock(), dial=self.provider.dial
        )
        self.app = self.connect()

    def connect(self) -> FakeApp:
        app = FakeApp()
        join(app, Connection(HttpServer(self.proxy.handle)))
        return app

    def post(
        self, body: dict[str, Any] | bytes, path: str = "/v1/chat/completions", **headers: str
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.app.post(path, data, {"authorization": f"Bearer {KEY}", **named})

    async def answered(self, number: int = 1) -> Answer:
        return await self.app.answer(number)

    async def settled(self) -> Outcome:
        await delivered()
        return self.desk.only_outcome


def chat_answer(**fields: Any) -> bytes:
    message = {"role": "assistant", "content": "four"}
    answer = {"id": "c-1", "model": "gpt-4o-mini", "choices": [{"message": message}]}
    return json.dumps({**answer, "usage": USAGE, **fields}).encode()


def chunk(text: str, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    payload = {"id": "c-1", "model": "gpt-4o-mini", "choices": [choice], **fields}
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


USAGE_CHUNK = (
    b"data: " + json.dumps({"id": "c-1", "choices": [], "usage": USAGE}).encode() + b"\n\n"
)
DONE = b"data: [DONE]\n\n"


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return error


# --- calls that end well ----------------------------------------------------------------------


async def test_a_plain_call_is_forwarded_metered_settled_and_answered() -> None:
    bench = Bench()
    body = json.dumps(CHAT).encode()
    bench.post(body, user_agent="app/1", x_bursar_run="r-1", x_bursar_tags="a:b, c:d")
    call = await bench.provider.request()
    call.send_json(chat_answer(), headers="x-request-id: req-7\r\nconnection: keep-alive\r\n")
    answer = await bench.answered()
    assert (answer.status, answer.body) == (200, chat_answer())
    assert answer.headers["x-bursar-cost"] == "0.0000135"
    assert answer.headers["x-litellm-response-cost"] == "0.0000135"
    assert answer.headers["x-litellm-response-tokens"] == "30"
    assert answer.headers["x-bursar-currency"] == "USD"
    assert answer.headers["x-bursar-charge-id"] == "7-1"
    assert answer.headers["x-bursar-budget-remaining"] == "999.9999865"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos, outcome.http_status) == ("final", COST_NANOS, 200)
    assert outcome.usage.is_exact
    assert (outcome.provider_request_id, outcome.answered_model) == ("req-7", "gpt-4o-mini")
    (asked,) = bench.desk.calls
    assert (asked.app, asked.run, asked.tags) == ("app/1", "r-1", ("a:b", "c:d"))
    assert asked.price_version == snapshot().version
    assert call.requests == [body]


async def test_only_what_concerns_the_provider_goes_to_it() -> None:
    bench = Bench(upstream={"headers": (("openai-organization", "org-ours"),)})
    bench.post(
        {**CHAT, "tags": ["t"], "user": "u-1"},
        path="/v1/chat/completions?x=1",
        x_bursar_customer="c-1",
        x_litellm_tags="z",
        x_api_key="bk-other",
        accept_encoding="gzip, br",
        cookie="c=1",
        openai_organization="org-theirs",
        x_stainless_lang="python",
        connection="keep-alive, x-custom",
        te="trailers",
    )
    call = await bench.provider.request()
    head = call.heads[0]
    assert call.targets == ["/v1/chat/completions?x=1"]
    assert head["authorization"] == "Bearer sk-upstream"
    assert head["accept-encoding"] == "identity"
    assert head["host"] == "provider.test"
    assert head["openai-organization"] == "org-ours"
    assert head["x-stainless-lang"] == "python"
    assert not {"x-bursar-customer", "x-litellm-tags", "x-api-key", "cookie", "te"} & set(head)
    assert "tags" not in json.loads(call.requests[0])
    call.send_json(chat_answer())
    await bench.answered()
    (asked,) = bench.desk.calls
    assert (asked.customer, asked.tags) == ("c-1", ("t", "z"))


async def test_a_stream_is_settled_before_its_last_event() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["stream_options"] == {"include_usage": True}
    call.start_stream()
    call.send_chunk(chunk("fo") + chunk("ur")[:10])
    call.send_chunk(chunk("ur")[10:] + USAGE_CHUNK)
    await bench.app.until(lambda: chunk("ur") in bench.app.body_so_far)
    assert not bench.desk.outcomes
    call.send_chunk(DONE)
    await bench.app.until(lambda: DONE in bench.app.body_so_far)
    outcome = bench.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("final", COST_NANOS)
    call.send_chunk(b"")
    answer = await bench.answered()
    told = json.dumps(
        {
            "cost": "0.0000135",
            "currency": "USD",
            "charge_id": "7-1",
            "budget_remaining": "999.9999865",
        },
        separators=(",", ":"),
    )
    assert answer.body == chunk("fo") + chunk("ur") + f": bursar {told}\n\n".encode() + DONE
    assert answer.headers["x-bursar-charge-id"] == "7-1"


async def test_a_usage_chunk_that_the_app_asked_for_is_passed_on() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("x") + USAGE_CHUNK + DONE)
    call.send_chunk(b"")
    assert USAGE_CHUNK in (await bench.answered()).body
    await bench.settled()


async def test_a_stream_without_done_is_settled_at_its_end() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("x") + USAGE_CHUNK)
    call.send_chunk(b"")
    answer = await bench.answered()
    assert answer.body.startswith(chunk("x") + b": bursar {")
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_embeddings_are_served() -> None:
    bench = Bench()
    bench.post({"model": "text-embedding-3-small", "input": ["a", "b"]}, "/v1/embeddings")
    call = await bench.provider.request()
    usage = {"prompt_tokens": 50, "total_tokens": 50}
    call.send_json(json.dumps({"data": [], "model": "m", "usage": usage}).encode())
    answer = await bench.answered()
    assert answer.headers["x-bursar-cost"] == "0.000001"
    outcome = await bench.settled()
    assert (outcome.usage.input, outcome.usage.output) == (50, 0)
    assert call.targets == ["/v1/embeddings"]


async def test_a_connection_is_used_again_for_the_next_call() -> None:
    bench = Bench()
    for number in (1, 2):
        bench.post(CHAT)
        (await bench.provider.request(number)).send_json(chat_answer())
        await bench.answered(number)
    assert len(bench.provider.connections) == 1
    assert len(bench.desk.outcomes) == 2


# --- calls without usage, and other surprises of providers ------------------------------------


async def test_missing_usage_is_estimated_and_clipped_to_the_reservation() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(usage=None))
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.kind == "final"
    assert not outcome.usage.is_exact
    assert 0 < outcome.cost_nanos <= bench.desk.calls[0].ceiling_nanos


async def test_a_stream_without_usage_is_estimated_from_what_was_produced() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("12345") + DONE)
    call.send_chunk(b"")
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.usage.output == 5
    assert outcome.usage.estimate_reason == "usage is missing"


async def test_more_than_was_reserved_is_charged_in_full() -> None:
    bench = Bench()
    bench.post(CHAT)
    usage = {"prompt_tokens": 10**6, "completion_tokens": 10**6, "total_tokens": 2 * 10**6}
    (await bench.provider.request()).send_json(chat_answer(usage=usage))
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.cost_nanos == 750_000_000
    assert outcome.cost_nanos > bench.desk.calls[0].ceiling_nanos


async def test_the_price_follows_the_model_that_answered() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(model="gpt-4o-2024-11-20"))
    await bench.answered()
    outcome = await bench.settled()
    assert outcome.answered_model == "gpt-4o-2024-11-20"
    assert outcome.cost_nanos == 225_000  # 10 at 2.50 and 20 at 10 USD a million


async def test_a_price_set_for_an_alias_holds_for_its_dated_names() -> None:
    own = llm_token_price("openai", "gpt-4o-mini", rates={"input": "1", "output": "1"})
    bench = Bench(FakeDesk(book=snapshot().with_overlay([own], "own-1")))
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(model="gpt-4o-mini-2024-07-18"))
    await bench.answered()
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.price_version) == (30_000, "own-1")


async def test_an_unknown_answering_model_is_charged_as_the_one_asked_for() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer(model="mystery"))
    await bench.answered()
    assert (await bench.settled()).cost_nanos == COST_NANOS


async def test_a_compressed_answer_is_charged_at_its_reservation() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(b"\x1f\x8b...", headers="content-encoding: gzip\r\n")
    answer = await bench.answered()
    assert answer.body == b"\x1f\x8b..."
    assert answer.headers["content-encoding"] == "gzip"
    outcome = await bench.settled()
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    assert not outcome.usage.is_exact


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_a_providers_error_costs_nothing_and_passes_untouched(status: int) -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    body = b'{"error": {"message": "no"}}'
    (await bench.provider.request()).send_json(body, status, "retry-after: 3\r\n")
    answer = await bench.answered()
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["x-bursar-cost"] == "0.00"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("provider_error", 0)
    assert outcome.http_status == status


# --- calls that are cut -----------------------------------------------------------------------


async def test_a_call_that_was_never_sent_is_released() -> None:
    bench = Bench()
    bench.provider.refuses = True
    bench.post(CHAT)
    answer = await bench.answered()
    assert answer.status == 502
    assert error_of(answer)["code"] == "provider_unreachable"
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("released", 0)


async def test_a_provider_that_closes_before_its_answer_leaves_the_reservation_charged() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).reset()
    answer = await bench.answered()
    assert answer.status == 502
    assert error_of(answer)["code"] == "provider_broke"
    assert answer.headers["x-bursar-charge-id"] == "7-1"
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    assert not outcome.usage.is_exact


async def test_a_plain_answer_that_breaks_off_is_charged_at_its_reservation() -> None:
    bench = Bench()
    bench.post(CHAT)
    call = await bench.provider.request()
    call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    call.close()
    assert (await bench.answered()).status == 502
    outcome = await bench.settled()
    assert (outcome.kind, outcome.http_status) == ("aborted", 200)
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos


async def test_a_stream_that_breaks_off_is_cut_for_the_app_too_and_charged_for_what_came() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    call.send_chunk(chunk("12345"))
    call.close()
    answer = await bench.app.until_ended()
    assert not answer.complete
    assert bench.app.body_so_far == chunk("12345")
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert outcome.usage.output == 5 + 32
    assert outcome.usage.estimate_reason == "the provider closed the connection"
    assert 0 < outcome.cost_nanos < bench.desk.calls[0].ceiling_nanos


async def test_nonsense_from_a_provider_is_a_broken_call() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send(b"\x00\x01 not http\r\n\r\n")
    assert (await bench.answered()).status == 502
    assert (await bench.settled()).kind == "aborted"


async def test_an_app_that_hangs_up_mid_stream_is_charged_for_what_was_produced() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream(headers="x-request-id: req-9\r\n")
    call.send_chunk(chunk("12345"))
    await bench.app.until(lambda: chunk("12345") in bench.app.body_so_far)
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert outcome.usage.output == 5 + 32
    assert outcome.usage.estimate_reason == "the app hung up"
    assert outcome.provider_request_id == "req-9"


async def test_an_app_that_hangs_up_before_a_stream_began_pays_for_its_input() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert 0 < outcome.cost_nanos < bench.desk.calls[0].ceiling_nanos
    assert outcome.usage.output == 32


async def test_a_model_that_reasons_is_charged_at_its_reservation_when_cut() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True, "reasoning_effort": "high"})
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    assert (await bench.settled()).cost_nanos == bench.desk.calls[0].ceiling_nanos


async def test_a_plain_answer_is_read_to_its_end_though_the_app_hung_up() -> None:
    bench = Bench()
    bench.post(CHAT)
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.app.until(lambda: bench.app.lost)
    call.send_json(chat_answer())
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("final", COST_NANOS)
    assert outcome.usage.is_exact


async def test_a_plain_call_is_cut_at_once_where_the_setting_says_so() -> None:
    bench = Bench(finish_after_hang_up_s=0)
    bench.post(CHAT)
    call = await bench.provider.request()
    bench.app.hang_up()
    await bench.provider.until(lambda: call.lost)
    outcome = await bench.settled()
    assert outcome.kind == "aborted"
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos


class WaitingDesk(FakeDesk):
    """Money comes only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.money = asyncio.Event()

    async def reserve(self, call: Call) -> FakeReservation:
        self.asked.set()
        await self.money.wait()
        return await super().reserve(call)


async def test_an_app_that_hangs_up_while_it_waits_for_money_pays_nothing() -> None:
    desk = WaitingDesk()
    bench = Bench(desk)
    bench.post(CHAT)
    await desk.asked.wait()
    bench.app.hang_up()
    await bench.app.until(lambda: bench.app.lost)
    desk.money.set()
    outcome = await bench.settled()
    assert (outcome.kind, outcome.cost_nanos) == ("released", 0)
    assert not bench.provider.connections


async def test_a_call_that_the_sidecar_itself_cuts_is_settled() -> None:
    bench = Bench(drain_s=0)
    server = HttpServer(bench.proxy.handle)
    app = FakeApp()
    join(app, Connection(server))
    app.post("/v1/chat/completions", json.dumps(CHAT).encode(), {"authorization": f"Bearer {KEY}"})
    call = await bench.provider.request()
    await server.drain(0)
    outcome = await bench.settled()
    assert outcome.kind in ("aborted", "final")
    assert outcome.cost_nanos == bench.desk.calls[0].ceiling_nanos
    await bench.provider.until(lambda: call.lost)


# --- calls that may not start -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"authorization": ""}, "key_missing"), ({"authorization": "Bearer bk-x"}, "key_unknown")],
)
async def test_a_wrong_key_is_401(headers: dict[str, str], code: str) -> None:
    bench = Bench()
    bench.post(CHAT, **headers)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (401, code)
    assert not bench.desk.calls


async def test_a_key_may_come_as_x_api_key() -> None:
    bench = Bench()
    bench.post(CHAT, authorization="", x_api_key=KEY)
    (await bench.provider.request()).send_json(chat_answer())
    assert (await bench.answered()).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses",
        "/v1/completions",
        "/v1/batches",
        "/v1/chat/completions/",
        "/v1/chat/completions/../../files",
        "//v1/chat/completions",
        "/",
    ],
)
async def test_there_is_no_way_round(path: str) -> None:
    bench = Bench()
    bench.post(CHAT, path)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (404, "unknown_path")
    assert not bench.provider.connections


async def test_an_exhausted_budget_is_402_and_nothing_is_sent() -> None:
    bench = Bench(FakeDesk(limit_nanos=10))
    bench.post(CHAT)
    answer = await bench.answered()
    error = error_of(answer)
    assert (answer.status, error["code"]) == (402, "budget_exhausted")
    assert "This call could cost up to" in error["message"]
    assert error["call_ceiling"] != "0.00"
    assert not bench.provider.connections


async def test_money_held_by_calls_in_flight_is_429() -> None:
    desk = FakeDesk()
    bench = Bench(desk)
    bench.post(CHAT)
    first = await bench.provider.request()
    desk.limit_nanos = desk.calls[0].ceiling_nanos
    other = bench.connect()
    other.post("/v1/chat/completions", json.dumps(CHAT).encode(), {"x-api-key": KEY})
    answer = await other.answer()
    assert (answer.status, error_of(answer)["code"]) == (429, "budget_reserved")
    assert answer.headers["retry-after"] == "2"
    first.send_json(chat_answer())
    await bench.answered()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": "nope"}, 404, "model_not_found"),
        ({"model": "openai/unheard-of"}, 403, "model_unpriced"),
        ({"tools": [{"type": "web_search"}]}, 403, "unbounded_tools"),
        ({"max_tokens": "abc"}, 400, "invalid_value"),
        ({"user": "x" * 999}, 400, "invalid_value"),
    ],
)
async def test_calls_that_cannot_be_bounded_are_refused(
    change: dict[str, Any], status: int, code: str
) -> None:
    bench = Bench()
    bench.post({**CHAT, **change})
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (status, code)
    assert not bench.desk.calls


@pytest.mark.parametrize("header", ["x_bursar_customer", "x_bursar_run", "x_bursar_tags"])
async def test_an_absurd_label_is_refused_by_name(header: str) -> None:
    bench = Bench()
    bench.post(CHAT, **{header: "x" * 500})
    answer = await bench.answered()
    assert answer.status == 400
    assert error_of(answer)["param"] == header.replace("_", "-")


async def test_an_unpriced_model_may_be_called_where_no_budget_applies() -> None:
    bench = Bench(FakeDesk(limit_nanos=None))
    bench.post({**CHAT, "model": "openai/unheard-of"})
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["model"] == "unheard-of"
    call.send_json(chat_answer(model="unheard-of"))
    answer = await bench.answered()
    assert "x-bursar-budget-remaining" not in answer.headers
    outcome = await bench.settled()
    assert (outcome.cost_nanos, outcome.price_version) == (0, "unpriced")
    assert outcome.usage.output == 20


def without_limits() -> PriceBook:
    own = llm_token_price("openai", "own", rates={"input": "1", "output": "2"})
    return snapshot().with_overlay([own], "v1")


async def test_an_output_limit_is_set_and_announced_where_nothing_bounds_the_output() -> None:
    bench = Bench(FakeDesk(book=without_limits()))
    bench.post({"model": "own", "messages": []})
    call = await bench.provider.request()
    assert json.loads(call.requests[0])["max_completion_tokens"] == 4096
    call.send_json(chat_answer(model="own"))
    assert (await bench.answered()).headers["x-bursar-max-output"] == "4096"


async def test_without_a_budget_no_limit_is_set() -> None:
    bench = Bench(FakeDesk(limit_nanos=None, book=without_limits()))
    body = b'{"model":"own", "messages":[]}'
    bench.post(body)
    call = await bench.provider.request()
    assert call.requests == [body]
    call.send_json(chat_answer(model="own"))
    assert "x-bursar-max-output" not in (await bench.answered()).headers


async def test_input_outside_the_request_is_bounded_by_the_context_window_or_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    messages = [{"role": "user", "content": [image]}]
    known = Bench()
    known.post({**CHAT, "messages": messages})
    (await known.provider.request()).send_json(chat_answer())
    await known.answered()
    assert known.desk.calls[0].ceiling_nanos > 128_000 * 150
    unknown = Bench(FakeDesk(book=without_limits()))
    unknown.post({"model": "own", "messages": messages})
    answer = await unknown.answered()
    assert (answer.status, error_of(answer)["code"]) == (403, "unbounded_input")


async def test_models_lists_what_the_key_may_call() -> None:
    key = spender(allowed_models=("gpt-4o-mini*",))
    bench = Bench(FakeDesk(spenders={KEY: key}))
    bench.app.send(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n".encode())
    listed = json.loads((await bench.answered()).body)
    names = {model["id"] for model in listed["data"]}
    assert "gpt-4o-mini" in names
    assert "gpt-4o" not in names
    one = f"GET /v1/models/gpt-4o HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n\r\n"
    bench.app.send(one.encode())
    assert (await bench.answered(2)).status == 404


async def test_nothing_of_a_refused_body_shows_the_key() -> None:
    bench = Bench()
    bench.post(b"{", authorization="Bearer bk-secret")
    assert b"bk-secret" not in (await bench.answered()).body


async def test_metrics_count_outcomes_and_refusals() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer())
    await bench.answered()
    bench.post({**CHAT, "model": "nope"})
    await bench.answered(2)
    registry = bench.proxy.metrics.registry
    labels = {"provider": "openai", "outcome": "final", "certainty": "exact"}
    assert registry.get_sample_value("bursar_sidecar_calls_total", labels) == 1
    settled = {"provider": "openai", "currency": "USD"}
    name = "bursar_sidecar_settled_nanos_total"
    assert registry.get_sample_value(name, settled) == COST_NANOS
    refused = {"reason": "model_not_found"}
    assert registry.get_sample_value("bursar_sidecar_refusals_total", refused) == 1
    assert registry.get_sample_value("bursar_sidecar_calls_in_flight") == 0
