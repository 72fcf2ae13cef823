"""Apps of all dialects against one stack, and what the simulated provider billed for their calls.

A call is known on both sides by an id that the app gave it: in a header for the provider, in a tag
for the ledger.
"""

import json
import re
import uuid
from typing import Any

from bursar import pricing
from bursar.usage import Usage
from bursar.v1 import charges_pb2, ledger_pb2
from tests.fakes.provider_bill import entries_of
from tests.fakes.stack import ServedCall, Stack
from tests.fakes.until import until


def bill_nanos(call: ServedCall, provider: str) -> int:
    """What the provider's own counts of a call come to at its prices, in nanos."""
    price = pricing.snapshot().lookup(call.model, provider)
    assert price is not None, f"{provider}/{call.model} has no price"
    billed = call.billed
    written = billed["cache_write_5m"] + billed["cache_write_1h"]
    searches = billed["searches"]
    if re.match(r"gemini-[12]\b", call.model):
        searches = min(1, searches)  # by prompt, however many queries it made
    usage = Usage(
        input=billed["input"] - billed["cached_input"] - written,
        cached_input=billed["cached_input"],
        cache_write_5m=billed["cache_write_5m"],
        cache_write_1h=billed["cache_write_1h"],
        output=billed["output"],
        reasoning=billed["reasoning"],
        extra={"search": searches} if searches else {},
    )
    charged = pricing.charge(price, usage)
    assert not charged.unpriced, charged
    return charged.cost_nanos


class DialectApps:
    """A key of its own with a hard budget, for apps of any dialect."""

    def __init__(self, stack: Stack, *, budget: str = "10") -> None:
        self.stack = stack
        done = stack.cli("key", "create", "--org", "acme", "--max-budget", budget, "-o", "json")
        made: dict[str, Any] = json.loads(done.stdout)
        self.key_name: str = made["name"]
        self.key: str = made["key"]
        self.address: str = stack.ready["sidecar"]
        self.calls: list[str] = []

    def headers(self, **behaviour: Any) -> dict[str, str]:
        """What makes the next call known on both sides, and the provider behave."""
        call_id = str(uuid.uuid4())
        self.calls.append(call_id)
        return {
            "x-simulate": json.dumps(behaviour),
            "x-simulate-call-id": call_id,
            "x-bursar-tags": f"call:{call_id}",
        }

    def posted(self) -> dict[str, ledger_pb2.Entry]:
        """The one entry of each call that was made so far, once all are there."""
        with self.stack.admin() as admin:
            until(
                lambda: set(self.calls) <= entries_of(admin, self.key_name).keys(),
                "every call is posted",
            )
            entries = entries_of(admin, self.key_name)
        for call_id in self.calls:
            assert len(entries[call_id]) == 1, entries[call_id]
        return {call_id: entries[call_id][0] for call_id in self.calls}

    def compare(self, provider: str) -> list[ledger_pb2.Entry]:
        """Every call is in the ledger at exactly the provider's bill; the entries in order."""
        served, entries = self.stack.served(), self.posted()
        found = []
        for call_id in self.calls:
            call, entry = served[call_id], entries[call_id]
            assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL, entry
            assert not entry.usage.estimate_reason, entry
            assert entry.amount.nanos == bill_nanos(call, provider), (call, entry)
            assert entry.provider_request_id == call.response_id
            found.append(entry)
        return found

    def charged_enough(self, provider: str) -> list[ledger_pb2.Entry]:
        """Every call is in the ledger at no less than the provider's bill."""
        served, entries = self.stack.served(), self.posted()
        for call_id in self.calls:
            call, entry = served[call_id], entries[call_id]
            assert bill_nanos(call, provider) <= entry.amount.nanos <= entry.reserved.nanos, entry
        return [entries[call_id] for call_id in self.calls]

    def compare_bound(self, provider: str) -> list[ledger_pb2.Entry]:
        """The same, and as an estimate."""
        entries = self.charged_enough(provider)
        assert all(entry.usage.estimate_reason for entry in entries), entries
        return entries

    def not_served(self) -> None:
        """None of the calls reached the provider."""
        assert not set(self.calls) & self.stack.served().keys()
