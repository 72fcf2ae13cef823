"""What an Envoy does that one would not think of, each on a real one with what ships: processing of
calls that were denied, headers of clients, circuit breakers, resets, Checks that are given up.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import openai
import pytest

from tests.fakes.envoy import Config, clusters_of
from tests.fakes.envoy_site import ASKED, EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import MODEL, compare, cost_of
from tests.fakes.until import DEADLINE_S, until

DENIED_TOO = "http.apps.ext_proc.streams_started"
PROC_STREAMS = "cluster.bursar_proc.upstream_rq_active"
FEW = 8
MANY = 1_100
"""More answers at one time than Envoy's default circuit breaker (1,024) lets through."""
HELD = {"output_llm_tokens": 4, "chunk_llm_tokens": 1, "chunk_delay_ms": 300_000}
"""A stream that begins, and whose next chunk comes when every test is over."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("s"), "strict") as made:
        yield made
        made.site.verify()


def begun(app: openai.OpenAI, **behaviour: Any) -> tuple[Marked, Any]:
    """A stream whose first chunk is there: (call, its stream)."""
    call = Marked(**behaviour)
    stream = ask(app, call, stream=True).parse()
    next(iter(stream))
    return call, stream


# -- who is believed -----------------------------------------------------------------------------


def test_denied_calls_are_processed_too_and_stay_denied(site: EnvoySite) -> None:
    name, secret = site.key(limit_nanos=1)
    before = site.envoy.counted(DENIED_TOO)
    call = Marked()
    with pytest.raises(openai.APIStatusError) as denied:
        ask(site.openai(secret), call)
    assert (denied.value.status_code, denied.value.code) == (402, "budget_exhausted")
    assert denied.value.response.headers["content-type"] == "application/json"
    assert site.envoy.counted(DENIED_TOO) == before + 1
    assert not site.served(call)
    assert not site.entries(name)


def test_a_client_that_names_anothers_charge_pays_for_itself(site: EnvoySite) -> None:
    victim, victims_secret = site.key()
    thief, thiefs_secret = site.key()
    running = Marked(output_llm_tokens=100, chunk_llm_tokens=2, chunk_delay_ms=20)
    answer = ask(site.openai(victims_secret), running, stream=True)
    charge_id = answer.headers["x-bursar-charge-id"]
    stolen = Marked()
    stolen.headers |= {
        "x-bursar-charge-id": charge_id,
        "x-request-id": answer.headers["x-request-id"],
        "x-bursar-cost": "0",
        "x-envoy-auth-partial-body": "true",
    }
    ask(site.openai(thiefs_secret), stolen)
    with pytest.raises(openai.AuthenticationError):
        ask(site.openai("bk-unknown"), stolen)
    list(answer.parse())
    assert site.entry(victim, running).charge_id == charge_id
    assert site.entry(thief, stolen).charge_id != charge_id
    assert compare(site.served(running), site.entries(victim)) == {"exact": 1}
    assert compare(site.served(stolen), site.entries(thief)) == {"exact": 1}


# -- circuit breakers ----------------------------------------------------------------------------


def at_envoys_default(config: Config) -> None:
    """As if the raised limit were none, only smaller."""
    for cluster in clusters_of(config):
        if cluster["name"] == "bursar_proc":
            cluster["circuit_breakers"]["thresholds"][0]["max_requests"] = FEW


def test_the_trap_answers_under_way_fill_the_circuit_breaker(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("b")
    # The call that finds no place stays held, and is not waited for.
    with envoy_site(directory, "strict", at_envoys_default, BURSAR_DRAIN_S="1") as site:
        _name, secret = site.key()
        app = site.openai(secret)
        under_way = [begun(app, **HELD) for _ in range(FEW)]
        assert site.envoy.counted(PROC_STREAMS) == FEW
        refused = Marked()
        with pytest.raises(openai.InternalServerError) as closed:
            ask(app, refused)
        assert closed.value.status_code == 503
        for _call, stream in under_way:
            stream.close()
        until(lambda: not site.envoy.counted(PROC_STREAMS), "the places are free")
        assert not site.served(refused)
        assert ask(app, Marked()).status_code == 200


async def test_more_than_a_thousand_answers_at_once_as_it_ships(site: EnvoySite) -> None:
    name, secret = site.key()
    calls = [Marked(**HELD) for _ in range(MANY)]
    request = {"model": MODEL, "messages": ASKED, "stream": True, "max_tokens": 10}

    async def begin(session: aiohttp.ClientSession, call: Marked) -> aiohttp.ClientResponse:
        answer = await session.post(
            f"{site.envoy.url}/v1/chat/completions",
            json=request,
            headers={**call.headers, "authorization": f"Bearer {secret}"},
        )
        assert answer.status == 200, await answer.text()
        return answer

    patience = aiohttp.ClientTimeout(total=2 * DEADLINE_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        answers = await asyncio.gather(*(begin(session, call) for call in calls))
        assert site.envoy.counted(PROC_STREAMS) == MANY
        assert site.in_flight() == MANY
        for answer in answers:
            answer.close()
    served = await asyncio.to_thread(site.served, *calls)
    assert len(served) == MANY

    def posted() -> bool:
        return len(site.entries(name)) == MANY

    await asyncio.to_thread(until, posted, "all are posted")
    assert set(compare(served, site.entries(name))) == {"estimated"}


# -- what ends before its time -------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_resets_before_it_answers(site: EnvoySite, stream: bool) -> None:
    name, secret = site.key()
    call = Marked(timeout_rate=1.0, timeout_ms=50)
    with pytest.raises(openai.InternalServerError) as broken:
        ask(site.openai(secret), call, stream=stream)
    assert broken.value.status_code == 502
    # It was sent, and what the provider made of it nobody knows.
    entry = site.entry(name, call)
    assert entry.usage.estimate_reason
    (served,) = site.served(call).values()
    assert cost_of(served) <= entry.amount.nanos <= entry.reserved.nanos


def test_an_app_that_leaves_while_its_check_waits_has_reserved_nothing(site: EnvoySite) -> None:
    limit = 100_000
    name, secret = site.key()
    budget = site.site.make_budget(name, limit)
    holder = Marked(output_llm_tokens=100, chunk_llm_tokens=2, chunk_delay_ms=30)
    # Each asks for more than half of the budget.
    running = ask(site.openai(secret), holder, stream=True, max_tokens=100)
    impatient = openai.OpenAI(
        base_url=f"{site.envoy.url}/v1", api_key=secret, max_retries=0, timeout=0.3
    )
    gone = Marked()
    with pytest.raises(openai.APITimeoutError):
        ask(impatient, gone, max_tokens=100)
    list(running.parse())
    assert site.entry(name, holder).amount.nanos
    until(lambda: site.site.standing(budget).settled.nanos > 0, "the one is settled")
    assert not site.served(gone)
    assert gone.id not in site.entries(name)
    assert ask(site.openai(secret), Marked(), max_tokens=10).status_code == 200
