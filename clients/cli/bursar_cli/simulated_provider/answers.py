"""The answers as bytes: plans what a call will produce, then writes it as the wire has it."""

import base64
import hashlib
import math
import sys
from array import array
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import msgspec

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.requests import ChatRequest, EmbeddingsRequest
from bursar_cli.simulated_provider.served_calls import BilledUsage

# Without a limit or a setting, an answer is 16 to 256 LLM tokens long, decided by the prompt.
SHORTEST_ANSWER_LLM_TOKENS = 16
ANSWER_LENGTHS = 241

# Each word, its space before it, is one LLM token in the byte-pair encodings in common use, so a
# reader that counts for itself comes to about what is billed.
_WORDS = (
    " the of and to in is that for it as was with be by on not he his but at are this have from"
    " or had an they which one you were all her she there would their we him been has when who"
    " will no more if out so up said what its about than into them can only other time new some"
    " could these two may first then do any like my now over such our man me even most"
)
WORDS = tuple(" " + word for word in _WORDS.split())

DONE = b"data: [DONE]\n\n"


class ChatPlan(NamedTuple):
    """What a chat completion will cost and hold, before a byte of it is sent. LLM tokens."""

    input: int
    cached_input: int
    output_per_choice: int
    reasoning_per_choice: int
    choices: int
    finish_reason: str
    first_word: int

    def billed(self, output: int | None = None, after_cancel: int = 0) -> BilledUsage:
        """The bill for `output` LLM tokens of all choices (all of them by default).

        `after_cancel` more are added as far as the whole answer had them.
        """
        whole = self.output_per_choice * self.choices
        produced = whole if output is None else output
        after_cancel = min(after_cancel, whole - produced)
        return BilledUsage(
            input=self.input,
            cached_input=self.cached_input,
            output=produced + after_cancel,
            reasoning=min(self.reasoning_per_choice * self.choices, produced + after_cancel),
            after_cancel=after_cancel,
        )


def plan_chat(request: ChatRequest, behaviour: Behaviour) -> ChatPlan:
    """What `request` will produce; the same request and behaviour give the same plan."""
    limit = request.output_limit
    if behaviour.output_llm_tokens is None:
        wanted = SHORTEST_ANSWER_LLM_TOKENS + request.prompt_digest % ANSWER_LENGTHS
    else:
        wanted = behaviour.output_llm_tokens
    exceeds = behaviour.exceed_output_limit and behaviour.output_llm_tokens is not None
    output = wanted if limit is None or exceeds else min(wanted, limit)
    given_input = behaviour.input_llm_tokens
    input_llm_tokens = request.input_llm_tokens if given_input is None else given_input
    return ChatPlan(
        input=input_llm_tokens,
        cached_input=min(behaviour.cached_input_llm_tokens, input_llm_tokens),
        output_per_choice=output,
        reasoning_per_choice=min(behaviour.reasoning_llm_tokens, output),
        choices=request.choices,
        finish_reason="length" if output < wanted else "stop",
        first_word=request.prompt_digest % len(WORDS),
    )


def _words(first: int, count: int) -> str:
    start = first % len(WORDS)
    rounds = -(-(start + count) // len(WORDS))
    return "".join((WORDS * rounds)[start : start + count])


def usage_json(billed: BilledUsage, behaviour: Behaviour) -> bytes | None:
    """The wire's `usage` object as the behaviour has it reported; None where it is left out."""
    if behaviour.missing_usage:
        return None
    if behaviour.reported_usage is not None:
        return msgspec.json.encode(behaviour.reported_usage)
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
        % (
            billed.input,
            billed.output,
            billed.input + billed.output,
            billed.cached_input,
            billed.reasoning,
        )
    )


