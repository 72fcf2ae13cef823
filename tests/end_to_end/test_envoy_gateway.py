"""What Envoy Gateway makes of the manifest that ships, as far as it differs from the static strict
configuration: on a real Envoy, without Envoy Gateway and without a cluster.

Its translator (1.9) names filters after their policies, switches them on route by route, hands
bodies on as text, and gives rpcs ten seconds.
"""

import gzip
import json
from collections.abc import Iterator

import aiohttp
import openai
import pytest

from tests.fakes.envoy import Config, filter_of, http_filters_of
from tests.fakes.envoy_site import ASKED, EnvoySite, Marked, ask, envoy_site
from tests.fakes.provider_bill import MODEL, compare

AUTHZ = "envoy.filters.http.ext_authz"
PROC = "envoy.filters.http.ext_proc"
SWITCHED_ON = {
    "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
    "config": {},
}
RPC_S = 0.5
"""Of a stream to ext_proc, instead of ten seconds: were it held to that, it would be seen soon."""


def as_envoy_gateway_makes_it(config: Config) -> None:
    authz, proc = filter_of(config, AUTHZ), filter_of(config, PROC)
    del authz["with_request_body"]["pack_as_bytes"]
    del authz["validate_mutations"]
    proc["grpc_service"]["timeout"] = f"{RPC_S}s"
    names = {
        AUTHZ: f"{AUTHZ}/securitypolicy/envoy-gateway-system/bursar",
        PROC: f"{PROC}/envoyextensionpolicy/envoy-gateway-system/bursar/extproc/0",
    }
    for each in http_filters_of(config):
        if each["name"] in names:
            each["name"] = names[each["name"]]
            each["disabled"] = True
        if each["name"] == "envoy.filters.http.router":
            each["typed_config"]["suppress_envoy_headers"] = True
    listener = config["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        told = route.pop("typed_per_filter_config")
        if "route" in route:
            route["typed_per_filter_config"] = {
                names[AUTHZ]: told[AUTHZ],
                names[PROC]: SWITCHED_ON,
            }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("g"), "strict", as_envoy_gateway_makes_it) as made:
        yield made


def test_calls_are_metered_exactly_and_streams_outlive_the_rpcs_timeout(site: EnvoySite) -> None:
    name, secret = site.key()
    app = site.openai(secret)
    plain = Marked()
    streamed = Marked(output_llm_tokens=100, chunk_llm_tokens=2, chunk_delay_ms=30)
    answer = ask(app, plain)
    assert answer.headers["x-bursar-cost"]
    chunks = list(ask(app, streamed, stream=True).parse())
    assert chunks[-1].choices[0].finish_reason == "stop"
    for call in (plain, streamed):
        site.entry(name, call)
    assert compare(site.served(plain, streamed), site.entries(name)) == {"exact": 2}


def test_refusals_and_other_paths(site: EnvoySite) -> None:
    _name, secret = site.key(limit_nanos=1)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(site.openai(secret), Marked())
    assert (refused.value.status_code, refused.value.code) == (402, "budget_exhausted")
    with pytest.raises(openai.NotFoundError):
        openai.OpenAI(base_url=site.envoy.url, api_key=secret, max_retries=0).get(
            "/elsewhere", cast_to=object
        )


async def test_a_compressed_body_is_refused_and_one_that_is_no_utf_8_leaves_as_it_was_judged(
    site: EnvoySite,
) -> None:
    _name, secret = site.key()
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    body = json.dumps({"model": MODEL, "messages": ASKED, "max_tokens": 9}).encode()
    url = f"{site.envoy.url}/v1/chat/completions"
    async with aiohttp.ClientSession(headers=headers) as session:
        packed = await session.post(
            url, data=gzip.compress(body), headers={"content-encoding": "gzip"}
        )
        assert packed.status == 503
        assert (await packed.json())["error"]["code"] == "envoy_misconfigured"
        # A limit that Envoy's text hides from us must not reach the provider either, which says
        # here what it was sent.
        hidden = body.replace(b'"max_tokens"', b'"max_tok\xffens"')
        assert hidden != body
        answer = await session.post(url, data=hidden)
        assert answer.status == 400
        assert (await answer.json())["error"]["message"].endswith("supplied: max_tok!ens")
