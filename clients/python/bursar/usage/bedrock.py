"""Amazon Bedrock: Converse, its stream, and InvokeModel's headers and bodies.

AWS's service description of bedrock-runtime (botocore 1.44, `service-2.json`): shapes TokenUsage,
CacheDetail ("Number of tokens written to cache with this TTL"), ConverseStreamMetadataEvent,
ServiceTier, InvokeModelResponse (header `X-Amzn-Bedrock-Service-Tier`), CountTokensResponse.

Amazon Bedrock User Guide, "Prompt caching for faster model inference", Converse API: "the
`inputTokens` field represents only the non-cached input tokens", and `total input tokens =
inputTokens + cacheReadInputTokens + cacheWriteInputTokens`.

InvokeModel's headers `X-Amzn-Bedrock-Input-Token-Count`, `-Output-Token-Count`,
`-Cache-Read-Input-Token-Count` and `-Cache-Write-Input-Token-Count`, and
`amazon-bedrock-invocationMetrics` in the last event of its stream, are no part of that description;
they are read as instrumentation of AWS's libraries reads them, which is why a body that counts goes
before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from .anthropic import FIELDS as MESSAGE_FIELDS
from .anthropic import fold_messages, read_messages
from .counts import Usage
from .metered import Call, Dialect, Gathered, Metered, counting, doubted, missing, tier_of
from .reader import Reader, inner, text_of

_METRICS: Final = "amazon-bedrock-invocationMetrics"
_DIGITS: Final = 13
"""Digits of a count in a header; MAX_COUNT has 13."""


def _read_converse(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = answer.get("usage")
    header = _header(call, "x-amzn-requestid")
    tier = tier_of(inner(answer, "serviceTier"), "type")
    return Metered(usage=_usage(counted, call), request_id=header, service_tier=tier)


def _usage(counted: object, call: Call) -> Usage:
    if not isinstance(counted, Mapping):
        return missing(
            "usage is missing" if counted is None else f"usage is a {type(counted).__name__}", call
        )
    read = Reader()
    given, output = read.count(counted, "inputTokens"), read.count(counted, "outputTokens")
    for name, count in (("inputTokens", given), ("outputTokens", output)):
        if count is None and counted.get(name) is None:
            read.fault(f"{name} is missing")
    cached = read.part(counted, "cacheReadInputTokens", "cacheReadInputTokenCount")
    written = read.count(counted, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    write_5m = write_1h = 0
    for detail in read.items(counted, "cacheDetails"):
        count = read.part(detail, "inputTokens")
        if text_of(detail, "ttl") == "1h":
            write_1h += count
        else:
            write_5m += count
    if written is not None and write_5m + write_1h > written:
        read.fault(f"cacheDetails exceed cacheWriteInputTokens ({written})")
    write_5m += max(0, (written or 0) - write_5m - write_1h)
    total = read.count(counted, "totalTokens")
    if total is not None and given is not None and output is not None:
        # Whether the total holds what was cached differs from model to model.
        known = given + output
        if total not in (known, known + cached + write_5m + write_1h):
            read.fault(f"totalTokens is {total}, but its parts are {known}")
    if given is None:
        given = max(0, (call.input_bound or 0) - cached - write_5m - write_1h)
    return read.usage(
        {
            "input": given,
            "cached_input": cached,
            "cache_write_5m": write_5m,
            "cache_write_1h": write_1h,
            "output": (call.output_bound or 0) if output is None else output,
        },
        {},
    )


def _fold_converse(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """An event of the stream: `metadata` holds the usage, exceptions end it.

    `name` is the `:event-type` (or `:exception-type`) of the frame; decoded by AWS's libraries the
    event is {type: data} instead.
    """
    if not name and len(event) == 1:
        kind, data = next(iter(event.items()))
        if isinstance(data, Mapping) and isinstance(kind, str) and kind in _CONVERSE_FIELDS[1:]:
            name, event = kind, data
    if name.endswith("Exception"):
        gathered.error = name[:40]
    elif name == "metadata" or (not name and "usage" in event):
        gathered.count("usage", event.get("usage"))
        gathered.note(event, "serviceTier")
        gathered.final = event.get("usage") is not None


def _read_invoke(answer: Mapping[str, Any], call: Call) -> Metered:
    """InvokeModel: an Anthropic body says most; for other models the headers count."""
    message = read_messages(answer, call)
    tier = tier_of({"tier": _header(call, "x-amzn-bedrock-service-tier")}, "tier")
    if not message.usage.is_exact and not message.parts:
        metrics = answer.get(_METRICS)
        counted = _of_metrics(metrics) if isinstance(metrics, Mapping) else _of_headers(call)
        if counted:
            usage = _usage(counted, call)
            if answer.get("usage") is not None:
                # Right as they may be, the body says otherwise.
                usage = doubted(usage, f"the body's usage: {message.usage.estimate_reason}")
            message = msgspec.structs.replace(message, usage=usage)
    return msgspec.structs.replace(
        message,
        request_id=_header(call, "x-amzn-requestid") or message.request_id,
        service_tier=tier or message.service_tier,
    )


def _of_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputTokens": metrics.get("inputTokenCount"),
        "outputTokens": metrics.get("outputTokenCount"),
        "cacheReadInputTokens": metrics.get("cacheReadInputTokenCount"),
        "cacheWriteInputTokens": metrics.get("cacheWriteInputTokenCount"),
    }


def _of_headers(call: Call) -> dict[str, Any]:
    counted: dict[str, Any] = {}
    for name, header in _HEADERS.items():
        text = _header(call, header)
        if text:
            counts = text.isascii() and text.isdigit() and len(text) <= _DIGITS
            # What is no number stays text, and is refused as such.
            counted[name] = int(text) if counts else text
    return counted


_HEADERS: Final = {
    "inputTokens": "x-amzn-bedrock-input-token-count",
    "outputTokens": "x-amzn-bedrock-output-token-count",
    "cacheReadInputTokens": "x-amzn-bedrock-cache-read-input-token-count",
    "cacheWriteInputTokens": "x-amzn-bedrock-cache-write-input-token-count",
}


def _header(call: Call, name: str) -> str:
    for key, value in call.headers.items():
        if isinstance(key, str) and key.lower() == name and isinstance(value, str):
            return value.strip()
    return ""


def _fold_invoke(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """A chunk of InvokeModelWithResponseStream, its payload decoded: the model's own event."""
    fold_messages(gathered, event, name)
    metrics = event.get(_METRICS)
    if metrics is not None:
        gathered.note(event, _METRICS)
        gathered.final = True
    if name.endswith("Exception"):
        gathered.error = name[:40]


_CONVERSE_FIELDS: Final = (
    *("usage", "metadata", "messageStart", "messageStop", "contentBlockStart"),
    *("contentBlockDelta", "contentBlockStop", "internalServerException"),
    *("modelStreamErrorException", "validationException", "throttlingException"),
    *("serviceUnavailableException", "serviceTier"),
)

DIALECTS: Final = (
    Dialect("bedrock_converse", _read_converse, _CONVERSE_FIELDS, _fold_converse),
    Dialect("bedrock_invoke", _read_invoke, MESSAGE_FIELDS, _fold_invoke, bodiless=True),
    Dialect("bedrock_count", counting("inputTokens"), ("inputTokens",)),
)
