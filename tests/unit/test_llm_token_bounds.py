"""The bound from bytes alone, against both real tokenizers, on text made to break it."""

import base64
import itertools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bursar.llm_tokens import CL100K, O200K, encoding, text_bound
from bursar.llm_tokens.bounds import _LETTERS

ENCODINGS = (O200K, CL100K)

# Pieces that are cut, merged or left alone in unlike ways: contractions, runs of spaces around the
# longest LLM tokens of spaces, pairs that are no LLM token, digits of other scripts, markers.
ATOMS = st.sampled_from(
    ["'t", "'re", "'ll", "'s", "'d", "'m", "'ve", "'", "''", "'T", "\u2019s"]
    + [" " * n for n in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 78, 79, 80, 81, 159, 160, 161, 400)]
    + ["\n", "\r\n", "\r", "\t", "\n\n\n", "\u00a0", "\u3000", "\u200b", "\x00", "\x7f", "\x0b"]
    + ["\u00e9", "\u00df", "\u017f", "\u0663", "\U0001d7d8", "\U00012000", "\U0001f600", "\u0301"]
    + ["qz", "qj", "bq", "gk", "wv", "A", "Z", "aB", "0", "12", "123", "1234", "1\u0663"]
    + [
        "<|endoftext|>",
        "<|im_start|>",
        "<|fim_prefix|>",
        "_",
        "-",
        "====",
        "\\",
        '"',
        "{",
        "}",
        "/",
    ]
    + [chr(letter) for letter in _LETTERS]
    + list("jkqvxyz")
)
SOUP = st.lists(ATOMS, max_size=60).map("".join)
FEW = st.lists(ATOMS, min_size=1, max_size=3).flatmap(
    lambda few: st.lists(st.sampled_from(few), max_size=80).map("".join)
)
LETTER_RUNS = st.text(alphabet=_LETTERS.decode(), max_size=120)
BASE64 = st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode())
ANY = st.text(max_size=200)


@pytest.mark.parametrize("name", ENCODINGS)
def test_what_the_bound_rests_on_holds_for_the_shipped_ranks(name: str) -> None:
    spelled = set(encoding(name).token_byte_values())
    assert all(bytes(pair) in spelled for pair in itertools.product(_LETTERS, repeat=2))
    assert all(b" " * run in spelled for run in range(1, 80))


@settings(max_examples=600, deadline=None)
@given(st.one_of(SOUP, FEW, LETTER_RUNS, BASE64, ANY))
@example("don't've'rest'll")
@example(" " * 80)
@example("'t" * 40)
@example("\x7fw" * 30)  # nothing merges: each run of one letter costs one
def test_no_text_has_more_llm_tokens_than_its_bound(text: str) -> None:
    forms = (
        text.encode("utf-8", "surrogatepass"),
        json.dumps(text).encode(),
        json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    )
    most = min(text_bound(form) for form in forms)
    assert most <= len(forms[0])
    for name in ENCODINGS:
        assert len(encoding(name).encode_ordinary(text)) <= most


def test_the_bound_is_below_the_bytes_where_it_can_be() -> None:
    prose = b"the rest of the letters are in other words, and so is all that is said here. " * 20
    code = b"        if there is a second line:\n            return the third\n" * 20
    assert text_bound(prose) < 0.85 * len(prose)
    assert text_bound(code) < 0.75 * len(code)
    assert text_bound(b"") == 0
