"""Apps that call sidecars: one call, or a load from threads of its own until it is told to stop."""

import http.client
import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from tests.fakes.provider_bill import MODEL
from tests.fakes.until import until

TIMEOUT_S = 60.0
# How long an app waits before it calls again after a call that was not served.
PAUSE_S = 0.05
SERVED = "served"
BROKEN = "broken"
"""The connection broke, before the answer or within it."""


class Answer(NamedTuple):
    """How a call ended."""

    call_id: str
    ended: str
    """`served`, `broken`, or status and reason: "503 no_allowance"."""
    body: dict[str, Any]


class App:
    """Calls with one key. What it called, and how that ended."""

    def __init__(self, secret: str, *, llm_tokens: int = 100, tags: Sequence[str] = ()) -> None:
        self.ended: Counter[str] = Counter()
        self.called: set[str] = set()
        self.served: set[str] = set()
        """The calls whose answers came whole."""
        self._secret = secret
        self._llm_tokens = llm_tokens
        self._tags = tags
        self._lock = threading.Lock()

    def call(self, address: str, *, stream: bool = False, chunk_delay_ms: int = 0) -> Answer:
        """One call to the sidecar at `address` (host:port)."""
        call_id = str(uuid.uuid4())
        with self._lock:
            self.called.add(call_id)
        try:
            answer = self._call(address, call_id, stream, chunk_delay_ms)
        except (OSError, http.client.HTTPException):
            answer = Answer(call_id, BROKEN, {})
        with self._lock:
            self.ended[answer.ended] += 1
            if answer.ended == SERVED:
                self.served.add(call_id)
        return answer

    def _call(self, address: str, call_id: str, stream: bool, chunk_delay_ms: int) -> Answer:
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(
                    {
                        "model": MODEL,
                        "messages": [{"role": "user", "content": f"call {call_id}"}],
                        "max_tokens": self._llm_tokens,
                        "stream": stream,
                    }
                ),
                {
                    "authorization": f"Bearer {self._secret}",
                    "content-type": "application/json",
                    "x-simulate-call-id": call_id,
                    "x-bursar-tags": ",".join((f"call:{call_id}", *self._tags)),
                    "x-simulate": json.dumps({"chunk_delay_ms": chunk_delay_ms}),
                },
            )
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            error = json.loads(content)["error"]
            return Answer(call_id, f"{response.status} {error['code']}", error)
        is_whole = not stream or b"data: [DONE]" in content
        return Answer(call_id, SERVED if is_whole else BROKEN, {})


class Load:
    """Calls, some at a time, plain and streamed, until it is left."""

    def __init__(
        self,
        app: App,
        addresses: Callable[[], Sequence[str]],
        *,
        concurrency: int = 12,
        chunk_delay_ms: int = 5,
    ) -> None:
        """`addresses` is asked before each call; one of them is taken by chance."""
        self.app = app
        self._addresses = addresses
        self._chunk_delay_ms = chunk_delay_ms
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, name="load", daemon=True)
            for _ in range(concurrency)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Begin no more calls, and wait until those in flight have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_S)
            assert not thread.is_alive(), "a call never ends"

    def wait_for(self, ended: str, more: int) -> None:
        """Until `more` calls ended so from now on."""
        wanted = self.app.ended[ended] + more
        until(lambda: self.app.ended[ended] >= wanted, f"{more} calls end: {ended}")

    def wait_for_any(self, more: int) -> None:
        """Until `more` calls ended somehow."""
        wanted = self.app.ended.total() + more
        until(lambda: self.app.ended.total() >= wanted, f"{more} calls end")

    def _work(self) -> None:
        streamed = False
        while not self._stop.is_set():
            addresses = [address for address in self._addresses() if address]
            if addresses:
                answer = self.app.call(
                    random.choice(addresses),
                    stream=streamed,
                    chunk_delay_ms=self._chunk_delay_ms,
                )
                streamed = not streamed
                if answer.ended == SERVED:
                    continue
            self._stop.wait(PAUSE_S)
