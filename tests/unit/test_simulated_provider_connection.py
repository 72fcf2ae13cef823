"""The simulated provider's connection, fed by hand: HTTP in, answers and a record out."""

import asyncio
import json

import pytest

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.connection import (
    MAX_BODY_BYTES,
    MAX_WAITING_REQUESTS,
    Connection,
    Provider,
)
from bursar_cli.simulated_provider.served_calls import (
    NOTHING_BILLED,
    Ended,
    ServedCall,
    ServedCalls,
)

DEADLINE_S = 10.0


class Wire(asyncio.Transport):
    """The network as the connection sees it; remembers what was written."""

    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self.written = b""
        self.closed = asyncio.Event()
        self.reading = True
        self.changed = asyncio.Event()
        self.connection = Connection(provider)
        self.connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self.changed.set()

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self.changed.set()
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            while text not in self.written:
                self.changed.clear()
                await self.changed.wait()
        return self.written

    def answer(self) -> tuple[int, dict[str, object]]:
        """Status and JSON body of the last whole answer."""
        last = self.written[self.written.rindex(b"HTTP/1.1") :]
        head, _, body = last.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


def post(body: object, *, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}


def recorded(provider: Provider) -> list[ServedCall]:
    return list(provider.calls.after(0))


async def test_a_call_is_answered_and_recorded_under_its_own_id() -> None:
    provider = Provider(Behaviour(output_llm_tokens=5))
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT, x_simulate_call_id="mine-1"))
    status, body = wire.answer()
    [call] = recorded(provider)
    assert status == 200
    assert (call.call_id, call.response_id, call.ended) == ("mine-1", body["id"], Ended.COMPLETE)
    assert call.billed.output == 5
    assert f"x-request-id: {call.response_id}".encode() in wire.written


async def test_bytes_may_come_one_by_one() -> None:
    provider = Provider(Behaviour())
    wire = Wire(provider)
    for byte in post(CHAT):
        wire.connection.data_received(bytes([byte]))
    assert wire.answer()[0] == 200


async def test_pipelined_requests_are_answered_in_order_and_reading_stops_when_too_many() -> None:
    provider = Provider(Behaviour(latency_ms=1))
    wire = Wire(provider)
    many = MAX_WAITING_REQUESTS + 1
    wire.connection.data_received(
        b"".join(post(CHAT, x_simulate_call_id=f"call-{n}") for n in range(many))
    )
    assert not wire.is_reading()
    await wire.until(f"x-simulate-call-id: call-{many - 1}\r\n".encode())
    assert [call.call_id for call in recorded(provider)] == [f"call-{n}" for n in range(many)]
    assert wire.is_reading()


async def test_hanging_up_in_a_stream_bills_what_was_made_and_a_little_more() -> None:
    behaviour = Behaviour(
        output_llm_tokens=100,
        chunk_llm_tokens=10,
        chunk_delay_ms=3_600_000,
        llm_tokens_billed_after_cancel=7,
    )
    provider = Provider(behaviour)
    wire = Wire(provider)
    wire.connection.data_received(post(STREAM))
    wire.connection.connection_lost(None)
    [call] = recorded(provider)
    assert call.ended is Ended.CANCELLED
    assert (call.billed.output, call.billed.after_cancel) == (17, 7)
    assert not call.usage_reported
    assert provider.calls.totals().in_flight == 0


async def test_hanging_up_before_the_first_byte_bills_the_input() -> None:
    provider = Provider(Behaviour(latency_ms=3_600_000, input_llm_tokens=9))
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT))
    wire.connection.connection_lost(None)
    [call] = recorded(provider)
    assert (call.ended, call.billed.input, call.billed.output) == (Ended.CANCELLED, 9, 0)


async def test_an_aborted_stream_closes_in_the_middle_and_bills_what_it_sent() -> None:
    behaviour = Behaviour(
        output_llm_tokens=100, chunk_llm_tokens=10, abort_rate=1.0, abort_after_chunks=3
    )
    provider = Provider(behaviour)
    wire = Wire(provider)
    wire.connection.data_received(post(STREAM))
    [call] = recorded(provider)
    assert wire.is_closing()
    assert b"[DONE]" not in wire.written
    assert not wire.written.endswith(b"0\r\n\r\n")
    assert (call.ended, call.billed.output) == (Ended.ABORTED, 30)


async def test_a_short_stream_is_aborted_before_its_end_all_the_same() -> None:
    provider = Provider(Behaviour(output_llm_tokens=1, abort_rate=1.0, abort_after_chunks=9))
    wire = Wire(provider)
    wire.connection.data_received(post(STREAM))
    assert b"[DONE]" not in wire.written
    assert recorded(provider)[0].ended is Ended.ABORTED


