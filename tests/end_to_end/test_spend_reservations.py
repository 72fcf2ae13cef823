"""Apps that call providers themselves, against a whole installation: the local gRPC service with a
real sidecar, a real ledger, kills and deadlines."""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.client import list_all
from bursar.money import Money
from bursar.spend import AsyncSpendClient, BursarError, MoneyHeld, SpendClient
from bursar.usage import Usage
from bursar.v1 import charges_pb2, ledger_pb2, spend_pb2
from tests.fakes.site import Sidecar, Site, site
from tests.fakes.spending import usd as usd_nanos
from tests.fakes.until import until
from tests.fakes.watched_windows import check_every_committed_state, watch

MODEL = "gpt-4o-mini"
MILLI_USD = 1_000_000
MOST_NANOS = 750_000
"""A thousand LLM tokens of input and a thousand of output."""
USAGE = Usage(input=100, output=200)
COST_NANOS = 135_000
FINAL = charges_pb2.SETTLEMENT_KIND_FINAL
PROVISIONAL = charges_pb2.SETTLEMENT_KIND_PROVISIONAL


@pytest.fixture(scope="module")
def place() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("one",), lending={}) as made,
    ):
        asyncio.run(watch(made.postgres.url))
        made.start_sidecars()
        yield made


def only(place: Site) -> Sidecar:
    return place.sidecars["one"]


def client_of(place: Site, secret: str) -> SpendClient:
    return SpendClient(only(place).said["grpc"], secret)


def counted(client: SpendClient, **fields: Any) -> MoneyHeld:
    return client.reserve(
        MODEL, input_llm_tokens=1_000, output_llm_tokens=1_000, text_only=True, **fields
    )


def entries(place: Site, charge_id: str) -> list[ledger_pb2.Entry]:
    """Those of one charge, the first posted first."""
    request = ledger_pb2.ListEntriesRequest(charge_id=charge_id, page_size=1000)
    found = list_all(place.admin.ledger.ListEntries, request)
    return sorted(found, key=lambda entry: (len(entry.charge_id), entry.charge_id))


def spent_nanos(place: Site, key: str) -> int:
    request = ledger_pb2.ListEntriesRequest(key=key, page_size=1000)
    return sum(e.amount.nanos for e in list_all(place.admin.ledger.ListEntries, request))


def posted(place: Site, charge_id: str, count: int) -> list[ledger_pb2.Entry]:
    def look() -> list[ledger_pb2.Entry] | None:
        found = entries(place, charge_id)
        return found if len(found) == count else None

    return until(look, f"{charge_id} has {count} entries")


def test_a_call_is_in_the_ledger_at_its_cost(place: Site) -> None:
    key, secret = place.make_key()
    place.make_budget(key, 100 * MILLI_USD)
    with client_of(place, secret) as client:
        with counted(client, tags=["job:night"], customer="ada") as held:
            held.dispatched()
            receipt = held.settle(USAGE, provider_request_id="c-1")
        assert receipt.budget_remaining.nanos == 100 * MILLI_USD - COST_NANOS
        (entry,) = posted(place, held.charge_id, 1)
        assert (entry.kind, entry.amount.nanos) == (FINAL, COST_NANOS)
        assert (entry.reserved.nanos, entry.provider_request_id) == (MOST_NANOS, "c-1")
        assert (list(entry.tags), entry.customer) == (["job:night"], "ada")
        with counted(client) as unsent:
            pass
        (entry,) = posted(place, unsent.charge_id, 1)
        assert (entry.kind, entry.amount.nanos) == (charges_pb2.SETTLEMENT_KIND_RELEASED, 0)
    place.verify()


