"""The strict tier behind a real Envoy: its traps, each with what the provider really served.

What ships is the start of each configuration; a test changes what it is about, and starts an Envoy
of its own before the same sidecar.
"""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from bursar.v1 import charges_pb2
from tests.fakes.envoy import Config, Envoy, envoy, filter_of, with_endpoints
from tests.fakes.envoy_site import EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import MODEL, compare, cost_of
from tests.fakes.sidecar_bench import chat_answer
from tests.fakes.until import DEADLINE_S, until

AUTHZ = "envoy.filters.http.ext_authz"
PROC = "envoy.filters.http.ext_proc"
SLOW = {"output_llm_tokens": 2_000, "chunk_llm_tokens": 2, "chunk_delay_ms": 20}
"""A stream of twenty seconds."""
MEGABYTE = 1_000_000
NOBODY = ("127.0.0.1", 1)
"""Where nothing listens."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("t")) as made:
        yield made


def another(directory: Path, config: Config) -> AbstractContextManager[Envoy]:
    """An Envoy beside the first, before the same sidecar."""
    return envoy(directory, config, name="another")


def app(front: Envoy, secret: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{front.url}/v1", api_key=secret, max_retries=0, timeout=DEADLINE_S
    )


def routes_of(config: Config) -> list[Config]:
    (connections,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    (host,) = connections["typed_config"]["route_config"]["virtual_hosts"]
    found: list[Config] = host["routes"]
    return found


def changed(site: EnvoySite) -> Config:
    """A copy of the configuration that runs."""
    found: Config = json.loads(json.dumps(site.envoy.config))
    return found


class Recorder(http.server.BaseHTTPRequestHandler):
    """A provider that keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[dict[str, str], int]]

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", "-1"))
        self.asked.append(({k.lower(): v for k, v in self.headers.items()}, length))
        body = self.rfile.read(max(0, length))
        assert json.loads(body)
        answer = chat_answer()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def recorder() -> Iterator[tuple[tuple[str, int], list[tuple[dict[str, str], int]]]]:
    """Its address, and what it was asked: headers, and the length they told."""
    asked: list[tuple[dict[str, str], int]] = []
    handler = type("Recording", (Recorder,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ("127.0.0.1", server.server_port), asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, MEGABYTE])
def test_an_edited_body_is_sent_whole_with_its_own_length(
    site: EnvoySite, tmp_path: Path, size: int
) -> None:
    _name, secret = site.key()
    call = Marked()
    with recorder() as (address, asked):
        config = with_endpoints(site.envoy.config, {"openai": address})
        with another(tmp_path, config) as front:
            # The tags in the body are ours, and do not go on.
            sent = {
                "model": MODEL,
                "max_tokens": 5,
                "tags": ["a:b"],
                "messages": [{"role": "user", "content": "x" * size}],
            }
            body = json.dumps(sent).encode()
            answer = httpx2.post(
                f"{front.url}/v1/chat/completions",
                content=body,
                headers={"authorization": f"Bearer {secret}", **call.headers},
                timeout=DEADLINE_S,
            )
            assert answer.status_code == 200, answer.text
            ((headers, length),) = asked
            assert size < length < len(body)
            assert not headers.keys() & {"transfer-encoding", "x-envoy-max-retries"}
            assert headers["authorization"] == "Bearer sk-simulated"
            assert not [name for name in headers if name.startswith("x-bursar")]


