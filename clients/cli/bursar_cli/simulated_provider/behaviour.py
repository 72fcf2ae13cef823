"""How the simulated provider is to behave: for all calls, or for one call that says so itself."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

MAX_DELAY_MS = 3_600_000  # an hour: longer than any call a proxy lets live
MAX_LLM_TOKENS = 10_000_000  # ten times the largest context window sold
MAX_OUTPUT_LLM_TOKENS = 1_000_000  # every one is a word that is really sent
MAX_SEARCHES = 100  # in one call; providers stop far below
MAX_HEADER_BYTES = 4_096  # of one `x-simulate` header; all fields together need under 1 kB
CACHED_HEADERS = 1_024  # distinct headers kept decoded; a test uses a handful

BEHAVIOUR_HEADER = "x-simulate"

DelayMs = Annotated[int, msgspec.Meta(ge=0, le=MAX_DELAY_MS)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_LLM_TOKENS)]
OutputCount = Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT_LLM_TOKENS)]
Rate = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class BehaviourError(ValueError):
    """A behaviour that cannot be had; the text names the field and what was expected."""


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set about one call. Times are milliseconds, rates 0 to 1.

    `None` for a count of LLM tokens means: derive it from the request, always the same way.
    """

    latency_ms: DelayMs = 0
    """From the whole request received to the first byte of the answer."""
    input_llm_tokens: Count | None = None
    """Input LLM tokens, cached ones included, as the wire's `prompt_tokens` counts them."""
    output_llm_tokens: OutputCount | None = None
    """Output LLM tokens of each choice, reasoning included; the request's own limit still holds."""
    exceed_output_limit: bool = False
    """Produce `output_llm_tokens` even where the request asked for fewer."""
    cached_input_llm_tokens: Count = 0
    """How many of the input were read from the prompt cache (at most the input)."""
    cache_write_5m_llm_tokens: Count = 0
    """How many of the input were written to the prompt cache for five minutes (Anthropic)."""
    cache_write_1h_llm_tokens: Count = 0
    """How many were written to it for an hour (Anthropic)."""
    reasoning_llm_tokens: OutputCount = 0
    """How many of each choice's output are hidden reasoning (at most the output)."""
    searches: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEARCHES)] = 0
    """Searches made where the request offers the provider's own search (Anthropic, Gemini)."""
    chunk_llm_tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_OUTPUT_LLM_TOKENS)] = 4
    """Visible output LLM tokens in one chunk of a stream."""
    chunk_delay_ms: DelayMs = 0
    """Before each chunk of a stream but the first."""
    error_429_rate: Rate = 0.0
    error_500_rate: Rate = 0.0
    timeout_rate: Rate = 0.0
    """Say nothing for `timeout_ms`, then close the connection."""
    timeout_ms: DelayMs = 600_000
    retry_after_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 1
    """The `Retry-After` of a 429, in seconds."""
    abort_rate: Rate = 0.0
    """Close the connection in the middle of the answer."""
    abort_after_chunks: Annotated[int, msgspec.Meta(ge=0, le=MAX_OUTPUT_LLM_TOKENS)] = 2
    """Chunks of output sent before an aborted or failing stream ends."""
    stall_rate: Rate = 0.0
    """Fall silent after the head of an answer, or `abort_after_chunks` of a stream, for
    `timeout_ms`; then close the connection."""
    stream_error_rate: Rate = 0.0
    """End a stream that began well with an error event; a plain answer is a 500."""
    missing_usage: bool = False
    """Leave the usage out of the answer, asked for or not."""
    reported_usage: dict[str, Any] | None = None
    """Sent word for word in place of the true usage, however wrong."""
    usage_on_the_way: list[dict[str, Any]] = []
    """Told word for word, one with each chunk of output of a stream from the first on (OpenAI's
    chat, Anthropic, Gemini); how a stream ends they don't change."""
    answered_model: Annotated[str, msgspec.Meta(max_length=512)] = ""
    """The model the answer names; empty for the one asked for."""
    llm_tokens_billed_after_cancel: OutputCount = 0
    """Output LLM tokens that go on being made, and billed, once the app hung up."""


_DEFAULT_FIELDS = tuple(field.name for field in msgspec.structs.fields(Behaviour))


def behaviour_from(settings: Mapping[str, object], base: Behaviour, *, origin: str) -> Behaviour:
    """`base` with `settings` laid over it. `origin` names the place to blame in the error.

    Raises BehaviourError naming the field, its value and what was expected.
    """
    merged: dict[str, object] = {name: getattr(base, name) for name in _DEFAULT_FIELDS}
    for name, value in settings.items():
        if name not in merged:
            known = ", ".join(_DEFAULT_FIELDS)
            raise BehaviourError(f"{origin}: unknown field {name!r}; expected one of {known}")
        merged[name] = value
    try:
        behaviour = msgspec.convert(merged, Behaviour)
    except msgspec.ValidationError as error:
        path = str(error).rpartition("`$.")[2].rstrip("`")
        given = f", got {settings[path]!r}" if path in settings else ""
        raise BehaviourError(f"{origin}: {error}{given}") from None
    rates = (
        behaviour.error_429_rate,
        behaviour.error_500_rate,
        behaviour.timeout_rate,
        behaviour.abort_rate,
        behaviour.stall_rate,
        behaviour.stream_error_rate,
    )
    if sum(rates) > 1.0:
        raise BehaviourError(
            f"{origin}: error_429_rate, error_500_rate, timeout_rate, abort_rate, "
            f"stall_rate and stream_error_rate together are {sum(rates):g}; expected at most 1"
        )
    return behaviour


def behaviour_from_header(header: bytes, base: Behaviour) -> Behaviour:
    """What one request's `x-simulate` header (a JSON object) asks for, over `base`.

    Raises BehaviourError.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise BehaviourError(
            f"{BEHAVIOUR_HEADER}: {len(header)} bytes; expected at most {MAX_HEADER_BYTES}"
        )
    try:
        settings = msgspec.json.decode(header)
    except msgspec.DecodeError as error:
        raise BehaviourError(f"{BEHAVIOUR_HEADER}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise BehaviourError(
            f"{BEHAVIOUR_HEADER}: expected a JSON object, got {type(settings).__name__}"
        )
    return behaviour_from(settings, base, origin=BEHAVIOUR_HEADER)
