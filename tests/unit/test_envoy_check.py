"""Envoy's Check over a real channel: who may go on, with which headers, and who may not."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bursar_sidecar.envoy.metadata import FIELD
from bursar_sidecar.extra_call_settings import Unmetered
from bursar_sidecar.settings import Provider
from tests.fakes.checked import BEARER, FOR_OPENAI, Answer, Checks, asked, checks
from tests.fakes.desk import KEY, FakeDesk
from tests.fakes.envoy_calls import CHAT, OPENAI

CLAUDE = (
    b'{"model":"claude-haiku-4-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}'
)
FOR_CLAUDE = {"bursar.provider": "anthropic"}
LIGHT = FOR_OPENAI | {"bursar.tier": "light"}


@pytest.fixture
async def envoy() -> AsyncIterator[Checks]:
    async with checks() as made:
        yield made


async def test_a_call_goes_on_with_the_providers_credential_and_ids_that_envoy_keeps(
    envoy: Checks,
) -> None:
    answer = await envoy.check()
    assert answer.is_allowed
    assert answer.headers == {
        "authorization": "Bearer sk-upstream",
        "accept-encoding": "identity",
        "x-envoy-max-retries": "0",
    }
    assert answer.charge_id == "7-1"
    told = answer.metadata[FIELD].struct_value.fields
    assert {name: value.string_value for name, value in told.items()} == {
        "charge_id": "7-1",
        "spender": "keys/k-1",
        "provider": "openai",
        "model": "gpt-4o-mini",
        "tier": "strict",
    }
    assert envoy.held.open_count == 1
    assert envoy.in_flight == (1, 1)


async def test_headers_arrive_either_way(envoy: Checks) -> None:
    assert (await envoy.check(raw_headers=False)).is_allowed


async def test_what_is_ours_and_what_orders_the_router_is_taken_off(envoy: Checks) -> None:
    headers = BEARER | {
        "x-api-key": KEY,
        "x-bursar-tags": "a:b",
        "x-bursar-charge-id": "7-99",
        "x-litellm-tags": "c:d",
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "9",
        "cookie": "a=b",
        "openai-organization": "org-mine",
        "x-request-id": "7-99",
        "user-agent": "app/1",
    }
    answer = await envoy.check(headers=headers)
    kept = {"authorization", "user-agent", "x-request-id", "x-envoy-max-retries"}
    assert set(answer.removed) == headers.keys() - kept
    # Whatever the route's policy is: one attempt is reserved.
    assert answer.headers["x-envoy-max-retries"] == "0"
    assert answer.charge_id == "7-1"
    assert envoy.desk.calls[0].tags == ("a:b", "c:d")


async def test_without_a_credential_of_the_providers_the_apps_key_goes_nowhere() -> None:
    async with checks(providers=(Provider("openai", "http://provider.test/v1"),)) as envoy:
        answer = await envoy.check(extensions={})
    assert answer.headers == {"accept-encoding": "identity", "x-envoy-max-retries": "0"}
    assert answer.removed == ["authorization"]


async def test_another_dialect_has_its_own_credential_and_its_own_errors(envoy: Checks) -> None:
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    answer = await envoy.check("/v1/messages", CLAUDE, headers=headers, extensions=FOR_CLAUDE)
    assert answer.headers["x-api-key"] == "sk-claude"
    assert "x-api-key" not in answer.removed
    refused = await envoy.check("/v1/messages", CLAUDE, headers={}, extensions=FOR_CLAUDE)
    assert (refused.status, json.loads(refused.body)["type"]) == (401, "error")


@pytest.mark.parametrize(
    ("limit", "status", "reason", "retry"),
    [(1, 402, "budget_exhausted", None), (120_000, 429, "budget_reserved", "2")],
)
async def test_money_that_is_short_is_told_as_the_dialect_tells_it(
    limit: int, status: int, reason: str, retry: str | None
) -> None:
    async with checks(FakeDesk(limit), when_short="wait") as envoy:
        await envoy.check()
        answer = await envoy.check()
    assert (answer.status, answer.error["code"]) == (status, reason)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-bursar-refused"] == reason
    assert "limit=" in answer.headers["x-bursar-budget"]
    assert answer.headers.get("retry-after") == retry


async def test_each_budget_that_refused_has_a_header_of_its_own() -> None:
    async with checks(FakeDesk(1)) as envoy:
        answer = await envoy.check()
    actions = {one.header.key: one.append_action for one in answer.message.denied_response.headers}
    assert actions["content-type"] == 2  # OVERWRITE_IF_EXISTS_OR_ADD: Envoy has one of its own


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "reason"),
    [
        ("/v1/chat/completions", CHAT, {}, 401, "key_missing"),
        ("/v1/chat/completions", CHAT, {"authorization": "Bearer bk-x"}, 401, "key_unknown"),
        (
            "/v1/chat/completions",
            CHAT.replace(b"gpt-4o-mini", b"no"),
            BEARER,
            404,
            "model_not_found",
        ),
        ("/v1/chat/completions", b"{", BEARER, 400, "invalid_json"),
        ("/v1/nowhere", CHAT, BEARER, 404, "unknown_path"),
        ("/v1/../v1/chat/completions", CHAT, BEARER, 400, "invalid_value"),
        ("/v1/messages", CLAUDE, BEARER, 404, "not_found_error"),
    ],
)
async def test_a_call_that_may_not_go_on_is_told_why(
    envoy: Checks, path: str, body: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = await envoy.check(path, body, headers=headers)
    assert answer.status == status
    assert reason in answer.body
    assert (envoy.held.open_count, envoy.in_flight) == (0, (0, 0))
    assert not envoy.desk.calls


async def test_another_method_is_refused_and_the_right_one_named(envoy: Checks) -> None:
    answer = await envoy.check(body=b"", method="GET")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_models_are_told_here(envoy: Checks, method: str) -> None:
    answer = await envoy.check("/v1/models", b"", method=method)
    assert answer.status == 200
    assert "gpt-4o-mini" in {one["id"] for one in json.loads(answer.body)["data"]}
    one = await envoy.check("/v1/models/gpt-4o-mini", b"", method=method)
    assert json.loads(one.body)["id"] == "gpt-4o-mini"
    assert (await envoy.check("/v1/models/none", b"", method=method)).status == 404
    assert envoy.in_flight == (0, 0)


# -- bodies --------------------------------------------------------------------------------------


async def test_a_part_of_a_body_is_refused(envoy: Checks) -> None:
    answer = await envoy.check(partial="true")
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert f"the first {len(CHAT)} of {len(CHAT)} bytes" in answer.error["message"]


async def test_a_body_shorter_than_announced_is_a_part(envoy: Checks) -> None:
    headers = BEARER | {"content-length": str(len(CHAT) + 1)}
    answer = await envoy.check(headers=headers)
    assert answer.status == 413


async def test_a_body_larger_than_the_setting_is_refused() -> None:
    async with checks(max_request_bytes=1_024) as envoy:
        answer = await envoy.check(body=CHAT + b" " * 1_024)
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_an_envoy_that_sends_no_bodies_is_told_so(envoy: Checks) -> None:
    check = asked(partial=None)
    check.attributes.request.http.ClearField("raw_body")
    answer = Answer(await envoy.call(check))
    assert (answer.status, answer.error["code"]) == (503, "envoy_misconfigured")
    assert "with_request_body" in answer.error["message"]


def as_text(body: bytes, **headers: str) -> Any:
    """A Check of an Envoy whose ext_authz has no `pack_as_bytes`, as Envoy Gateway's has none."""
    check = asked(body=body, headers=BEARER | headers)
    check.attributes.request.http.ClearField("raw_body")
    check.attributes.request.http.body = body.decode()
    return check


