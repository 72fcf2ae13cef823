"""The sidecar's side of counting: every way it fails ends in no count."""

import asyncio

import pytest

from bursar_sidecar.counting import counter as module
from bursar_sidecar.counting.counter import SharedCounter, Streams, Unavailable
from bursar_sidecar.counting.frames import MAX_FRAME_BYTES, CountAnswer, Text, framed
from tests.fakes.counting import FakeProcess
from tests.fakes.wire import delivered

HELLO = (Text(b"hello world", (5, 11)),)
LONG_S = 3_600.0


class Setting:
    """A counter over a fake process, at a time that the test decides."""

    def __init__(self) -> None:
        self.now = 0.0
        self.process = FakeProcess()
        self.counter = SharedCounter(self.process.connect, lambda: self.now)

    async def produced(self, texts: tuple[Text, ...]) -> int | None:
        """What was counted of the texts."""
        counted = await self.counter.count("o200k_base", texts, b"", LONG_S)
        return None if counted is None else counted.produced

    def ask(self, data: bytes = b"hello") -> "asyncio.Task[int | None]":
        return asyncio.create_task(self.produced((Text(data),)))


async def test_a_count_is_asked_once_and_remembered() -> None:
    setting = Setting()
    first = setting.ask()
    await setting.process.asked()
    setting.process.answer(1, 5)
    assert await first == 5
    assert await setting.ask() == 5
    request = setting.process.peers[0].requests()
    assert len(request) == 1
    assert (request[0].encoding, request[0].texts) == ("o200k_base", (Text(b"hello"),))
    second = setting.ask(b"other")
    await setting.process.asked(2)
    setting.process.answer(2, 7)
    assert await second == 7
    assert len(setting.process.peers) == 1


async def test_only_the_latest_counts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 1)
    setting = Setting()
    for number, data in enumerate((b"a", b"b", b"a"), 1):
        count = setting.ask(data)
        await setting.process.asked(number)
        setting.process.answer(number, number)
        assert await count == number


async def test_where_a_text_was_cut_is_part_of_what_is_remembered() -> None:
    setting = Setting()
    for number, ends in enumerate(((), (3,)), 1):
        text = (Text(b"hello", ends),)
        count = asyncio.create_task(setting.produced(text))
        await setting.process.asked(number)
        setting.process.answer(number, number)
        assert await count == number


async def test_messages_are_counted_beside_the_texts_and_remembered_with_them() -> None:
    setting = Setting()
    count = asyncio.create_task(setting.counter.count("o200k_base", HELLO, b'["a"]', LONG_S))
    await setting.process.asked()
    assert setting.process.peers[0].requests()[0].messages == b'["a"]'
    setting.process.readers[0].feed_data(framed(CountAnswer(1, 2, 3)))
    assert await count == (2, 3)
    other = asyncio.create_task(setting.counter.count("o200k_base", HELLO, b'["b"]', LONG_S))
    await setting.process.asked(2)
    setting.process.answer(2, 4)
    assert await other == (4, 0)


async def test_a_late_count_is_no_count() -> None:
    setting = Setting()
    assert await setting.counter.count("o200k_base", HELLO, b"", 0.0) is None


async def test_a_fault_of_the_process_is_no_count() -> None:
    setting = Setting()
    count = setting.ask()
    await setting.process.asked()
    setting.process.answer(1, fault="the ranks cannot be loaded")
    assert await count is None


async def test_a_process_that_ends_leaves_no_count_and_the_next_starts_another() -> None:
    setting = Setting()
    lost = setting.ask()
    await setting.process.asked()
    setting.process.readers[0].feed_eof()
    assert await lost is None
    assert setting.process.peers[0].closed
    again = setting.ask()
    await setting.process.asked(1, connection=2)
    setting.process.answer(2, 3)
    assert await again == 3


async def test_nonsense_from_the_process_ends_the_connection_for_a_while() -> None:
    setting = Setting()
    lost = setting.ask()
    await setting.process.asked()
    setting.process.readers[0].feed_data(b"\xff\xff\xff\xff")
    assert await lost is None
    assert await setting.ask() is None
    assert len(setting.process.peers) == 1


async def test_a_process_that_can_not_be_started_is_tried_again_later() -> None:
    setting = Setting()
    setting.process.refusal = Unavailable("no memory")
    assert await setting.ask() is None
    setting.process.refusal = None
    setting.now = module.START_AGAIN_S - 1
    assert await setting.ask() is None
    assert not setting.process.peers
    setting.now = module.START_AGAIN_S
    count = setting.ask()
    await setting.process.asked()
    setting.process.answer(3, 2)
    assert await count == 2


async def test_while_another_sidecar_starts_it_the_next_try_is_soon() -> None:
    setting = Setting()
    setting.process.refusal = Unavailable("another", module.OTHER_STARTS_S)
    assert await setting.ask() is None
    setting.process.refusal = None
    setting.now = module.OTHER_STARTS_S
    count = setting.ask()
    await setting.process.asked()
    setting.process.answer(2, 2)
    assert await count == 2


async def test_no_more_wait_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    setting = Setting()
    waiting = [setting.ask(b"a"), setting.ask(b"b")]
    await setting.process.asked(2)
    assert await setting.ask(b"c") is None
    setting.process.answer(1, 1)
    setting.process.answer(2, 2)
    assert [await count for count in waiting] == [1, 2]


async def test_what_nobody_waits_for_any_more_still_counts_as_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    setting = Setting()
    given_up = setting.ask(b"a")
    await setting.process.asked()
    given_up.cancel()
    await asyncio.wait((given_up,))
    assert await setting.ask(b"b") is None
    assert len(setting.process.peers[0].requests()) == 1
    # What a process that is gone did not answer, it will not.
    setting.process.readers[0].feed_eof()
    await delivered()
    again = setting.ask(b"c")
    await setting.process.asked(1, connection=2)
    setting.process.answer(2, 7)
    assert await again == 7


async def test_a_text_too_long_is_no_count() -> None:
    setting = Setting()
    assert await setting.ask(bytes(MAX_FRAME_BYTES)) is None


async def test_closing_leaves_nobody_waiting() -> None:
    setting = Setting()
    count = setting.ask()
    await setting.process.asked()
    setting.counter.close()
    assert await count is None
    assert setting.process.peers[0].closed
    assert await setting.ask(b"more") is None


async def test_closing_while_it_starts_leaves_nobody_waiting() -> None:
    starting = asyncio.Event()

    async def never() -> Streams:
        starting.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    counter = SharedCounter(never, lambda: 0.0)
    count = asyncio.create_task(counter.count("o200k_base", HELLO, b"", LONG_S))
    await starting.wait()
    counter.close()
    assert await count is None