def chat_body(
    plan: ChatPlan, usage: bytes | None, *, response_id: str, model: str, tier: str, created_s: int
) -> bytes:
    """The whole answer of a call that is not streamed."""
    visible = plan.output_per_choice - plan.reasoning_per_choice
    finish = plan.finish_reason.encode()
    choices = b",".join(
        b'{"index":%d,"message":{"role":"assistant","content":"%s","refusal":null},'
        b'"logprobs":null,"finish_reason":"%s"}'
        % (index, _words(plan.first_word + index, visible).encode(), finish)
        for index in range(plan.choices)
    )
    return b"".join(
        (
            b'{"id":"%s","object":"chat.completion","created":%d,"model":%s,'
            % (response_id.encode(), created_s, msgspec.json.encode(model)),
            b'"choices":[%s]' % choices,
            b"" if usage is None else b',"usage":%s' % usage,
            b',"service_tier":%s,"system_fingerprint":"fp_simulated"}' % msgspec.json.encode(tier),
        )
    )


class StreamPart(Enum):
    """Where in a stream an event stands."""

    OPENING = "opening"
    OUTPUT = "output"
    CLOSING = "closing"


class StreamEvent(NamedTuple):
    """One server-sent event and the LLM tokens, of all choices, produced when it is sent."""

    data: bytes
    output_llm_tokens: int
    part: StreamPart


def chat_events(
    plan: ChatPlan,
    usage: bytes | None,
    *,
    include_usage: bool,
    chunk_llm_tokens: int,
    response_id: str,
    model: str,
    tier: str,
    created_s: int,
) -> Iterator[StreamEvent]:
    """The events of a streamed answer, `[DONE]` last.

    With `include_usage` one more chunk, without choices, comes before `[DONE]` and carries the
    usage; the others then say `"usage":null`. If the usage is left out, that chunk is not sent.
    """
    head = (
        b'data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":%s,'
        b'"service_tier":%s,"system_fingerprint":"fp_simulated",'
        % (
            response_id.encode(),
            created_s,
            msgspec.json.encode(model),
            msgspec.json.encode(tier),
        )
    )
    tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def event(index: int, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,"delta":%s,"logprobs":null,"finish_reason":%s}'
        return b'%s"choices":[%s%s' % (head, choice % (index, delta, finish_reason), tail)

    visible = plan.output_per_choice - plan.reasoning_per_choice
    # Hidden reasoning is produced, and billed, before the first word is seen.
    produced = plan.reasoning_per_choice * plan.choices
    for index in range(plan.choices):
        opening = b'{"role":"assistant","content":"","refusal":null}'
        yield StreamEvent(event(index, opening), produced, StreamPart.OPENING)
    for start in range(0, visible, chunk_llm_tokens):
        count = min(chunk_llm_tokens, visible - start)
        for index in range(plan.choices):
            produced += count
            text = _words(plan.first_word + index + start, count).encode()
            delta = b'{"content":"%s"}' % text
            yield StreamEvent(event(index, delta), produced, StreamPart.OUTPUT)
    finish = b'"%s"' % plan.finish_reason.encode()
    for index in range(plan.choices):
        yield StreamEvent(event(index, b"{}", finish), produced, StreamPart.CLOSING)
    if include_usage and usage is not None:
        yield StreamEvent(
            b'%s"choices":[],"usage":%s}\n\n' % (head, usage), produced, StreamPart.CLOSING
        )
    yield StreamEvent(DONE, produced, StreamPart.CLOSING)


def embeddings_body(request: EmbeddingsRequest, behaviour: Behaviour, input_count: int) -> bytes:
    """The answer to an embeddings call: unit vectors, the same for the same input."""
    items = []
    for index, text in enumerate(request.inputs):
        vector = _unit_vector(text, request.dimensions)
        if request.base64:
            encoded: object = base64.b64encode(vector.tobytes()).decode()
        else:
            encoded = vector.tolist()
        items.append({"object": "embedding", "index": index, "embedding": encoded})
    answer: dict[str, object] = {
        "object": "list",
        "data": items,
        "model": behaviour.answered_model or request.model,
    }
    if not behaviour.missing_usage:
        true_usage = {"prompt_tokens": input_count, "total_tokens": input_count}
        answer["usage"] = behaviour.reported_usage or true_usage
    return msgspec.json.encode(answer)


def _unit_vector(text: bytes, dimensions: int) -> "array[float]":
    """Little-endian 32-bit floats of length 1, derived from the text."""
    raw = array("h", hashlib.shake_128(text).digest(2 * dimensions))
    length = math.sqrt(sum(component * component for component in raw)) or 1.0
    vector = array("f", [component / length for component in raw])
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
