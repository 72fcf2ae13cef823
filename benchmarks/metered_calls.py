"""Calls through real sidecars over HTTP, each of which may cost five times what it costs.

The provider, which is simulated, says how many calls it has in hand: that is what was admitted and
not settled yet. What a call may cost at most is what the sidecar says in a refusal.
"""

import asyncio
import json
from collections.abc import Sequence
from decimal import Decimal
from urllib.parse import urlsplit

from benchmarks.spending import Offer, Tally

NANOS_A_UNIT = 10**9
MODEL = "gpt-4o"
NANOS_AN_OUTPUT_LLM_TOKEN = 10_000
"""Of that model: 10 USD a million."""
INPUT_BOUND = 40
"""About what the input may cost at most, in LLM tokens of output."""
INPUT_LLM_TOKENS = 4
LIMIT_BYTES = 1 << 16
FULL_S = 60.0
"""A call that takes longer than that has failed."""


class MeteredCalls:
    """Connections to some sidecars, as many as there are calls at a time."""

    def __init__(self, addresses: Sequence[str], provider: str, key: str) -> None:
        self._hosts = [urlsplit(address) for address in addresses]
        self._provider = urlsplit(provider)
        self._key = key
        self._idle: list[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = [
            [] for _ in addresses
        ]
        self.ceiling_nanos = 0
        """W of the call that was refused last."""

    async def serve(self, offer: Offer, tally: Tally) -> None:
        """One call."""
        message = self._request(offer)
        idle = self._idle[offer.sidecar]
        # The latest used first; one that lay idle for long may be closed at the other end.
        while idle and idle[-1][0].at_eof():
            idle.pop()
        connection = idle.pop() if idle else await self._connect(offer.sidecar)
        async with asyncio.timeout(FULL_S):
            status, head, body = await _exchange(connection, message)
        idle.append(connection)
        if status == 200:
            cost = _header(head, b"x-bursar-cost")
            tally.admitted(0)
            tally.finished(0, int(Decimal(cost) * NANOS_A_UNIT))
            return
        error = json.loads(body)["error"]
        reason = error["code"]
        if "call_ceiling" in error:
            self.ceiling_nanos = int(Decimal(error["call_ceiling"]) * NANOS_A_UNIT)
        if reason not in tally.first:
            tally.reserved_nanos = await self._in_hand() * self.ceiling_nanos
        tally.refuse(reason, asyncio.get_running_loop().time())

    async def _connect(self, sidecar: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = self._hosts[sidecar]
        return await asyncio.open_connection(host.hostname, host.port, limit=LIMIT_BYTES)

    async def _in_hand(self) -> int:
        connection = await asyncio.open_connection(self._provider.hostname, self._provider.port)
        _, _, body = await _exchange(
            connection, b"GET /simulated/totals HTTP/1.1\r\nhost: localhost\r\n\r\n"
        )
        connection[1].close()
        calls: int = json.loads(body)["in_flight"]
        return calls

    def _request(self, offer: Offer) -> bytes:
        ceiling = offer.ceiling_nanos // NANOS_AN_OUTPUT_LLM_TOKEN - INPUT_BOUND
        body = json.dumps(
            {
                "model": MODEL,
                "max_tokens": ceiling,
                "messages": [{"role": "user", "content": "Say what you would say."}],
            },
            separators=(",", ":"),
        ).encode()
        behaviour = {
            "input_llm_tokens": INPUT_LLM_TOKENS,
            "output_llm_tokens": offer.cost_nanos // NANOS_AN_OUTPUT_LLM_TOKEN,
            "latency_ms": int(offer.duration_s * 1_000),
        }
        return (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-type: application/json\r\n"
            f"x-simulate: {json.dumps(behaviour)}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def close(self) -> None:
        """Hang up."""
        for idle in self._idle:
            for _, writer in idle:
                writer.close()


async def _exchange(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], message: bytes
) -> tuple[int, bytes, bytes]:
    """Status, head in lower case, and body."""
    reader, writer = connection
    writer.write(message)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(_header(head, b"content-length")))
    return int(head.split(b" ", 2)[1]), head, body


def _header(head: bytes, name: bytes) -> str:
    return head.partition(b"\r\n" + name + b":")[2].partition(b"\r\n")[0].strip().decode()
