"""Compressed bodies: read along, bounded, and refused where readers would differ."""

import gzip
import zlib

import pytest

from bursar_sidecar.content_coding import Decoder, Undecodable, coding_of, decoded, narrowed

TEXT = b'{"model": "m", "messages": []}' * 50


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def gzipped(data: bytes) -> bytes:
    """Without the time of day, so that every run has the same tests."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzipped(TEXT)),
        ("gzip", gzipped(TEXT[:70]) + gzipped(TEXT[70:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
    ],
)
def test_a_body_is_read_whole_and_piece_by_piece(coding: str, body: bytes) -> None:
    assert decoded(body, coding, len(TEXT)) == TEXT
    decoder = Decoder(coding, len(TEXT))
    assert b"".join(decoder.feed(bytes([byte])) for byte in body) == TEXT
    decoder.end()


@pytest.mark.parametrize(
    ("coding", "body", "why"),
    [
        ("gzip", gzipped(TEXT)[:-4], "before its end"),
        ("gzip", b"", "before its end"),
        ("gzip", TEXT, "not valid gzip"),
        ("gzip", gzipped(TEXT)[:-8] + b"\0" * 8, "not valid gzip"),
        ("deflate", b"x", "before its end"),
        ("deflate", zlib.compress(TEXT) + b"more", "after the end"),
    ],
)
def test_what_is_not_whole_is_refused(coding: str, body: bytes, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        decoded(body, coding, 10**6)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzipped(TEXT) + gzipped(b"more")),
        ("gzip", gzipped(TEXT) + b"more"),
        ("deflate", raw_deflate(TEXT)),
    ],
)
def test_what_readers_read_differently_is_refused_of_apps(coding: str, body: bytes) -> None:
    with pytest.raises(Undecodable):
        decoded(body, coding, 10**6, strict=True)
    assert decoded(gzipped(TEXT), "gzip", 10**6, strict=True) == TEXT
    assert decoded(zlib.compress(TEXT), "deflate", 10**6, strict=True) == TEXT


def test_a_bomb_goes_off_at_its_bound() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < 20_000
    with pytest.raises(Undecodable, match="larger"):
        decoded(bomb, "gzip", 100_000)
    with pytest.raises(Undecodable, match="larger"):
        decoded(bomb, "gzip", 10_000_000 - 1)
    assert len(decoded(bomb, "gzip", 10_000_000)) == 10_000_000
    with pytest.raises(Undecodable, match="larger"):
        Decoder("gzip", 10**9, most_a_piece=100_000).feed(bomb)


def test_a_bomb_of_many_members_goes_off_too() -> None:
    with pytest.raises(Undecodable, match="larger"):
        decoded(gzip.compress(bytes(1_000)) * 101, "gzip", 100_000)


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ((), ""),
        ((b"identity",), ""),
        ((b" GZIP ",), "gzip"),
        ((b"x-gzip",), "gzip"),
        ((b"br",), "br"),
        ((b"gzip, br",), "gzip, br"),
        ((b"gzip", b"br"), "gzip, br"),
        ((b"identity", b"gzip"), "gzip"),
    ],
)
def test_the_coding_of_a_message(values: tuple[bytes, ...], coding: str) -> None:
    headers = [(b"host", b"x"), *((b"content-encoding", value) for value in values)]
    assert coding_of(headers) == coding


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (b"gzip, deflate", b"gzip, deflate"),
        (b"gzip, deflate, br, zstd", b"gzip, deflate"),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", b"gzip;q=0.8"),
        (b"gzip,deflate", b"gzip,deflate"),
        (b"br", b"identity"),
        (b"*", b"identity"),
        (b"", b"identity"),
        (b"identity;q=0.5, X-GZIP", b"identity;q=0.5, X-GZIP"),
    ],
)
def test_what_cannot_be_read_is_not_asked_for(asked: bytes, sent: bytes) -> None:
    assert narrowed(asked) == sent
