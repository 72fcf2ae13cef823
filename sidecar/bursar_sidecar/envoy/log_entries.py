"""What an Envoy's access log says of one call: its entry, however it came, checked at the border.

Envoy's `data/accesslog/v3/accesslog.proto` (HTTPAccessLogEntry, AccessLogCommon, ResponseFlags) for
what comes over gRPC, "Access log formatter" in its documentation for lines of a file, whose fields
are named by us (deploy/envoy/light.yaml).

What the answer said of itself is in the metadata namespace `bursar.answer`, one field for each
count, named by where it stands in the answer ("usage.prompt_tokens"); of streams, whole objects as
JSON text ("usage"). Numbers come as doubles.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bursar_sidecar.envoy.metadata import MAX_CHARGE_ID, charge_id_of

ANSWER: Final = "bursar.answer"
"""The metadata namespace that json_to_metadata and sse_to_metadata write to."""
MAX_FIELDS: Final = 128
"""Fields of one answer that are looked at; the shipped rules make half as many."""
MAX_VALUE: Final = 65_536
"""Characters of one of them: a usage object with a long list of iterations has some thousands."""
MAX_LINE_BYTES: Final = 1_048_576
"""Of a file's line."""
MAX_NAME: Final = 256
"""Characters of what names something: a content type, an id, why Envoy ended a call."""
MAX_FLAGS: Final = 32
ENDED: Final = frozenset({"", "NotSet", "DownstreamEnd"})
"""Kinds of entries (AccessLogType) that tell of a call's end. Envoy can be told to log calls on
their way too, and their requests to the upstream, which would be taken for the end."""

_FLAGS: Final[Mapping[str, str]] = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Response flags as a file's line has them, by their fields in an entry over gRPC."""


class LogFault(ValueError):
    """An entry that can't be read: its field, what is there and what was expected."""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a call that Envoy has carried to its end."""

    charge_id: str
    status: int = 0
    """As the app got it, of the provider or of Envoy itself; 0: none was sent."""
    details: str = ""
    """Whose the answer is: "via_upstream", or why Envoy made one (response code details)."""
    flags: frozenset[str] = frozenset()
    """Response flags, by their short names."""
    has_upstream: bool = True
    """Envoy chose a server to send it to; True also where that is not told."""
    sent_bytes: int | None = None
    """Written to upstreams, of all attempts; None where that is not told."""
    sent_header_bytes: int = 0
    """Of them, the heads."""
    body_bytes: int = 0
    """Of the request's body, as the app sent it."""
    attempts: int = 1
    """Requests that Envoy made of it, retries included."""
    content_type: str = ""
    content_encoding: str = ""
    request_id: str = ""
    """The provider's own, from its header `request-id`. `x-request-id` may be Envoy's."""
    answer: Mapping[str, object] = {}
    """What the answer said of itself: numbers, texts and truth values by name."""


_LAST: Final = (0, 6)
"""`ENDED` as numbers of AccessLogType."""


def of_grpc(entry: Any) -> LogEntry | None:
    """An HTTPAccessLogEntry; None where it is of no call of ours, or not of its end.

    Raises LogFault.
    """
    common, response = entry.common_properties, entry.response
    metadata = common.metadata.filter_metadata
    charge_id = _charge_id(charge_id_of(metadata))
    if not charge_id or common.intermediate_log_entry:
        return None
    if common.access_log_type not in _LAST:
        return None
    flags = {short for name, short in _FLAGS.items() if getattr(common.response_flags, name, False)}
    if common.response_flags.HasField("unauthorized_details"):
        flags.add("UAEX")
    headers = response.response_headers
    return LogEntry(
        charge_id=charge_id,
        status=int(response.response_code.value),
        details=_cut(response.response_code_details),
        flags=frozenset(flags),
        has_upstream=common.HasField("upstream_remote_address"),
        sent_bytes=int(common.upstream_wire_bytes_sent),
        sent_header_bytes=int(entry.request.upstream_header_bytes_sent),
        body_bytes=int(entry.request.request_body_bytes),
        attempts=int(common.upstream_request_attempt_count),
        content_type=_cut(headers.get("content-type", "")),
        content_encoding=_cut(headers.get("content-encoding", "")),
        request_id=_cut(headers.get("request-id", "")),
        answer=_answer_of_grpc(metadata),
    )


