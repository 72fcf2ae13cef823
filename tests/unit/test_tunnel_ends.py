"""What flows in a websocket through the sidecar, and every way in which one ends."""

import asyncio
import json

import pytest

from bursar_sidecar.tunnel import CLOSE_GRACE_S, HIGH_WATER_BYTES
from tests.fakes.raw_wire import RawEnd
from tests.fakes.websockets_raw import (
    BY_MINUTE,
    DOLLAR,
    TunnelBench,
    close_of,
    code_in,
    frame,
    taken,
)
from tests.fakes.wire import delivered

FLAT = DOLLAR // 10


def close(end: RawEnd) -> None:
    assert end.transport is not None
    end.transport.close()


async def test_bytes_pass_both_ways_as_they_come() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    said = [b"\x01\x83", b"abc", b"d\x01\x02\x03", b"\x80\x80\x00\x00\x00\x00", bytes(range(256))]
    for piece in said:
        bench.app.send(piece)
        provider.send(piece)
        await delivered()
    assert provider.pieces == said
    assert bench.app.pieces == said


async def test_what_is_no_websocket_passes_too_and_is_not_understood() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    for garbage in (b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n", b"\x81\x7f" + b"\xff" * 8 + b"x"):
        bench.app.send(garbage)
        provider.send(garbage)
        assert await taken(provider) == garbage
        assert await bench.at_app() == garbage
    bench.proxy.tunnels.sweep(bench.clock.seconds)
    drained = asyncio.create_task(bench.proxy.tunnels.drain(0))
    await delivered()
    # Nothing of ours is put among what we do not understand; it is broken off in time.
    assert await bench.at_app() == b""
    await bench.pass_s(CLOSE_GRACE_S)
    await bench.app.until(lambda: bench.app.ended)
    await drained
    assert bench.desk.only_outcome.cost_nanos == FLAT


@pytest.mark.parametrize("first", ["app", "provider"])
async def test_a_closing_handshake_passes_and_settles_once(first: str) -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    sides = [(bench.app, True, provider), (provider, False, bench.app)]
    for source, masked, target in sides if first == "app" else reversed(sides):
        source.send(close_of(1000, masked=masked))
        assert await taken(target) == close_of(1000, masked=masked)
    close(provider)
    await bench.app.until(lambda: bench.app.ended)
    assert bench.desk.open
    close(bench.app)
    await delivered()
    outcome = bench.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos, outcome.http_status) == ("final", FLAT, 101)
    assert outcome.usage.is_exact
    assert outcome.usage.extra == {"request": 1, "minute": 1}


@pytest.mark.parametrize("who", ["app", "provider"])
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_side_that_is_gone_ends_the_other(who: str, how: str) -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    gone, other = (bench.app, provider) if who == "app" else (provider, bench.app)
    gone.send(frame(b"last words", masked=who == "app"))
    await delivered()
    assert gone.transport is not None
    getattr(gone.transport, how)()
    await other.until(lambda: other.ended)
    assert other.received == frame(b"last words", masked=who == "app")
    await bench.pass_s(CLOSE_GRACE_S)
    await delivered()
    assert bench.desk.only_outcome.cost_nanos == FLAT
    assert bench.desk.only_outcome.kind == "aborted"
    assert not bench.server._connections


async def test_an_app_that_half_closes_still_gets_what_the_provider_says() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    assert bench.app.transport is not None
    bench.app.send(close_of(1000, masked=True))
    bench.app.transport.write_eof()
    await provider.until(lambda: provider.ended)
    provider.send(frame(b"more", masked=False) + close_of(1000, masked=False))
    assert await bench.at_app() == frame(b"more", masked=False) + close_of(1000, masked=False)
    close(provider)
    await delivered()
    assert bench.desk.only_outcome.kind == "final"


async def test_a_side_that_does_not_go_is_broken_off() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    close(provider)
    await bench.app.until(lambda: bench.app.ended)
    await bench.pass_s(CLOSE_GRACE_S - 1)
    assert bench.desk.open
    await bench.pass_s(1)
    assert bench.desk.only_outcome.cost_nanos == FLAT


# --- closed from here ------------------------------------------------------------------------


async def test_a_farewell_goes_between_frames_and_nothing_behind_it() -> None:
    bench = TunnelBench(longest_call_s=60)
    provider = await bench.opened()
    long = frame(b"x" * 300, masked=False)
    provider.send(long[:3])
    bench.app.send(frame(b"y" * 70_000, masked=True)[:9])
    await delivered()
    await bench.pass_s(60)
    assert await bench.at_app() == long[:3]
    provider.send(long[3:-1])
    assert await bench.at_app() == long[3:-1]
    provider.send(long[-1:] + frame(b"never seen", masked=False))
    got = await bench.at_app()
    assert got[:1] == long[-1:]
    assert code_in(got[1:]) == 1001
    provider.send(frame(b"nor this", masked=False))
    assert await bench.at_app() == b""
    rest = frame(b"y" * 70_000, masked=True)[9:]
    bench.app.send(rest)
    got = await taken(provider)
    assert got[9 : 9 + len(rest)] == rest
    assert got[9 + len(rest)] == 0x88
    assert got[10 + len(rest)] & 0x80, "the app's frames are masked, and so is ours"
    # The app answers: there is nothing to wait for.
    bench.app.send(close_of(1001, masked=True))
    await bench.app.until(lambda: bench.app.ended)
    close(bench.app)
    close(provider)
    await delivered()
    assert bench.desk.only_outcome.kind == "aborted"


async def test_a_frame_that_never_ends_gets_no_farewell_into_it() -> None:
    bench = TunnelBench(longest_call_s=60)
    provider = await bench.opened()
    provider.send(frame(b"x" * 300, masked=False)[:100])
    await bench.pass_s(60 + CLOSE_GRACE_S)
    await bench.app.until(lambda: bench.app.ended)
    assert bench.app.received == frame(b"x" * 300, masked=False)[:100]


