"""Evidence about calls of the light tier that an earlier life of the sidecar held."""

import json
from typing import Any

import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from bursar_sidecar.amendments import Late
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.registry import find
from bursar_sidecar.envoy.earlier_calls import _PATHS, EarlierCalls, naming
from bursar_sidecar.envoy.logged_answers import ENDED, READ
from bursar_sidecar.envoy.logged_calls import LoggedCalls
from bursar_sidecar.envoy.origins import MARK, Origin, named, of_envoy, origin_of
from bursar_sidecar.http_messages import Request
from tests.fakes.desk import spender
from tests.fakes.envoy_calls import EnvoyCalls
from tests.fakes.envoy_logs import CHAT_NANOS, SSE, entry
from tests.fakes.spending import opened

CHAT = Origin("openai", "chat", "USD", plain=True, stream=True)
RESERVED_NANOS = 1_000_000


class Earlier(EnvoyCalls):
    """A life that begins with what another left."""

    def __init__(self, **calls: Origin) -> None:
        super().__init__()
        found = {
            f"7-{n}": Late(f"7-{n}", opened(named(origin), RESERVED_NANOS))
            for n, origin in enumerate(calls.values(), 1)
        }
        earlier = EarlierCalls(found, self.evidence, self.desk, self.clock, self.proxy.servings)
        self.logged = LoggedCalls(self.held, earlier, self.clock, CollectorRegistry())

    def take(self, charge_id: str = "7-1", **fields: Any) -> str:
        return self.logged.take(entry(charge_id, **fields), "file")


def test_what_it_cost_adjusts_the_charge_once() -> None:
    earlier = Earlier(one=CHAT)
    assert earlier.take() == "adjusted"
    outcome = earlier.evidence.adjusted["7-1"]
    assert (outcome.kind, outcome.cost_nanos) == ("final", CHAT_NANOS)
    assert outcome.usage.is_exact
    assert earlier.take() == "duplicate"
    assert earlier.take("7-2") == "unknown"
    assert not earlier.desk.outcomes


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 429, "answer": {}},
        {"status": 503, "details": "none", "flags": frozenset({"UH"}), "sent_bytes": 0},
    ],
)
def test_what_cost_nothing_is_given_back(fields: dict[str, Any]) -> None:
    earlier = Earlier(one=CHAT)
    assert earlier.take(**fields) == "adjusted"
    assert earlier.evidence.adjusted["7-1"].cost_nanos == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"details": "downstream_remote_disconnect", "flags": frozenset({"DC"}), "answer": {}},
        {"answer": {}},
        {"answer": {"usage.prompt_tokens": 10}},
        {"answer": {"usage.prompt_tokens": 10, "usage.completion_tokens": -1}},
    ],
)
def test_what_proves_no_cost_changes_nothing(fields: dict[str, Any]) -> None:
    earlier = Earlier(one=CHAT)
    assert earlier.take(**fields) == "duplicate"
    assert not earlier.evidence.adjusted
    assert earlier.take() == "adjusted"


def test_a_stream_is_read_too_and_what_was_hidden_stays_so() -> None:
    earlier = Earlier(one=CHAT, two=structs.replace(CHAT, plain=False, stream=False))
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    answer = {"usage": json.dumps(usage), ENDED: True}
    streamed: dict[str, Any] = {"content_type": SSE, "answer": answer}
    assert earlier.take(**streamed) == "adjusted"
    assert earlier.evidence.adjusted["7-1"].cost_nanos == CHAT_NANOS
    assert earlier.take("7-2", **streamed) == "duplicate"
    assert earlier.take("7-2") == "duplicate"


def test_evidence_that_is_refused_may_come_again() -> None:
    earlier = Earlier(one=CHAT)
    earlier.evidence.taking = False
    assert earlier.take() == "too_late"
    earlier.evidence.taking = True
    assert earlier.take() == "adjusted"


def test_an_endpoint_or_a_provider_that_is_gone_changes_nothing() -> None:
    earlier = Earlier(one=Origin("openai", "gone", "USD", plain=True, stream=True))
    assert earlier.take() == "duplicate"
    assert not earlier.evidence.adjusted


def test_embeddings_have_no_output() -> None:
    earlier = Earlier(one=Origin("openai", "embeddings", "USD", plain=True, stream=True))
    answer = {"usage.prompt_tokens": 10, "usage.total_tokens": 10}
    assert earlier.take(answer=answer) == "adjusted"
    usage = earlier.evidence.adjusted["7-1"].usage
    assert (usage.input, usage.output, usage.is_exact) == (10, 0, True)


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        (Facts(model="m"), (True, True)),
        (Facts(model="m", rounds=2), (False, False)),
        (Facts(model="m", flat_price="1"), (False, False)),
        (Facts(model="m", untold_cost="later"), (False, False)),
    ],
)
async def test_calls_are_named_by_what_can_be_seen_of_them(
    facts: Facts, seen: tuple[bool, bool]
) -> None:
    calls = EnvoyCalls()
    held = calls.held.held(await calls.admit("light"))
    assert held is not None
    name = naming(held.serving, held.endpoint, spender())(facts, held.attempt.route)
    origin = origin_of(name)
    assert (origin.dialect, origin.endpoint, origin.currency) == ("openai", "chat", "USD")
    assert (origin.plain, origin.stream) == seen
    assert len(name) <= 256
    assert not name.isprintable()


def test_every_endpoint_that_is_read_is_found_again() -> None:
    assert _PATHS.keys() == READ
    for (dialect, endpoint), path in _PATHS.items():
        found = find(Request(b"POST", path, [], b""))
        assert found is not None
        assert (found.endpoint.dialect.name, found.endpoint.name) == (dialect, endpoint)


def test_apps_own_reservations_are_told_from_ours() -> None:
    ours = Late("7-1", opened(named(CHAT), 1))
    theirs = Late("7-2", opened("envoy", 1))
    both = {"7-1": ours, "7-2": theirs}
    assert of_envoy(both) == {"7-1": ours}
    assert of_envoy(both, ours=False) == {"7-2": theirs}
    assert named(CHAT).startswith(MARK)
