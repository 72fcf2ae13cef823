"""Forms are read strictly, and sound is bounded by its bytes alone where that can be."""

import struct

import pytest

from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.forms import read_form
from bursar_sidecar.dialects.openai import TRANSCRIPTIONS
from bursar_sidecar.dialects.openai.sound import duration_bound_s
from bursar_sidecar.http_messages import Request
from tests.fakes.dialect_requests import OPENAI

TYPE = b"multipart/form-data; boundary=xx"


def part(name: str, value: bytes, extra: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return b"--xx\r\n" + head.encode() + value + b"\r\n"


END = b"--xx--\r\n"
FILE = part("file", b"sound \r\n--x", '; filename="a.wav"\r\nContent-Type: audio/wav')
BODY = part("model", b"whisper-1") + FILE + part("user", b"u-1") + END


def test_the_fields_of_a_form() -> None:
    form = read_form(b'Multipart/Form-Data; boundary="xx"', BODY)
    assert (form.text("model"), form.text("user"), form.text("none")) == ("whisper-1", "u-1", "")
    (file,) = form.files("file")
    assert form.value(file) == b"sound \r\n--x"
    assert form.text("file") == ""


def test_only_the_value_changes_that_has_to() -> None:
    form = read_form(TYPE, BODY)
    assert form.changed({}) is BODY
    assert form.changed({"model": "w"}) == BODY.replace(b"whisper-1", b"w")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"multipart/form-data", BODY),
        (b"multipart/mixed; boundary=xx", BODY),
        (b"multipart/form-data; boundary=xx; charset=x", BODY),
        (TYPE, b"preamble\r\n" + BODY),
        (TYPE, BODY + b"epilogue"),
        (TYPE, BODY[:-8]),
        (TYPE, BODY.replace(END, b"--xxy" + END)),
        (TYPE, part("model", b"a", "\r\nContent-Transfer-Encoding: base64") + END),
        (TYPE, part("model", b"a", '; name="other"') + END),
        (TYPE, b"--xx\r\nX: y\r\n\r\nz\r\n" + END),
        (TYPE, b"--xx\r\nno blank line" + END),
        (TYPE, part("a", b"b") * 129 + END),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(
    content_type: bytes, body: bytes
) -> None:
    with pytest.raises(DialectError):
        read_form(content_type, body)


def test_a_field_that_decides_the_cost_is_given_once() -> None:
    doubled = part("model", b"whisper-1") + BODY
    request = Request(b"POST", b"/", [(b"content-type", TYPE)], doubled)
    with pytest.raises(DialectError) as caught:
        TRANSCRIPTIONS.read(request, "")
    assert caught.value.code == "duplicate_field"


def test_a_form_is_sent_as_it_came_but_for_the_models_name() -> None:
    request = Request(b"POST", b"/", [(b"content-type", TYPE)], BODY)
    facts = TRANSCRIPTIONS.read(request, "")
    assert (facts.model, facts.customer, facts.stream) == ("whisper-1", "u-1", False)
    assert TRANSCRIPTIONS.edited(facts, BODY, model="whisper-1", server=OPENAI) is BODY
    sent = TRANSCRIPTIONS.edited(facts, BODY, model="w", server=OPENAI)
    assert sent == BODY.replace(b"whisper-1", b"w")


def wav(
    kind: int = 1, channels: int = 1, rate: int = 8_000, bits: int = 16, block: int = 0
) -> bytes:
    block = block or channels * bits // 8
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 0, b"WAVE", b"fmt ", 16, kind, channels, rate,
                       rate * block, block, bits)  # fmt: skip
    return head + bytes(8_000 * 2 * 3 - len(head))


@pytest.mark.parametrize(
    ("sound", "seconds"),
    [
        (wav(), 3),
        (wav(channels=2), 2),
        (wav(rate=16_000, bits=8), 3),
        (wav() + b"x", 4),
        (wav(kind=2), None),
        (wav(rate=0), None),
        (wav(bits=4), None),
        (b"RIFF", None),
        (wav(block=1), None),
        (b"ID3\x04\x00\x00\x00\x00\x00\x05" + bytes(5) + b"\xff\xfb" + bytes(1_983), 2),
        (b"ID3\x04\x00\x00\x00\x00\x00\x05" + bytes(5) + b"\xff\xf1" + bytes(1_983), None),
        (b"ID3" + bytes(1_997), None),
        (b"\xff\xfb" + bytes(999), 2),
        (b"OggS" + bytes(99), None),
        (b"fLaC" + bytes(99), None),
        (b"", None),
    ],
)
def test_how_long_sound_can_be(sound: bytes, seconds: int | None) -> None:
    assert duration_bound_s(sound) == seconds