async def test_pings_within_a_message_in_parts_are_no_frame_in_parts() -> None:
    bench = TunnelBench(longest_call_s=60)
    provider = await bench.opened()
    part = frame(b"beginning", masked=False, final=False)
    ping = frame(b"", masked=False, opcode=9)
    provider.send(part + ping)
    await bench.pass_s(60)
    got = await bench.at_app()
    assert got.startswith(part + ping)
    assert code_in(got[len(part + ping) :]) == 1001


async def test_an_idle_one_is_closed() -> None:
    bench = TunnelBench(stall_timeout_s=20)
    provider = await bench.opened()
    for _ in range(3):
        await bench.pass_s(15)
        bench.app.send(frame(b"", masked=True, opcode=9))
        await delivered()
    assert await bench.at_app() == b""
    await bench.pass_s(20)
    got = await bench.at_app()
    assert code_in(got) == 1001
    assert b"stall_timeout_s" in got
    await bench.pass_s(CLOSE_GRACE_S)
    await provider.until(lambda: provider.ended)
    assert not bench.desk.open


async def test_a_line_may_let_it_last_for_less_than_any_call() -> None:
    bench = TunnelBench(BY_MINUTE.__class__(path="/v1/*", provider="openai", flat_price="0",
                                            longest_s=90))  # fmt: skip
    await bench.opened()
    await bench.pass_s(89)
    assert await bench.at_app() == b""
    await bench.pass_s(1)
    assert b"longest_s" in await bench.at_app()


async def test_at_shutdown_both_sides_are_told_before_the_deadline() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    drained = asyncio.create_task(bench.proxy.tunnels.drain(CLOSE_GRACE_S))
    await provider.until(lambda: bool(provider.received))
    assert code_in(await bench.at_app()) == 1001
    told = await taken(provider)
    assert told[:2] == bytes((0x88, 0x82)), "a masked close frame with a code alone"
    for end, masked in ((bench.app, True), (provider, False)):
        end.send(close_of(1001, masked=masked))
        await end.until(lambda end=end: end.ended)  # type: ignore[misc]  # bound at once
        close(end)
    await drained
    await delivered()
    assert bench.desk.only_outcome.cost_nanos == FLAT


async def test_one_that_ends_by_itself_is_waited_for_at_shutdown() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    drained = asyncio.create_task(bench.proxy.tunnels.drain(3_600))
    await delivered()
    assert not drained.done()
    assert await bench.at_app() == b""
    close(provider)
    close(bench.app)
    await drained


async def test_a_server_that_cannot_wait_settles_all_the_same() -> None:
    bench = TunnelBench(BY_MINUTE)
    await bench.opened()
    await bench.server.drain(0)
    assert bench.desk.only_outcome.cost_nanos == FLAT + 3 * FLAT


# --- back-pressure ---------------------------------------------------------------------------


async def test_who_reads_slowly_slows_the_other_down() -> None:
    bench = TunnelBench()
    provider = await bench.opened()
    assert provider.transport is not None
    assert bench.app.transport is not None
    piece = frame(bytes(60_000), masked=False)
    for slow, source in ((bench.app, provider), (provider, bench.app)):
        assert slow.transport is not None
        assert source.transport is not None
        slow.transport.pause_reading()
        sent = 0
        while source.transport.get_write_buffer_size() == 0:
            source.send(piece)
            sent += len(piece)
            await delivered()
            assert sent < 4 * HIGH_WATER_BYTES
        held = slow.transport._inbox_bytes
        assert HIGH_WATER_BYTES < held <= HIGH_WATER_BYTES + 2 * len(piece)
        slow.transport.resume_reading()
        await slow.until(lambda slow=slow, sent=sent: len(slow.received) == sent)  # type: ignore[misc]  # bound at once
        slow.pieces.clear()


async def test_a_side_that_reads_nothing_for_too_long_is_broken_off() -> None:
    bench = TunnelBench(stall_timeout_s=20)
    provider = await bench.opened()
    assert provider.transport is not None
    provider.transport.pause_reading()
    assert bench.app.transport is not None
    while bench.app.transport.get_write_buffer_size() == 0:
        bench.app.send(frame(bytes(60_000), masked=True))
        await delivered()
    for _ in range(25):
        provider.send(frame(b"alive", masked=False))
        await bench.pass_s(1)
    await bench.app.until(lambda: bench.app.ended)
    assert not bench.desk.open


# --- what is shown ---------------------------------------------------------------------------


async def test_it_is_counted_and_shown() -> None:
    bench = TunnelBench(BY_MINUTE)
    provider = await bench.opened()
    bench.app.send(frame(b"hello", masked=True))
    await delivered()
    await bench.pass_s(10)
    shown = bench.proxy.tunnels.described()
    assert json.dumps(shown)
    (row,) = shown["connections"]
    assert row["charge"] == "7-1"
    assert (row["model"], row["path"]) == ("gpt-realtime", "/v1/realtime")
    assert (row["open_for_s"], row["paid_minutes"], row["reserved"]) == (10.0, 1, "0.40")
    assert (row["bytes_from_app"], row["bytes_from_provider"]) == (11, 0)
    assert b"bursar_sidecar_websockets_open 1.0" in bench.proxy.metrics.text()
    close(provider)
    close(bench.app)
    await delivered()
    text = bench.proxy.metrics.text()
    assert b"bursar_sidecar_websockets_open 0.0" in text
    assert b'bursar_sidecar_websockets_total{ended_by="provider"} 1.0' in text
    assert bench.proxy.tunnels.described()["open"] == 0