async def test_a_body_that_came_as_text_leaves_as_it_was_judged(envoy: Checks) -> None:
    answer = Answer(await envoy.call(as_text(CHAT)))
    assert answer.is_allowed
    call = envoy.held.take(answer.charge_id)
    assert call is not None
    assert call.edited == CHAT


@pytest.mark.parametrize(
    "headers",
    [{"content-type": "multipart/form-data; boundary=x"}, {"content-encoding": "gzip"}],
)
async def test_text_that_can_not_be_what_the_app_sent_is_refused(
    envoy: Checks, headers: dict[str, str]
) -> None:
    answer = Answer(await envoy.call(as_text(CHAT, **headers)))
    assert (answer.status, answer.error["code"]) == (503, "envoy_misconfigured")
    assert "pack_as_bytes" in answer.error["message"]


async def test_in_the_light_tier_text_is_refused(envoy: Checks) -> None:
    check = as_text(CHAT)
    check.attributes.context_extensions["bursar.tier"] = "light"
    answer = Answer(await envoy.call(check))
    assert (answer.status, answer.error["code"]) == (503, "envoy_misconfigured")


async def test_a_compressed_body_is_read(envoy: Checks) -> None:
    headers = BEARER | {"content-encoding": "gzip"}
    answer = await envoy.check(body=gzip.compress(CHAT), headers=headers)
    assert answer.is_allowed
    call = envoy.held.take(answer.charge_id)
    assert call.edited is None
    assert "content-encoding" not in answer.removed
    envoy.held.over(call)


