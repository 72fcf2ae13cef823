"""Text completions and moderations: what is read of a request, and what is changed in it."""

import json
from typing import Any

import pytest

from bursar.usage import Usage
from bursar_sidecar.dialects.facts import DialectError
from bursar_sidecar.dialects.openai import COMPLETIONS, MODERATIONS
from bursar_sidecar.dialects.reading import LAST
from tests.fakes.dialect_requests import OPENAI, read

ASKED: dict[str, Any] = {"model": "gpt-3.5-turbo-instruct", "prompt": "once", "max_tokens": 9}


def body_of(**fields: Any) -> bytes:
    return json.dumps({**ASKED, **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "choices", "countable"),
    [
        ({}, 1, True),
        ({"n": 3}, 3, True),
        ({"n": 3, "best_of": 5}, 5, True),
        ({"prompt": ["a", "b"], "n": 2, "best_of": 3}, 6, True),
        ({"prompt": [1, 2, 3]}, 1, False),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4, False),
        ({"prompt": [[1, 2], "b"]}, 2, False),
        ({"prompt": None}, 1, False),
    ],
)
def test_everything_that_is_billed_counts(
    fields: dict[str, Any], choices: int, countable: bool
) -> None:
    facts = read("completions", body_of(**fields))
    assert (facts.choices, facts.output_limit) == (choices, 9)
    assert (facts.prompt is not None) is countable


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": 4}, "prompt"),
        ({"n": 0}, "n"),
        ({"best_of": 129}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt": ["a"] * 2_049}, "prompt"),
    ],
)
def test_what_the_cost_depends_on_must_be_readable(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(DialectError) as caught:
        read("completions", body_of(**fields))
    assert caught.value.param == param


def test_its_output_limit_has_one_field() -> None:
    body = body_of(max_tokens=None, max_completion_tokens=5)
    facts = read("completions", body)
    assert facts.output_limit is None
    sent = COMPLETIONS.edited(facts, body, model=facts.model, server=OPENAI, output_limit=7)
    assert json.loads(sent)["max_tokens"] == 7


def test_a_stream_that_is_cut_ends_as_text_completions_do() -> None:
    facts = read("completions", body_of(stream=True))
    reading = COMPLETIONS.stream_reading(facts, OPENAI)
    choice = {"index": 0, "text": "upon", "logprobs": None, "finish_reason": None}
    reading.note(json.dumps({"id": "c", "model": "m", "created": 3, "choices": [choice]}).encode())
    assert reading.produced_bytes == 4
    ends, last = COMPLETIONS.cut_events(reading, Usage(output=1))
    said = json.loads(ends.removeprefix(b"data: "))
    assert (said["object"], said["created"]) == ("text_completion", 3)
    assert said["choices"][0] == {**choice, "text": "", "finish_reason": "length"}
    assert reading.note(last.removeprefix(b"data: ").strip()) == LAST


def test_a_moderation_names_a_model_or_takes_the_usual_one() -> None:
    body = b'{"input": "x"}'
    facts = read("moderations", body)
    assert facts.model == "omni-moderation-latest"
    assert MODERATIONS.edited(facts, body, model=facts.model, server=OPENAI) is body
    with pytest.raises(DialectError) as caught:
        read("moderations", b"{}")
    assert caught.value.param == "input"
