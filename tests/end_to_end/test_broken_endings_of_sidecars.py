"""Sidecars that end, or run out of disk, with streams of every dialect in flight: what the
simulated provider itself counted is never more than what the ledger charges."""

import http.client
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.fakes.broken_calls import FORMS, SHOWN_BEFORE_IT_LEAVES, Caller, Form
from tests.fakes.programs import limit_files
from tests.fakes.site import Site, site

DRAIN_S = 5
SHORT = {"output_llm_tokens": 240, "chunk_delay_ms": 30}
"""Over in two seconds."""
ENDLESS = {"chunk_llm_tokens": 1, "chunk_delay_ms": 100}
"""Half a minute: far beyond the deadline."""


@pytest.fixture(scope="module")
def installation() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="bursar-") as directory,
        site(Path(directory), sidecars=("one",)) as made,
    ):
        made.sidecars["one"].tell(BURSAR_DRAIN_S=str(DRAIN_S))
        made.start_sidecars()
        yield made
        made.verify()


class Open(NamedTuple):
    """A stream in flight."""

    form: Form
    caller: Caller
    connection: http.client.HTTPConnection
    answer: http.client.HTTPResponse

    def rest(self) -> bytes:
        """All that still comes, however it ends."""
        try:
            return self.answer.read()
        except http.client.IncompleteRead as broken:
            return broken.partial
        finally:
            self.connection.close()


def flowing(site: Site, name: str, behaviour: Mapping[str, Any]) -> Open:
    """A stream of which some has come."""
    form, caller = FORMS[name], Caller(site, site.sidecars["one"])
    connection = caller.open(form, behaviour, stream=True)
    answer = connection.getresponse()
    came = b""
    while came.count(form.shows) < SHOWN_BEFORE_IT_LEAVES:
        piece = answer.read1(65_536)
        assert piece, came
        came += piece
    return Open(form, caller, connection, answer)


def charged(each: Open) -> str:
    """How its one call was charged: never below what the provider counted."""
    ((served, entry),) = each.caller.settled().values()
    bill = each.caller.bill_of(each.form, served)
    assert bill <= entry.amount.nanos <= entry.reserved.nanos, (served, entry)
    if entry.usage.estimate_reason:
        return entry.usage.estimate_reason
    assert entry.amount.nanos == bill
    return "exact"


def test_a_sidecar_that_is_told_to_end_lets_streams_end_and_cuts_those_that_do_not(
    installation: Site,
) -> None:
    one = installation.sidecars["one"]
    endless = [flowing(installation, name, ENDLESS) for name in FORMS]
    short = [flowing(installation, name, SHORT) for name in FORMS]
    one.send(signal.SIGTERM)
    for each in (*short, *endless):
        each.rest()
    assert one.wait_for_end() == 0, one.log()
    # What was settled on the way out is posted though nobody lives who could tell it later.
    one.start()
    assert [charged(each) for each in short] == ["exact"] * len(FORMS)
    reasons = {charged(each) for each in endless}
    assert reasons == {"the call was broken off by the sidecar"}, reasons


def test_without_disk_what_flows_is_billed_and_nothing_is_admitted(installation: Site) -> None:
    one = installation.sidecars["one"]
    leaving = [flowing(installation, name, ENDLESS) for name in FORMS]
    ending = [flowing(installation, name, SHORT) for name in FORMS]
    limit_files([one.pid], 0)
    for each in ending:
        each.rest()
    for each in leaving:
        each.connection.close()
        each.answer.close()
    refused = Caller(installation, one)
    for form in FORMS.values():
        for stream in (True, False):
            refused.call(form, {}, stream=stream)
            assert refused.status == 503, refused.answer
    assert [charged(each) for each in ending] == ["exact"] * len(FORMS)
    assert {charged(each) for each in leaving} == {"the app hung up"}
    assert not set(refused.calls) & installation.served().keys()
    limit_files([one.pid], None)
