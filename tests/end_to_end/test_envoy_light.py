"""Envoy's light tier as it ships, before the simulated provider: what Envoy logs of a call is what
the ledger says of it, whatever becomes of the call or of the log."""

import contextlib
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from bursar.v1 import charges_pb2, ledger_pb2
from tests.fakes.envoy import Config, filter_of, with_endpoints
from tests.fakes.envoy_site import ASKED, CLAUDE, OUTPUT, EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import MODEL, compare, cost_of, posted
from tests.fakes.until import until

LOG = "bursar.jsonl"
"""The name of the log file that ships, in the directory of the test."""
LIMIT_NANOS = 10**10
STREAMED: Any = {"stream": True, "stream_options": {"include_usage": True}}
RELEASED = charges_pb2.SETTLEMENT_KIND_RELEASED
PROVISIONAL = charges_pb2.SETTLEMENT_KIND_PROVISIONAL


def light(directory: Path, change: Any = None, **settings: str) -> Any:
    """The tier as it ships, with the file followed too."""
    log = str(directory / LOG)
    return envoy_site(directory, "light", change, BURSAR_ENVOY_ACCESS_LOG=log, **settings)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with light(tmp_path_factory.mktemp("light")) as made:
        yield made


def nobody_takes_the_log(config: Config) -> None:
    """Envoy's stream of entries goes where nobody is."""
    moved = with_endpoints(config, {"bursar_access_log": "/nowhere/log.sock"})
    config["static_resources"] = moved["static_resources"]


