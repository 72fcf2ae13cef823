"""What travels to the counting process, what it counts, and when it ends."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.llm_tokens import LlmTokenError, count_llm_tokens
from bursar_sidecar.counting.frames import (
    MAX_FRAME_BYTES,
    PREFIX_BYTES,
    CountAnswer,
    CountRequest,
    FrameError,
    Text,
    framed,
    length_of,
    read_answer,
    read_request,
)
from bursar_sidecar.counting.process import CountingProcess
from bursar_sidecar.counting.work import Idleness, answer, produced, strings_of
from tests.fakes.counting import Peer


def letters(text: str) -> list[int]:
    """A tokenizer that makes one LLM token of two characters."""
    return [0] * -(-len(text) // 2)


@given(st.integers(0, 1 << 60), st.lists(st.binary(max_size=50), max_size=3))
def test_frames_bring_back_what_was_sent(number: int, datas: list[bytes]) -> None:
    texts = tuple(Text(data, (len(data) // 2, len(data))) for data in datas)
    request = CountRequest(number, "o200k_base", texts)
    frame = framed(request)
    payload = frame[PREFIX_BYTES:]
    assert length_of(frame[:PREFIX_BYTES]) == len(payload)
    assert read_request(payload) == request
    said = CountAnswer(number, 7)
    assert read_answer(framed(said)[PREFIX_BYTES:]) == said


def test_frames_too_long_or_of_another_kind_are_refused() -> None:
    with pytest.raises(FrameError, match="at most"):
        framed(CountRequest(1, "o200k_base", (Text(bytes(MAX_FRAME_BYTES)),)))
    with pytest.raises(FrameError, match="at most"):
        length_of(b"\xff\xff\xff\xff")
    for read in (read_request, read_answer):
        with pytest.raises(FrameError):
            read(b"\xc1")


@pytest.mark.parametrize("ends", [(2, 1), (-1, 1), (1, 4)])
def test_pieces_that_do_not_lie_in_their_text_are_refused(ends: tuple[int, ...]) -> None:
    with pytest.raises(FrameError, match="ends of pieces"):
        read_request(framed(CountRequest(1, "o200k_base", (Text(b"abc", ends),)))[PREFIX_BYTES:])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (Text(b""), 0),
        (Text(b"abcd"), 2),
        (Text(b"abcd", (1, 2, 3, 4)), 4),  # as it was sampled, one at a time
        (Text(b"abcd", (1, 1, 2)), 3),
        (Text(b"abcd", (4,)), 2),
    ],
)
def test_a_text_counts_its_pieces_or_its_whole_whichever_is_more(text: Text, count: int) -> None:
    assert produced(text, letters) == count


@settings(deadline=None)  # the first one loads the ranks
@given(st.text(max_size=80), st.data())
def test_cutting_a_text_never_makes_it_count_less(text: str, draw: st.DataObject) -> None:
    data = text.encode("utf-8", "replace")
    ends = tuple(sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=8))))
    whole = count_llm_tokens(data.decode(), "gpt-4o")
    request = CountRequest(1, "o200k_base", (Text(data, ends),))
    counted = answer(request).llm_tokens
    assert counted >= whole
    assert counted >= len({end for end in ends if end})


def test_all_texts_of_a_request_are_summed() -> None:
    request = CountRequest(9, "cl100k_base", (Text(b"hello world"), Text(b"hello world")))
    assert answer(request) == CountAnswer(9, 4)


def test_every_string_of_the_messages_is_counted() -> None:
    messages = b'[{"role":"user","content":[{"type":"text","text":"hello world"}],"n":[1,null]}]'
    assert sorted(strings_of(messages)) == ["hello world", "text", "user"]
    counted = answer(CountRequest(3, "o200k_base", (Text(b"hello"),), messages))
    assert counted == CountAnswer(3, 1, 4)


def test_what_can_not_be_counted_says_why() -> None:
    def damaged(name: str) -> None:
        raise LlmTokenError(f"{name} is damaged")

    assert "unknown" in answer(CountRequest(1, "p50k_base", ())).fault
    assert "no JSON" in answer(CountRequest(1, "o200k_base", (), b"{")).fault
    assert "damaged" in answer(CountRequest(1, "o200k_base", ()), damaged).fault  # type: ignore[arg-type]  # raises instead


def test_it_stays_while_it_is_called_and_ends_when_idle() -> None:
    idle = Idleness(0.0, idle_s=60.0, uncalled_s=10.0)
    assert idle.remaining(9.0) == 1.0
    assert idle.remaining(10.0) <= 0
    idle.came(9.0)
    assert idle.remaining(10.0) == 59.0
    idle.worked(60.0)
    assert idle.remaining(119.0) == 1.0
    assert idle.remaining(120.0) <= 0


def test_it_ends_with_its_last_sidecar() -> None:
    idle = Idleness(0.0)
    idle.came(1.0)
    idle.came(1.0)
    idle.left()
    assert idle.remaining(2.0) > 0
    idle.left()
    assert idle.remaining(2.0) <= 0


def doubled(request: CountRequest) -> CountAnswer:
    return CountAnswer(request.number, 2 * request.number)


async def test_a_client_gets_its_counts_in_turn_until_it_leaves() -> None:
    process = CountingProcess(lambda: 0.0, answer=doubled)
    reader, peer = asyncio.StreamReader(), Peer()
    for number in (1, 2):
        reader.feed_data(framed(CountRequest(number, "o200k_base", ())))
    reader.feed_eof()
    await process.client(reader, peer)
    assert peer.sent == framed(CountAnswer(1, 2)) + framed(CountAnswer(2, 4))
    assert peer.closed
    await process.until_idle()  # its last client is gone


async def test_a_client_that_sends_nonsense_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    process = CountingProcess(lambda: 0.0, answer=doubled)
    reader, peer = asyncio.StreamReader(), Peer()
    reader.feed_data(b"\xff\xff\xff\xff")
    await process.client(reader, peer)
    assert peer.closed
    assert "at most" in capsys.readouterr().err


async def test_a_process_that_nobody_calls_ends() -> None:
    times = iter([0.0, 100.0])
    await CountingProcess(lambda: next(times)).until_idle()
