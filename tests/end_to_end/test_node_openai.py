"""OpenAI's library for JavaScript against a sidecar's data path: what is not chat."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import node_apps
from tests.fakes.desk import KEY
from tests.fakes.live_sidecar import LiveSidecar, live_sidecar

ASKED = {"model": "gpt-4o-mini", "input": "How much is left?"}


@pytest.fixture(scope="module")
def libraries() -> Path:
    return node_apps.installed()


@pytest.fixture
def sidecar() -> Iterator[LiveSidecar]:
    with live_sidecar() as serving:
        yield serving


def call(libraries: Path, sidecar: LiveSidecar, name: str, **body: Any) -> dict[str, Any]:
    told = node_apps.run(
        libraries, call=name, address=sidecar.address, key=KEY, headers={}, body=body
    )
    assert "answer" in told, told
    answer: dict[str, Any] = told["answer"]
    return answer


@pytest.mark.parametrize("way", ["plain", "stream"])
def test_a_response_is_whole_and_costs_what_was_billed(
    libraries: Path, sidecar: LiveSidecar, way: str
) -> None:
    seen = call(libraries, sidecar, f"response {way}", **ASKED)
    ((served, outcome),) = sidecar.settled()
    assert seen["finished"] == "completed"
    assert len(seen["text"].split()) == seen["output"] == served.billed.output
    assert (outcome.usage.output, outcome.usage.is_exact) == (served.billed.output, True)
    if way == "stream":
        assert seen["events"][-1] == "response.completed"


def test_every_other_endpoint_answers(libraries: Path, sidecar: LiveSidecar) -> None:
    seen = call(libraries, sidecar, "everything else")
    assert seen.pop("sound") > 0
    assert seen.pop("models") > 0
    assert seen == {
        "completions": 2,
        "flagged": False,
        "pictures": 1,
        "heard": "the words that were said",
        "file": True,
    }
    sidecar.desk_is_settled()
    assert all(outcome.usage.is_exact for outcome in sidecar.desk.outcomes)
