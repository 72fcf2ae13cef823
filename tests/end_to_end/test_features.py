"""What an app sees through a sidecar, with the official SDK, against real processes."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from bursar_cli.__main__ import build_app
from tests.fakes.stack import Stack, running
from tests.fakes.until import until

MODEL = "gpt-4o-mini"
WITHIN_S = 5.0
"""How soon a change of policy or prices must be felt. A second is promised, and the benchmark of
revocation measures it; here other tests may share the machine."""
OUTPUT_NANOS = Decimal(600)
"""What an LLM token of output costs in the built-in price of MODEL."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("features")) as stack:
        yield stack


def command(stack: Stack, *arguments: str) -> Any:
    """What `bursar ... -o json` says; in this process, for starting one takes a second."""
    environment = {
        "BURSAR_ADDRESS": stack.ready["grpc"], "BURSAR_ADMIN_KEY": stack.ready["admin_key"],
    }  # fmt: skip
    done = CliRunner().invoke(build_app(), [*arguments, "-o", "json"], env=environment)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


class App:
    """An app with a key of its own."""

    def __init__(self, stack: Stack, *options: str) -> None:
        self.stack = stack
        made = command(stack, "key", "create", "--org", "acme", *options)
        self.name: str = made["name"]
        self.scope = self.name.replace("keys/", "key/")
        self.budget: str = made.get("budget", "")
        self.client = openai.OpenAI(
            api_key=made["key"], base_url=f"{stack.ready['sidecar']}/v1", max_retries=0, timeout=30
        )

    def call(self, model: str = MODEL, **fields: Any) -> Any:
        """One plain call, with its headers."""
        simulate = fields.pop("simulate", {})
        arguments: dict[str, Any] = {"max_tokens": 5, **fields}
        return self.client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": "Hello there"}],
            extra_headers={"x-simulate": json.dumps(simulate)},
            **arguments,
        )

    def stream(self, **fields: Any) -> Any:
        """One streamed call."""
        simulate = fields.pop("simulate", {})
        headers = {"x-simulate": json.dumps(simulate)} | fields.pop("headers", {})
        return self.client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hello there"}],
            stream=True,
            extra_headers=headers,
            **fields,
        )

    def refused(self, model: str = MODEL, **fields: Any) -> tuple[int, str]:
        """(status, code) of a call that is refused; (200, "") if it is not."""
        try:
            self.call(model, **fields)
        except openai.APIStatusError as error:
            return error.status_code, str(error.code)
        return 200, ""

    def entry(self, charge_id: str) -> Any:
        """The entry of a charge, once it is posted."""

        def look() -> Any:
            listed = command(
                self.stack, "ledger", "list", "--org", "acme", "--key", self.name.split("/")[1]
            )
            return next((one for one in listed if one["chargeId"] == charge_id), None)

        return until(look, f"charge {charge_id} is in the ledger")

    def last_entry(self) -> Any:
        """The newest entry of the key, once there is one."""
        return until(
            lambda: next(
                iter(
                    command(
                        self.stack,
                        "ledger",
                        "list",
                        "--org",
                        "acme",
                        "--key",
                        self.name.split("/")[1],
                    )
                ),
                None,
            ),
            "an entry of the key",
        )


def test_choices_tools_and_formats_are_charged_by_what_they_used(stack: Stack) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for fields in (
        {"n": 3},
        {"tools": [tool]},
        {"response_format": {"type": "json_object"}},
    ):
        answer = app.call(**fields)
        usage = answer.parse().usage
        cost = Decimal(150 * usage.prompt_tokens + 600 * usage.completion_tokens) / 10**9
        assert Decimal(answer.headers["x-bursar-cost"]) == cost
    assert len(app.call(n=3).parse().choices) == 3
    assert app.client.models.retrieve(MODEL).id == MODEL


def test_the_usage_chunk_is_shown_to_those_who_asked_only(stack: Stack) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    assert not [chunk for chunk in app.stream() if chunk.usage or not chunk.choices]
    asked = list(app.stream(stream_options={"include_usage": True}))
    assert asked[-1].usage is not None
    assert not asked[-1].choices


def test_who_hangs_up_pays_for_what_was_produced(stack: Stack) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    simulate = {
        "output_llm_tokens": 400, "chunk_delay_ms": 5, "llm_tokens_billed_after_cancel": 12,
    }  # fmt: skip
    stream = app.stream(
        max_tokens=400, simulate=simulate, headers={"x-simulate-call-id": "hang-up"}
    )
    for _ in range(6):
        next(stream)
    stream.close()
    entry = app.last_entry()
    billed = stack.served()["hang-up"].billed
    assert billed["after_cancel"] == 12
    assert entry["usage"]["estimateReason"] == "the app hung up"
    # Never less than the provider bills, never more than was set aside.
    assert int(entry["amount"]["nanos"]) >= billed["output"] * OUTPUT_NANOS
    assert int(entry["amount"]["nanos"]) <= int(entry["reserved"]["nanos"])


