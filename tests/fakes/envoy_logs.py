"""Entries of an Envoy's access log, as they were seen from a real one (1.40), to be varied."""

import json
from collections.abc import Mapping
from typing import Any

from envoy.data.accesslog.v3 import accesslog_pb2

from bursar_sidecar.envoy.log_entries import ANSWER, LogEntry
from bursar_sidecar.envoy.metadata import FIELD, NAMESPACE

SENT_BYTES = 345
"""A request with a head of 212 bytes and `BODY_BYTES` in chunks."""
HEADER_BYTES = 212
BODY_BYTES = 111
JSON = "application/json"
SSE = "text/event-stream"
CHAT_ANSWER: Mapping[str, object] = {
    "id": "chatcmpl-1",
    "model": "gpt-4o-mini",
    "usage.prompt_tokens": 10,
    "usage.completion_tokens": 20,
    "usage.total_tokens": 30,
}
CHAT_NANOS = 13_500
"""Ten LLM tokens at 0.15 and twenty at 0.60 USD a million."""


def entry(charge_id: str = "7-1", **fields: Any) -> LogEntry:
    """A plain chat that was answered, unless `fields` say otherwise."""
    usual: dict[str, Any] = {
        "status": 200,
        "details": "via_upstream",
        "sent_bytes": SENT_BYTES,
        "sent_header_bytes": HEADER_BYTES,
        "body_bytes": BODY_BYTES,
        "content_type": JSON,
        "answer": CHAT_ANSWER,
    }
    return LogEntry(charge_id=charge_id, **{**usual, **fields})


def line(charge_id: object = "7-1", **fields: object) -> bytes:
    """The same as a line of the shipped format, with its end."""
    usual: dict[str, object] = {
        "type": "DownstreamEnd",
        "charge_id": charge_id,
        "status": 200,
        "details": "via_upstream",
        "flags": "-",
        "upstream": "127.0.0.1:9312",
        "sent_bytes": SENT_BYTES,
        "sent_header_bytes": HEADER_BYTES,
        "body_bytes": BODY_BYTES,
        "attempts": 1,
        "content_type": JSON,
        "content_encoding": None,
        "request_id": None,
        "answer": CHAT_ANSWER,
    }
    return json.dumps({**usual, **fields}).encode() + b"\n"


def grpc_entry(
    charge_id: str = "7-1",
    answer: Mapping[str, object] = CHAT_ANSWER,
    flags: Mapping[str, object] | None = None,
) -> Any:
    """The same as an HTTPAccessLogEntry; `flags` are fields of ResponseFlags."""
    made = accesslog_pb2.HTTPAccessLogEntry()
    common, response = made.common_properties, made.response
    common.access_log_type = accesslog_pb2.DownstreamEnd
    common.upstream_remote_address.socket_address.address = "127.0.0.1"
    common.upstream_wire_bytes_sent = SENT_BYTES
    common.upstream_request_attempt_count = 1
    common.metadata.filter_metadata[NAMESPACE].update({FIELD: {"charge_id": charge_id}})
    common.metadata.filter_metadata[ANSWER].update(dict(answer))
    for name, value in (flags or {}).items():
        setattr(common.response_flags, name, value)
    made.request.upstream_header_bytes_sent = HEADER_BYTES
    made.request.request_body_bytes = BODY_BYTES
    response.response_code.value = 200
    response.response_code_details = "via_upstream"
    response.response_headers["content-type"] = JSON
    return made
