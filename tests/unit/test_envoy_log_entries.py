"""Envoy's log entries at the border: what is read, and what is no entry."""

import json
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from bursar_sidecar.envoy.log_entries import (
    ANSWER,
    MAX_FIELDS,
    MAX_LINE_BYTES,
    MAX_VALUE,
    LogFault,
    of_grpc,
    of_line,
)
from tests.fakes.envoy_logs import (
    BODY_BYTES,
    CHAT_ANSWER,
    HEADER_BYTES,
    SENT_BYTES,
    grpc_entry,
    line,
)


def test_both_ways_say_the_same() -> None:
    over_grpc, in_file = of_grpc(grpc_entry()), of_line(line())
    assert over_grpc == in_file
    assert over_grpc is not None
    assert over_grpc.charge_id == "7-1"
    assert over_grpc.answer == CHAT_ANSWER
    assert all(type(value) in (int, str) for value in over_grpc.answer.values())
    assert (over_grpc.sent_bytes, over_grpc.sent_header_bytes, over_grpc.body_bytes) == (
        SENT_BYTES,
        HEADER_BYTES,
        BODY_BYTES,
    )


def test_every_flag_of_an_entry_over_grpc_has_its_short_name() -> None:
    names = [field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields]
    for name in names:
        made = grpc_entry()
        if name == "unauthorized_details":
            made.common_properties.response_flags.unauthorized_details.SetInParent()
        else:
            setattr(made.common_properties.response_flags, name, True)
        found = of_grpc(made)
        assert found is not None
        assert len(found.flags) == 1, name


def test_flags_of_a_line_are_told_apart() -> None:
    found = of_line(line(flags="URX,UF"))
    assert found is not None
    assert found.flags == {"URX", "UF"}


@pytest.mark.parametrize(
    "kind", ["DownstreamStart", "DownstreamPeriodic", "UpstreamPoolReady", "UpstreamEnd"]
)
def test_what_is_logged_on_the_way_is_no_end(kind: str) -> None:
    assert of_line(line(type=kind)) is None
    made = grpc_entry()
    made.common_properties.access_log_type = accesslog_pb2.AccessLogType.Value(kind)
    assert of_grpc(made) is None
    made = grpc_entry()
    made.common_properties.intermediate_log_entry = True
    assert of_grpc(made) is None


def test_an_entry_of_a_call_that_nobody_reserved_for_is_passed_over() -> None:
    assert of_line(line(None)) is None
    assert of_line(line("")) is None
    assert of_line(b"{}") is None
    assert of_grpc(accesslog_pb2.HTTPAccessLogEntry()) is None


def test_a_charge_id_of_other_metadata_is_not_believed() -> None:
    made = grpc_entry("")
    made.common_properties.metadata.filter_metadata["bursar"].update({"charge_id": "7-1"})
    made.common_properties.metadata.filter_metadata[ANSWER].update({"charge_id": "7-1"})
    made.response.response_headers["x-bursar-charge-id"] = "7-1"
    assert of_grpc(made) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"no json", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b'{"charge_id": "7-1", "status', "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"[" * 200_000, "no JSON object"),
        (b" " * (MAX_LINE_BYTES + 1), "expected at most"),
        (line("7-1x"), "expected EPOCH-N"),
        (line("-1"), "expected EPOCH-N"),
        (line("7-\u0661"), "expected EPOCH-N"),
        (line("7-" + "1" * 64), "expected EPOCH-N"),
        (line(7), "charge_id is a int"),
        (line(status="200"), "status is str"),
        (line(status=-1), "status is -1"),
        (line(sent_bytes=1.5), "sent_bytes is 1.5"),
        (line(attempts=True), "attempts is True"),
        (line(flags=["DC"]), "flags is a list"),
        (line(answer="usage"), "answer is a str"),
        (line(answer={str(n): n for n in range(MAX_FIELDS + 1)}), "more than"),
        (line(answer={"usage": "x" * (MAX_VALUE + 1)}), "characters"),
    ],
)
def test_a_line_that_is_no_entry_says_why(text: bytes, said: str) -> None:
    with pytest.raises(LogFault, match=said):
        of_line(text)


def test_an_entry_over_grpc_is_held_to_the_same_bounds() -> None:
    with pytest.raises(LogFault, match="EPOCH-N"):
        of_grpc(grpc_entry("charge"))
    with pytest.raises(LogFault, match="more than"):
        of_grpc(grpc_entry(answer={str(n): n for n in range(MAX_FIELDS + 1)}))
    with pytest.raises(LogFault, match="characters"):
        of_grpc(grpc_entry(answer={"usage": "x" * (MAX_VALUE + 1)}))


@pytest.mark.parametrize("value", [{"a": 1}, [1], None])
def test_fields_of_an_answer_that_are_no_values_are_passed_over(value: Any) -> None:
    found = of_line(line(answer={"usage.prompt_tokens": value, "model": "m"}))
    assert found is not None
    assert found.answer == {"model": "m"}
    found = of_grpc(grpc_entry(answer={"usage.prompt_tokens": value, "model": "m"}))
    assert found is not None
    assert found.answer == {"model": "m"}


def test_names_are_cut() -> None:
    found = of_line(line(details="d" * 1_000, content_type="c" * 1_000))
    assert found is not None
    assert len(found.details) == len(found.content_type) == 256
    assert json.loads(line())["charge_id"] == "7-1"
