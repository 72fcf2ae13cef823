"""`kill -9` of everything at once, under load; started again, nothing is lost or counted twice."""

import asyncio
import tempfile
import uuid
from pathlib import Path

import openai

from bursar.client import BursarClient, list_all
from bursar.v1 import charges_pb2, identity_pb2, ledger_pb2
from tests.fakes.stack import Stack
from tests.fakes.until import until

CALLERS = 40


async def call_until_it_breaks(stack: Stack, secret: str, served: dict[str, str]) -> None:
    """Each caller calls until its sidecar is gone; what was answered whole is noted."""
    async with openai.AsyncOpenAI(
        api_key=secret, base_url=f"{stack.ready['sidecar']}/v1", max_retries=0
    ) as client:

        async def caller() -> None:
            while True:
                call_id = str(uuid.uuid4())
                try:
                    answer = await client.chat.completions.with_raw_response.create(
                        model="gpt-4o-mini",
                        max_tokens=20,
                        messages=[{"role": "user", "content": "hello"}],
                        extra_headers={"x-bursar-tags": f"call:{call_id}"},
                    )
                except openai.APIConnectionError:
                    return
                served[call_id] = answer.headers["x-bursar-charge-id"]
                if len(served) == 200:
                    stack.kill_all()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


def entries(admin: BursarClient) -> dict[str, list[ledger_pb2.Entry]]:
    found: dict[str, list[ledger_pb2.Entry]] = {}
    for entry in list_all(admin.ledger.ListEntries, ledger_pb2.ListEntriesRequest(page_size=1000)):
        call = next(tag for tag in entry.tags if tag.startswith("call:"))
        found.setdefault(call.removeprefix("call:"), []).append(entry)
    return found


def test_everything_killed_at_once_loses_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="bursar-") as directory:
        stack = Stack(Path(directory))
        stack.start("--no-demo")
        served: dict[str, str] = {}
        with stack.admin() as admin:
            secret = admin.keys.CreateKey(
                identity_pb2.CreateKeyRequest(key=identity_pb2.Key())
            ).secret
        asyncio.run(call_until_it_breaks(stack, secret, served))
        stack.start("--no-demo")
        try:
            with stack.admin() as admin:
                until(lambda: served.keys() <= entries(admin).keys(), "the journal is replayed")
                found = entries(admin)
            for call_id, charge_id in served.items():
                (entry,) = found[call_id]
                assert entry.charge_id == charge_id
                assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL
            for call_id in found.keys() - served.keys():
                # Cut by the kill: charged once, at the reservation unless the answer was seen.
                assert len(found[call_id]) == 1
            assert stack.cli("ledger", "verify").returncode == 0
        finally:
            assert stack.stop() == 0, stack.log()
