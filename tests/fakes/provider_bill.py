"""The simulated provider's bill against the ledger, call by call.

A call is known on both sides by an id that the app gave it: in a header for the provider, in a tag
for the ledger.
"""

from collections import Counter
from collections.abc import Mapping

from bursar import pricing
from bursar.client import BursarClient, list_all
from bursar.usage import Usage
from bursar.v1 import charges_pb2, ledger_pb2
from tests.fakes.stack import ServedCall
from tests.fakes.until import until

MODEL = "gpt-4o-mini"

Entries = dict[str, list[ledger_pb2.Entry]]


def cost_of(call: ServedCall) -> int:
    """What the provider's bill for the call comes to, in nanos."""
    price = pricing.snapshot().lookup(MODEL, "openai")
    assert price is not None
    usage = Usage(
        input=call.billed["input"] - call.billed["cached_input"],
        cached_input=call.billed["cached_input"],
        output=call.billed["output"],
    )
    return pricing.charge(price, usage).cost_nanos


def entries_of(admin: BursarClient, key: str = "") -> Entries:
    """The entries of a key, or of all, by the call id in their tags."""
    found: Entries = {}
    request = ledger_pb2.ListEntriesRequest(key=key, page_size=1000)
    for entry in list_all(admin.ledger.ListEntries, request):
        call = next(tag for tag in entry.tags if tag.startswith("call:"))
        found.setdefault(call.removeprefix("call:"), []).append(entry)
    return found


def posted(admin: BursarClient, key: str, served: Mapping[str, ServedCall]) -> None:
    """Wait until every call the provider served is in the ledger."""
    until(lambda: served.keys() <= entries_of(admin, key).keys(), "every served call is posted")


def compare(served: Mapping[str, ServedCall], entries: Entries) -> Counter[str]:
    """Every call the provider served is in the ledger exactly once, at its cost; those whose end
    was not seen are there at their reservation, marked so. How many there are of each kind."""
    kinds: Counter[str] = Counter()
    for call_id, call in served.items():
        found = entries.get(call_id, [])
        assert len(found) == 1, f"call {call_id} has {len(found)} entries: {call} {found}"
        entry = found[0]
        if entry.kind == charges_pb2.SETTLEMENT_KIND_PROVISIONAL:
            assert entry.amount.nanos == entry.reserved.nanos
            assert entry.amount.nanos >= cost_of(call), entry
            kinds["provisional"] += 1
        elif entry.usage.estimate_reason:
            assert entry.amount.nanos >= cost_of(call), entry
            kinds["estimated"] += 1
        else:
            assert entry.amount.nanos == cost_of(call), (entry, call)
            assert entry.provider_request_id == call.response_id
            kinds["exact"] += 1
    for call_id in entries.keys() - served.keys():
        # Never reached the provider, as far as the provider knows: only a crash leaves these.
        assert all(e.kind != charges_pb2.SETTLEMENT_KIND_FINAL or e.amount.nanos == 0
                   for e in entries[call_id]), entries[call_id]  # fmt: skip
        kinds["not served"] += 1
    return kinds