@pytest.mark.parametrize(
    ("simulate", "status"),
    [({"error_429_rate": 1}, 429), ({"error_500_rate": 1}, 500)],
)
def test_an_error_of_the_provider_costs_nothing(
    stack: Stack, simulate: dict[str, Any], status: int
) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    with pytest.raises(openai.APIStatusError) as caught:
        app.call(simulate=simulate)
    headers = caught.value.response.headers
    assert (caught.value.status_code, headers["x-bursar-cost"]) == (status, "0.00")
    assert int(app.entry(headers["x-bursar-charge-id"])["amount"]["nanos"]) == 0


@pytest.mark.parametrize(
    "simulate",
    [
        {"missing_usage": True},
        {"reported_usage": {}},
        {"reported_usage": {"prompt_tokens": -5, "completion_tokens": 3, "total_tokens": -2}},
        {"reported_usage": {"prompt_tokens": 10**15, "completion_tokens": 10**15}},
        {"reported_usage": {"prompt_tokens": "many", "completion_tokens": 1}},
    ],
)
def test_usage_that_cannot_be_is_estimated_upwards(stack: Stack, simulate: dict[str, Any]) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    answer = app.call(max_tokens=20, simulate={**simulate, "output_llm_tokens": 20})
    entry = app.entry(answer.headers["x-bursar-charge-id"])
    assert entry["usage"]["estimateReason"]
    assert 0 < int(entry["amount"]["nanos"]) <= int(entry["reserved"]["nanos"])


def test_a_revoked_key_ends_within_a_second_and_nobody_elses_stream(stack: Stack) -> None:
    revoked, other = App(stack), App(stack)
    chunks: list[int] = []
    simulate = {"output_llm_tokens": 400, "chunk_delay_ms": 10}
    reader = threading.Thread(
        target=lambda: chunks.append(len(list(other.stream(max_tokens=400, simulate=simulate))))
    )
    reader.start()
    assert revoked.refused() == (200, "")
    command(stack, "key", "revoke", "--org", "acme", revoked.name)
    until(lambda: revoked.refused() == (401, "key_revoked"), "the key is refused", WITHIN_S)
    reader.join()
    assert chunks[0] >= 100


def test_a_lowered_limit_refuses_and_a_raised_one_serves(stack: Stack) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    assert app.refused() == (200, "")
    command(stack, "budget", "update", "--org", "acme", app.budget, "--limit", "0")
    until(lambda: app.refused() == (402, "budget_exhausted"), "the budget refuses", WITHIN_S)
    command(stack, "budget", "update", "--org", "acme", app.budget, "--limit", "1")
    until(lambda: app.refused() == (200, ""), "the budget serves again", WITHIN_S)


def test_a_disabled_team_takes_its_keys_along(stack: Stack) -> None:
    command(stack, "team", "create", "--org", "acme", "passing")
    app = App(stack, "--team", "passing")
    assert app.refused() == (200, "")
    command(stack, "team", "update", "--org", "acme", "passing", "--disabled")
    until(lambda: app.refused() == (401, "key_disabled"), "the key is refused", WITHIN_S)


def test_a_soft_budget_tells_once_and_refuses_nobody(stack: Stack) -> None:
    app = App(stack)
    made = command(
        stack, "budget", "create", "--org", "acme", "--scope", app.scope,
        "--limit", "0.000001", "--window", "daily", "--soft",
    )  # fmt: skip
    assert [app.refused() for _ in range(3)] == [(200, "")] * 3

    def crossings() -> list[Any]:
        events = command(stack, "alert", "list", "--org", "acme")
        return [event for event in events if event["budget"] == made["name"]]

    assert [e["kind"] for e in until(crossings, "an event")] == ["EVENT_KIND_SOFT_LIMIT_CROSSED"]
    with urllib.request.urlopen(f"{stack.ready['http']}/metrics") as answer:
        assert b"bursar_soft_limit_crossings_total 1.0" in answer.read()


def test_a_budget_counts_the_models_and_providers_it_names(stack: Stack) -> None:
    app = App(stack)
    create = ("budget", "create", "--org", "acme", "--scope", app.scope, "--limit", "0")
    command(stack, *create, "--window", "daily", "--provider", "anthropic")
    command(stack, *create, "--window", "daily", "--model", "gpt-4o*")
    until(lambda: app.refused()[0] == 402, "the model's budget refuses", WITHIN_S)
    assert app.refused("gpt-4.1-mini") == (200, "")


