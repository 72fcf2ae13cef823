"""A budget that can't pay the worst case of a call pays a shorter answer, and is never overspent.

The official SDK against real processes; what the provider says it served is the truth.
"""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.fakes.provider_bill import compare, cost_of, entries_of, posted
from tests.fakes.stack import Stack, running

MODEL = "gpt-4o-mini"
BUDGET = Decimal("0.0005")
"""USD: pays about 800 LLM tokens of output at 0.60 a million, not the 4,000 that are asked for."""
ASKED = 4_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("clamped")) as stack:
        yield stack


def command(stack: Stack, *arguments: str) -> Any:
    done = stack.cli(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class App:
    """An app whose key has the budget; its calls have ids on both sides."""

    def __init__(self, stack: Stack) -> None:
        made = command(
            stack, "key", "create", "--org", "acme", "--max-budget", str(BUDGET), "--window", "1d"
        )
        self.stack = stack
        self.name: str = made["name"]
        self.client = openai.OpenAI(
            api_key=made["key"], base_url=f"{stack.ready['sidecar']}/v1", max_retries=0, timeout=30
        )
        self.call_ids: list[str] = []

    def create(self, **fields: Any) -> Any:
        """A call whose answer would be as long as its limit allows."""
        self.call_ids.append(str(uuid.uuid4()))
        return self.client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me everything."}],
            extra_headers={
                "x-simulate": json.dumps({"output_llm_tokens": ASKED}),
                "x-simulate-call-id": self.call_ids[-1],
                "x-bursar-tags": f"call:{self.call_ids[-1]}",
            },
            **fields,
        )

    def billed(self) -> int:
        """What its calls cost by the provider's bill, in nanos, once the ledger agrees to each."""
        served = self.stack.served()
        mine = {id: served[id] for id in self.call_ids if id in served}
        with self.stack.admin() as admin:
            posted(admin, self.name, mine)
            compare(mine, entries_of(admin, self.name))
        return sum(cost_of(call) for call in mine.values())


def test_the_answer_is_cut_at_what_the_budget_pays_and_the_app_is_told(stack: Stack) -> None:
    app = App(stack)
    answer = app.create(max_tokens=ASKED)
    clamped = int(answer.headers["x-bursar-clamped-output"])
    completion = answer.parse()
    assert 256 <= clamped < ASKED
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == clamped
    with pytest.raises(openai.APIStatusError) as refused:
        app.create(max_tokens=ASKED)
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
    billed = app.billed()
    assert billed == Decimal(answer.headers["x-bursar-cost"]) * 10**9
    assert billed <= BUDGET * 10**9


def test_a_stream_without_a_limit_of_its_own_is_clamped_alike(stack: Stack) -> None:
    app = App(stack)
    raw = app.create(stream=True, stream_options={"include_usage": True})
    clamped = int(raw.headers["x-bursar-clamped-output"])
    chunks = list(raw.parse())
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == clamped
    assert 0 < app.billed() <= BUDGET * 10**9


def test_many_at_once_are_clamped_or_refused_and_never_overspend(stack: Stack) -> None:
    app = App(stack)

    def call(_number: int) -> str:
        try:
            answer = app.create(max_tokens=ASKED)
        except openai.APIStatusError as error:
            return str(error.code)
        return answer.parse().choices[0].finish_reason or ""

    with ThreadPoolExecutor(8) as threads:
        ended = set(threads.map(call, range(16)))
    assert "length" in ended
    assert ended <= {"length", "budget_exhausted", "budget_reserved"}
    assert 0 < app.billed() <= BUDGET * 10**9
