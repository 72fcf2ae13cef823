"""Image sizes from the first bytes of a file, and what images cost by the published formulas."""

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.llm_tokens import (
    count_image_llm_tokens,
    data_url_image_size,
    image_llm_token_bound,
    image_size,
)
from bursar.llm_tokens.images import _RULES


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02"


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    size = struct.pack(">HBHHB", 17, 8, height, width, 3)
    return b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(10) + before + b"\xff\xc2" + size + bytes(20)


def gif(width: int, height: int, *frame: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    comment = b"\x21\xfe\x03abc\x00"
    return screen + comment + b"\x2c" + struct.pack("<HHHHB", *(frame or (0, 0, 1, 1)), 0)


def webp(kind: bytes, rest: bytes) -> bytes:
    return b"RIFF\x00\x00\x00\x00WEBP" + kind + b"\x00\x00\x00\x00" + rest + bytes(12)


FILES = [
    (png(1024, 768), (1024, 768)),
    (jpeg(640, 480), (640, 480)),
    (jpeg(64, 48, b"\xff\xff\xff\xe1\xff\xff" + bytes(65_533)), (64, 48)),
    (gif(320, 200), (320, 200)),
    (gif(10, 10, 5, 5, 20, 30), (25, 35)),
    (webp(b"VP8X", b"\x10\x00\x00\x00" + b"\x7f\x02\x00\xdf\x01\x00"), (640, 480)),
    (webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 640, 480)), (640, 480)),
    (webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)), (640, 480)),
]


@pytest.mark.parametrize(("data", "size"), FILES)
def test_the_size_is_read_from_the_start_of_the_file(data: bytes, size: tuple[int, int]) -> None:
    assert image_size(data) == size
    url = "data:image/any;base64," + base64.b64encode(data + bytes(400_000)).decode()
    assert data_url_image_size(url) == size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7",
        png(0, 5),
        png(5, 5)[:20],
        b"\xff\xd8" + b"\xff" * 200_000,
        b"\xff\xd8\xff\xda\x00\x02" + bytes(50),
        jpeg(5, 0),
        gif(0, 0)[:12],
        b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\x01a" * 90_000,
        webp(b"ALPH", bytes(20)),
    ],
)
def test_what_tells_no_size_has_none(data: bytes) -> None:
    assert image_size(data) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://host/picture.png",
        "data:image/png,raw",
        "data:image/png;base64,A",
        "data:",
        "x" * 999,
    ],
)
def test_addresses_and_damaged_data_have_no_size(url: str) -> None:
    assert data_url_image_size(url) is None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([data for data, _ in FILES]), st.data())
def test_damaged_files_are_read_without_a_fault(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data[:2_000])
    for _ in range(draw.draw(st.integers(1, 6))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    size = image_size(bytes(damaged[: draw.draw(st.integers(0, len(damaged)))]))
    assert size is None or min(size) > 0


@pytest.mark.parametrize(
    ("model", "size", "detail", "count"),
    [
        ("gpt-4o", (1024, 1024), "high", 765),  # OpenAI's examples
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1-mini", (1024, 1024), "auto", 1659),
        ("gpt-4.1-mini", (1800, 2400), "auto", 2353),
        ("azure/eu/o4-mini", (1024, 1024), "auto", 1762),
        ("gpt-4o-mini", (128, 64), "high", 8500),  # measured, less 12 of text
        ("gpt-4o-mini", (128, 64), "low", 2833),
        ("o3", (128, 64), "high", 225),
        ("gpt-5", (1024, 1024), "high", 630),
        ("claude-sonnet-4-5", (200, 200), "auto", 64),
        ("claude-sonnet-4-5", (8000, 8000), "auto", 1568),
        ("claude-opus-4-7", (8000, 8000), "auto", 4784),
        ("gemini/gemini-2.5-flash", (384, 384), "auto", 258),
        ("gemini/gemini-2.0-flash", (1536, 768), "auto", 516),
    ],
)
def test_images_cost_what_the_published_examples_say(
    model: str, size: tuple[int, int], detail: str, count: int
) -> None:
    found = count_image_llm_tokens(model, size, detail)
    assert (found.llm_tokens, found.is_published) == (count, True)


SIDES = st.one_of(st.integers(1, 65_535), st.sampled_from([1, 28, 32, 384, 385, 512, 768, 2048]))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([name for name, rule in _RULES.items() if rule is not None]),
    st.tuples(SIDES, SIDES),
    st.sampled_from(["low", "high", "auto", "original", "strange"]),
)
def test_no_image_costs_more_than_its_bound(model: str, size: tuple[int, int], detail: str) -> None:
    count = count_image_llm_tokens(model, size, detail).llm_tokens
    bound = image_llm_token_bound(model, size, detail)
    assert bound is not None
    assert count <= bound
    without_size = image_llm_token_bound(model, None, detail)
    if without_size is None:
        assert model.startswith("gemini")
    else:
        assert bound <= without_size


def test_what_no_provider_publishes_has_an_estimate_and_no_bound() -> None:
    for model in ("gpt-6-sol", "grok-4", "never-heard-of", "gemini-3-pro"):
        assert image_llm_token_bound(model, (100, 100)) is None
        found = count_image_llm_tokens(model, (100, 100))
        assert found.llm_tokens > 0
        assert not found.is_published
    assert not count_image_llm_tokens("gpt-4o", None).is_published
