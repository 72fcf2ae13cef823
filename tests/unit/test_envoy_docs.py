"""docs/envoy.md says what the Check does."""

import re

import pytest
import yaml

from bursar_sidecar import refusals
from bursar_sidecar.desk import Refusal
from bursar_sidecar.envoy.route_settings import RouteReader
from tests.house import tree

DOCUMENT = tree.text("docs/envoy.md")
SETTINGS = re.findall(
    r"(?m)^\| `bursar\.([a-z]+)` \| ([^|]*) \|", DOCUMENT.partition("Settings of a")[2]
)


def test_every_setting_of_a_route_is_explained() -> None:
    with pytest.raises(Refusal) as caught:
        RouteReader().read({"bursar.no": "x"}, "strict")
    known = re.findall(r"bursar\.([a-z]+)", caught.value.message.partition("known are")[2])
    assert SETTINGS
    assert {name for name, _ in SETTINGS} == set(known)


@pytest.mark.parametrize(("name", "values"), SETTINGS)
def test_values_of_a_setting_are_taken_as_they_are_printed(name: str, values: str) -> None:
    for value in re.findall(r"`([^`]+)`", values):
        RouteReader().read({f"bursar.{name}": value}, "strict")


def test_refusals_have_the_status_that_is_printed() -> None:
    rows = re.findall(r"(?m)^\| (\d{3}) \| ([^|]*) \|", DOCUMENT.partition("## Refusals")[2])
    told = {
        reason: int(status)
        for status, reasons in rows
        for reason in re.findall(r"`(\w+)`", reasons)
    }
    assert told.pop("invalid_request") == 400
    assert {
        reason: refusals.REASONS[reason].status for reason in told if reason in refusals.REASONS
    } == told


def test_the_example_of_a_route_is_understood() -> None:
    (example,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", DOCUMENT)
    last = yaml.safe_load(example)["routes"][-1]
    (per_route,) = last["typed_per_filter_config"].values()
    read = RouteReader().read(per_route["check_settings"]["context_extensions"], "strict")
    assert (read.provider, read.rewrites_host, read.rewrites_path) == ("*", True, True)
