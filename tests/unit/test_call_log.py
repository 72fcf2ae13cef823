"""Log lines about calls: charges and keys, never what was said or a secret."""

import json

import pytest
from structlog.testing import capture_logs

from bursar_sidecar.call_log import MOST_WARNINGS, STRETCH_S, CallLog
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.sidecar_bench import CHAT, COST_NANOS, DONE, USAGE_CHUNK, Bench, chat_answer, chunk

SAID = "a question nobody may read"
CALL = {**CHAT, "messages": [{"role": "user", "content": SAID}], "user": "customer-4711"}
ANSWERED = "four"


async def test_the_access_log_says_what_a_call_cost() -> None:
    bench = Bench(access_log=True)
    with capture_logs() as logs:
        bench.post(CALL)
        (await bench.provider.request()).send_json(chat_answer())
        await bench.answered()
    (line,) = [line for line in logs if line["event"] == "call"]
    assert line["log_level"] == "info"
    assert (line["charge_id"], line["status"], line["outcome"]) == ("7-1", 200, "final")
    assert (line["provider"], line["model"]) == ("openai", "gpt-4o-mini")
    assert (line["cost"], line["llm_tokens"]) == ("0.0000135", 30)
    assert COST_NANOS == 13_500
    assert line["key"] == bench.desk.calls[0].spender.key


async def test_without_the_access_log_a_good_call_is_no_line() -> None:
    bench = Bench()
    with capture_logs() as logs:
        bench.post(CALL)
        (await bench.provider.request()).send_json(chat_answer())
        await bench.answered()
    assert logs == []


async def test_a_refused_call_is_a_warning_with_its_key() -> None:
    bench = Bench(FakeDesk(limit_nanos=1))
    with capture_logs() as logs:
        bench.post(CALL)
        assert (await bench.answered()).status == 402
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("call_refused", "warning")
    assert (line["reason"], line["model"]) == ("budget_exhausted", "gpt-4o-mini")
    assert line["key"] == bench.desk.spenders[KEY].key


async def test_a_failed_call_is_a_warning_with_its_charge() -> None:
    bench = Bench()
    with capture_logs() as logs:
        bench.post(CALL)
        (await bench.provider.request()).send_json(b'{"error": {}}', status=500)
        assert (await bench.answered()).status == 500
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("call_failed", "warning")
    assert (line["charge_id"], line["status"], line["outcome"]) == ("7-1", 500, "provider_error")
    errors = bench.proxy.metrics.registry.get_sample_value(
        "bursar_sidecar_upstream_errors_total", {"provider": "openai", "error": "5xx"}
    )
    assert errors == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_no_line_holds_what_was_said_or_a_secret(stream: bool) -> None:
    bench = Bench(access_log=True)
    with capture_logs() as logs:
        bench.post({**CALL, "stream": stream}, x_bursar_tags="a:b")
        call = await bench.provider.request()
        if stream:
            call.start_stream()
            call.send_chunk(chunk(ANSWERED) + USAGE_CHUNK + DONE)
            call.send_chunk(b"")
        else:
            call.send_json(chat_answer())
        await bench.answered()
        # What can't be served may hold anything, also in the place of a name.
        bench.post({**CALL, "model": SAID})
        assert (await bench.answered(2)).status == 404
        bench.post({**CALL, "max_tokens": SAID})
        assert (await bench.answered(3)).status == 400
        bench.post(CALL, path=f"/v1/{SAID.replace(' ', '-')}")
        assert (await bench.answered(4)).status == 404
        bench.post(CALL, authorization=f"Bearer {SAID}")
        assert (await bench.answered(5)).status == 401
    assert len(logs) == 5
    text = json.dumps(logs, default=str)
    for secret in (SAID, SAID.replace(" ", "-"), ANSWERED, "customer-4711", KEY, "sk-upstream"):
        assert secret not in text


def test_warnings_of_one_reason_are_few_and_say_how_many_there_were() -> None:
    seconds = 0.0
    call_log = CallLog(lambda: seconds, access=False)
    with capture_logs() as logs:
        for _ in range(MOST_WARNINGS + 25):
            call_log.refused("budget_exhausted")
        call_log.refused("key_unknown")
        seconds = STRETCH_S
        call_log.refused("budget_exhausted")
    assert [line["reason"] for line in logs] == [
        *["budget_exhausted"] * MOST_WARNINGS,
        "key_unknown",
        "budget_exhausted",
    ]
    assert logs[-1]["more_before"] == 25
