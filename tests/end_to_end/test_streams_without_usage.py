"""Streams whose usage never comes, against real processes: counted, and never below the bill."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from bursar_sidecar.counting.counter import SOCKET_NAME
from tests.fakes.provider_bill import MODEL, compare, entries_of, posted
from tests.fakes.stack import Stack, running
from tests.fakes.until import until

PROMPT = "Tell me all that there is to tell of it, and do not leave anything out. " * 100
WORST_NANOS = 150 * len(PROMPT) + 600 * 400
"""At a LLM token a byte of the prompt; the model costs 0.15 and 0.60 USD a million."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("cut")) as stack:
        yield stack


class App:
    """Streams, each with an id that the ledger's tags carry."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        done = stack.cli("key", "create", "--org", "acme", "--max-budget", "10", "-o", "json")
        self.name: str = json.loads(done.stdout)["name"]
        self.client = openai.OpenAI(
            api_key=json.loads(done.stdout)["key"],
            base_url=f"{stack.ready['sidecar']}/v1",
            max_retries=0,
            timeout=30,
        )
        self.call_ids: list[str] = []

    def stream(self, *, hang_up_after: int = 0, **behaviour: Any) -> None:
        """One stream, read to its end, whatever that is, or hung up after so many chunks."""
        self.call_ids.append(str(uuid.uuid4()))
        simulated = {"output_llm_tokens": 400, **behaviour}
        chunks = 0
        try:
            with self.client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=400,
                stream=True,
                extra_headers={
                    "x-simulate": json.dumps(simulated),
                    "x-simulate-call-id": self.call_ids[-1],
                    "x-bursar-tags": f"call:{self.call_ids[-1]}",
                },
            ) as answer:
                for _ in answer:
                    chunks += 1
                    if chunks == hang_up_after:
                        return
        except (openai.APIError, openai.APIConnectionError):
            assert "abort_rate" in behaviour

    def charged(self, **behaviour: Any) -> int:
        """What one more such stream is charged, in nanos; never less than the provider's bill."""
        self.stream(**behaviour)
        call_id = self.call_ids[-1]
        served = {call_id: self.stack.served()[call_id]}
        with self.stack.admin() as admin:
            posted(admin, self.name, served)
            entries = {call_id: entries_of(admin, self.name)[call_id]}
        assert compare(served, entries) == {"estimated": 1}
        return entries[call_id][0].amount.nanos


@pytest.mark.parametrize(
    "behaviour",
    [
        {"abort_rate": 1, "abort_after_chunks": 60},
        {"missing_usage": True},
        {"hang_up_after": 10, "chunk_delay_ms": 20},
    ],
)
def test_streams_without_usage_are_counted_and_never_below_the_bill(
    stack: Stack, behaviour: dict[str, Any]
) -> None:
    app = App(stack)
    # The first ones start the counting process, and a busy machine is late: those go by bytes.
    until(lambda: app.charged(**behaviour) < WORST_NANOS // 2, "a stream is counted")
    (socket,) = stack.directory.rglob(SOCKET_NAME)
    assert socket.is_socket()
