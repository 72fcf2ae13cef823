"""What travels between a sidecar and its counting process: length-prefixed messages, bounded."""

from typing import Final

import msgspec

MAX_FRAME_BYTES: Final = 1_048_576
"""Of a request: kept text is 64 kB a stream, and each of its pieces one number."""
MAX_MESSAGES_BYTES: Final = 524_288
"""Of a request's messages that are counted; counting them takes some fifty milliseconds."""
PREFIX_BYTES: Final = 4


class FrameError(ValueError):
    """Bytes that are no frame of ours: the connection is of no more use."""


class Text(msgspec.Struct, frozen=True, array_like=True):
    """One produced text, UTF-8, and where each piece of it ended as it came."""

    data: bytes
    ends: tuple[int, ...] = ()


class CountRequest(msgspec.Struct, frozen=True, array_like=True):
    """`number` is the caller's, and comes back with the answer."""

    number: int
    encoding: str
    texts: tuple[Text, ...]
    """What was produced."""
    messages: bytes = b""
    """What was asked: the JSON of a request's messages; empty where it is not to be counted."""


class CountAnswer(msgspec.Struct, frozen=True, array_like=True):
    """LLM tokens of all texts, and of all strings in the messages; or why there is no count."""

    number: int
    llm_tokens: int = 0
    input_llm_tokens: int = 0
    fault: str = ""


_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(CountRequest)
_answers = msgspec.msgpack.Decoder(CountAnswer)


def framed(message: CountRequest | CountAnswer) -> bytes:
    """The message with its length. Raises FrameError where it is too long."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(payload)} bytes; at most {MAX_FRAME_BYTES}")
    return len(payload).to_bytes(PREFIX_BYTES, "big") + payload


def length_of(prefix: bytes) -> int:
    """How long the payload behind this prefix is. Raises FrameError where it is too long."""
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES}")
    return length


def read_request(payload: bytes) -> CountRequest:
    """Raises FrameError."""
    try:
        request = _requests.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FrameError(str(error)) from None
    for text in request.texts:
        if any(later < end for end, later in zip(text.ends, text.ends[1:], strict=False)) or (
            text.ends and not 0 <= text.ends[0] <= text.ends[-1] <= len(text.data)
        ):
            raise FrameError("the ends of pieces are not in order inside their text")
    return request


def read_answer(payload: bytes) -> CountAnswer:
    """Raises FrameError."""
    try:
        return _answers.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FrameError(str(error)) from None
