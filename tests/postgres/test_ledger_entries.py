"""Pages of entries."""

from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from bursar.v1 import charges_pb2, ledger_pb2
from bursar_server.database.pool import Pool
from bursar_server.errors import BursarError, Status
from bursar_server.ledger.service import LedgerService
from bursar_server.times import timestamp
from tests.postgres.ledger_rows import Ledger, NobodyConnected, add_entry, make_ledger
from tests.postgres.rows import NOW, FixedClock, make_house


@pytest.fixture
async def ledger(pool: Pool) -> Ledger:
    return await make_ledger(pool, await make_house(pool))


@pytest.fixture
def service(pool: Pool) -> LedgerService:
    return LedgerService(pool, FixedClock(), NobodyConnected())


async def entries(
    service: LedgerService, request: ledger_pb2.ListEntriesRequest
) -> list[ledger_pb2.Entry]:
    return list((await service.ListEntries(request, None)).entries)


async def test_an_entry_says_all_of_a_call(
    service: LedgerService, ledger: Ledger, pool: Pool
) -> None:
    await add_entry(
        pool,
        ledger.house,
        session_epoch=10,
        n=1,
        amount_nanos=12,
        reserved_nanos=20,
        overrun_nanos=3,
        draw_set_id=ledger.draw_set,
        customer="c-1",
        app="app/1",
        run="r-1",
        tags=["a:b", "c"],
        input_llm_tokens=1,
        cached_input_llm_tokens=2,
        cache_write_5m_llm_tokens=3,
        cache_write_1h_llm_tokens=4,
        output_llm_tokens=6,
        reasoning_llm_tokens=5,
        further_usage={"search.high": 7},
        estimate_reason="the stream was cut",
        provider_request_id="req-1",
        stream=True,
        posted_at=NOW + timedelta(hours=1),
        service_tier="flex",
        region="eu",
        priced_as="openai/gpt-4o",
    )
    entry = (await entries(service, ledger_pb2.ListEntriesRequest(page_size=1)))[0]
    assert entry.charge_id == "10-1"
    assert entry.organization == "organizations/acme"
    assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL
    assert (entry.debit_account, entry.credit_account) == ("spend/acme", "payable/openai")
    assert [entry.amount.nanos, entry.reserved.nanos, entry.overrun.nanos] == [12, 20, 3]
    assert entry.amount.currency == "USD"
    assert [entry.key, entry.team, entry.project, entry.user] == [
        "keys/k-1",
        "teams/search",
        "projects/answers",
        "users/ada",
    ]
    assert (entry.customer, entry.app, entry.run) == ("c-1", "app/1", "r-1")
    assert entry.tags == ["a:b", "c"]
    assert entry.usage == charges_pb2.Usage(
        input_llm_tokens=1,
        cached_input_llm_tokens=2,
        cache_write_5m_llm_tokens=3,
        cache_write_1h_llm_tokens=4,
        output_llm_tokens=6,
        reasoning_llm_tokens=5,
        further={"search.high": 7},
        estimate_reason="the stream was cut",
    )
    assert entry.budgets == ["budgets/b-key", "budgets/b-soft", "budgets/b-team"]
    priced = (entry.service_tier, entry.region, entry.priced_as, entry.rerating)
    assert priced == ("flex", "eu", "openai/gpt-4o", "")
    assert entry.admit_time == timestamp(NOW)
    assert entry.post_time == timestamp(NOW + timedelta(hours=1))
    assert (entry.http_status, entry.stream, entry.provider_request_id) == (200, True, "req-1")


async def test_the_newest_come_first_in_pages(service: LedgerService, ledger: Ledger) -> None:
    everything = await entries(service, ledger_pb2.ListEntriesRequest())
    ids = [entry.charge_id for entry in everything]
    assert ids == [
        "7-4-2",
        "7-4-1",
        "7-4",
        "7-3-2",
        "7-3-1",
        "7-3",
        "8-2",
        "7-2",
        "9-1",
        "8-1",
        "7-1",
    ]
    request = ledger_pb2.ListEntriesRequest(page_size=3)
    seen: list[str] = []
    while True:
        page = await service.ListEntries(request, None)
        seen += [entry.charge_id for entry in page.entries]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ids


async def test_entries_are_chosen(service: LedgerService, ledger: Ledger, pool: Pool) -> None:
    await add_entry(
        pool,
        ledger.house,
        session_epoch=10,
        n=1,
        key_id=None,
        amount_nanos=0,
        draw_set_id=ledger.draw_set,
    )
    request = ledger_pb2.ListEntriesRequest(key="keys/k-1")
    assert len(await entries(service, request)) == 11
    for charge_id in ("7-3", "7-3-2"):
        chosen = await entries(service, ledger_pb2.ListEntriesRequest(charge_id=charge_id))
        assert [entry.charge_id for entry in chosen] == ["7-3-2", "7-3-1", "7-3"]
    of_a_second = ledger_pb2.ListEntriesRequest(
        since_time=timestamp(NOW + timedelta(seconds=2)),
        until_time=timestamp(NOW + timedelta(seconds=3)),
    )
    assert [entry.charge_id for entry in await entries(service, of_a_second)] == ["8-2", "7-2"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb2.ListEntriesRequest(page_size=1001), "page_size"),
        (ledger_pb2.ListEntriesRequest(page_token="x"), "page_token"),
        (ledger_pb2.ListEntriesRequest(charge_id="seven"), "charge_id"),
        (ledger_pb2.ListEntriesRequest(charge_id=f"{2**63}-1"), "charge_id"),
        (ledger_pb2.ListEntriesRequest(key="teams/search"), "key"),
        (ledger_pb2.ListEntriesRequest(organization="acme"), "organization"),
        (
            ledger_pb2.ListEntriesRequest(
                since_time=Timestamp(seconds=2), until_time=Timestamp(seconds=1)
            ),
            "until_time",
        ),
        (ledger_pb2.ListEntriesRequest(since_time=Timestamp(seconds=10**15)), "since_time"),
    ],
)
async def test_bad_questions_are_refused_by_field(
    service: LedgerService, ledger: Ledger, request_: ledger_pb2.ListEntriesRequest, field: str
) -> None:
    with pytest.raises(BursarError) as refused:
        await service.ListEntries(request_, None)
    assert refused.value.metadata["field"] == field


async def test_an_unknown_key_is_not_found(service: LedgerService, ledger: Ledger) -> None:
    with pytest.raises(BursarError) as refused:
        await entries(service, ledger_pb2.ListEntriesRequest(key="keys/k-2"))
    assert refused.value.status is Status.NOT_FOUND