def _answer_of_grpc(metadata: Mapping[str, Any]) -> Mapping[str, object]:
    if ANSWER not in metadata:
        return {}
    found: dict[str, object] = {}
    for name, value in metadata[ANSWER].fields.items():
        match value.WhichOneof("kind"):
            case "number_value":
                _keep(found, name, value.number_value)
            case "string_value":
                _keep(found, name, value.string_value)
            case "bool_value":
                _keep(found, name, value.bool_value)
    return found


class _Line(msgspec.Struct):
    """A line of the shipped format. Envoy writes null for what it does not know."""

    charge_id: Any = None
    type: Any = None
    status: Any = None
    details: Any = None
    flags: Any = None
    upstream: Any = "?"
    sent_bytes: Any = None
    sent_header_bytes: Any = None
    body_bytes: Any = None
    attempts: Any = None
    content_type: Any = None
    content_encoding: Any = None
    request_id: Any = None
    answer: Any = None


_line = msgspec.json.Decoder(_Line)


def of_line(line: bytes) -> LogEntry | None:
    """A line of an access log; None where it is of no call of ours, or not of its end.

    Raises LogFault.
    """
    if len(line) > MAX_LINE_BYTES:
        raise LogFault(f"a line of {len(line)} bytes; expected at most {MAX_LINE_BYTES}")
    try:
        said = _line.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise LogFault(f"a line of {len(line)} bytes is no JSON object ({error})") from None
    charge_id = _charge_id(said.charge_id)
    if not charge_id or _text("type", said.type) not in ENDED:
        return None
    flags = _text("flags", said.flags)
    return LogEntry(
        charge_id=charge_id,
        status=_number("status", said.status) or 0,
        details=_text("details", said.details),
        flags=frozenset(flags.split(",")[:MAX_FLAGS]) - {"-", ""},
        has_upstream=said.upstream is not None,
        sent_bytes=_number("sent_bytes", said.sent_bytes),
        sent_header_bytes=_number("sent_header_bytes", said.sent_header_bytes) or 0,
        body_bytes=_number("body_bytes", said.body_bytes) or 0,
        attempts=_number("attempts", said.attempts) or 0,
        content_type=_text("content_type", said.content_type),
        content_encoding=_text("content_encoding", said.content_encoding),
        request_id=_text("request_id", said.request_id),
        answer=_answer_of_line(said.answer),
    )


def _answer_of_line(said: object) -> Mapping[str, object]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise LogFault(f"answer is a {type(said).__name__}; expected an object")
    found: dict[str, object] = {}
    for name, value in said.items():
        if isinstance(value, bool | int | float | str):
            _keep(found, name, value)
    return found


def _keep(found: dict[str, object], name: str, value: bool | float | str) -> None:
    if len(found) >= MAX_FIELDS:
        raise LogFault(f"the answer has more than {MAX_FIELDS} fields")
    if isinstance(value, str):
        if len(value) > MAX_VALUE:
            raise LogFault(f"{name[:MAX_NAME]} has {len(value)} characters; at most {MAX_VALUE}")
    elif isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    found[name[:MAX_NAME]] = value


def _charge_id(found: object) -> str:
    if found is None or found == "":
        return ""
    if not isinstance(found, str):
        raise LogFault(f"charge_id is a {type(found).__name__}; expected a text")
    epoch, dash, n = found.partition("-")
    if len(found) > MAX_CHARGE_ID or not dash or not _digits(epoch) or not _digits(n):
        raise LogFault(f"charge_id is {found[:MAX_CHARGE_ID]!r}; expected EPOCH-N")
    return found


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _text(field: str, found: object) -> str:
    if found is None:
        return ""
    if not isinstance(found, str):
        raise LogFault(f"{field} is a {type(found).__name__}; expected a text")
    return _cut(found)


def _cut(text: str) -> str:
    return text[:MAX_NAME]


def _number(field: str, found: object) -> int | None:
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**63:
        shown = found if isinstance(found, int | float) else type(found).__name__
        raise LogFault(f"{field} is {shown}; expected a whole number of at least 0")
    return found
