"""Calls that grow, against real processes: a small budget serves many whose worst case it can not
pay, and where its money ends a stream ends in good order, at no less than the provider's bill.

The official SDK against `bursar up`; what the simulated provider says it served is the truth.
"""

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import openai
import pytest

from bursar.money import NANOS_PER_UNIT
from bursar.pricing import charge, llm_token_price
from bursar.usage import Usage
from bursar.v1 import charges_pb2
from tests.fakes.provider_bill import compare, entries_of, posted
from tests.fakes.stack import ServedCall, Stack, running

DEAR = "gpt-4o-dear"
"""A made-up model: 75 USD a million LLM tokens of output, and answers of up to 128,000: 9.60."""
CHEAP = "gpt-4o-cheap"
"""Another: 2 USD a million, and answers of up to 128,000: 0.256."""
RATES = {DEAR: ("15", "75"), CHEAP: ("1", "2")}
LONGEST = 128_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("growing")) as stack:
        for model, (given, produced) in RATES.items():
            command(
                stack, "price", "set", f"openai/{model}", "--input", given, "--output", produced,
                "--max-output", str(LONGEST), "--org", "acme",
            )  # fmt: skip
        yield stack


def command(stack: Stack, *arguments: str) -> Any:
    done = stack.cli(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cost_of(model: str, call: ServedCall) -> int:
    """The provider's bill for a call, in nanos."""
    given, produced = RATES[model]
    price = llm_token_price("openai", model, rates={"input": given, "output": produced})
    usage = Usage(input=call.billed["input"], output=call.billed["output"])
    return charge(price, usage).cost_nanos


class App:
    """An app whose key has a budget; its calls have ids on both sides."""

    def __init__(self, stack: Stack, model: str, budget: str) -> None:
        made = command(
            stack, "key", "create", "--org", "acme", "--max-budget", budget, "--window", "1d"
        )
        self.stack = stack
        self.model = model
        self.budget = Decimal(budget) * NANOS_PER_UNIT
        self.name: str = made["name"]
        self.client = openai.OpenAI(
            api_key=made["key"], base_url=f"{stack.ready['sidecar']}/v1", max_retries=0, timeout=60
        )
        self.call_ids: list[str] = []

    def create(self, behaviour: dict[str, Any], **fields: Any) -> Any:
        """A call without a limit of its own."""
        call_id = str(uuid.uuid4())
        self.call_ids.append(call_id)
        return self.client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "user", "content": "Tell me everything."}],
            extra_headers={
                "x-simulate": json.dumps(behaviour),
                "x-simulate-call-id": call_id,
                "x-bursar-tags": f"call:{call_id}",
            },
            **fields,
        )

    def read(self, behaviour: dict[str, Any]) -> tuple[str, str]:
        """One stream, to its end: its text, and how it ended."""
        chunks = list(self.create(behaviour, stream=True).parse())
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        return text, [c.choices[0].finish_reason for c in chunks if c.choices][-1]

    def billed(self) -> tuple[dict[str, ServedCall], dict[str, Any]]:
        """What the provider served it, and the entry of each, once all are posted."""
        served = self.stack.served()
        mine = {id: served[id] for id in self.call_ids if id in served}
        with self.stack.admin() as admin:
            posted(admin, self.name, mine)
            entries = entries_of(admin, self.name)
        assert all(len(entries[id]) == 1 for id in mine)
        return mine, {id: entries[id][0] for id in mine}


def test_forty_streams_of_a_dear_model_are_all_admitted_by_a_small_budget(stack: Stack) -> None:
    app = App(stack, DEAR, "25")
    # 640 LLM tokens are 0.048 USD; each stream takes some three seconds.
    behaviour = {"output_llm_tokens": 640, "chunk_llm_tokens": 8, "chunk_delay_ms": 40}
    with ThreadPoolExecutor(40) as threads:
        ends = [end for _text, end in threads.map(app.read, [behaviour] * 40)]
    assert ends == ["stop"] * 40
    served, entries = app.billed()
    assert len(served) == 40
    for id, call in served.items():
        assert entries[id].amount.nanos == cost_of(DEAR, call)
        assert entries[id].reserved.nanos < Decimal("9.60") * NANOS_PER_UNIT / 10
    assert sum(entry.amount.nanos for entry in entries.values()) < app.budget


@pytest.mark.parametrize("late", [0, 20])
def test_where_the_budget_ends_a_stream_ends_and_nothing_is_overspent(
    stack: Stack, late: int
) -> None:
    app = App(stack, DEAR, "0.5")
    # Six thousand LLM tokens: ten times what the budget pays if each byte were one.
    behaviour = {
        "output_llm_tokens": 6_000, "chunk_llm_tokens": 1, "chunk_delay_ms": 4,
        "llm_tokens_billed_after_cancel": late,
    }  # fmt: skip
    text, end = app.read(behaviour)
    assert end == "length"
    assert len(text) > 1_000
    served, entries = app.billed()
    ((id, call),) = served.items()
    assert call.ended == "cancelled"
    entry = entries[id]
    assert cost_of(DEAR, call) <= entry.amount.nanos <= entry.reserved.nanos <= app.budget
    assert entry.usage.estimate_reason