async def test_a_compressed_body_that_is_edited_goes_on_plain(envoy: Checks) -> None:
    headers = BEARER | {"content-encoding": "gzip"}
    body = CHAT.replace(b"gpt-4o-mini", b"openai/gpt-4o-mini")
    answer = await envoy.check(body=gzip.compress(body), headers=headers)
    call = envoy.held.take(answer.charge_id)
    assert json.loads(call.edited)["model"] == "gpt-4o-mini"
    assert "content-encoding" in answer.removed
    envoy.held.over(call)


async def test_compression_that_nobody_reads_is_refused(envoy: Checks) -> None:
    answer = await envoy.check(headers=BEARER | {"content-encoding": "br"})
    assert (answer.status, answer.error["code"]) == (415, "body_encoded")
    bomb = await envoy.check(body=b"\x1f\x8b", headers=BEARER | {"content-encoding": "gzip"})
    assert bomb.status == 415
    assert (envoy.held.open_count, envoy.in_flight) == (0, (0, 0))


# -- tiers ---------------------------------------------------------------------------------------


async def test_in_the_strict_tier_the_edited_body_is_kept(envoy: Checks) -> None:
    stream = CHAT.replace(b'{"model"', b'{"stream":true,"model"')
    answer = await envoy.check(body=stream)
    call = envoy.held.take(answer.charge_id)
    assert json.loads(call.edited)["stream_options"] == {"include_usage": True}
    envoy.held.over(call)


async def test_in_the_light_tier_a_call_goes_on_as_it_is(envoy: Checks) -> None:
    answer = await envoy.check(extensions=LIGHT, headers=BEARER | {"accept-encoding": "gzip"})
    assert answer.is_allowed
    assert answer.told == {"x-bursar-charge-id": "7-1"}
    assert answer.headers["accept-encoding"] == "identity"
    assert envoy.desk.calls[0].least_nanos == envoy.desk.calls[0].ceiling_nanos
    assert envoy.desk.calls[0].begin_nanos == 0


async def test_in_the_light_tier_nobody_can_shorten_an_answer() -> None:
    long = CHAT.replace(b"100", b"10000")
    async with checks(FakeDesk(3_000_000), when_short="clamp") as envoy:
        assert (await envoy.check(body=long, extensions=LIGHT)).status == 402
        answer = await envoy.check(body=long)
        call = envoy.held.take(answer.charge_id)
        assert json.loads(call.edited)["max_tokens"] < 10_000
        envoy.held.over(call)


async def test_the_setting_says_the_tier_where_the_route_does_not() -> None:
    async with checks(envoy_tier="light") as envoy:
        assert (await envoy.check()).told