def test_a_large_question_is_answered_and_billed(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(output_llm_tokens=20)
    question: Any = [{"role": "user", "content": "word " * (MEGABYTE // 5)}]
    answer = site.openai(secret).chat.completions.create(
        model="gpt-4.1-mini",
        messages=question,
        max_tokens=20,
        stream=True,
        extra_headers=call.headers,
    )
    assert "".join(c.choices[0].delta.content or "" for c in answer if c.choices)
    entry = site.entry(name, call)
    assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL
    assert not entry.usage.estimate_reason


def test_a_large_answer_comes_whole(site: EnvoySite) -> None:
    name, secret = site.key()
    call = Marked(output_llm_tokens=100_000, exceed_output_limit=True)
    answer = ask(site.openai(secret), call).parse()
    assert len(answer.choices[0].message.content) > 300_000
    site.entry(name, call)
    assert compare(site.served(call), site.entries(name)) == {"exact": 1}


def test_a_plain_call_that_does_not_fit_runs_as_a_stream_and_is_assembled(
    site: EnvoySite,
) -> None:
    # Less than the worst case of a call without a limit.
    name, secret = site.key(limit_nanos=2_000_000)
    call = Marked(output_llm_tokens=50)
    answer = ask(site.openai(secret), call, max_tokens=openai.omit)
    assert answer.headers["x-bursar-assembled"] == "1"
    assert answer.headers["content-type"] == "application/json"
    assert answer.parse().choices[0].message.content
    site.entry(name, call)
    served = site.served(call)
    assert served[call.id].stream
    assert compare(served, site.entries(name)) == {"exact": 1}


# -- time ------------------------------------------------------------------------------------------


def test_a_model_may_think_for_longer_than_a_message_may_take(
    site: EnvoySite, tmp_path: Path
) -> None:
    name, secret = site.key()
    config = changed(site)
    filter_of(config, PROC)["message_timeout"] = "0.2s"
    with another(tmp_path, config) as front:
        plain = Marked(latency_ms=1_000)
        assert ask(app(front, secret), plain).parse().choices
        # Before its first piece, and between two.
        streamed = Marked(latency_ms=1_000, output_llm_tokens=8, chunk_delay_ms=700)
        chunks = list(ask(app(front, secret), streamed, stream=True).parse())
        assert chunks[-1].choices[0].finish_reason == "stop"
        for call in (plain, streamed):
            site.entry(name, call)
        served = site.served(plain, streamed)
        assert compare(served, site.entries(name)) == {"exact": 2}


# -- who answers -----------------------------------------------------------------------------------


def test_a_provider_that_cannot_be_reached_costs_nothing(site: EnvoySite, tmp_path: Path) -> None:
    name, secret = site.key()
    config = with_endpoints(site.envoy.config, {"openai": NOBODY})
    call = Marked()
    with another(tmp_path, config) as front:
        with pytest.raises(openai.InternalServerError) as refused:
            ask(app(front, secret), call)
        assert refused.value.status_code == 502
        assert refused.value.code == "provider_unreachable"
        entry = site.entry(name, call)
        assert entry.amount.nanos == 0


def test_a_provider_that_breaks_off_before_its_answer_may_have_billed_it(
    site: EnvoySite,
) -> None:
    name, secret = site.key()
    call = Marked(timeout_rate=1.0, timeout_ms=50)
    with pytest.raises(openai.InternalServerError) as broken:
        ask(site.openai(secret), call)
    assert (broken.value.status_code, broken.value.code) == (502, "provider_broke")
    entry = site.entry(name, call)
    assert entry.amount.nanos == entry.reserved.nanos
    (served,) = site.served(call).values()
    assert cost_of(served) <= entry.amount.nanos


def test_a_route_that_retries_sends_a_call_once(site: EnvoySite, tmp_path: Path) -> None:
    _name, secret = site.key()
    config = changed(site)
    for route in routes_of(config):
        if "route" in route:
            route["route"]["retry_policy"] = {"retry_on": "5xx,reset", "num_retries": 3}
    call = Marked(error_500_rate=1.0)
    with another(tmp_path, config) as front:
        with pytest.raises(openai.InternalServerError):
            ask(app(front, secret), call)
        # A second one would have been served twice, which `served` does not take.
        assert len(site.served(call)) == 1
        assert front.counted("cluster.openai.upstream_rq_total") == 1


def test_what_passes_a_check_that_failed_open_is_refused(site: EnvoySite, tmp_path: Path) -> None:
    name, secret = site.key()
    paid, stolen = Marked(), Marked()
    charge_id = ask(site.openai(secret), paid).headers["x-bursar-charge-id"]
    config = with_endpoints(site.envoy.config, {"bursar_authz": NOBODY})
    filter_of(config, AUTHZ)["failure_mode_allow"] = True
    stolen.headers["x-bursar-charge-id"] = charge_id
    with another(tmp_path, config) as front:
        with pytest.raises(openai.InternalServerError) as refused:
            ask(app(front, secret), stolen)
        assert (refused.value.status_code, refused.value.code) == (503, "not_reserved")
    assert site.served(stolen) == {}
    assert stolen.id not in site.entries(name)


def test_what_is_refused_is_told_once_and_metered_by_nobody(site: EnvoySite) -> None:
    name, secret = site.key(limit_nanos=1)
    call = Marked()
    with pytest.raises(openai.APIStatusError) as refused:
        ask(site.openai(secret), call)
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
    assert site.served(call) == {}
    assert site.entries(name) == {}


# -- asked for with each call ----------------------------------------------------------------------


def test_an_envoy_that_shows_answers_when_asked_costs_nothing_for_refusals(
    site: EnvoySite, tmp_path: Path
) -> None:
    name, secret = site.key()
    _poor, empty = site.key(limit_nanos=1)
    config = changed(site)
    settings = filter_of(config, PROC)
    settings["allow_mode_override"] = True
    settings["processing_mode"] = {
        "request_header_mode": "SEND",
        "response_header_mode": "SKIP",
        "response_body_mode": "NONE",
        "response_trailer_mode": "SKIP",
    }
    with another(tmp_path, config) as front:
        plain, streamed = Marked(), Marked(output_llm_tokens=30)
        assert ask(app(front, secret), plain).headers["x-bursar-cost"]
        chunks = list(ask(app(front, secret), streamed, stream=True).parse())
        assert chunks[-1].choices[0].finish_reason == "stop"
        for call in (plain, streamed):
            site.entry(name, call)
        assert compare(site.served(plain, streamed), site.entries(name)) == {"exact": 2}
        started = "http.apps.ext_proc.streams_started"
        before = front.counted(started)
        with pytest.raises(openai.APIStatusError):
            ask(app(front, empty), Marked())
        assert front.counted(started) == before == 2


# -- parts that die --------------------------------------------------------------------------------


def begun(front: Envoy, secret: str, call: Marked) -> Iterator[Any]:
    """A stream of which two pieces have come."""
    answer = ask(app(front, secret), call, stream=True, max_tokens=2_000)
    chunks: Iterator[Any] = iter(answer.parse())
    next(chunks)
    next(chunks)
    return chunks


def test_an_envoy_that_dies_in_a_stream_leaves_what_was_made_paid(
    site: EnvoySite, tmp_path: Path
) -> None:
    name, secret = site.key()
    call = Marked(**SLOW)
    with another(tmp_path, changed(site)) as front:
        chunks = begun(front, secret, call)
        front.kill()
        with pytest.raises((httpx2.HTTPError, openai.APIError)):
            list(chunks)
    until(lambda: not site.in_flight(), "the provider is hung up on")
    entry = site.entry(name, call)
    (served,) = site.served(call).values()
    assert served.ended == "cancelled"
    assert cost_of(served) <= entry.amount.nanos <= entry.reserved.nanos


def test_a_sidecar_that_is_stopped_lets_a_stream_come_to_its_end(tmp_path: Path) -> None:
    with envoy_site(tmp_path) as site:
        name, secret = site.key()
        call = Marked(output_llm_tokens=100, chunk_llm_tokens=2, chunk_delay_ms=20)
        chunks = begun(site.envoy, secret, call)
        stopping = threading.Thread(target=site.sidecar.stop)
        stopping.start()
        *_, last = chunks
        stopping.join()
        assert last.choices[0].finish_reason == "stop"
        entry = site.entry(name, call)
        assert compare(site.served(call), {call.id: [entry]}) == {"exact": 1}
        # Nobody decides any more: nothing goes on.
        with pytest.raises(openai.InternalServerError) as refused:
            ask(site.openai(secret), Marked())
        assert refused.value.status_code == 503


def test_a_sidecar_that_dies_in_a_stream_ends_it_and_knows_of_it_later(tmp_path: Path) -> None:
    with envoy_site(tmp_path) as site:
        name, secret = site.key()
        call = Marked(**SLOW)
        chunks = begun(site.envoy, secret, call)
        site.sidecar.kill()
        with pytest.raises((httpx2.HTTPError, openai.APIError)):
            list(chunks)
        until(lambda: not site.in_flight(), "the provider is hung up on")
        site.sidecar.start()
        entry = site.entry(name, call)
        (served,) = site.served(call).values()
        assert served.ended == "cancelled"
        assert entry.kind == charges_pb2.SETTLEMENT_KIND_PROVISIONAL
        assert cost_of(served) <= entry.amount.nanos == entry.reserved.nanos
