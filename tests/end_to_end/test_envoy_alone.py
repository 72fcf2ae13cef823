"""Envoy itself, as the tests start it: what others build on."""

import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.fakes.envoy import (
    PASS_THROUGH,
    Envoy,
    envoy,
    pass_through,
    validate,
    with_endpoints,
)
from tests.fakes.simulated_provider import provider_process, recorded
from tests.fakes.until import DEADLINE_S

NOWHERE = ("127.0.0.1", 9)


def completion(address: str) -> int:
    """One call; the status of its answer."""
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    try:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}),
            {"authorization": "Bearer sk-simulated", "content-type": "application/json"},
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_it_forwards_counts_and_keeps_its_port_when_it_is_started_again(tmp_path: Path) -> None:
    with provider_process(tmp_path) as provider:
        there = urlsplit(provider)
        config = with_endpoints(
            pass_through(NOWHERE), {PASS_THROUGH: (str(there.hostname), int(there.port or 0))}
        )
        with envoy(tmp_path, config) as running:
            assert completion(running.address) == 200
            recorded(provider, 1)
            assert running.counted(f"cluster.{PASS_THROUGH}.upstream_rq_completed") == 1
            before = running.address
            running.kill()
            running.start()
            assert running.address == before
            assert completion(running.address) == 200
            assert running.counted(f"cluster.{PASS_THROUGH}.upstream_rq_completed") == 1


def test_where_nobody_answers_it_says_so_itself(tmp_path: Path) -> None:
    with envoy(tmp_path, pass_through(NOWHERE)) as running:
        assert completion(running.address) == 503


def test_a_configuration_with_a_fault_is_refused_with_its_reason(tmp_path: Path) -> None:
    config = pass_through(NOWHERE)
    good = tmp_path / "good.yaml"
    good.write_text(yaml.safe_dump(config))
    assert validate(good).returncode == 0, validate(good).stderr
    config["static_resources"]["clusters"][0]["conect_timeout"] = "1s"
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(config))
    refused = validate(bad)
    assert refused.returncode != 0
    assert "conect_timeout" in refused.stderr
    with pytest.raises(AssertionError, match="conect_timeout"):
        Envoy(tmp_path, config).start()
