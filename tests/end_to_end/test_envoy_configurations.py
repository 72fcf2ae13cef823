"""The static configurations of `deploy/envoy/`: Envoy takes them as they ship, and what makes them
safe is in them."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.envoy import (
    DEPLOYED,
    OURS,
    clusters_of,
    filter_of,
    http_filters_of,
    shipped,
    validate,
)

NAMES = sorted(path.stem for path in DEPLOYED.glob("*.yaml"))
LIMITS = sorted(f"limits/{path.stem}" for path in (DEPLOYED / "limits").glob("*.yaml"))
"""Those with Envoy's own limit filters instead of a Check."""
ROOTS = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's and Ubuntu's file of root certificates; other systems have another."""
LOGS = "/var/log/envoy"
STREAMS = 10_000
AUTHZ = "envoy.filters.http.ext_authz"
PROC = "envoy.filters.http.ext_proc"
MUTATION = "envoy.filters.http.header_mutation"


def on_this_machine(text: str, directory: Path) -> str:
    """The text with this machine's file of root certificates, and its logs in the directory: both
    have to exist to be valid."""
    text = text.replace(LOGS, str(directory))
    here = ssl.get_default_verify_paths().cafile
    return text if Path(ROOTS).exists() or here is None else text.replace(ROOTS, here)


def everything(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of a configuration, however deep."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield name, each
            yield from everything(each)
    elif isinstance(value, list):
        for each in value:
            yield from everything(each)


def routes_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    found: list[dict[str, Any]] = []
    for host in manager["typed_config"]["route_config"]["virtual_hosts"]:
        found += host["routes"]
    return found


def test_both_tiers_ship() -> None:
    assert {"light", "strict"} <= set(NAMES)
    assert set(LIMITS) == {"limits/quotas", "limits/rate-limits"}


@pytest.mark.parametrize("name", [*NAMES, *LIMITS])
def test_envoy_takes_it_as_it_ships(name: str, tmp_path: Path) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(on_this_machine((DEPLOYED / f"{name}.yaml").read_text(), tmp_path))
    checked = validate(path)
    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr.lower(), checked.stderr


def test_envoy_refuses_one_with_a_fault(tmp_path: Path) -> None:
    config = shipped("strict")
    filter_of(config, AUTHZ)["with_request_body"]["max_request_byte"] = 1
    path = tmp_path / "broken.yaml"
    path.write_text(on_this_machine(yaml.safe_dump(config), tmp_path))
    checked = validate(path)
    assert checked.returncode != 0
    assert "max_request_byte" in checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_nobody_spends_where_nobody_decides(name: str) -> None:
    config = shipped(name)
    names = [each["name"] for each in http_filters_of(config)]
    assert names[0] == AUTHZ, "a filter before it would see calls that nobody allowed"
    assert names[-2:] == [MUTATION, "envoy.filters.http.router"]
    for each in (AUTHZ, PROC):
        if each in names:
            settings = filter_of(config, each)
            assert settings["failure_mode_allow"] is False
            assert settings["status_on_error"] == {"code": "ServiceUnavailable"}
    body = filter_of(config, AUTHZ)["with_request_body"]
    assert body["allow_partial_message"] is False
    assert body["pack_as_bytes"] is True
    assert not any(value for field, value in everything(config) if field == "failure_mode_allow")
    # Only what goes nowhere is not asked about.
    for route in routes_of(config):
        asks = route.get("typed_per_filter_config", {}).get(AUTHZ, {})
        assert ("route" in route) != bool(asks.get("disabled")), route


@pytest.mark.parametrize("name", [*NAMES, *LIMITS])
def test_no_call_is_made_twice_or_cut_by_the_usual_timeouts(name: str) -> None:
    config = shipped(name)
    assert not [field for field, _ in everything(config) if "retry" in field]
    forwarded = [route["route"] for route in routes_of(config) if "route" in route]
    assert forwarded
    assert {route["timeout"] for route in forwarded} == {"0s"}


@pytest.mark.parametrize("name", NAMES)
def test_answers_under_way_do_not_fill_the_circuit_breakers(name: str) -> None:
    config = shipped(name)
    ours = [each for each in clusters_of(config) if each["name"].startswith(OURS)]
    assert len(ours) >= 2, "what checks and what carries answers share no breaker"
    for cluster in clusters_of(config):
        (threshold,) = cluster["circuit_breakers"]["thresholds"]
        for field in ("max_connections", "max_pending_requests", "max_requests"):
            assert threshold[field] >= STREAMS, f"{cluster['name']}: {field}"


@pytest.mark.parametrize("name", [*NAMES, *LIMITS])
def test_providers_are_known_by_their_certificates(name: str) -> None:
    for cluster in clusters_of(shipped(name)):
        if cluster["name"].startswith(OURS):
            continue
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        host = endpoint["address"]["socket_address"]["address"]
        tls = cluster["transport_socket"]["typed_config"]
        context = tls["common_tls_context"]["validation_context"]
        assert tls["sni"] == host
        assert context["trusted_ca"] == {"filename": ROOTS}
        assert context["match_typed_subject_alt_names"] == [
            {"san_type": "DNS", "matcher": {"exact": host}}
        ]
