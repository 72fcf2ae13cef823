"""Apps with the official libraries behind a real Envoy that runs what ships for the strict tier.

What the simulated provider served is the truth that the ledger is compared with, call by call.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai

from bursar import pricing
from bursar.usage import Usage
from bursar.v1 import charges_pb2
from tests.fakes.envoy_site import ASKED, CLAUDE, OUTPUT, EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import MODEL, compare, cost_of
from tests.fakes.stack import ServedCall
from tests.fakes.until import until

GEMINI = "gemini-2.5-flash"
LONG = {"output_llm_tokens": 4_000, "chunk_llm_tokens": 2, "chunk_delay_ms": 10}
"""A stream of twenty seconds."""
NANOS = Decimal(1_000_000_000)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("s"), "strict") as made:
        yield made


def cost_of_claude(call: ServedCall) -> int:
    """What the provider's bill for the call comes to, in nanos."""
    price = pricing.snapshot().lookup(CLAUDE, "anthropic")
    assert price is not None
    usage = Usage(input=call.billed["input"], output=call.billed["output"])
    return pricing.charge(price, usage).cost_nanos


def message(app: anthropic.Anthropic, call: Marked, **fields: Any) -> Any:
    return app.messages.with_raw_response.create(
        model=CLAUDE, messages=ASKED, max_tokens=OUTPUT, extra_headers=call.headers, **fields
    )


def bursar_comment(text: str) -> dict[str, Any]:
    """What the comment at a stream's end says."""
    (line,) = [line for line in text.splitlines() if line.startswith(": bursar ")]
    found: dict[str, Any] = json.loads(line.removeprefix(": bursar "))
    return found


# -- allowed -------------------------------------------------------------------------------------


def test_a_chat_costs_what_the_provider_bills_and_says_so(site: EnvoySite) -> None:
    name, secret = site.key(limit_nanos=10**9)
    call = Marked()
    answer = ask(site.openai(secret), call)
    assert answer.parse().choices[0].message.content
    entry = site.entry(name, call)
    assert compare(site.served(call), site.entries(name)) == {"exact": 1}
    assert Decimal(answer.headers["x-bursar-cost"]) * NANOS == entry.amount.nanos
    assert answer.headers["x-bursar-currency"] == "USD"
    assert answer.headers["x-bursar-charge-id"]
    left = Decimal(answer.headers["x-bursar-budget-remaining"])
    assert left * NANOS == 10**9 - entry.amount.nanos


