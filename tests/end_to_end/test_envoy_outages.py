"""What is away, behind a real Envoy: control plane, sidecar, provider, Envoy. As it ships, nobody
spends where nobody decides; and what was under way is in the ledger at no less than the bill.
"""

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from bursar.v1 import charges_pb2
from tests.fakes.envoy import Config, http_filters_of, with_endpoints
from tests.fakes.envoy_site import EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import compare, cost_of
from tests.fakes.site import PROVIDER_KEY
from tests.fakes.until import until

LONG = {"output_llm_tokens": 8_000, "chunk_llm_tokens": 2, "chunk_delay_ms": 10}
"""A stream of forty seconds."""
NOWHERE = ("127.0.0.1", 9)
BROKEN = (openai.APIError, httpx2.HTTPError)
"""What the library raises where an answer ends before it is whole."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("s"), "strict") as made:
        yield made
        made.site.verify()


def long_stream(app: openai.OpenAI) -> tuple[Marked, Any]:
    """A call whose answer is under way: (call, its chunks)."""
    call = Marked(**LONG)
    chunks = iter(ask(app, call, stream=True, max_tokens=8_000).parse())
    for _ in range(5):
        next(chunks)
    return call, chunks


def served_again(site: EnvoySite, secret: str) -> None:
    """Wait until a call is served."""

    def look() -> bool:
        try:
            return bool(ask(site.openai(secret), Marked()).status_code == 200)
        except openai.InternalServerError:
            return False

    until(look, "calls are served again")


def paid(site: EnvoySite, name: str, call: Marked) -> charges_pb2.SettlementKind.ValueType:
    """How a call that broke is in the ledger: at no less than the provider's bill, in full."""
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "cancelled"
    assert cost_of(served) <= entry.amount.nanos <= entry.reserved.nanos
    return entry.kind


def test_a_control_plane_that_is_away_stops_calls_once_its_word_lapses(site: EnvoySite) -> None:
    name, secret = site.key(limit_nanos=10**9)
    app = site.openai(secret)
    ask(app, Marked())
    site.sidecar.wire.hold(up=True, down=True)

    def refused() -> openai.APIStatusError | None:
        try:
            ask(app, Marked())
        except openai.APIStatusError as error:
            return error
        return None

    error = until(refused, "the sidecar's validity lapses")
    assert error.status_code == 503
    assert error.code == "no_allowance"
    site.sidecar.wire.heal()
    served_again(site, secret)
    calls = site.served()
    mine = {id: calls[id] for id in calls.keys() & site.entries(name).keys()}
    assert set(compare(mine, site.entries(name))) == {"exact"}


def test_a_sidecar_that_is_away_closes_the_way(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.openai(secret)
    call, chunks = long_stream(app)
    site.sidecar.kill()
    # The answer under way breaks: nobody is there to pay for it.
    with pytest.raises(BROKEN):
        list(chunks)
    until(lambda: not site.in_flight(), "the provider is hung up on")
    unserved = Marked()
    with pytest.raises(openai.InternalServerError) as closed:
        ask(app, unserved)
    assert closed.value.status_code == 503
    assert not site.served(unserved)
    with pytest.raises(openai.InternalServerError):
        ask(site.openai(PROVIDER_KEY), Marked())
    site.sidecar.start()
    served_again(site, secret)
    # Its journal knew of the call.
    assert paid(site, name, call) == charges_pb2.SETTLEMENT_KIND_PROVISIONAL


def test_a_sidecar_that_is_told_to_stop_lets_answers_end(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(output_llm_tokens=200, chunk_llm_tokens=2, chunk_delay_ms=10)
    chunks = iter(ask(site.openai(secret), call, stream=True, max_tokens=300).parse())
    next(chunks)
    assert site.sidecar.stop() == 0
    last = list(chunks)[-1]
    assert last.choices[0].finish_reason == "stop"
    site.sidecar.start()
    assert site.entry(name, call).kind == charges_pb2.SETTLEMENT_KIND_FINAL
    assert compare(site.served(call), site.entries(name)) == {"exact": 1}
    served_again(site, secret)


def test_an_envoy_that_dies_in_the_middle_of_an_answer_owes_what_it_made(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.openai(secret)
    call, chunks = long_stream(app)
    site.envoy.kill()
    with pytest.raises(BROKEN):
        list(chunks)
    site.envoy.start()
    served_again(site, secret)
    assert paid(site, name, call) == charges_pb2.SETTLEMENT_KIND_FINAL
    assert site.entry(name, call).usage.estimate_reason


def test_a_provider_that_is_away_costs_nothing(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.openai(secret)
    shipped = site.envoy.config
    site.envoy.config = with_endpoints(shipped, {"openai": NOWHERE})
    site.envoy.stop()
    site.envoy.start()
    call = Marked()
    with pytest.raises(openai.InternalServerError) as refused:
        ask(app, call)
    assert refused.value.status_code == 502
    site.envoy.config = shipped
    site.envoy.stop()
    site.envoy.start()
    after = Marked()
    ask(app, after)
    assert site.entry(name, after).amount.nanos
    assert not any(entry.amount.nanos for entry in site.entries(name).get(call.id, []))


# -- not as it ships -----------------------------------------------------------------------------


def fail_open(config: Config) -> None:
    """What docs/envoy-deployment.md warns of."""
    for each in http_filters_of(config):
        if "failure_mode_allow" in each["typed_config"]:
            each["typed_config"]["failure_mode_allow"] = True


def test_failing_open_lets_calls_pass_that_nobody_pays_for(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with envoy_site(tmp_path_factory.mktemp("o"), "strict", fail_open) as site:
        name, secret = site.key(limit_nanos=1)
        refused = Marked()
        # While the sidecar is there it decides.
        with pytest.raises(openai.APIStatusError) as exhausted:
            ask(site.openai(secret), refused)
        assert exhausted.value.code == "budget_exhausted"
        assert not site.served(refused)
        site.sidecar.kill()
        passed = Marked()
        answer = ask(site.openai(PROVIDER_KEY), passed)
        assert answer.status_code == 200
        assert "x-bursar-cost" not in answer.headers
        assert site.served(passed)
        site.sidecar.start()
        paid_for = Marked()
        with pytest.raises(openai.APIStatusError):
            ask(site.openai(secret), paid_for)
        assert not site.entries(name).get(passed.id)