def test_a_deadline_is_charged_marked_and_adjusted_by_evidence(place: Site) -> None:
    key, secret = place.make_key()
    place.make_budget(key, 100 * MILLI_USD)
    with client_of(place, secret) as client:
        held = counted(client, hold_s=0.2).open()
        (entry,) = posted(place, held.charge_id, 1)
        assert (entry.kind, entry.amount.nanos) == (PROVISIONAL, MOST_NANOS)
        assert entry.usage.estimate_reason == "reservation_expired"
        assert entry.credit_account == "provisional"
        with pytest.raises(BursarError) as caught:
            held.extend(60)
        assert caught.value.reason == "RESERVATION_EXPIRED"
        shown = place.cli("ledger", "list", "--key", key)
        assert "provisional, estimated" in shown.stdout, shown.stdout + shown.stderr
        spend = place.cli("spend", "show", "--by", "key", "-o", "csv")
        assert "estimated" in spend.stdout.splitlines()[0].lower(), spend.stdout
        receipt = held.settle(USAGE)
        assert (receipt.adjusted, receipt.cost.nanos) == (True, COST_NANOS)
        _first, back, final = posted(place, held.charge_id, 3)
        assert (back.kind, back.amount.nanos) == (PROVISIONAL, -MOST_NANOS)
        assert (final.kind, final.amount.nanos) == (FINAL, COST_NANOS)
    assert spent_nanos(place, key) == COST_NANOS
    place.verify()


def test_repeats_are_one_reservation_and_one_charge(place: Site) -> None:
    key, secret = place.make_key()
    place.make_budget(key, 100 * MILLI_USD)

    async def repeat() -> set[str]:
        async with AsyncSpendClient(only(place).said["grpc"], secret) as client:
            asking = [
                client.reserve(
                    MODEL, input_llm_tokens=1_000, output_llm_tokens=1_000, request_id="attempt"
                ).open()
                for _ in range(20)
            ]
            held = await asyncio.gather(*asking)
            receipts = await asyncio.gather(*(each.settle(USAGE) for each in held))
            return {receipt.charge_id for receipt in receipts}

    (charge_id,) = asyncio.run(repeat())
    posted(place, charge_id, 1)
    assert spent_nanos(place, key) == COST_NANOS


async def one_app(client: AsyncSpendClient, chance: random.Random, calls: int) -> dict[str, int]:
    """An app that reserves, and then does what apps do. What it heard."""
    ended: dict[str, int] = {}
    for _ in range(calls):
        how = chance.choice(["settle", "settle", "settle", "release", "forget", "grow"])
        try:
            held = await client.reserve(
                MODEL,
                input_llm_tokens=1_000,
                output_llm_tokens=1_000,
                text_only=True,
                hold_s=0.05 if how == "forget" else 60,
            ).open()
            if how == "release":
                await held.release()
            elif how == "grow":
                with contextlib.suppress(BursarError):
                    await held.extend(output_llm_tokens=2_000)
                await held.settle(Money(held.reserved.nanos, "USD"))
            elif how == "settle":
                await held.settle(USAGE)
        except BursarError as error:
            how = error.reason
        ended[how] = ended.get(how, 0) + 1
    return ended


def test_no_budget_is_overspent_by_200_apps_at_once(place: Site) -> None:
    key, secret = place.make_key()
    limit_nanos = 60 * MILLI_USD
    place.make_budget(key, limit_nanos)
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")

    async def all_at_once() -> dict[str, int]:
        async with AsyncSpendClient(only(place).said["grpc"], secret, timeout_s=60) as client:
            apps = [one_app(client, random.Random(f"{seed}/{i}"), 5) for i in range(200)]
            total: dict[str, int] = {}
            for ended in await asyncio.gather(*apps):
                for how, count in ended.items():
                    total[how] = total.get(how, 0) + count
            return total

    ended = asyncio.run(all_at_once())
    print(ended)
    known = {"settle", "release", "forget", "grow", "BUDGET_EXHAUSTED", "BUDGET_RESERVED"}
    assert ended.keys() <= known, ended
    assert ended["settle"], "some are served"
    assert ended.get("BUDGET_EXHAUSTED", 0) + ended.get("BUDGET_RESERVED", 0), "some are refused"
    made = sum(ended.get(how, 0) for how in ("settle", "release", "forget", "grow"))

    def all_posted() -> bool:
        request = ledger_pb2.ListEntriesRequest(key=key, page_size=1000)
        found = list(list_all(place.admin.ledger.ListEntries, request))
        return len(found) == made

    until(all_posted, "every reservation has its one entry")
    assert spent_nanos(place, key) <= limit_nanos
    asyncio.run(check_every_committed_state(place.postgres.url))
    place.verify()


