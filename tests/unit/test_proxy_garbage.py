"""A call that ended holds nothing: its bodies go when the last one lets go of them, not when the
collector of cycles happens to look."""

import gc
from collections.abc import Iterator

import pytest

from tests.fakes.sidecar_bench import CHAT, DONE, USAGE_CHUNK, Bench, chat_answer, chunk
from tests.fakes.wire import delivered

PACKAGE = "bursar_sidecar"


@pytest.fixture(autouse=True)
def nothing_is_collected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def found() -> list[str]:
    """What only the collector could free, of ours."""
    gc.collect()
    kinds = {type(each) for each in gc.garbage}
    return sorted(kind.__name__ for kind in kinds if kind.__module__.startswith(PACKAGE))


async def test_a_plain_call() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(chat_answer())
    await bench.answered()
    await delivered()
    assert found() == []


async def test_a_stream() -> None:
    bench = Bench()
    bench.post({**CHAT, "stream": True})
    call = await bench.provider.request()
    call.start_stream()
    for part in (chunk("fo"), chunk("ur"), USAGE_CHUNK, DONE, b""):
        call.send_chunk(part)
    await bench.answered()
    await delivered()
    assert found() == []


async def test_an_error_of_the_provider() -> None:
    bench = Bench()
    bench.post(CHAT)
    (await bench.provider.request()).send_json(b"{}", status=500)
    await bench.answered()
    await delivered()
    assert found() == []
