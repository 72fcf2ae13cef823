"""What is said on a processing stream: in few messages, bounded, and nothing behind the end."""

import asyncio

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from bursar_sidecar.envoy import header_changes
from bursar_sidecar.envoy.conversation import (
    HIGH_WATER_BYTES,
    MAX_PIECE_BYTES,
    Conversation,
)
from tests.fakes.wire import delivered


class Rpc:
    """Takes a message whenever the test lets it."""

    def __init__(self, *, open_at_once: bool = True) -> None:
        self.messages: list[ext_proc.ProcessingResponse] = []
        self._gate = asyncio.Event()
        if open_at_once:
            self._gate.set()

    async def write(self, message: ext_proc.ProcessingResponse) -> None:
        await self._gate.wait()
        self.messages.append(message)

    def take(self) -> None:
        """All from now on."""
        self._gate.set()


def bodies(rpc: Rpc) -> list[bytes]:
    return [one.response_body.response.body_mutation.streamed_response.body for one in rpc.messages]


async def test_who_takes_little_holds_the_answer_back() -> None:
    conversation, rpc = Conversation(), Rpc(open_at_once=False)
    writing = asyncio.create_task(conversation.run(rpc))
    conversation.body(b"x" * HIGH_WATER_BYTES)
    assert not conversation.paused
    conversation.body(b"x")
    conversation.body(b"x" * MAX_PIECE_BYTES)
    assert conversation.paused
    waiting = asyncio.create_task(conversation.drain())
    await delivered()
    assert not waiting.done()
    rpc.take()
    await waiting
    assert not conversation.paused
    conversation.end()
    await writing
    assert sum(map(len, bodies(rpc))) == HIGH_WATER_BYTES + 1 + MAX_PIECE_BYTES
    assert max(map(len, bodies(rpc))) <= MAX_PIECE_BYTES


async def test_small_pieces_that_wait_become_one_message() -> None:
    conversation, rpc = Conversation(), Rpc(open_at_once=False)
    writing = asyncio.create_task(conversation.run(rpc))
    conversation.body(b"first")
    await delivered()
    for _ in range(100):
        conversation.body(b"piece")
    conversation.end()
    rpc.take()
    await writing
    assert bodies(rpc) == [b"first", b"piece" * 100]
    ends = [
        one.response_body.response.body_mutation.streamed_response.end_of_stream
        for one in rpc.messages
    ]
    assert ends == [False, True]


async def test_nothing_is_said_behind_the_last_word() -> None:
    conversation, rpc = Conversation(), Rpc()
    conversation.body(b"all")
    conversation.immediate(500, [(b"x-a", b"1")], b"no")
    conversation.body(b"more")
    conversation.end()
    conversation.say(ext_proc.ProcessingResponse())
    await conversation.run(rpc)
    assert [one.WhichOneof("response") for one in rpc.messages] == [
        "response_body",
        "immediate_response",
    ]


async def test_who_waits_for_an_envoy_that_is_gone_waits_no_more() -> None:
    conversation = Conversation()
    conversation.body(b"x" * (HIGH_WATER_BYTES + 1))
    waiting = asyncio.create_task(conversation.drain())
    await delivered()
    conversation.gone()
    await waiting
    await conversation.run(Rpc())


@pytest.mark.parametrize(
    ("present", "wanted", "removed", "written"),
    [
        ([(b"a", b"1")], [(b"a", b"1")], [], []),
        ([(b"a", b"1")], [(b"A", b"1")], [], []),
        ([(b"a", b"1"), (b"b", b"2")], [(b"b", b"3")], ["a"], [("b", b"3", 2)]),
        ([(b"a", b"1")], [(b"a", b"1"), (b"a", b"2")], [], [("a", b"1", 2), ("a", b"2", 0)]),
        # Framing is Envoy's own, and so are pseudo-headers.
        ([(b":status", b"200"), (b"content-length", b"3")], [(b"transfer-encoding", b"c")], [], []),
    ],
)
def test_only_what_is_to_change_is_told(
    present: list[tuple[bytes, bytes]],
    wanted: list[tuple[bytes, bytes]],
    removed: list[str],
    written: list[tuple[str, bytes, int]],
) -> None:
    mutation = ext_proc.HeaderMutation()
    header_changes.change(mutation, present, wanted)
    assert list(mutation.remove_headers) == removed
    assert [
        (one.header.key, one.header.raw_value, one.append_action) for one in mutation.set_headers
    ] == written
