"""What a log entry proves of a call: never sent, refused by the provider, counted, cut, or nothing.

Pure. Of the answer itself the light tier sees a few fields, which Envoy's json_to_metadata and
sse_to_metadata took out of it. They are put together again as the dialect's own answer, and read by
the dialect's own reading, so that a count means here what it means in the data path. Whatever is
not proven stays charged at what was reserved.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from bursar.usage import estimated
from bursar_sidecar.attempt import Attempt
from bursar_sidecar.call_log import HUNG_UP
from bursar_sidecar.desk import Receipt
from bursar_sidecar.dialects.dialect import Endpoint
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.reading import Reading
from bursar_sidecar.envoy.log_entries import LogEntry
from bursar_sidecar.meter import lacks_usage

Proof = Literal["never_sent", "refused", "counted", "cut", "untold"]
"""What is proven: "never_sent" no byte of it went to a provider; "refused" the provider answered
with an error; "counted" the provider's usage is known; "cut" it did not come to its end, and no
usage is known; "untold" it came to its end, and its usage can't be known from the log."""

VIA_UPSTREAM: Final = "via_upstream"
"""Response code details of an answer that is the provider's own ("Response Code Details" in
Envoy's documentation); all others name why Envoy made or cut it."""
NOT_SENT_FLAGS: Final = frozenset(
    {"UF", "UH", "NR", "NC", "UO", "DF", "UAEX", "RL", "RLSE", "NFCF"}
)
"""Flags of calls for which no connection was found or made, or that a later filter refused. A call
that is retried keeps the flags of its attempts, so that none of them proves anything by itself."""
SSE: Final = "text/event-stream"
ENDED: Final = "ended"
"""The field that the shipped rules for streams set at their clean end."""
NEVER_SENT: Final = "never sent, told after it was charged"
_FIRST_ERROR: Final = 300
_DEEPEST: Final = 4
"""Names in the name of a field: "usage.cache_creation.ephemeral_1h_input_tokens" has three."""

READ: Final = frozenset(
    {
        ("openai", "chat"),
        ("openai", "completions"),
        ("openai", "responses"),
        ("openai", "embeddings"),
        ("anthropic", "messages"),
        ("gemini", "generateContent"),
        ("gemini", "streamGenerateContent"),
    }
)
"""Endpoints, by dialect and name, whose answers tell their usage in the fields that the shipped
rules take. Others are billed by what stands in lists (pictures, segments), which Envoy's filters
can't read."""
_READERS: Final = frozenset(
    {"", "deepseek_chat", "deepseek_completions", "mistral_chat", "mistral_embeddings"}
)
"""Of servers whose answers say more than OpenAI's do, the readers that need no more than the rules
take."""
_COUNTS_ONCE: Final = frozenset({"openai", "azure"})
"""Kinds of servers whose chats count at their end alone; others may count along the way, so that
the counts of a stream that was cut are not its last."""
_WHOLE: Final = frozenset({"usage", "message.usage", "response.usage", "usageMetadata"})
"""Fields that hold an object as JSON text, where they come from a stream."""
_LAST_EVENTS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Verdict(NamedTuple):
    """What is proven of a call, and what of its answer is known."""

    proof: Proof
    reason: str = ""
    """Why no more is known, for who asks why a call was charged so."""
    reading: Reading | None = None
    """Of a call that is "counted"."""


class Sight(NamedTuple):
    """What can be seen of the answers to a call in the fields of them that Envoy shows."""

    plain: str = ""
    """Why a plain answer does not show what it costs; "" where it does."""
    stream: str = ""
    """Why a stream does not."""