async def test_an_aborted_plain_answer_is_cut_short_of_its_length() -> None:
    provider = Provider(Behaviour(abort_rate=1.0))
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT))
    head, _, body = wire.written.partition(b"\r\n\r\n")
    told = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert len(body) < told
    assert wire.is_closing()


@pytest.mark.parametrize(("rate", "status"), [("error_429_rate", 429), ("error_500_rate", 500)])
async def test_drawn_errors_have_the_providers_shape_and_cost_nothing(
    rate: str, status: int
) -> None:
    provider = Provider(Behaviour())
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT, x_simulate=json.dumps({rate: 1.0})))
    found, body = wire.answer()
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
    assert recorded(provider)[0].billed == NOTHING_BILLED
    assert (b"retry-after: 1" in wire.written) == (status == 429)


async def test_a_timeout_says_nothing_and_then_closes() -> None:
    provider = Provider(Behaviour(timeout_rate=1.0, timeout_ms=1))
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT))
    async with asyncio.timeout(DEADLINE_S):
        await wire.closed.wait()
    assert wire.written == b""
    [call] = recorded(provider)
    assert (call.ended, call.http_status) == (Ended.ERROR, 0)


async def test_the_same_seed_draws_the_same_whatever_the_order() -> None:
    def outcomes(order: list[int]) -> dict[str, Ended]:
        provider = Provider(Behaviour(error_500_rate=0.5), seed="s")
        wire = Wire(provider)
        for n in order:
            wire.connection.data_received(post(CHAT, x_simulate_call_id=f"call-{n}"))
        return {call.call_id: call.ended for call in recorded(provider)}

    forwards = outcomes(list(range(10)))
    assert forwards == outcomes(list(reversed(range(10))))
    assert len(set(forwards.values())) == 2


async def test_a_repeated_call_id_is_drawn_anew_so_that_a_retry_can_succeed() -> None:
    provider = Provider(Behaviour(error_500_rate=0.5), seed="s")
    wire = Wire(provider)
    for _ in range(20):
        wire.connection.data_received(post(CHAT, x_simulate_call_id="again"))
    assert {call.ended for call in recorded(provider)} == {Ended.ERROR, Ended.COMPLETE}


async def test_two_lives_without_a_seed_share_no_id() -> None:
    found = set()
    for _ in range(2):
        provider = Provider(Behaviour())
        Wire(provider).connection.data_received(post(CHAT))
        found.add(recorded(provider)[0].response_id)
    assert len(found) == 2


async def test_a_missing_key_is_refused_where_one_is_required() -> None:
    provider = Provider(Behaviour(), require_api_key=True)
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT))
    assert wire.answer()[0] == 401
    wire.connection.data_received(post(CHAT, authorization="Bearer sk-1"))
    assert wire.answer()[0] == 200


async def test_only_listed_models_are_served_when_there_is_a_list() -> None:
    provider = Provider(Behaviour(), models=("small",))
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT))
    status, body = wire.answer()
    assert status == 404
    assert body["error"]["code"] == "model_not_found"  # type: ignore[index]
    wire.connection.data_received(get("/v1/models"))
    assert [model["id"] for model in wire.answer()[1]["data"]] == ["small"]  # type: ignore[attr-defined]


async def test_the_network_being_full_holds_the_stream_back() -> None:
    provider = Provider(Behaviour(output_llm_tokens=100_000, chunk_llm_tokens=50))
    wire = Wire(provider)
    wire.connection.pause_writing()
    wire.connection.data_received(post(STREAM))
    assert b"data:" not in wire.written
    wire.connection.resume_writing()
    assert wire.written.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (get("/v1/unknown"), 404),
        (get("/v1/chat/completions"), 405),
        (post(CHAT, x_simulate_call_id="é"), 400),
        (post(CHAT, x_long="v" * 70_000), 431),
        (post(b"x" * (MAX_BODY_BYTES + 1)), 413),
        (get("/" + "x" * 9_000), 400),
        (get("/simulated/calls?page_size=0"), 400),
        (get("/simulated/calls?page_size=99999999999999999999"), 400),
        (get("/simulated/calls?colour=red"), 400),
        (get("/simulated/calls?format=xml"), 400),
    ],
)
async def test_requests_that_cannot_be_served_get_a_clear_error(
    request_bytes: bytes, status: int
) -> None:
    wire = Wire(Provider(Behaviour()))
    wire.connection.data_received(request_bytes)
    found, body = wire.answer()
    assert found == status
    assert body["error"]["message"]  # type: ignore[index]