def test_many_streams_share_the_last_of_a_budget_and_none_overspends_it(stack: Stack) -> None:
    app = App(stack, DEAR, "2")
    behaviour = {"output_llm_tokens": 3_000, "chunk_llm_tokens": 2, "chunk_delay_ms": 5}

    def read(_number: int) -> str:
        try:
            return app.read(behaviour)[1]
        except openai.APIStatusError as refused:
            return str(refused.code)

    with ThreadPoolExecutor(12) as threads:
        ends = set(threads.map(read, range(12)))
    assert "length" in ends
    assert ends <= {"stop", "length", "budget_exhausted", "budget_reserved"}
    served, entries = app.billed()
    assert sum(cost_of(DEAR, call) for call in served.values()) <= app.budget
    for id, call in served.items():
        assert cost_of(DEAR, call) <= entries[id].amount.nanos <= entries[id].reserved.nanos


def test_two_hundred_plain_calls_at_once_are_all_served(stack: Stack) -> None:
    app = App(stack, CHEAP, "1")
    # 490 LLM tokens of output and some of input: a tenth of a cent, 0.20 USD in all.
    behaviour = {"output_llm_tokens": 490, "chunk_llm_tokens": 10, "latency_ms": 20}

    def call(_number: int) -> Any:
        return app.create(behaviour)

    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(call, range(200)))
    completions = [answer.parse() for answer in answers]
    assert [c.choices[0].finish_reason for c in completions] == ["stop"] * 200
    assert {c.usage.completion_tokens for c in completions} == {490}
    assert not any("x-bursar-clamped-output" in answer.headers for answer in answers)
    served, entries = app.billed()
    assert len(served) == 200
    spent = sum(entry.amount.nanos for entry in entries.values())
    assert spent == sum(cost_of(CHEAP, call) for call in served.values())
    assert abs(spent - Decimal("0.2") * NANOS_PER_UNIT) < Decimal("0.01") * NANOS_PER_UNIT


def test_an_assembled_answer_is_the_plain_one(stack: Stack) -> None:
    ample, short = App(stack, CHEAP, "20"), App(stack, CHEAP, "0.2")
    behaviour = {"output_llm_tokens": 60, "chunk_llm_tokens": 3}
    for app in (ample, short):
        app.create(behaviour)  # until then nothing is known of the budget
    plain, assembled = ample.create(behaviour, n=2), short.create(behaviour, n=2)
    assert "x-bursar-assembled" not in plain.headers
    assert assembled.headers["x-bursar-assembled"] == "1"
    bodies = [json.loads(answer.text) for answer in (plain, assembled)]
    for body in bodies:
        del body["id"], body["created"]
    assert bodies[0] == bodies[1]
    assert plain.headers["content-type"] == assembled.headers["content-type"]


@pytest.mark.parametrize(
    "behaviour",
    [{"hang_up_after": 200}, {"abort_rate": 1, "abort_after_chunks": 200}, {"missing_usage": True}],
)
def test_a_growing_stream_that_breaks_is_charged_no_less_than_its_bill(
    stack: Stack, behaviour: dict[str, Any]
) -> None:
    app = App(stack, DEAR, "5")
    hang_up_after = behaviour.pop("hang_up_after", 0)
    base = {"output_llm_tokens": 1_500, "chunk_llm_tokens": 4, "chunk_delay_ms": 2}
    try:
        with app.create({**base, **behaviour}, stream=True).parse() as chunks:
            for number, _chunk in enumerate(chunks):
                if number == hang_up_after > 0:
                    break
    except openai.APIError:
        assert "abort_rate" in behaviour
    served, entries = app.billed()
    ((id, call),) = served.items()
    entry = entries[id]
    assert cost_of(DEAR, call) <= entry.amount.nanos <= entry.reserved.nanos
    assert entry.usage.estimate_reason


def test_a_killed_sidecar_posts_growing_streams_at_what_they_grew_to(stack: Stack) -> None:
    app = App(stack, DEAR, "20")
    behaviour = {"output_llm_tokens": 4_000, "chunk_llm_tokens": 4, "chunk_delay_ms": 10}
    flowing = threading.Semaphore(0)

    def read(_number: int) -> None:
        # What the library raises where the connection breaks is its transport's own.
        with contextlib.suppress(Exception):
            for number, _chunk in enumerate(app.create(behaviour, stream=True).parse()):
                if number == 150:  # some 2,500 bytes: it has grown
                    flowing.release()

    with ThreadPoolExecutor(4) as threads:
        reading = [threads.submit(read, number) for number in range(4)]
        for _ in reading:
            assert flowing.acquire(timeout=60)
        stack.back("sidecar-1", stack.kill("sidecar-1"))
        for each in reading:
            each.result()
    served, entries = app.billed()
    assert len(served) == 4
    for id, call in served.items():
        assert entries[id].kind == charges_pb2.SETTLEMENT_KIND_PROVISIONAL
        assert cost_of(DEAR, call) <= entries[id].amount.nanos == entries[id].reserved.nanos


def test_the_ledger_agrees_with_the_bill_of_usual_calls(stack: Stack) -> None:
    app = App(stack, "gpt-4o-mini", "1")
    for stream in (True, False):
        raw = app.create({"output_llm_tokens": 900, "chunk_llm_tokens": 7}, stream=stream)
        assert list(raw.parse()) if stream else raw.parse()
    served, _entries = app.billed()
    with stack.admin() as admin:
        assert compare(served, entries_of(admin, app.name)) == {"exact": 2}