def sight(endpoint: Endpoint, facts: Facts, server: Server) -> Sight:
    """By what was asked, before there is an answer."""
    dialect = endpoint.dialect.name
    is_covered = server.kind.readers.get(endpoint.name, "") in _READERS
    if (dialect, endpoint.name) not in READ or not is_covered:
        why = f"what {endpoint.name} costs is told where Envoy can't read it"
        return Sight(why, why)
    if facts.unbounded_tools or facts.provider_units or facts.rounds > 1:
        why = "tools of the provider are billed by what stands in lists, which Envoy can't read"
        return Sight(why, why)
    # Of a plain answer lists can't be read at all; of a stream those in the usage can.
    if dialect == "gemini" and not facts.text_only:
        return Sight("kinds of LLM tokens are told in a list, which Envoy can't read")
    if dialect == "anthropic" and "context_management" in facts.fields:
        return Sight("iterations are told in a list, which Envoy can't read")
    return Sight()


class Asked(NamedTuple):
    """A call that was admitted, as far as its answer is read by it."""

    endpoint: Endpoint
    facts: Facts
    server: Server
    sight: Sight


def judge(entry: LogEntry, asked: Asked) -> Verdict:
    """What the entry proves of the call."""
    endpoint, facts, server, seen = asked
    if _never_sent(entry):
        return Verdict("never_sent")
    if _sent_again(entry):
        return Verdict("cut", f"Envoy sent the call {entry.attempts} times, and logs the last")
    if entry.details == VIA_UPSTREAM and entry.status >= _FIRST_ERROR:
        return Verdict("refused")
    is_stream = _is_stream(entry, facts)
    is_whole = entry.details == VIA_UPSTREAM
    why = _why_cut(entry)
    if not entry.status or entry.status >= _FIRST_ERROR:
        return Verdict("cut", why)
    if endpoint.known_before and not is_stream and is_whole:
        reading = endpoint.reading(facts, server)
        reading.whole(b"")
        return Verdict("counted", reading=reading)
    hidden = seen.stream if is_stream else seen.plain
    if entry.content_encoding not in ("", "identity"):
        hidden = (
            f"the answer is compressed ({entry.content_encoding[:40]}), and Envoy can't read it"
        )
    if not hidden:
        answer = _put_together(entry.answer)
        if is_stream:
            ended = is_whole and entry.answer.get(ENDED) is True
            reading = _stream(answer, endpoint, facts, server, ended=ended)
            known = reading if _is_counted(reading, endpoint, server, ended=ended) else None
        else:
            known = _plain(answer, endpoint, facts, server)
        if known is not None:
            return Verdict("counted", reading=known)
    if not is_whole:
        return Verdict("cut", why)
    return Verdict("untold", hidden or "Envoy showed no usage of the answer")


def settle(verdict: Verdict, entry: LogEntry, attempt: Attempt, *, late: bool) -> Receipt | None:
    """Close the attempt by what is proven. `late`: it was charged at its deadline, and this adjusts
    that; None, where the entry proves no more than was known then."""
    attempt.status = entry.status if entry.details == VIA_UPSTREAM else 0
    attempt.request_id = entry.request_id
    attempt.fault = _fault(verdict, entry)
    match verdict.proof:
        case "never_sent":
            if late:
                return attempt.charge_cost(0, estimated(NEVER_SENT), Reading())
            return attempt.release()
        case "refused":
            return attempt.fail()
        case "counted" if verdict.reading is not None:
            return attempt.charge(verdict.reading)
        case "cut":
            return None if late else attempt.cut(verdict.reason)
        case _:
            if attempt.terms.settles != "used":
                return attempt.charge(Reading())
            return attempt.charge_reserved(verdict.reason, "final")


def _never_sent(entry: LogEntry) -> bool:
    """Nothing was written to any server, and Envoy says why. Bytes that are not told prove nothing:
    a retried call has the flag of an attempt that failed beside one that was sent."""
    if entry.sent_bytes != 0 or entry.details == VIA_UPSTREAM:
        return False
    if entry.flags & NOT_SENT_FLAGS:
        return True
    # A filter behind ours answered.
    return not entry.has_upstream and entry.status >= _FIRST_ERROR


