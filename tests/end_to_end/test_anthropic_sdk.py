"""Anthropic's dialect, driven by the official SDK through a real sidecar, against the ledger."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from tests.fakes.dialect_apps import DialectApps
from tests.fakes.stack import Stack, running

CLAUDE = "claude-haiku-4-5"
SEARCHING = "claude-opus-4-5"
"""A model whose price has a rate for searches."""
PROMPT: Any = [{"role": "user", "content": "How much is left of the budget?"}]
CACHED: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "wide " * 100, "cache_control": {"type": "ephemeral"}}
        ],
    }
]
TOOL: Any = {"name": "lookup", "input_schema": {"type": "object"}}
WEB_SEARCH: Any = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("anthropic")) as stack:
        yield stack


@pytest.fixture
def apps(stack: Stack) -> DialectApps:
    return DialectApps(stack)


@pytest.fixture
def claude(apps: DialectApps) -> Iterator[anthropic.Anthropic]:
    with client(apps) as made:
        yield made


def client(apps: DialectApps) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=apps.address, api_key=apps.key, max_retries=0)


def test_plain_messages_cost_what_the_provider_bills_caches_included(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    for writes in ({}, {"cache_write_5m_llm_tokens": 40, "cache_write_1h_llm_tokens": 30}):
        raw = claude.messages.with_raw_response.create(
            model=CLAUDE,
            max_tokens=60,
            messages=CACHED,
            metadata={"user_id": "customer-7"},
            extra_headers=apps.headers(cached_input_llm_tokens=20, **writes),
        )
        assert raw.parse().usage.cache_read_input_tokens == 20
        assert raw.headers["x-bursar-cost"]
    entries = apps.compare("anthropic")
    assert [entry.customer for entry in entries] == ["customer-7"] * 2
    assert entries[0].amount.nanos < entries[1].amount.nanos


def test_streamed_messages_cost_what_the_provider_bills(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    with claude.messages.stream(
        model=CLAUDE,
        max_tokens=2_000,
        messages=PROMPT,
        thinking={"type": "enabled", "budget_tokens": 1_024},
        extra_headers=apps.headers(output_llm_tokens=90, reasoning_llm_tokens=30),
    ) as stream:
        whole = stream.get_final_message()
    assert whole.usage.output_tokens == 90
    [entry] = apps.compare("anthropic")
    assert entry.usage.reasoning_llm_tokens == 30


def test_tools_of_the_app_and_of_the_provider_are_in_the_bill(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    called = claude.messages.create(
        model=CLAUDE,
        max_tokens=60,
        messages=PROMPT,
        tools=[TOOL],
        tool_choice={"type": "any"},
        extra_headers=apps.headers(),
    )
    assert called.stop_reason in ("tool_use", "max_tokens")
    searched = claude.messages.create(
        model=SEARCHING,
        max_tokens=60,
        messages=PROMPT,
        tools=[WEB_SEARCH],
        extra_headers=apps.headers(searches=5),
    )
    assert searched.usage.server_tool_use is not None
    assert searched.usage.server_tool_use.web_search_requests == 2
    apps.compare("anthropic")


def test_counting_costs_nothing_and_models_are_listed(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    counted = claude.messages.count_tokens(
        model=CLAUDE, messages=PROMPT, extra_headers=apps.headers()
    )
    assert counted.input_tokens > 0
    assert [entry.amount.nanos for entry in apps.posted().values()] == [0]
    assert CLAUDE in [model.id for model in claude.models.list()]
    assert claude.models.retrieve(CLAUDE).id == CLAUDE


def test_an_exhausted_budget_refuses_as_the_sdk_knows_it(stack: Stack) -> None:
    apps = DialectApps(stack, budget="0.000001")
    with client(apps) as claude:
        for stream in (False, True):
            with pytest.raises(anthropic.APIStatusError) as refused:
                claude.messages.create(
                    model=CLAUDE,
                    max_tokens=60,
                    messages=PROMPT,
                    stream=stream,
                    extra_headers=apps.headers(),
                )
            assert refused.value.status_code == 402
            body: Any = refused.value.body
            assert body["type"] == "error"
            assert body["error"]["type"] == "billing_error"
            assert body["error"]["code"] == "budget_exhausted"
            assert body["error"]["budgets"][0]["limit"] == "0.000001"
    apps.not_served()


def test_other_refusals_are_the_sdks_own_errors(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    def call(**fields: Any) -> None:
        asked: Any = {"model": CLAUDE, "max_tokens": 60, "messages": PROMPT, **fields}
        claude.messages.create(**asked, extra_headers=apps.headers())

    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        call(max_tokens=-5)
    with pytest.raises(anthropic.NotFoundError, match="nobody-knows"):
        call(model="nobody-knows")
    with pytest.raises(anthropic.PermissionDeniedError, match="code_execution"):
        call(tools=[{"type": "code_execution_20250825", "name": "code_execution"}])
    stranger = claude.with_options(api_key="bk-unknown")
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model=CLAUDE, max_tokens=60, messages=PROMPT)
    apps.not_served()


def test_the_providers_own_errors_pass_through_and_cost_nothing(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    for behaviour, error in (
        ({"error_429_rate": 1}, anthropic.RateLimitError),
        ({"error_500_rate": 1}, anthropic.InternalServerError),
    ):
        with pytest.raises(error, match="simulated"):
            claude.messages.create(
                model=CLAUDE,
                max_tokens=60,
                messages=PROMPT,
                extra_headers=apps.headers(**behaviour),
            )
    assert [entry.amount.nanos for entry in apps.posted().values()] == [0, 0]


@pytest.mark.parametrize(
    "behaviour", [{"abort_rate": 1}, {"stream_error_rate": 1}, {"missing_usage": True}]
)
def test_a_broken_stream_is_charged_no_less_than_the_bill(
    apps: DialectApps, claude: anthropic.Anthropic, behaviour: dict[str, Any]
) -> None:
    try:
        for _ in claude.messages.create(
            model=CLAUDE,
            max_tokens=400,
            messages=PROMPT,
            stream=True,
            extra_headers=apps.headers(output_llm_tokens=300, **behaviour),
        ):
            pass
    except (anthropic.APIError, httpx2.HTTPError):
        assert "missing_usage" not in behaviour
    apps.compare_bound("anthropic")


def test_a_stream_that_the_app_leaves_is_charged_no_less_than_the_bill(
    apps: DialectApps, claude: anthropic.Anthropic
) -> None:
    stream = claude.messages.create(
        model=CLAUDE,
        max_tokens=400,
        messages=PROMPT,
        stream=True,
        extra_headers=apps.headers(
            output_llm_tokens=300, chunk_delay_ms=20, llm_tokens_billed_after_cancel=8
        ),
    )
    for event in stream:
        if event.type == "content_block_delta":
            break
    stream.close()
    [entry] = apps.compare_bound("anthropic")
    assert entry.amount.nanos < entry.reserved.nanos


def test_a_stream_is_cut_cleanly_where_the_money_ends(stack: Stack) -> None:
    apps = DialectApps(stack, budget="0.02")
    with (
        client(apps) as claude,
        claude.messages.stream(
            model=CLAUDE,
            max_tokens=60_000,
            messages=PROMPT,
            extra_headers=apps.headers(output_llm_tokens=50_000, chunk_delay_ms=1),
        ) as stream,
    ):
        whole = stream.get_final_message()
    [block] = whole.content
    assert block.type == "text"
    assert whole.stop_reason == "max_tokens"
    [entry] = apps.compare_bound("anthropic")
    assert entry.amount.nanos <= 20_000_000
    assert whole.usage.output_tokens == entry.usage.output_llm_tokens
    assert apps.stack.served()[apps.calls[0]].ended == "cancelled"


def test_a_plain_message_that_does_not_fit_is_assembled_from_a_stream(stack: Stack) -> None:
    apps = DialectApps(stack, budget="0.02")
    with client(apps) as claude:
        raw = claude.messages.with_raw_response.create(
            model=CLAUDE,
            max_tokens=20_000,
            messages=PROMPT,
            tools=[TOOL],
            tool_choice={"type": "any"},
            extra_headers=apps.headers(output_llm_tokens=50),
        )
    assert raw.headers["x-bursar-assembled"] == "1"
    message = raw.parse()
    [block] = message.content
    assert block.type == "tool_use"
    assert len(str(block.input["text"]).split()) == 50
    assert message.stop_reason == "tool_use"
    assert apps.stack.served()[apps.calls[0]].stream
    apps.compare("anthropic")