async def test_a_stream_that_does_not_ask_for_its_usage_goes_on_in_the_light_tier(
    envoy: Checks,
) -> None:
    stream = CHAT.replace(b'{"model"', b'{"stream":true,"model"')
    assert (await envoy.check(body=stream, extensions=LIGHT)).is_allowed


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"gpt-4o-mini", b"openai/gpt-4o-mini", "name the model as the provider does"),
        (b'{"model"', b'{"tags":["a:b"],"model"', "leave out the fields that are Bursar's"),
    ],
)
async def test_in_the_light_tier_a_call_that_needs_an_edit_is_refused(
    envoy: Checks, old: bytes, new: bytes, why: str
) -> None:
    answer = await envoy.check(body=CHAT.replace(old, new), extensions=LIGHT)
    assert (answer.status, answer.error["code"]) == (400, "not_as_it_is")
    assert why in answer.error["message"]
    assert envoy.desk.only_outcome.kind == "released"
    assert (envoy.held.open_count, envoy.in_flight) == (0, (0, 0))


# -- routes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "why"),
    [
        ({}, "set bursar.provider"),
        ({"bursar.provider": "nobody"}, "configured are: anthropic, openai"),
        (FOR_OPENAI | {"bursar.budget": "x"}, "bursar.budget is no setting of a route"),
        (FOR_OPENAI | {"bursar.tier": "heavy"}, "bursar.tier is 'heavy'; expected strict or light"),
        (FOR_OPENAI | {"bursar.dialect": "cobol"}, "bursar.dialect"),
        (FOR_OPENAI | {"bursar.tags": "a" * 300}, "bursar.tags"),
        (FOR_OPENAI | {"bursar.rewrite": "all"}, "bursar.rewrite"),
        (FOR_OPENAI | {"bursar.prefix": "llm/"}, "bursar.prefix"),
        (FOR_OPENAI | {"bursar.prefix": "/llm"}, "does not begin"),
        (FOR_OPENAI | {"bursar.pass": "yes"}, "bursar.pass"),
    ],
)
async def test_a_route_that_is_not_understood_is_closed(
    envoy: Checks, extensions: dict[str, str], why: str
) -> None:
    answer = await envoy.check(extensions=extensions)
    assert (answer.status, answer.error["code"]) == (503, "envoy_misconfigured")
    assert why in answer.error["message"]


async def test_settings_of_others_are_none_of_ours(envoy: Checks) -> None:
    assert (await envoy.check(extensions=FOR_OPENAI | {"istio.io/x": "y"})).is_allowed


async def test_a_route_leads_to_one_provider_alone(envoy: Checks) -> None:
    """Else a call would be priced as one provider's, and served by another."""
    body = CHAT.replace(b"gpt-4o-mini", b"anthropic/claude-haiku-4-5")
    answer = await envoy.check(body=body)
    assert answer.status == 404


async def test_where_envoy_routes_by_our_answer_any_provider_serves(envoy: Checks) -> None:
    answer = await envoy.check(extensions={"bursar.provider": "*"})
    assert answer.metadata[FIELD].struct_value.fields["provider"].string_value == "openai"


async def test_tags_of_the_route_are_the_calls(envoy: Checks) -> None:
    extensions = FOR_OPENAI | {"bursar.tags": "env:prod,area:eu"}
    await envoy.check(extensions=extensions, headers=BEARER | {"x-bursar-tags": "a:b"})
    assert set(envoy.desk.calls[0].tags) == {"env:prod", "area:eu", "a:b"}


async def test_a_route_of_one_dialect_serves_no_other(envoy: Checks) -> None:
    extensions = FOR_OPENAI | {"bursar.dialect": "openai"}
    assert (await envoy.check(extensions=extensions)).is_allowed
    answer = await envoy.check("/v1/messages", CLAUDE, extensions=extensions)
    assert answer.status == 404


