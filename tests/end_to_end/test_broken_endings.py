"""Every way in which an answer can end badly, in every dialect, against real processes: what the
simulated provider itself counted is never more than what the ledger charges.

Each row of the table is a row of docs/broken-endings.md.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bursar.v1 import charges_pb2
from tests.fakes.broken_calls import (
    BEFORE_THE_FIRST_BYTE,
    FORMS,
    IN_THE_STREAM,
    STAYS,
    Caller,
    Form,
)
from tests.fakes.site import Site, site

DOCUMENTED = Path(__file__).parents[2] / "docs" / "broken-endings.md"
PATIENCE_S = 2
"""How long the sidecar waits for a provider that says nothing."""
HOUR_MS = 3_600_000
EXACT = "exact"
FREE = "free"
ESTIMATED = "estimated"
AS_BILLED = "as billed"
"""At the provider's count; marked all the same, because the answer is not whole."""
EITHER = "either"
"""The provider's last counts may have come before the app left."""

Behaviour = Mapping[str, Any] | Callable[[Form], Mapping[str, Any]]


class Ending(NamedTuple):
    """What happens, and what comes of it."""

    name: str
    charged: str
    behaviour: Behaviour
    streams: tuple[bool, ...] = (True, False)
    leaves: str = STAYS
    tools: bool = False
    forms: tuple[str, ...] = tuple(FORMS)


STREAM, PLAIN = (True,), (False,)
WITH_TOOLS = ("chat", "anthropic", "gemini")
TELL_ON_THE_WAY = ("chat", "anthropic", "gemini")


def told(*counts: object) -> Behaviour:
    """The provider says so, whatever it counted."""
    return lambda form: {"reported_usage": form.usage(*counts)}


def on_the_way(*counts: tuple[object, ...], **more: Any) -> Behaviour:
    """It says so while the stream flows."""
    return lambda form: {"usage_on_the_way": [form.usage(*each) for each in counts], **more}


SLOWLY = {"chunk_delay_ms": 30}
ENDINGS = (
    Ending("nothing is wrong", EXACT, {}),
    Ending("nothing is wrong, with tools", EXACT, {}, tools=True, forms=WITH_TOOLS),
    # The app leaves.
    Ending(
        "the app leaves before the first byte", ESTIMATED, {"latency_ms": HOUR_MS}, STREAM,
        BEFORE_THE_FIRST_BYTE,
    ),
    Ending("the app leaves before the answer", EXACT, {"latency_ms": 300}, PLAIN,
           BEFORE_THE_FIRST_BYTE),
    Ending("the app leaves in the stream", ESTIMATED, SLOWLY, STREAM, IN_THE_STREAM),
    Ending("the app leaves, the provider goes on", ESTIMATED,
           {**SLOWLY, "llm_tokens_billed_after_cancel": 8}, STREAM, IN_THE_STREAM),
    Ending("the app leaves while a tool is called", ESTIMATED, SLOWLY, STREAM, IN_THE_STREAM,
           tools=True, forms=("chat", "anthropic")),
    Ending("the app leaves after a tool was called", EITHER, SLOWLY, STREAM, IN_THE_STREAM,
           tools=True, forms=("gemini",)),
    # The provider breaks off.
    Ending("the provider drops it", ESTIMATED, {"abort_rate": 1}),
    Ending("the provider drops it before any output", ESTIMATED,
           {"abort_rate": 1, "abort_after_chunks": 0}, STREAM),
    Ending("the provider drops it before the counts", ESTIMATED,
           {"abort_rate": 1, "abort_after_chunks": 1_000}, STREAM,
           forms=("chat", "responses", "anthropic")),
    Ending("the provider drops it after the counts", AS_BILLED,
           {"abort_rate": 1, "abort_after_chunks": 1_000}, STREAM, forms=("gemini",)),
    Ending("the provider drops it while a tool is called", ESTIMATED, {"abort_rate": 1}, STREAM,
           tools=True, forms=("chat", "anthropic")),
    Ending("an error in the stream", ESTIMATED, {"stream_error_rate": 1}, STREAM),
    Ending("an error before any output", ESTIMATED,
           {"stream_error_rate": 1, "abort_after_chunks": 0}, STREAM),
    Ending("an error instead of an answer", FREE, {"error_500_rate": 1}),
    Ending("too many requests", FREE, {"error_429_rate": 1}),
    # It says nothing.
    Ending("no answer, and the connection closes", ESTIMATED,
           {"timeout_rate": 1, "timeout_ms": 1}),
    Ending("no answer in time", ESTIMATED, {"timeout_rate": 1}),
    Ending("silence after the head", ESTIMATED, {"stall_rate": 1, "abort_after_chunks": 0}),
    Ending("silence in the stream", ESTIMATED, {"stall_rate": 1, "abort_after_chunks": 5}, STREAM),
    # What it counts.
    Ending("no counts", ESTIMATED, {"missing_usage": True}),
    Ending("counts on the way, the last are right", EXACT, on_the_way((None, 1), (None, 5)), STREAM,
           forms=TELL_ON_THE_WAY),
    Ending("counts on the way, then the end", ESTIMATED,
           on_the_way((9, 1), (9, 5), abort_rate=1, abort_after_chunks=9), STREAM,
           forms=TELL_ON_THE_WAY),
    Ending("counts on the way, then an error", ESTIMATED,
           on_the_way((9, 1), (9, 5), stream_error_rate=1, abort_after_chunks=9), STREAM,
           forms=TELL_ON_THE_WAY),
    Ending("counts on the way, and none in the end", ESTIMATED,
           on_the_way((9, 1), (9, 5), missing_usage=True), STREAM, forms=TELL_ON_THE_WAY),
    Ending("counts that shrink", ESTIMATED, on_the_way((900, 900)), STREAM, forms=TELL_ON_THE_WAY),
    Ending("counts that are not their sum", ESTIMATED, told(5, 1, 800),
           forms=("chat", "responses", "gemini")),
    Ending("counts below nothing", ESTIMATED, told(-5, 300)),
    Ending("counts that are none", ESTIMATED, told("many", [])),
    Ending("counts with fractions", ESTIMATED, told(9.5, 300)),
    Ending("absurd counts", ESTIMATED, told(1, 2**70)),
    Ending("counts without a count", ESTIMATED, told(None, None)),
    Ending("nothing produced, and some shown", ESTIMATED, told(200, 0)),
)  # fmt: skip


