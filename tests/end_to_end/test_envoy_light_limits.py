"""The light tier as it ships, behind a real Envoy: who is refused, what is away, who leaves, and
two hundred at once. What it charges in calm is in test_envoy_light.py.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes.envoy import Config, filter_of
from tests.fakes.envoy_site import ASKED, CLAUDE, EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import compare, cost_of
from tests.fakes.site import PROVIDER_KEY
from tests.fakes.until import until

AUTHZ = "envoy.filters.http.ext_authz"
STREAMED: Any = {"stream": True, "stream_options": {"include_usage": True}}
LONG = {"output_llm_tokens": 2_000, "chunk_llm_tokens": 2, "chunk_delay_ms": 10}
"""A stream of ten seconds."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("l"), "light") as made:
        yield made
        made.site.verify()


def served_again(site: EnvoySite, secret: str) -> None:
    """Wait until a call is served."""

    def look() -> bool:
        try:
            return bool(ask(site.openai(secret), Marked()).status_code == 200)
        except openai.InternalServerError:
            return False

    until(look, "calls are served again")


def test_refusals_are_those_of_the_dialects(site: EnvoySite) -> None:
    _name, secret = site.key(limit_nanos=1)
    call = Marked()
    with pytest.raises(openai.APIStatusError) as refused:
        ask(site.openai(secret, retries=2), call)
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
    with pytest.raises(anthropic.APIStatusError) as refused_too:
        site.anthropic(secret).messages.create(
            model=CLAUDE, messages=ASKED, max_tokens=100, extra_headers=call.headers
        )
    body: Any = refused_too.value.body
    assert (refused_too.value.status_code, body["type"]) == (402, "error")
    with pytest.raises(openai.AuthenticationError):
        ask(site.openai("bk-unknown"), call)
    assert not site.served(call)


def test_two_hundred_at_once_overspend_nothing(site: EnvoySite) -> None:
    # A third of the calls fit.
    limit = 5_000_000
    name, secret = site.key(limit_nanos=limit)
    app = site.openai(secret)
    calls = [Marked(output_llm_tokens=100, chunk_delay_ms=5) for _ in range(200)]

    def one(number: int) -> str:
        try:
            answer = ask(app, calls[number], **(STREAMED if number % 2 else {}))
            if number % 2:
                list(answer.parse())
        except openai.APIStatusError as error:
            return str(error.code)
        return "served"

    with ThreadPoolExecutor(200) as threads:
        ended = list(threads.map(one, range(200)))
    served = site.served(*calls)
    until(lambda: served.keys() <= site.entries(name).keys(), "every served call is posted")
    assert compare(served, site.entries(name)) == {"exact": ended.count("served")}
    assert 20 < ended.count("served") < 200
    assert set(ended) <= {"served", "budget_exhausted", "budget_reserved"}
    posted = sum(e.amount.nanos for found in site.entries(name).values() for e in found)
    assert sum(map(cost_of, served.values())) == posted <= limit


def test_an_app_that_hangs_up_pays_what_was_reserved(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(**LONG)
    stream = ask(site.openai(secret), call, max_tokens=2_000, **STREAMED).parse()
    next(iter(stream))
    stream.close()
    until(lambda: not site.in_flight(), "the provider is hung up on")
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "cancelled"
    assert cost_of(served) <= entry.amount.nanos == entry.reserved.nanos


def test_a_control_plane_that_is_away_stops_calls_once_its_word_lapses(site: EnvoySite) -> None:
    _name, secret = site.key(limit_nanos=10**9)
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
    assert (error.status_code, error.code) == (503, "no_allowance")
    site.sidecar.wire.heal()
    served_again(site, secret)


def test_a_sidecar_that_is_away_closes_the_way_and_cuts_no_answer(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.openai(secret)
    call = Marked(output_llm_tokens=100, chunk_llm_tokens=2, chunk_delay_ms=40)
    stream = iter(ask(app, call, **STREAMED).parse())
    next(stream)
    site.sidecar.kill()
    unserved = Marked()
    with pytest.raises(openai.InternalServerError) as closed:
        ask(app, unserved)
    assert closed.value.status_code == 503
    assert list(stream)[-1].usage.completion_tokens == 100
    assert not site.served(unserved)
    site.sidecar.start()
    served_again(site, secret)
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "complete"
    assert cost_of(served) <= entry.amount.nanos


def test_failing_open_lets_calls_pass_that_nobody_pays_for(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def fail_open(config: Config) -> None:
        filter_of(config, AUTHZ)["failure_mode_allow"] = True

    directory = tmp_path_factory.mktemp("o")
    # What Envoy's log lost while nobody took it is not waited for.
    with envoy_site(directory, "light", fail_open, BURSAR_DRAIN_S="1") as site:
        name, secret = site.key()
        paid_for = Marked()
        answer = ask(site.openai(secret), paid_for)
        charge_id = answer.headers["x-bursar-charge-id"]
        assert site.entry(name, paid_for).charge_id == charge_id
        site.sidecar.kill()
        passed = Marked()
        passed.headers["x-bursar-charge-id"] = charge_id
        assert ask(site.openai(PROVIDER_KEY), passed).status_code == 200
        assert site.served(passed)
        site.sidecar.start()
        served_again(site, secret)
        assert passed.id not in site.entries(name)
        assert site.entry(name, paid_for).amount.nanos == cost_of(
            site.served(paid_for)[paid_for.id]
        )