def taken(front: EnvoySite) -> Counter[str]:
    """What became of entries, by source and result, as the sidecar's metrics have it."""
    with urllib.request.urlopen(f"http://{front.sidecar.said['admin']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        name, _, labels = line.partition("{")
        if name == "bursar_sidecar_envoy_log_entries_total":
            result, source = labels.split('"')[1:4:2]
            found[f"{source} {result}"] = int(float(line.rpartition(" ")[2]))
    return +found


def charged_as_reserved(entry: ledger_pb2.Entry) -> bool:
    return entry.amount.nanos == entry.reserved.nanos > 0 and bool(entry.usage.estimate_reason)


def test_both_libraries_are_charged_what_the_provider_bills(front: EnvoySite) -> None:
    name, secret = front.key(LIMIT_NANOS)
    calls = [Marked(output_llm_tokens=5 + n, cached_input_llm_tokens=n) for n in range(4)]
    with front.openai(secret) as app:
        for call in calls[:2]:
            ask(app, call).parse()
        for call in calls[2:]:
            assert list(ask(app, call, **STREAMED).parse())
        embedded, answered, streamed = Marked(), Marked(), Marked()
        app.embeddings.create(
            model="text-embedding-3-small", input="hi there", extra_headers=embedded.headers
        )
        asked: Any = {"model": MODEL, "input": "How much?", "max_output_tokens": OUTPUT}
        app.responses.create(**asked, extra_headers=answered.headers)
        with app.responses.create(**asked, stream=True, extra_headers=streamed.headers) as events:
            assert list(events)
    served = front.served(*calls)
    posted(front.site.admin, name, front.served())
    assert compare(served, {c.id: front.entries(name)[c.id] for c in calls}) == {"exact": 4}
    for call in (answered, streamed):
        assert front.entry(name, call).amount.nanos == cost_of(front.served(call)[call.id])
    # 0.02 USD a million.
    billed = front.served(embedded)[embedded.id].billed["input"]
    assert front.entry(name, embedded).amount.nanos == 20 * billed > 0

    plain, stream = Marked(cache_write_1h_llm_tokens=3), Marked(cached_input_llm_tokens=2)
    with front.anthropic(secret) as claude:
        message: Any = {"model": CLAUDE, "max_tokens": OUTPUT, "messages": ASKED}
        claude.messages.create(**message, extra_headers=plain.headers)
        with claude.messages.stream(**message, extra_headers=stream.headers) as events:
            assert events.get_final_message().usage.output_tokens
    for call in (plain, stream):
        entry, billed_for = front.entry(name, call), front.served(call)[call.id].billed
        usage = entry.usage
        assert not usage.estimate_reason
        assert usage.output_llm_tokens == billed_for["output"]
        assert usage.input_llm_tokens + usage.cached_input_llm_tokens == billed_for["input"]
    # Both ways bring everything; each call is settled once.
    until(
        lambda: taken(front).total() == 2 * len(front.served()),
        "both ways have brought everything",
    )
    known = taken(front)
    assert known["grpc settled"] + known["file settled"] == len(front.served())
    assert known["grpc duplicate"] + known["file duplicate"] == len(front.served())


def test_many_at_once_spend_no_more_than_there_is(front: EnvoySite) -> None:
    # The worst case of five calls, the cost of forty: what is not used comes back with the log.
    limit = 500_000
    name, secret = front.key(limit)
    calls = [Marked(latency_ms=20) for _ in range(60)]
    with front.openai(secret) as app:

        def one(call: Marked) -> int:
            try:
                ask(app, call).parse()
            except openai.APIStatusError as refused:
                return refused.status_code
            return 200

        with ThreadPoolExecutor(20) as threads:
            said = Counter(threads.map(one, calls))
    assert set(said) <= {200, 402, 429}
    assert said[200] < 60
    served = front.served(*calls)
    assert len(served) == said[200]
    posted(front.site.admin, name, served)
    assert compare(served, front.entries(name)) == {"exact": said[200]}
    assert sum(map(cost_of, served.values())) <= limit


def test_how_calls_end_badly_and_what_they_cost(front: EnvoySite) -> None:
    name, secret = front.key(LIMIT_NANOS)
    free = [Marked(error_429_rate=1), Marked(error_500_rate=1)]
    reserved = [
        Marked(abort_rate=1, abort_after_chunks=2),
        Marked(missing_usage=True),
        Marked(stall_rate=1, abort_after_chunks=1),
    ]
    unasked, nonsense = (
        Marked(),
        Marked(reported_usage={"prompt_tokens": -5, "completion_tokens": 1}),
    )
    with front.openai(secret) as app:
        for call in free:
            with pytest.raises(openai.APIStatusError):
                ask(app, call)
        for call in reserved[:2]:
            with contextlib.suppress(openai.APIError, Exception):
                list(ask(app, call, **STREAMED).parse())
        with ask(app, reserved[2], **STREAMED).parse() as stream:
            next(iter(stream))  # and the app goes away
        list(ask(app, unasked, stream=True).parse())
        ask(app, nonsense).parse()
    for call in free:
        entry = front.entry(name, call)
        assert (entry.amount.nanos, entry.http_status in (429, 500)) == (0, True)
    for call in (*reserved, unasked):
        entry = front.entry(name, call)
        assert charged_as_reserved(entry), entry
        assert entry.amount.nanos >= cost_of(front.served(call)[call.id])
    entry = front.entry(name, nonsense)
    assert entry.usage.estimate_reason
    assert entry.amount.nanos >= cost_of(front.served(nonsense)[nonsense.id])


def test_the_file_brings_what_the_stream_lost_over_its_rotation_too(tmp_path: Path) -> None:
    with light(tmp_path, nobody_takes_the_log) as front:
        name, secret = front.key(LIMIT_NANOS)
        calls = [Marked() for _ in range(10)]
        with front.openai(secret) as app:
            for call in calls:
                ask(app, call).parse()
        served = front.served(*calls)
        posted(front.site.admin, name, served)
        assert compare(served, front.entries(name)) == {"exact": 10}
        assert taken(front) == {"file settled": 10}

        with front.openai(secret) as app:
            for turn in range(3):
                first, second = Marked(), Marked()
                ask(app, first).parse()
                (tmp_path / LOG).rename(tmp_path / f"{LOG}.{turn}")
                # Envoy goes on with the file that it has open.
                ask(app, second).parse()
                front.entry(name, second)
                front.envoy.order("/reopen_logs")
                until((tmp_path / LOG).exists, "Envoy opens another log")
                assert front.entry(name, first).amount.nanos > 0
        assert taken(front) == {"file settled": 16}


def test_a_sidecar_that_is_killed_reads_on_where_it_was(tmp_path: Path) -> None:
    with light(tmp_path, nobody_takes_the_log) as front:
        name, secret = front.key(LIMIT_NANOS)
        before, over = Marked(), Marked(chunk_delay_ms=3_000, chunk_llm_tokens=6)
        with front.openai(secret) as app:
            ask(app, before).parse()
            assert front.entry(name, before).amount.nanos == cost_of(
                front.served(before)[before.id]
            )
            stream = ask(app, over, **STREAMED).parse()
            front.sidecar.kill()
            assert list(stream)  # and nobody is there to read what Envoy logs of it
        until(lambda: over.id in front.served(), "it is served")
        front.site.start_sidecars()
        cost = cost_of(front.served(over)[over.id])
        until(lambda: over.id in front.entries(name), "the charge of the call is posted")
        until(lambda: charged(front, name, over) == cost, "the difference is posted")
        assert front.entry(name, before).amount.nanos > 0
        assert taken(front) == {"file adjusted": 1}


def test_an_answer_too_long_for_envoy_is_charged_as_reserved(tmp_path: Path) -> None:
    def small(config: Config) -> None:
        (listener,) = config["static_resources"]["listeners"]
        listener["per_connection_buffer_limit_bytes"] = 2_048
        filter_of(config, "envoy.filters.http.ext_authz")["with_request_body"][
            "max_request_bytes"
        ] = 1_024

    with light(tmp_path, small) as front:
        name, secret = front.key(LIMIT_NANOS)
        call = Marked(output_llm_tokens=2_000)
        with front.openai(secret) as app, pytest.raises(openai.InternalServerError):
            ask(app, call, max_tokens=2_000)
        entry = front.entry(name, call)
        assert charged_as_reserved(entry)
        assert entry.amount.nanos >= cost_of(front.served(call)[call.id]) > 0


def test_what_is_not_told_in_time_is_charged_and_adjusted_by_what_comes_late(
    tmp_path: Path,
) -> None:
    with light(tmp_path, BURSAR_ENVOY_HOLD_S="2") as front:
        name, secret = front.key(LIMIT_NANOS)
        slow = Marked(chunk_delay_ms=3_000, chunk_llm_tokens=4, output_llm_tokens=12)
        lost, later, unsent = Marked(stall_rate=1, abort_after_chunks=1), Marked(), Marked()
        with front.openai(secret) as app:
            stream = ask(app, slow, **STREAMED).parse()
            expired = front.entry(name, slow)
            assert (expired.kind, charged_as_reserved(expired)) == (PROVISIONAL, True)
            assert list(stream)
            cost = cost_of(front.served(slow)[slow.id])
            until(lambda: charged(front, name, slow) == cost, "the difference is posted")

            # What Envoy has not logged when it is killed nobody tells.
            stream = ask(app, lost, **STREAMED).parse()
            next(iter(stream))
            front.envoy.kill()
            entry = front.entry(name, lost)
            assert (entry.kind, charged_as_reserved(entry)) == (PROVISIONAL, True)
            assert entry.usage.estimate_reason == "reservation_expired"
            front.envoy.start()
            ask(app, later).parse()
            assert front.entry(name, later).amount.nanos == cost_of(front.served(later)[later.id])

            front.site.provider.kill()
            with pytest.raises(openai.APIStatusError) as refused:
                ask(app, unsent)
        assert refused.value.status_code == 503
        entry = front.entry(name, unsent)
        assert (entry.kind, entry.amount.nanos) == (RELEASED, 0)


def charged(front: EnvoySite, name: str, call: Marked) -> int:
    """What a call is charged by now, all adjustments included."""
    return sum(entry.amount.nanos for entry in front.entries(name)[call.id])
