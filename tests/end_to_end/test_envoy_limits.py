"""Envoy's own limit filters in front of a whole installation, with the configurations that ship:
what passes is what is paid, and what happens when the sidecar is away."""

import json
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bursar.client import list_all
from bursar.v1 import charges_pb2, ledger_pb2
from bursar_sidecar.settings import load_settings
from tests.fakes.envoy import DEPLOYED, Config, filter_of, http_filters_of, shipped
from tests.fakes.envoy_site import OUTPUT, EnvoySite, Marked, envoy_site
from tests.fakes.provider_bill import MODEL, cost_of
from tests.fakes.site import PROVIDER_KEY
from tests.fakes.until import DEADLINE_S, until

CALL_NANOS = 2_000_000
"""`flat_price` of a call in limits.toml."""
ASK = ('flat_price = "0.05"', 'flat_price = "0.00005"')
"""The simulated provider's calls are cheap: a question asks for less here."""
RATELIMIT = "envoy.filters.http.ratelimit"
FINAL = charges_pb2.SETTLEMENT_KIND_FINAL
QUOTA = "envoy.filters.http.rate_limit_quota"

Change = Callable[[Config], None]


def with_key(config: Config) -> None:
    """The provider's key, which is a variable of Envoy's environment as it ships."""
    (manager,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    (added,) = host["routes"][0]["request_headers_to_add"]
    assert added["header"]["value"] == "Bearer %ENVIRONMENT(OPENAI_API_KEY)%"
    added["header"]["value"] = f"Bearer {PROVIDER_KEY}"


def open_when_away(config: Config) -> None:
    with_key(config)
    filter_of(config, RATELIMIT)["failure_mode_deny"] = False


@contextmanager
def front(name: str, change: Change = with_key) -> Iterator[EnvoySite]:
    """An installation behind one of the configurations, with the limits that ship."""
    with tempfile.TemporaryDirectory(prefix="bursar-") as directory:
        settings = Path(directory) / "limits.toml"
        settings.write_text((DEPLOYED / "limits" / "limits.toml").read_text().replace(*ASK))
        with envoy_site(
            Path(directory), f"limits/{name}", change, BURSAR_CONFIG=str(settings)
        ) as made:
            yield made


@pytest.fixture(scope="module")
def limited() -> Iterator[EnvoySite]:
    with front("rate-limits") as made:
        yield made


@pytest.fixture(scope="module")
def lent() -> Iterator[EnvoySite]:
    with front("quotas") as made:
        yield made


class Answer(msgspec.Struct):
    """What an app gets."""

    status_code: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of an error."""
        return str(json.loads(self.body)["error"]["code"])


def call(place: EnvoySite, secret: str, marked: Marked | None = None, **fields: Any) -> Answer:
    """One chat, read whole."""
    headers = {**(marked or Marked()).headers, "content-type": "application/json"}
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": OUTPUT,
        **fields,
    }
    url = f"{place.envoy.url}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        answer = urllib.request.urlopen(request, timeout=DEADLINE_S)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        named = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, named, answer.read())


def entries(place: EnvoySite, key: str) -> list[ledger_pb2.Entry]:
    request = ledger_pb2.ListEntriesRequest(key=key, page_size=1000)
    return list(list_all(place.site.admin.ledger.ListEntries, request))


def spent_nanos(place: EnvoySite, key: str) -> int:
    return sum(entry.amount.nanos for entry in entries(place, key))


def test_requests_pass_until_the_money_is_used_and_the_ledger_is_the_bill(
    limited: EnvoySite,
) -> None:
    name, secret = limited.key(300_000)
    calls = [Marked() for _ in range(40)]
    answers: list[Answer] = []
    for marked in calls:
        answers.append(call(limited, secret, marked))
        if answers[-1].status_code != 200:
            break
        paid = sum(cost_of(each) for each in limited.served(*calls).values())
        until(lambda paid=paid: spent_nanos(limited, name) == paid, "the call is charged")  # type: ignore[misc]  # a value of its own
    assert len(answers) > 2
    assert answers[0].headers["x-bursar-budget-remaining"] == "0.0003"
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.headers["x-bursar-refused"] == "budget_exhausted"
    assert refused.headers["content-type"] == "application/json"
    assert refused.code == "budget_exhausted"
    assert "x-bursar-budget" in refused.headers
    assert refused.headers["x-ratelimit-limit"].startswith("6")
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert len(limited.served(*calls)) == len(answers) - 1
    # The next call was refused as soon as less than a question asks for was left.
    assert spent_nanos(limited, name) > 250_000
    limited.site.verify()


def test_a_stream_is_charged_by_its_usage_and_one_that_is_cut_by_what_stands_for_it(
    limited: EnvoySite,
) -> None:
    name, secret = limited.key()
    whole = Marked()
    call(limited, secret, whole, stream=True, stream_options={"include_usage": True})
    (served,) = limited.served(whole).values()
    until(lambda: spent_nanos(limited, name) == cost_of(served), "the stream is charged")
    silent, other = limited.key()
    call(limited, other, stream=True)
    found = until(lambda: [e for e in entries(limited, silent) if e.amount.nanos], "it is charged")
    assert (found[0].usage.input_llm_tokens, found[0].usage.output_llm_tokens) == (20_000, 4_000)


def test_a_failed_call_costs_nothing(limited: EnvoySite) -> None:
    name, secret = limited.key()
    failing = Marked(error_500_rate=1)
    assert call(limited, secret, failing).status_code >= 500
    whole = Marked()
    assert call(limited, secret, whole).status_code == 200
    (served,) = limited.served(whole).values()
    until(lambda: spent_nanos(limited, name) == cost_of(served), "only the good one is charged")
    questions = [entry for entry in entries(limited, name) if not entry.amount.nanos]
    assert len(questions) == 2, questions


def test_without_a_key_nothing_passes(limited: EnvoySite) -> None:
    marked, other = Marked(), Marked()
    answer = call(limited, "", marked)
    assert (answer.status_code, answer.headers["x-bursar-refused"]) == (429, "key_missing")
    answer = call(limited, "bk-nobody", other)
    assert (answer.status_code, answer.headers["x-bursar-refused"]) == (429, "key_unknown")
    assert not limited.served(marked, other)


def test_without_the_sidecar_nobody_spends_unless_it_is_set_so(limited: EnvoySite) -> None:
    _, secret = limited.key()
    assert call(limited, secret).status_code == 200
    limited.sidecar.kill()
    assert call(limited, secret).status_code == 503
    limited.site.start_sidecars()
    until(lambda: call(limited, secret).status_code == 200, "it answers again")
    with front("rate-limits", open_when_away) as place:
        name, secret = place.key(1)  # less than any call costs
        assert call(place, secret).status_code == 429
        place.sidecar.kill()
        assert call(place, secret).status_code == 200
        place.site.start_sidecars()
        assert not entries(place, name)


def paid_before(config: Config) -> None:
    """Each request costs a flat price, before it goes on; nothing is told after."""
    with_key(config)
    (manager,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    settings = host["routes"][0]["typed_per_filter_config"][RATELIMIT]
    asked = settings["rate_limits"][0]
    asked["actions"][0]["generic_key"]["descriptor_value"] = "call"
    del asked["hits_addend"]
    settings["rate_limits"] = [asked]


def test_two_hundred_at_once_pay_for_no_more_than_there_is_money_for() -> None:
    with front("rate-limits", paid_before) as place:
        name, secret = place.key(25 * CALL_NANOS)
        marked = [Marked() for _ in range(200)]
        with ThreadPoolExecutor(50) as apps:
            answers = list(apps.map(lambda each: call(place, secret, each), marked))
        assert Counter(answer.status_code for answer in answers) == {200: 25, 429: 175}
        reasons = {answer.headers.get("x-bursar-refused", "") for answer in answers}
        assert reasons <= {"", "budget_exhausted", "budget_reserved"}
        assert len(place.served(*marked)) == 25
        until(lambda: spent_nanos(place, name) == 25 * CALL_NANOS, "all are charged")
        assert {entry.kind for entry in entries(place, name)} == {FINAL}
        place.site.verify()


def passes(place: EnvoySite, secret: str) -> Counter[int]:
    """Call until something was lent and is used up; how often each status came."""
    found: Counter[int] = Counter()

    def look() -> bool:
        found[call(place, secret).status_code] += 1
        return bool(found[200])

    until(look, "something is lent")
    while found[429] < 3:
        found[call(place, secret).status_code] += 1
    return found


def test_a_quota_lets_through_what_is_paid_and_no_more(lent: EnvoySite) -> None:
    name, secret = lent.key(25 * CALL_NANOS + 1)
    passed = 0

    def look() -> bool:
        nonlocal passed
        answer = call(lent, secret)
        passed += answer.status_code == 200
        if answer.status_code == 429:
            assert answer.headers["x-bursar-refused"] == "quota"
            assert answer.code == "quota"
        return spent_nanos(lent, name) == 25 * CALL_NANOS

    until(look, "all that there is money for is used and charged")
    assert passed == 25
    assert call(lent, secret).status_code == 429
    kinds = {entry.kind for entry in entries(lent, name)}
    assert kinds == {FINAL}
    lent.site.verify()


def test_who_has_no_key_gets_nothing_of_a_quota(lent: EnvoySite) -> None:
    marked = Marked()
    assert call(lent, "", marked).status_code == 429
    assert not lent.served(marked)


def test_without_the_sidecar_envoy_spends_what_it_was_lent_and_no_more(lent: EnvoySite) -> None:
    name, secret = lent.key()
    until(lambda: call(lent, secret).status_code == 200, "something is lent")
    lent.sidecar.kill()
    found = passes(lent, secret)
    assert 1 <= found[200] <= 100
    lent.site.start_sidecars()
    # What was lent is charged, reported or not.
    until(
        lambda: spent_nanos(lent, name) >= (found[200] + 1) * CALL_NANOS, "what passed is charged"
    )


@pytest.mark.parametrize("name", ["quotas", "rate-limits"])
def test_a_limit_filter_that_hears_nothing_lets_nothing_through(name: str) -> None:
    config = shipped(f"limits/{name}")
    names = [each["name"] for each in http_filters_of(config)]
    if name == "rate-limits":
        settings = filter_of(config, RATELIMIT)
        assert settings["failure_mode_deny"] is True
        assert settings["status_on_error"] == {"code": "ServiceUnavailable"}
        assert names.index("envoy.filters.http.header_to_metadata") < names.index(RATELIMIT)
        return
    assert names[0] == QUOTA
    matchers = filter_of(config, QUOTA)["bucket_matchers"]
    found = [each["on_match"] for each in matchers["matcher_list"]["matchers"]]
    for each in [*found, matchers["on_no_match"]]:
        bucket = each["action"]["typed_config"]
        for when in ("no_assignment_behavior", "expired_assignment_behavior"):
            assert bucket[when] == {"fallback_rate_limit": {"blanket_rule": "DENY_ALL"}}


def test_the_limits_that_ship_are_taken() -> None:
    environ = {"BURSAR_ADDRESS": "127.0.0.1:0", "BURSAR_SIDECAR_KEY": "bs-1"}
    limits = load_settings(environ, DEPLOYED / "limits" / "limits.toml").envoy_limits
    assert [limit.name for limit in limits] == ["ask", "input", "output", "call"]