async def test_the_record_comes_in_pages_and_as_lines() -> None:
    provider = Provider(Behaviour())
    wire = Wire(provider)
    for n in range(5):
        wire.connection.data_received(post(CHAT, x_simulate_call_id=f"call-{n}"))
    found: list[str] = []
    page_token = ""
    while True:
        query = f"/simulated/calls?page_size=2&page_token={page_token}"
        wire.connection.data_received(get(query))
        page = wire.answer()[1]
        found += [call["call_id"] for call in page["calls"]]  # type: ignore[attr-defined]
        page_token = str(page["next_page_token"])
        if not page_token:
            break
    assert found == [f"call-{n}" for n in range(5)]
    wire.connection.data_received(get("/simulated/calls?format=jsonl&call_id=call-3"))
    assert wire.written.endswith(b"}\n")
    assert wire.answer()[1]["call_id"] == "call-3"
    wire.connection.data_received(get("/simulated/calls", "DELETE"))
    wire.connection.data_received(get("/simulated/totals"))
    assert wire.answer()[1]["calls"] == 0


def test_the_record_forgets_the_oldest_but_not_the_sums() -> None:
    calls = ServedCalls(limit=2)
    for n in range(3):
        calls.started()
        calls.ended(
            call_id=f"call-{n}",
            response_id="r",
            endpoint="e",
            model="m",
            stream=False,
            ended=Ended.COMPLETE,
            http_status=200,
            billed=NOTHING_BILLED,
            usage_reported=True,
            started_ns=1,
            ended_ns=2,
        )
    assert [call.call_id for call in calls.after(0)] == ["call-1", "call-2"]
    assert (calls.totals().calls, calls.totals().dropped) == (3, 1)


async def test_draining_lets_the_call_in_flight_end_and_closes_after_it() -> None:
    provider = Provider(Behaviour(latency_ms=1))
    wire = Wire(provider)
    wire.connection.data_received(post(CHAT))
    provider.is_draining = True
    wire.connection.drain()
    assert not wire.is_closing()
    async with asyncio.timeout(DEADLINE_S):
        await wire.closed.wait()
        await provider.drained.wait()
    assert recorded(provider)[0].ended is Ended.COMPLETE


@pytest.mark.parametrize(("asked", "billed"), [(STREAM, 30), (CHAT, 100)])
async def test_an_answer_that_falls_silent_is_billed_for_what_was_made(
    asked: dict[str, object], billed: int
) -> None:
    behaviour = Behaviour(
        output_llm_tokens=100, chunk_llm_tokens=10, stall_rate=1.0, abort_after_chunks=3
    )
    provider = Provider(behaviour)
    wire = Wire(provider)
    wire.connection.data_received(post(asked))
    assert b" 200 OK\r\n" in wire.written
    assert not wire.is_closing()
    assert provider.calls.totals().in_flight == 1
    wire.connection.connection_lost(None)
    [call] = recorded(provider)
    assert (call.ended, call.billed.output) == (Ended.CANCELLED, billed)


@pytest.mark.parametrize("asked", [STREAM, CHAT])
async def test_silence_ends_with_the_connection(asked: dict[str, object]) -> None:
    provider = Provider(Behaviour(stall_rate=1.0, timeout_ms=1))
    wire = Wire(provider)
    wire.connection.data_received(post(asked))
    async with asyncio.timeout(DEADLINE_S):
        await wire.closed.wait()
    assert recorded(provider)[0].ended is Ended.ABORTED


async def test_counts_on_the_way_come_with_the_chunks_of_output() -> None:
    told = [{"prompt_tokens": 1}, {"prompt_tokens": 2}]
    provider = Provider(Behaviour(output_llm_tokens=12, usage_on_the_way=told))
    wire = Wire(provider)
    wire.connection.data_received(post(STREAM))
    assert wire.written.count(b'"usage":{"prompt_tokens":1}') == 1
    assert wire.written.index(b'{"prompt_tokens":1}') < wire.written.index(b'{"prompt_tokens":2}')
    assert recorded(provider)[0].billed.output == 12


async def test_a_tool_that_has_to_be_called_is_called() -> None:
    tools = {
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
    }
    provider = Provider(Behaviour(output_llm_tokens=9))
    wire = Wire(provider)
    wire.connection.data_received(post({**CHAT, **tools}))
    _status, body = wire.answer()
    choice = body["choices"][0]  # type: ignore[index]
    called = choice["message"]["tool_calls"][0]["function"]
    assert choice["finish_reason"] == "tool_calls"
    assert called["name"] == "look"
    assert len(json.loads(called["arguments"])["text"].split()) == 9
    streaming = Wire(provider)
    streaming.connection.data_received(post({**STREAM, **tools}))
    pieces = []
    for line in streaming.written.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:])["choices"]:
                for call in choice["delta"].get("tool_calls", []):
                    pieces.append(call["function"]["arguments"])
    assert json.loads("".join(pieces)) == json.loads(called["arguments"])
