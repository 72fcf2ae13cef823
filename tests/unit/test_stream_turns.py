"""A stream goes on in the turn of the loop that brought it, and a slow reader makes the provider
wait instead of making the sidecar grow."""

from typing import cast

from bursar_sidecar.exchange import HIGH_WATER_BYTES
from bursar_sidecar.upstream_connection import UpstreamConnection
from tests.fakes.raw_wire import RawBench, RawEnd
from tests.fakes.recorded_shapes import asked, chunk, head, request
from tests.fakes.wire import MemoryTransport, delivered

START = head(b"Transfer-Encoding: chunked", kind=b"text/event-stream")
LARGEST_READ_BYTES = 256 * 1024
"""What uvloop reads at once."""


class Open:
    """A bench whose stream has been asked for, and both ends of its connections."""

    def __init__(self, bench: RawBench, provider: RawEnd) -> None:
        self.bench = bench
        self.provider = provider
        assert provider.transport is not None
        assert provider.transport.peer is not None
        self.upstream = cast(UpstreamConnection, provider.transport.peer.protocol)
        assert bench.app.transport is not None
        self.app = bench.app.transport

    def written(self) -> bytes:
        """What was written to the app and not delivered yet: delivery needs a turn of the loop."""
        return b"".join(self.app._inbox)

    def from_provider(self) -> MemoryTransport:
        """The sidecar's end of the provider's connection."""
        assert self.provider.transport is not None
        assert self.provider.transport.peer is not None
        return self.provider.transport.peer


async def opened(**fields: object) -> Open:
    bench = RawBench()
    bench.app.send(request(asked(stream=True, **fields)))
    provider = await bench.provider_end()
    await provider.until(lambda: b"stream_options" in provider.received)
    await delivered()
    return Open(bench, provider)


async def test_head_and_first_event_go_on_before_control_returns_to_the_loop() -> None:
    open_ = await opened()
    event = b'data: {"choices":[]}\n\n'
    open_.upstream.data_received(START + chunk(event))
    assert open_.written().startswith(b"HTTP/1.1 200 OK\r\n")
    assert open_.written().endswith(b"\r\n\r\n" + chunk(event))
    for number in range(5):
        event = b": %d\n\n" % number
        open_.upstream.data_received(chunk(event))
        assert open_.written().endswith(chunk(event))


async def test_the_last_event_and_the_cost_go_on_in_the_same_turn() -> None:
    open_ = await opened()
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    open_.upstream.data_received(START + chunk(usage) + chunk(b"data: [DONE]\n\n"))
    assert b": bursar {" in open_.written()
    assert open_.written().endswith(chunk(b"data: [DONE]\n\n"))
    assert open_.bench.desk.only_outcome.usage.is_exact


async def test_a_slow_reader_makes_the_provider_wait() -> None:
    open_ = await opened()
    open_.app.pause_reading()
    open_.upstream.data_received(START)
    event = b"data: " + b"x" * 30_000 + b"\n\n"
    fed = 0
    while open_.from_provider().is_reading():
        open_.upstream.data_received(chunk(event))
        fed += len(event)
        await delivered()
        assert fed < 10_000_000, "the provider was never made to wait"
    # Two bounds, one to the app and one from the provider, and a read on top of each.
    assert fed <= 2 * (HIGH_WATER_BYTES + LARGEST_READ_BYTES)
    open_.app.resume_reading()
    await open_.bench.app.until(
        lambda: open_.bench.app.received.count(b"data: ") == fed // len(event)
    )
    await delivered()
    assert open_.from_provider().is_reading()
    open_.upstream.data_received(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await open_.bench.app.until(lambda: open_.bench.app.received.endswith(b"0\r\n\r\n"))
    assert open_.bench.app.received.count(b"x" * 30_000) * len(event) == fed