def _sent_again(entry: LogEntry) -> bool:
    """Whether more than one attempt may have reached a provider whole: what the earlier ones cost
    is nowhere told. Attempts that found no connection wrote nothing."""
    if entry.attempts <= 1:
        return False
    if entry.sent_bytes is None or not entry.body_bytes:
        return True
    return entry.sent_bytes - entry.sent_header_bytes >= 2 * entry.body_bytes


def _why_cut(entry: LogEntry) -> str:
    flags = ",".join(sorted(entry.flags)) or "no flag"
    return f"the answer did not come to its end ({entry.details or 'no reason told'}; {flags})"


def _fault(verdict: Verdict, entry: LogEntry) -> str:
    if verdict.proof == "never_sent":
        return "provider_unreachable"
    if verdict.proof != "cut":
        return ""
    if entry.flags & {"DC", "DR"}:
        return HUNG_UP
    return "provider_timeout" if entry.flags & {"UT", "DT", "SI", "UMSDR"} else "provider_broke"


def _is_stream(entry: LogEntry, facts: Facts) -> bool:
    return entry.content_type.startswith(SSE) if entry.content_type else facts.stream


def _put_together(told: Mapping[str, object]) -> dict[str, Any]:
    """The answer as far as it is shown, from fields that are named by where they stand."""
    answer: dict[str, Any] = {}
    # Objects last: they hold all that single fields of them could say.
    for name in sorted(told, key=lambda name: name in _WHOLE):
        value = told[name]
        if name in _WHOLE and isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
                value = None  # cut short, or none of Envoy's: nothing is known of it
        *path, last = name.split(".")[:_DEEPEST]
        place = answer
        for part in path:
            inner = place.get(part)
            if not isinstance(inner, dict):
                inner = place[part] = {}
            place = inner
        if value is not None:
            place[last] = value
    return answer


def _plain(
    answer: dict[str, Any], endpoint: Endpoint, facts: Facts, server: Server
) -> Reading | None:
    usage = answer.get("usageMetadata" if endpoint.dialect.name == "gemini" else "usage")
    if not isinstance(usage, dict) or not usage:
        return None
    reading = endpoint.reading(facts, server)
    reading.whole(msgspec.json.encode(answer))
    return reading


def _stream(
    answer: dict[str, Any], endpoint: Endpoint, facts: Facts, server: Server, *, ended: bool
) -> Reading:
    reading = endpoint.stream_reading(facts, server)
    for event in _events(answer, endpoint, ended=ended):
        reading.note(msgspec.json.encode(event))
    return reading


def _events(
    answer: dict[str, Any], endpoint: Endpoint, *, ended: bool
) -> Iterator[dict[str, object]]:
    """The events of a stream that tell of its usage, as far as they are shown."""
    match endpoint.dialect.name, endpoint.name:
        case "anthropic", _:
            if isinstance(answer.get("message"), dict):
                yield {"type": "message_start", "message": answer["message"]}
            if isinstance(answer.get("usage"), dict):
                delta = answer.get("delta")
                yield {"type": "message_delta", "delta": delta, "usage": answer["usage"]}
        case "openai", "responses":
            response = answer.get("response")
            if isinstance(response, dict) and answer.get("type") in _LAST_EVENTS:
                yield {"type": answer["type"], "response": response}
        case "gemini", _:
            # Which candidates have ended is told in a list: all have, where the stream has.
            candidates = [{"index": 0, "finishReason": "STOP"}] if ended else [{"index": 0}]
            if isinstance(answer.get("usageMetadata"), dict):
                yield {**answer, "candidates": candidates}
        case _:
            if isinstance(answer.get("usage"), dict):
                yield {**answer, "choices": []}


def _is_counted(reading: Reading, endpoint: Endpoint, server: Server, *, ended: bool) -> bool:
    if lacks_usage(reading, cut=not ended):
        return False
    if ended or endpoint.name not in ("chat", "completions"):
        return True
    # Which choices were ended when they were counted is told in a list.
    return server.kind.name in _COUNTS_ONCE
