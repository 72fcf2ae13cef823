"""Settings that change while calls are in flight: a call ends as it began."""

import msgspec
import pytest

from bursar_sidecar.settings import Provider
from tests.fakes.sidecar_bench import CHAT, Bench, chat_answer, error_of
from tests.fakes.wire import ProviderCall, delivered

OTHER = Provider("openai", "http://provider.test/v2", api_key="sk-other")
ONE_MORE = Provider("more", "http://more.test/v1", models=("more-*",))


def switched(bench: Bench, *providers: Provider, **fields: object) -> None:
    """New settings, from the next call on."""
    chosen = providers or bench.proxy.settings.providers
    fields["providers"] = tuple(chosen)
    bench.proxy.apply(msgspec.structs.replace(bench.proxy.settings, **fields))


async def called(bench: Bench, number: int = 1) -> ProviderCall:
    """One more call, whole at the provider."""
    bench.post(CHAT)
    return await bench.provider.request(number)


async def served(bench: Bench, number: int = 1) -> ProviderCall:
    """One more call, answered."""
    call = await called(bench, number)
    call.send_json(chat_answer())
    assert (await bench.answered(number)).status == 200
    await delivered()
    return call


async def test_a_call_in_flight_ends_with_the_pool_it_began_with() -> None:
    bench = Bench()
    first = await called(bench)
    switched(bench, OTHER)
    first.send_json(chat_answer())
    assert (await bench.answered()).status == 200
    second = await served(bench, 2)
    assert first.targets == ["/v1/chat/completions"]
    assert second.targets == ["/v2/chat/completions"]
    assert second.heads[0]["authorization"] == "Bearer sk-other"


async def test_a_pool_is_closed_once_no_call_uses_it_any_more() -> None:
    bench = Bench()
    first = await called(bench)
    switched(bench, OTHER)
    switched(bench, when_short="wait")  # the first pool is two snapshots old
    await delivered()
    assert not first.lost
    first.send_json(chat_answer())
    await bench.answered()
    await delivered()
    assert first.lost


async def test_a_pool_that_a_call_shares_with_what_was_in_between_is_not_closed() -> None:
    bench = Bench()
    first = await called(bench)
    switched(bench, when_short="wait")  # the same pool
    switched(bench, OTHER)
    await delivered()
    assert not first.lost


async def test_a_provider_that_did_not_change_keeps_its_connections() -> None:
    bench = Bench()
    await served(bench)
    switched(bench, *bench.proxy.settings.providers, ONE_MORE, when_short="wait")
    call = await called(bench, 2)
    assert len(call.requests) == 2  # on the connection of the first


async def test_a_rotated_credential_counts_from_the_next_call_on_the_same_connection() -> None:
    bench = Bench()
    first = await called(bench)
    bench.proxy.rekey("openai", "sk-rotated")
    first.send_json(chat_answer())
    await bench.answered()
    call = await called(bench, 2)
    assert [head["authorization"] for head in call.heads] == [
        "Bearer sk-upstream",
        "Bearer sk-rotated",
    ]


async def test_a_provider_that_is_gone_is_not_found_by_the_next_call() -> None:
    bench = Bench()
    switched(bench, ONE_MORE)
    bench.post(CHAT)
    answer = await bench.answered()
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")
    assert not bench.provider.connections


async def test_settings_that_cannot_be_used_change_nothing() -> None:
    bench = Bench()
    before = bench.proxy.settings
    with pytest.raises(OSError, match="No such file"):
        switched(bench, msgspec.structs.replace(OTHER, ca_file="/nowhere/ca.pem"))
    assert bench.proxy.settings is before
    assert (await called(bench)).targets == ["/v1/chat/completions"]