def test_every_ending_is_documented() -> None:
    rows = {line.split("|")[1].strip() for line in DOCUMENTED.read_text().splitlines()
            if line.startswith("| ")}  # fmt: skip
    assert {ending.name for ending in ENDINGS} <= rows


@pytest.fixture(scope="module")
def installation() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("one",)) as made,
    ):
        made.sidecars["one"].tell(
            BURSAR_ANSWER_TIMEOUT_S=str(PATIENCE_S), BURSAR_STALL_TIMEOUT_S=str(PATIENCE_S)
        )
        made.start_sidecars()
        yield made
        made.verify()


CASES = [
    pytest.param(
        ending, name, stream, id=f"{ending.name}, {name}, {'stream' if stream else 'plain'}"
    )
    for ending in ENDINGS
    for name in ending.forms
    for stream in ending.streams
]


@pytest.mark.parametrize(("ending", "name", "stream"), CASES)
def test_an_ending_is_charged_no_less_than_the_bill(
    installation: Site, ending: Ending, name: str, stream: bool
) -> None:
    caller, form = Caller(installation, installation.sidecars["one"]), FORMS[name]
    behaviour = ending.behaviour(form) if callable(ending.behaviour) else ending.behaviour
    call = caller.call(form, behaviour, stream=stream, leaves=ending.leaves, tools=ending.tools)
    served, entry = caller.settled()[call]
    bill = caller.bill_of(form, served)
    reason = entry.usage.estimate_reason
    assert bill <= entry.amount.nanos <= entry.reserved.nanos, (served, entry)
    if ending.charged == EITHER:
        assert reason or entry.amount.nanos == bill, (served, entry)
    elif ending.charged == AS_BILLED:
        assert (entry.amount.nanos, reason) == (bill, "aborted"), (served, entry)
    elif ending.charged == ESTIMATED:
        assert reason, (served, entry)
    else:
        assert not reason, (served, entry)
        assert entry.amount.nanos == bill, (served, entry)
        assert entry.kind == charges_pb2.SETTLEMENT_KIND_FINAL
        assert bool(bill) is (ending.charged == EXACT)