def test_a_stream_costs_what_the_provider_bills_and_says_so_at_its_end(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(output_llm_tokens=50)
    answer = ask(site.openai(secret), call, stream=True)
    chunks = list(answer.parse())
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    # The usage was asked for on the app's behalf, and is not shown to it.
    assert all(chunk.choices for chunk in chunks)
    entry = site.entry(name, call)
    assert compare(site.served(call), site.entries(name)) == {"exact": 1}

    call = Marked(output_llm_tokens=50)
    with site.openai(secret).chat.completions.with_streaming_response.create(
        model=MODEL, messages=ASKED, stream=True, extra_headers=call.headers, max_tokens=OUTPUT
    ) as streamed:
        text = "".join(streamed.iter_text())
    assert text.rstrip().endswith("data: [DONE]")
    entry = site.entry(name, call)
    assert Decimal(bursar_comment(text)["cost"]) * NANOS == entry.amount.nanos


def test_an_app_that_asks_for_usage_gets_it(site: EnvoySite) -> None:
    _name, secret = site.key()
    call = Marked()
    options = {"include_usage": True}
    chunks = list(ask(site.openai(secret), call, stream=True, stream_options=options).parse())
    (served,) = site.served(call).values()
    assert chunks[-1].usage.completion_tokens == served.billed["output"]


def test_anthropics_library_plain_and_streamed(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.anthropic(secret)
    plain, streamed = Marked(), Marked(output_llm_tokens=40)
    answer = message(app, plain)
    assert answer.parse().content[0].text
    with app.messages.stream(
        model=CLAUDE, messages=ASKED, max_tokens=OUTPUT, extra_headers=streamed.headers
    ) as stream:
        text = stream.get_final_text()
    assert text
    for call in (plain, streamed):
        (served,) = site.served(call).values()
        entry = site.entry(name, call)
        assert entry.amount.nanos == cost_of_claude(served) > 0
        assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL
    assert Decimal(answer.headers["x-bursar-cost"]) * NANOS == site.entry(name, plain).amount.nanos


def test_geminis_library_plain_and_streamed(site: EnvoySite) -> None:
    name, secret = site.key()
    app = genai.Client(api_key=secret, http_options={"base_url": site.envoy.url})
    plain, streamed = Marked(output_llm_tokens=30), Marked(output_llm_tokens=40)

    def config(call: Marked) -> Any:
        return {"http_options": {"headers": call.headers}, "max_output_tokens": OUTPUT}

    answer = app.models.generate_content(model=GEMINI, contents="How much?", config=config(plain))
    assert answer.text
    parts = app.models.generate_content_stream(
        model=GEMINI, contents="How much?", config=config(streamed)
    )
    assert [part for part in parts if part.text]
    for call in (plain, streamed):
        (served,) = site.served(call).values()
        entry = site.entry(name, call)
        assert entry.usage.output_llm_tokens == served.billed["output"]
        assert entry.amount.nanos > 0
        assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL


def test_models_are_those_that_the_key_may_call(site: EnvoySite) -> None:
    _name, secret = site.key()
    assert MODEL in {model.id for model in site.openai(secret).models.list()}


# -- refused -------------------------------------------------------------------------------------


def test_an_exhausted_budget_is_told_in_each_dialects_own_way(site: EnvoySite) -> None:
    _name, secret = site.key(limit_nanos=1)
    call = Marked()
    with pytest.raises(openai.APIStatusError) as refused:
        ask(site.openai(secret, retries=2), call)
    assert refused.value.status_code == 402
    assert refused.value.code == "budget_exhausted"
    assert "key" in refused.value.message
    with pytest.raises(anthropic.APIStatusError) as refused_too:
        message(site.anthropic(secret, retries=2), call)
    assert refused_too.value.status_code == 402
    body: Any = refused_too.value.body
    assert body["type"] == "error"
    assert "budget" in body["error"]["message"]
    assert not site.served(call)


def test_unknown_keys_and_models_raise_what_apps_expect(site: EnvoySite) -> None:
    _name, secret = site.key()
    with pytest.raises(openai.AuthenticationError):
        ask(site.openai("bk-unknown"), Marked())
    with pytest.raises(anthropic.AuthenticationError):
        message(site.anthropic("bk-unknown"), Marked())
    with pytest.raises(openai.NotFoundError) as unknown:
        site.openai(secret).chat.completions.create(model="no-such-model", messages=ASKED)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        site.openai(secret).get("/../../../anywhere", cast_to=object)


def test_a_providers_refusal_passes_as_it_came(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(error_429_rate=1.0, retry_after_s=7)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(site.openai(secret), call)
    assert refused.value.response.headers["retry-after"] == "7"
    call = Marked(error_500_rate=1.0)
    with pytest.raises(openai.InternalServerError):
        ask(site.openai(secret), call)
    # Refused calls are billed by nobody.
    assert all(not e.amount.nanos for found in site.entries(name).values() for e in found)


# -- cut and disconnected ------------------------------------------------------------------------


def test_a_stream_is_cut_where_its_money_ends_and_nothing_is_overspent(site: EnvoySite) -> None:
    limit = 2_000_000
    name, secret = site.key(limit_nanos=limit)
    # As fast as models are: what is on its way through Envoy when the money ends is billed, too.
    call = Marked(output_llm_tokens=16_000, chunk_llm_tokens=1, chunk_delay_ms=4)
    chunks = list(ask(site.openai(secret), call, stream=True, max_tokens=openai.omit).parse())
    ends = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert ends[-1] == "length"
    assert len(chunks) > 20
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "cancelled"
    assert cost_of(served) <= entry.amount.nanos <= entry.reserved.nanos <= limit


def test_an_app_that_hangs_up_stops_the_provider_and_pays_for_what_was_made(
    site: EnvoySite,
) -> None:
    name, secret = site.key()
    call = Marked(**LONG)
    answer = ask(site.openai(secret), call, stream=True, max_tokens=4_000)
    stream = answer.parse()
    for _ in range(5):
        next(iter(stream))
    stream.close()
    until(lambda: not site.in_flight(), "the provider is hung up on")
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "cancelled"
    assert served.billed["output"] < LONG["output_llm_tokens"]
    assert cost_of(served) <= entry.amount.nanos <= entry.reserved.nanos
    assert entry.usage.estimate_reason


def test_a_provider_that_breaks_off_is_paid_for_what_it_made(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(output_llm_tokens=100, abort_rate=1.0, abort_after_chunks=5)
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        list(ask(site.openai(secret), call, stream=True).parse())
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "aborted"
    assert entry.amount.nanos >= cost_of(served)


# -- many ----------------------------------------------------------------------------------------


def test_two_hundred_at_once_overspend_nothing(site: EnvoySite) -> None:
    # A third of the calls fit.
    limit = 5_000_000
    name, secret = site.key(limit_nanos=limit)
    app = site.openai(secret)
    calls = [Marked(output_llm_tokens=100, chunk_delay_ms=5) for _ in range(200)]

    def one(number: int) -> str:
        try:
            answer = ask(app, calls[number], stream=number % 2 == 0)
            if number % 2 == 0:
                list(answer.parse())
        except openai.APIStatusError as error:
            return str(error.code)
        return "served"

    with ThreadPoolExecutor(200) as threads:
        ended = list(threads.map(one, range(200)))
    served = site.served(*calls)
    until(lambda: served.keys() <= site.entries(name).keys(), "every served call is posted")
    kinds = compare(served, site.entries(name))
    assert kinds["exact"] >= ended.count("served") > 20
    assert set(ended) <= {"served", "budget_exhausted", "budget_reserved"}, set(ended)
    assert ended.count("served") < 200
    posted = sum(e.amount.nanos for found in site.entries(name).values() for e in found)
    assert sum(cost_of(call) for call in served.values()) <= posted <= limit
