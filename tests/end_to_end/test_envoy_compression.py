"""Compression and large bodies through a real Envoy with what ships: what is compressed is metered
all the same or not asked for, and no body is judged by a part of it.
"""

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.fakes.envoy import filter_of, with_endpoints
from tests.fakes.envoy_site import EnvoySite, Marked, ask, envoy_site
from tests.fakes.packing_upstream import USAGE, PackingUpstream, packing_upstream
from tests.fakes.provider_bill import MODEL


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoySite]:
    with envoy_site(tmp_path_factory.mktemp("s"), "strict") as made:
        yield made
        made.site.verify()


@pytest.fixture(scope="module")
def packing(site: EnvoySite) -> Iterator[PackingUpstream]:
    """In the place of the provider."""
    shipped = site.envoy.config
    with packing_upstream() as upstream:
        site.envoy.config = with_endpoints(shipped, {"openai": upstream.address})
        site.envoy.stop()
        site.envoy.start()
        yield upstream
        site.envoy.config = shipped
        site.envoy.stop()
        site.envoy.start()


def counted_exactly(site: EnvoySite, name: str, call: Marked) -> bool:
    usage = site.entry(name, call).usage
    return not usage.estimate_reason and usage.output_llm_tokens == USAGE["completion_tokens"]


def test_a_compressed_answer_is_metered_and_stays_compressed(
    site: EnvoySite, packing: PackingUpstream
) -> None:
    name, secret = site.key()
    packing.always = False
    call = Marked()
    answer = ask(site.openai(secret), call)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.parse().choices[0].message.content == "Enough."
    assert counted_exactly(site, name, call)
    # What the provider says in Bursar's name reaches nobody; neither does what apps tell Bursar.
    assert answer.headers["x-bursar-cost"] != "0"
    assert answer.headers["x-bursar-charge-id"] != "9-9"
    assert not [name for name in packing.asked[-1] if name.startswith(("x-bursar", "x-litellm"))]
    assert packing.asked[-1]["authorization"] == "Bearer sk-simulated"


def test_a_stream_is_asked_for_uncompressed(site: EnvoySite, packing: PackingUpstream) -> None:
    name, secret = site.key()
    packing.always = False
    call = Marked()
    chunks = list(ask(site.openai(secret), call, stream=True).parse())
    assert chunks[0].choices[0].delta.content == "Enough."
    assert packing.asked[-1]["accept-encoding"] == "identity"
    assert counted_exactly(site, name, call)


def test_a_stream_that_comes_compressed_all_the_same_is_paid_for(
    site: EnvoySite, packing: PackingUpstream
) -> None:
    name, secret = site.key()
    packing.always = True
    call = Marked()
    chunks = list(ask(site.openai(secret), call, stream=True).parse())
    assert chunks[0].choices[0].delta.content == "Enough."
    entry = site.entry(name, call)
    assert entry.usage.output_llm_tokens >= USAGE["completion_tokens"]
    assert 0 < entry.amount.nanos <= entry.reserved.nanos


async def test_bodies_as_large_as_the_filter_takes_and_no_larger(
    site: EnvoySite, packing: PackingUpstream
) -> None:
    """Larger than what a connection buffers, and than what gRPC takes unless it is told."""
    packing.always = False
    _name, secret = site.key()
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,", "detail": "low"}}
    request: Any = {"model": MODEL, "messages": [{"role": "user", "content": [picture]}]}
    most = filter_of(site.envoy.config, "envoy.filters.http.ext_authz")["with_request_body"]
    async with aiohttp.ClientSession(headers=headers) as session:
        for size, status in ((6_000_000, 200), (most["max_request_bytes"] + 1, 413)):
            picture["image_url"] = {"url": f"data:image/png;base64,{'A' * size}", "detail": "low"}
            before = len(packing.asked)
            answer = await session.post(
                f"{site.envoy.url}/v1/chat/completions", data=json.dumps(request)
            )
            assert answer.status == status, await answer.text()
            assert len(packing.asked) == before + (status == 200)
            if status == 200:
                assert int(packing.asked[-1]["content-length"]) > size