def test_a_killed_sidecar_charges_what_was_held_until_evidence(place: Site) -> None:
    key, secret = place.make_key()
    place.make_budget(key, 100 * MILLI_USD)
    with client_of(place, secret) as client:
        settled_late = counted(client, request_id="late").open()
        never_sent = counted(client).open()
        never_told = counted(client).open()
        over = counted(client).open()
        over.settle(USAGE)
    only(place).kill()
    place.start_sidecars()
    for held in (settled_late, never_sent, never_told):
        (entry,) = posted(place, held.charge_id, 1)
        assert (entry.kind, entry.amount.nanos) == (PROVISIONAL, MOST_NANOS)
        assert entry.usage.estimate_reason == "sidecar_crashed"
    posted(place, over.charge_id, 1)
    with client_of(place, secret) as client:
        with pytest.raises(BursarError) as caught:
            counted(client, request_id="late").open()
        assert caught.value.reason == "RESERVATION_INTERRUPTED"
        name = caught.value.metadata["reservation"]
        assert name == settled_late.name
        request = spend_pb2.SettleRequest(reservation=name, cost=usd_nanos(COST_NANOS))
        receipt = client.stub.Settle(request)
        assert (receipt.adjusted, receipt.cost.nanos) == (True, COST_NANOS)
        released = client.stub.Release(spend_pb2.ReleaseRequest(reservation=never_sent.name))
        assert (released.adjusted, released.cost.nanos) == (True, 0)
        for charge_id in (over.charge_id, "999999-1"):
            with pytest.raises(BursarError) as caught:
                client.stub.Settle(
                    spend_pb2.SettleRequest(
                        reservation=f"reservations/{charge_id}",
                        cost=usd_nanos(1),
                    )
                )
            assert caught.value.reason == "RESERVATION_NOT_FOUND"
    posted(place, settled_late.charge_id, 3)
    posted(place, never_sent.charge_id, 3)
    assert spent_nanos(place, key) == 2 * COST_NANOS + MOST_NANOS
    place.verify()


def test_a_stopped_sidecar_charges_what_was_held(place: Site) -> None:
    key, secret = place.make_key()
    place.make_budget(key, 100 * MILLI_USD)
    with client_of(place, secret) as client:
        short = counted(client, hold_s=1).open()
        assert only(place).stop() == 0
    (entry,) = posted(place, short.charge_id, 1)
    assert (entry.kind, entry.amount.nanos) == (PROVISIONAL, MOST_NANOS)
    assert entry.usage.estimate_reason == "reservation_expired", "it was waited for until then"
    place.verify()
    place.start_sidecars()
    with client_of(place, secret) as client:
        request = spend_pb2.SettleRequest(reservation=short.name, cost=usd_nanos(COST_NANOS))
        assert client.stub.Settle(request).adjusted
    posted(place, short.charge_id, 3)
    assert spent_nanos(place, key) == COST_NANOS
    place.verify()


def test_a_revoked_key_reserves_nothing_more_and_settles_what_it_has(place: Site) -> None:
    key, secret = place.make_key()
    place.make_budget(key, 100 * MILLI_USD)
    with client_of(place, secret) as client:
        held = counted(client).open()
        assert place.cli("key", "revoke", key).returncode == 0

        def refused() -> str:
            try:
                counted(client).open().release()
            except BursarError as error:
                return error.reason
            return ""

        assert until(refused, "the revocation is effective") == "KEY_REVOKED"
        assert held.settle(USAGE).cost.nanos == COST_NANOS
        posted(place, held.charge_id, 1)