async def test_a_prefix_is_envoys_to_take_off(envoy: Checks) -> None:
    extensions = FOR_OPENAI | {"bursar.prefix": "/llm"}
    answer = await envoy.check("/llm/v1/chat/completions", extensions=extensions)
    assert answer.is_allowed
    assert ":path" not in answer.headers


async def test_host_and_path_are_written_anew_where_the_route_says_so() -> None:
    groq = Provider("groq", "http://groq.test:8080/openai/v1", kind="groq", api_key="gsk")
    async with checks(providers=(groq,)) as envoy:
        body = CHAT.replace(b"gpt-4o-mini", b"groq/openai/gpt-oss-20b")
        extensions = {"bursar.rewrite": "host,path"}
        answer = await envoy.check(body=body, extensions=extensions)
    assert answer.headers[":path"] == "/openai/v1/chat/completions"
    assert answer.headers[":authority"] == "groq.test:8080"


async def test_a_key_in_the_query_goes_nowhere() -> None:
    google = Provider("gemini", "http://google.test", kind="gemini", api_key="AIza")
    body = b'{"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"maxOutputTokens":9}}'
    path = f"/v1beta/models/gemini-2.5-flash:generateContent?alt=json&key={KEY}"
    async with checks(providers=(google,)) as envoy:
        answer = await envoy.check(path, body, headers={}, extensions={})
    assert answer.headers[":path"] == "/v1beta/models/gemini-2.5-flash:generateContent?alt=json"
    assert answer.headers["x-goog-api-key"] == "AIza"


# -- paths that no dialect knows -----------------------------------------------------------------


async def test_a_path_that_nobody_meters_goes_on_where_the_route_says_so(envoy: Checks) -> None:
    extensions = {"bursar.pass": "true"}
    answer = await envoy.check("/status", b"", method="GET", extensions=extensions)
    assert answer.is_allowed
    assert answer.headers == {}
    assert answer.removed == ["authorization"]
    assert answer.charge_id == ""
    assert (await envoy.check("/status", b"", headers={}, extensions=extensions)).status == 401
    assert not envoy.desk.calls


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%63hat/completions",
        "/v1/%2563hat/completions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/V1/Chat/Completions",
        "/v1\\chat/completions",
        "/v1/chat;x=1/completions",
    ],
)
async def test_what_only_looks_unmetered_does_not_pass(envoy: Checks, path: str) -> None:
    answer = await envoy.check(
        path, extensions={"bursar.provider": "openai", "bursar.pass": "true"}
    )
    assert (answer.status, answer.charge_id) == (404, "")


async def test_what_is_metered_is_paid_for_whatever_passes(envoy: Checks) -> None:
    await envoy.check(extensions=FOR_OPENAI | {"bursar.pass": "true"})
    assert len(envoy.desk.calls) == 1


async def test_a_flat_price_is_charged_for_a_body_of_any_size() -> None:
    flat = Unmetered(path="/v1/odd", method="POST", flat_price="0.05", provider="openai")
    async with checks(unmetered=(flat,), providers=(OPENAI,)) as envoy:
        answer = await envoy.check("/v1/odd", b"x", partial="true")
        assert answer.is_allowed
        assert envoy.desk.calls[0].ceiling_nanos == 50_000_000


async def test_a_websocket_is_not_opened_at_the_price_of_a_request() -> None:
    flat = Unmetered(path="/v1/odd", method="GET", flat_price="0.05", provider="openai")
    offer = BEARER | {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "x"}
    async with checks(unmetered=(flat,), providers=(OPENAI,)) as envoy:
        answer = await envoy.check("/v1/odd", b"", method="GET", headers=offer)
        assert (answer.status, answer.error["code"]) == (404, "unknown_path")
        assert (await envoy.check("/v1/odd", b"", method="GET")).is_allowed
        passing = {"bursar.pass": "true"}
        realtime = await envoy.check(
            "/v1/realtime", b"", method="GET", headers=offer, extensions=passing
        )
        assert "[[websockets]]" in realtime.error["message"]
