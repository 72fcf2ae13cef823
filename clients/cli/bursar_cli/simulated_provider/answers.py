"""OpenAI's answers as bytes: what a call produces, written as the wire has it."""

import base64
import hashlib
import json
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.dialect import StreamEvent, StreamPart
from bursar_cli.simulated_provider.plans import AnswerPlan, plan_answer, words
from bursar_cli.simulated_provider.requests import ChatRequest, EmbeddingsRequest
from bursar_cli.simulated_provider.served_calls import BilledUsage

_TOOL_ID: Final = "call_simulated"
DONE = b"data: [DONE]\n\n"


def plan_chat(request: ChatRequest, behaviour: Behaviour) -> AnswerPlan:
    """What `request` will produce; the same request and behaviour give the same plan."""
    return plan_answer(
        behaviour,
        prompt_digest=request.prompt_digest,
        input_llm_tokens=request.input_llm_tokens,
        output_limit=request.output_limit,
        choices=request.choices,
    )


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
    plan: AnswerPlan,
    usage: bytes | None,
    *,
    response_id: str,
    model: str,
    tier: str,
    created_s: int,
    forced_tool: str = "",
) -> bytes:
    """The whole answer of a call that is not streamed."""
    visible = plan.output_per_choice - plan.reasoning_per_choice
    finish = _finish(plan, forced_tool)
    choices = b",".join(
        b'{"index":%d,"message":{"role":"assistant",%s,"refusal":null},'
        b'"logprobs":null,"finish_reason":"%s"}'
        % (index, _said(words(plan.first_word + index, visible), forced_tool), finish)
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


def chat_events(
    plan: AnswerPlan,
    usage: bytes | None,
    *,
    include_usage: bool,
    chunk_llm_tokens: int,
    response_id: str,
    model: str,
    tier: str,
    created_s: int,
    forced_tool: str = "",
    usage_on_the_way: Sequence[dict[str, Any]] = (),
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
    usual = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
    told = iter(usage_on_the_way)

    def event(
        index: int, delta: bytes, finish_reason: bytes = b"null", tail: bytes = usual
    ) -> bytes:
        choice = b'{"index":%d,"delta":%s,"logprobs":null,"finish_reason":%s}'
        return b'%s"choices":[%s%s' % (head, choice % (index, delta, finish_reason), tail)

    visible = plan.output_per_choice - plan.reasoning_per_choice
    # Hidden reasoning is produced, and billed, before the first word is seen.
    produced = plan.reasoning_per_choice * plan.choices
    for index in range(plan.choices):
        opening = b'{"role":"assistant","content":"","refusal":null}'
        yield StreamEvent(event(index, opening), produced, StreamPart.OPENING)
        if forced_tool:
            begun = _called(msgspec.json.encode(forced_tool), b'{\\"text\\":\\"')
            yield StreamEvent(event(index, begun), produced, StreamPart.OPENING)
    for start in range(0, visible, chunk_llm_tokens):
        count = min(chunk_llm_tokens, visible - start)
        for index in range(plan.choices):
            produced += count
            text = words(plan.first_word + index + start, count).encode()
            delta = _called(b"", text) if forced_tool else b'{"content":"%s"}' % text
            partly = next(told, None)
            tail = usual if partly is None else b'],"usage":%s}\n\n' % msgspec.json.encode(partly)
            yield StreamEvent(event(index, delta, tail=tail), produced, StreamPart.OUTPUT)
    for index in range(plan.choices if forced_tool else 0):
        yield StreamEvent(event(index, _called(b"", b'\\"}')), produced, StreamPart.OPENING)
    finish = b'"%s"' % _finish(plan, forced_tool)
    for index in range(plan.choices):
        yield StreamEvent(event(index, b"{}", finish), produced, StreamPart.CLOSING)
    if include_usage and usage is not None:
        yield StreamEvent(
            b'%s"choices":[],"usage":%s}\n\n' % (head, usage), produced, StreamPart.CLOSING
        )
    yield StreamEvent(DONE, produced, StreamPart.CLOSING)


def _finish(plan: AnswerPlan, forced_tool: str) -> bytes:
    ends_well = plan.finish_reason == "stop"
    return b"tool_calls" if forced_tool and ends_well else plan.finish_reason.encode()


def _said(text: str, forced_tool: str) -> bytes:
    """What of a message was produced: text, or the call of a tool with it."""
    if not forced_tool:
        return b'"content":"%s"' % text.encode()
    function = {"name": forced_tool, "arguments": json.dumps({"text": text})}
    call = {"id": _TOOL_ID, "type": "function", "function": function}
    return b'"content":null,"tool_calls":%s' % msgspec.json.encode([call])


def _called(name: bytes, arguments: bytes) -> bytes:
    """The delta of a tool's call: how it begins (its name in JSON), or more of its arguments,
    escaped."""
    begins = b'"id":"%s","type":"function",' % _TOOL_ID.encode() if name else b""
    named = b'"name":%s,' % name if name else b""
    return b'{"tool_calls":[{"index":0,%s"function":{%s"arguments":"%s"}}]}' % (
        begins,
        named,
        arguments,
    )


def embeddings_body(request: EmbeddingsRequest, behaviour: Behaviour, input_count: int) -> bytes:
    """The answer to an embeddings call: unit vectors, the same for the same input."""
    items = []
    for index, text in enumerate(request.inputs):
        vector = unit_vector(text, request.dimensions)
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


def unit_vector(text: bytes, dimensions: int) -> "array[float]":
    """Little-endian 32-bit floats of length 1, derived from the text."""
    raw = array("h", hashlib.shake_128(text).digest(2 * dimensions))
    length = math.sqrt(sum(component * component for component in raw)) or 1.0
    vector = array("f", [component / length for component in raw])
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