def test_the_platforms_budget_refuses_every_organization(stack: Stack) -> None:
    app = App(stack)
    made = command(
        stack, "budget", "create", "--org", "platform", "--scope", "platform",
        "--limit", "0", "--window", "lifetime",
    )  # fmt: skip
    until(lambda: app.refused()[0] == 402, "the platform's budget refuses", WITHIN_S)
    command(stack, "budget", "update", "--org", "platform", made["name"], "--disabled")
    until(lambda: app.refused() == (200, ""), "it serves again", WITHIN_S)


def test_a_model_is_refused_unpriced_then_costs_what_was_set_then_is_free(stack: Stack) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    assert app.refused("openai/house-model") == (403, "model_unpriced")
    prices = ("price", "set", "--org", "acme", "openai/house-model")
    command(stack, *prices, "--input", "1", "--output", "2")
    until(lambda: app.refused("openai/house-model") == (200, ""), "it is priced", WITHIN_S)
    answer = app.call("openai/house-model")
    usage = answer.parse().usage
    cost = Decimal(usage.prompt_tokens + 2 * usage.completion_tokens) / 10**6
    assert Decimal(answer.headers["x-bursar-cost"]) == cost
    command(stack, *prices, "--free")
    until(
        lambda: app.call("openai/house-model").headers["x-bursar-cost"] == "0.00",
        "it is free",
        WITHIN_S,
    )


def test_a_price_that_was_wrong_is_corrected_backwards_and_the_calls_with_it(stack: Stack) -> None:
    app = App(stack, "--max-budget", "1", "--window", "1d")
    model, priced = "openai/wrong-model", ("price", "set", "--org", "acme", "openai/wrong-model")
    command(stack, *priced, "--input", "2", "--output", "2", "--from", "-1h")
    command(stack, "price", "contract", "set", "--org", "acme", "--model", "wrong-model",
            "--discount", "50%")  # fmt: skip
    until(lambda: app.refused(model) == (200, ""), "it is priced", WITHIN_S)

    def version() -> str:
        return str(app.entry(app.call(model).headers["x-bursar-charge-id"])["priceVersion"])

    until(lambda: "+contract@" in version(), "it is under contract", WITHIN_S)
    charge = app.call(model).headers["x-bursar-charge-id"]
    before = app.entry(charge)
    command(stack, *priced, "--input", "6", "--output", "6", "--from", "-1h")
    rerate = ("price", "rerate", "--org", "acme")
    plan = command(stack, *rerate, "--from", "1h", "--model", "wrong-model", "--reason", "typing",
                   "--dry-run")  # fmt: skip
    assert plan["state"] == "RERATING_STATE_PLANNED"
    assert int(plan["difference"]["nanos"]) > 0
    assert app.entry(charge) == before
    done = command(stack, *rerate, "--plan", plan["name"])
    assert done["state"] == "RERATING_STATE_APPLIED"
    correction = app.entry(f"{charge}-1")
    assert int(correction["amount"]["nanos"]) == 2 * int(before["amount"]["nanos"])
    assert (correction["kind"], correction["rerating"]) == (
        "SETTLEMENT_KIND_CORRECTION", plan["name"],
    )  # fmt: skip
    assert app.entry(charge) == before
    again = command(stack, *rerate, "--from", "1h", "--model", "wrong-model", "--reason", "again",
                    "--dry-run")  # fmt: skip
    assert again["correctedCount"] == "0"


@pytest.mark.parametrize("window", ["every:1s", "1s"])
def test_a_window_ends_by_itself_while_calls_flow(stack: Stack, window: str) -> None:
    app = App(stack)
    command(
        stack, "budget", "create", "--org", "acme", "--scope", app.scope,
        "--limit", "0.00003", "--window", window,
    )  # fmt: skip
    served_at: list[float] = []

    def three_windows() -> bool:
        status, _ = app.refused()
        assert status in {200, 402}
        if status == 200:
            served_at.append(time.monotonic())
        return len(served_at) >= 3

    # Each window has room for one call's worst case only.
    until(three_windows, "three windows went by", 10)
    assert served_at[2] - served_at[0] >= 0.9


def test_a_key_of_an_organization_that_this_sidecar_does_not_serve_is_unknown(
    stack: Stack,
) -> None:
    command(stack, "org", "create", "rival", "--currency", "EUR")
    secret = command(stack, "key", "create", "--org", "rival")["key"]
    client = openai.OpenAI(
        api_key=secret, base_url=f"{stack.ready['sidecar']}/v1", max_retries=0, timeout=30
    )
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_the_ledger_is_whole_after_all_of_it(stack: Stack) -> None:
    stack.served()
    done = stack.cli("ledger", "verify", "--org", "acme")
    assert done.returncode == 0, done.stdout
    logs = (stack.directory / "data" / "logs").glob("*.log")
    assert not [log.name for log in logs if "Traceback" in log.read_text()]
