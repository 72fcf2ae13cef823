"""How much of a session may be received and not yet applied."""

import asyncio

from bursar.v1 import allowances_pb2
from bursar_server.allowances.hub import LiveSession, Stream

MOST_FRAMES = 3
MOST_BYTES = 100


def a_session() -> LiveSession:
    stream = Stream(1, 2, "sidecars/s-1", b"", 100)
    return LiveSession(
        stream, 7, 2, "acme", "USD", 0, spender_organization="acme", platform=False
    )  # fmt: skip


async def waits(session: LiveSession) -> bool:
    """Whether there is no room now."""
    waiting = asyncio.ensure_future(session.room(MOST_FRAMES, MOST_BYTES))
    for _ in range(3):
        await asyncio.sleep(0)
    there_is = waiting.done()
    waiting.cancel()
    return not there_is


async def test_there_is_room_for_so_many_frames() -> None:
    session = a_session()
    for seq in (1, 2):
        session.received(seq, 1)
        assert not await waits(session)
    session.received(3, 1)
    assert await waits(session)


async def test_there_is_room_for_so_many_bytes() -> None:
    session = a_session()
    session.received(1, MOST_BYTES - 1)
    assert not await waits(session)
    session.received(2, 1)
    assert await waits(session)


async def test_what_is_applied_makes_room() -> None:
    session = a_session()
    for seq in (1, 2, 3):
        session.received(seq, 40)
    waiting = asyncio.ensure_future(session.room(MOST_FRAMES, MOST_BYTES))
    await asyncio.sleep(0)
    assert not waiting.done()
    session.applied_seq = 1
    session.send(allowances_pb2.ControlFrame())
    async with asyncio.timeout(10):
        await waiting
    assert session.received_seq == 3


async def test_a_frame_of_any_size_goes_when_it_is_alone() -> None:
    session = a_session()
    session.received(1, 10 * MOST_BYTES)
    assert await waits(session)
    session.applied_seq = 1
    assert not await waits(session)
