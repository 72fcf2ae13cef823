"""Usage in every shape that providers send, and in every shape that they should not.

The cases are answers and streams in the shapes that the providers document, each with what is to
be read out of it: `tests/data/usage/*.json`.
"""

import copy
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.pricing import charge
from bursar.pricing.book import snapshot
from bursar.usage import (
    DIALECTS,
    MAX_COUNT,
    Metered,
    Stream,
    UnknownDialectError,
    Usage,
    read_stream,
    read_usage,
)
from bursar.usage.metered import Call
from bursar.wire import usage_from_proto, usage_to_proto

_DATA = Path(__file__).parents[1] / "data" / "usage"
_DECODER = msgspec.json.Decoder(list[dict[str, Any]], float_hook=Decimal)
_ENCODER = msgspec.json.Encoder(decimal_format="number")

CASES = {
    f"{case['dialect']}: {case['name']}": case
    for path in sorted(_DATA.glob("*.json"))
    for case in _DECODER.decode(path.read_bytes())
}
PLAIN = {name: case for name, case in CASES.items() if "answer" in case}
STREAMS = {name: case for name, case in CASES.items() if "events" in case}


def known_of(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("request", "headers") if name in case}


def named(event: Any) -> tuple[Any, str]:
    """An event and the name that travels beside it."""
    return (event[1], event[0]) if isinstance(event, list) else (event, "")


def fed(case: dict[str, Any], events: list[Any], *, encoded: bool = False) -> Stream:
    stream = read_stream(case["dialect"], **known_of(case))
    for event in events:
        data, name = named(event)
        stream.feed(_ENCODER.encode(data) if encoded else data, name)
    return stream


def read(case: dict[str, Any], *, encoded: bool = False) -> Metered:
    if "events" in case:
        return fed(case, case["events"], encoded=encoded).metered()
    answer = _ENCODER.encode(case["answer"]) if encoded else case["answer"]
    return read_usage(case["dialect"], answer, **known_of(case))


def facts_of(metered: Metered) -> dict[str, Any]:
    """Everything but the counts, as a case writes it."""
    told = {
        name: getattr(metered, name)
        for name in metered.__struct_fields__
        if name not in ("usage", "parts")
    }
    plain = {
        name: f"{value.normalize():f}" if isinstance(value, Decimal) else value
        for name, value in told.items()
    }
    plain["listed_as"] = list(metered.listed_as)
    return {name: value for name, value in plain.items() if value not in ("", None, {}, [], ())}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("encoded", [False, True])
def test_each_shape_is_read_as_its_provider_means_it(name: str, encoded: bool) -> None:
    case = CASES[name]
    metered = read(case, encoded=encoded)
    usage = metered.usage
    assert case.get("estimated", "") in usage.estimate_reason
    assert usage.is_exact is ("estimated" not in case), usage.estimate_reason
    counts = msgspec.structs.replace(usage, certainty="exact", estimate_reason="")
    assert counts == Usage(**case["usage"])
    assert [(part.model, part.usage) for part in metered.parts] == [
        (model, Usage(**counts)) for model, counts in case.get("parts", [])
    ]
    assert facts_of(metered) == case["metered"]


def test_every_dialect_has_a_case() -> None:
    covered = {case["dialect"] for case in CASES.values()}
    # The same functions under another name.
    same = {
        "azure_openai_completions",
        "azure_openai_embeddings",
        "azure_openai_responses",
        "deepseek_completions",
        "mistral_embeddings",
        "openrouter_completions",
        "openrouter_responses",
        "perplexity_embeddings",
        "vllm_completions",
    }
    assert covered | same == set(DIALECTS)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_exact_only_once_its_last_counts_came(name: str) -> None:
    case = STREAMS[name]
    whole = fed(case, case["events"]).metered()
    for length in range(len(case["events"])):
        stream = fed(case, case["events"][:length])
        if not stream.is_final:
            assert not stream.usage().is_exact
        elif whole.usage.is_exact:
            # Nothing but details and the end itself is still to come.
            assert stream.usage().total_llm_tokens == whole.usage.total_llm_tokens


@pytest.mark.parametrize("name", STREAMS)
def test_an_event_said_twice_counts_once(name: str) -> None:
    case = STREAMS[name]
    twice = [event for event in case["events"] for _ in range(2)]
    assert fed(case, twice).metered() == fed(case, case["events"]).metered()


def test_a_stream_without_its_end_is_no_less_than_the_bounds() -> None:
    stream = read_stream("anthropic_messages", input_bound=90, output_bound=400)
    assert (stream.usage().input, stream.usage().output) == (90, 400)
    stream.feed(
        {
            "type": "message_start",
            "message": {"usage": {"input_tokens": 25, "output_tokens": 1}},
        }
    )
    usage = stream.usage()
    assert (usage.input, usage.output, usage.is_exact) == (90, 400, False)


@pytest.mark.parametrize("event", [b"{", b"[1]", "nonsense", b'{"usage": NaN}', b"\xff", 7, None])
def test_an_event_that_can_not_be_read_makes_an_estimate(event: Any) -> None:
    stream = read_stream("openai_chat", input_bound=5, output_bound=6)
    stream.feed(event)
    assert not stream.usage().is_exact
    assert (stream.usage().input, stream.usage().output) == (5, 6)
    stream.feed(b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}')
    stream.feed(b"[DONE]")
    assert stream.usage() == Usage(input=1, output=2)


def costing(cost: str) -> str:
    return '{"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": ' + cost + "}}"


def test_a_reported_cost_is_what_was_written() -> None:
    digits = "0.1000000000000000055511151231257827"
    body = costing(digits)
    assert read_usage("openrouter_chat", body).reported_cost == Decimal(digits)
    # A caller's own decoding to floats is taken at its shortest.
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.1}
    assert read_usage("openrouter_chat", {"usage": usage}).reported_cost == Decimal("0.1")


@pytest.mark.parametrize(
    "cost", ["-1", '"1"', "true", "1e99", "1e-99", "1e999999999999999999999", "[]"]
)
def test_a_cost_that_can_not_be_is_none(cost: str) -> None:
    body = costing(cost)
    metered = read_usage("openrouter_chat", body)
    assert metered.reported_cost is None
    assert metered.usage == Usage(input=1, output=1)


@pytest.mark.parametrize(
    ("name", "provider", "beside"),
    [
        ("xai_chat: xAI chat: reasoning beside the completion, cost in ticks", "xai", "0"),
        # Three searches of X at $5 per 1,000, which the price list does not have.
        (
            "xai_responses: xAI response that searched X three times",
            "xai",
            "0.015",
        ),
        (
            "perplexity_chat: Perplexity deep research: reasoning, citations and searches beside",
            "perplexity",
            "0",
        ),
        (
            "perplexity_chat: Perplexity search model with a fee by context size",
            "perplexity",
            "0",
        ),
    ],
)
def test_what_was_read_costs_what_the_provider_says(name: str, provider: str, beside: str) -> None:
    """Answers that users published, with what was billed for them."""
    metered = read(CASES[name])
    price = snapshot().lookup(metered.model, provider)
    assert price is not None
    assert metered.reported_cost is not None
    cost = charge(price, metered.usage).cost + Decimal(beside)
    # Perplexity rounds each of its five amounts to five decimals.
    assert abs(cost - metered.reported_cost) < Decimal("0.00001")


def test_the_document_tells_how_a_dialect_is_added() -> None:
    text = (_DATA.parents[2] / "docs" / "usage.md").read_text()
    example = re.search(r"```python\n# clients/python/bursar/usage/acme.py\n(.*?)```", text, re.S)
    assert example is not None
    acme: dict[str, Any] = {"__name__": "bursar.usage.acme", "__package__": "bursar.usage"}
    exec(example[1], acme)
    (dialect,) = acme["DIALECTS"]
    stream = Stream(dialect, Call(input_bound=9))
    stream.feed(b'{"meter": {"in": 4}}')
    assert not stream.usage().is_exact
    stream.feed(b'{"meter": {"in": 7, "cached": 2, "out": 3}, "last": true}')
    assert stream.usage() == Usage(input=5, cached_input=2, output=3)
    assert not dialect.read({"meter": {"in": 1, "cached": 2, "out": 3}}, Call()).usage.is_exact


def test_dialects_are_named() -> None:
    with pytest.raises(UnknownDialectError, match="expected one of openai_chat"):
        read_usage("carrier_pigeon", b"{}")
    with pytest.raises(UnknownDialectError, match="has no streams"):
        read_stream("openai_embeddings")


def test_a_provider_can_not_name_more_tools_than_can_be_kept() -> None:
    calls = {f"{'t' * 40}{place}_calls": place + 1 for place in range(500)}
    calls["y" * 900] = 1
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "server_side_tool_usage_details": calls}
    metered = read_usage("xai_chat", {"usage": usage})
    assert len(metered.tool_calls) <= 48
    assert not metered.usage.is_exact
    assert usage_from_proto(usage_to_proto(metered.usage)) == metered.usage


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in a JSON value, itself first."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = copy.deepcopy(value)
    at(copied, path[:-1])[path[-1]] = new
    return copied


def is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def said_by(case: dict[str, Any]) -> tuple[str, Any]:
    """What a case lets the provider say, and under which name."""
    return ("answer", case["answer"]) if "answer" in case else ("events", case["events"])


NUMBERS = [
    (name, path)
    for name, case in CASES.items()
    if "estimated" not in case
    for path in leaves(said_by(case)[1])
    if is_number(at(said_by(case)[1], path))
]
NONSENSE = [-1, True, "7", Decimal("1.5"), Decimal("NaN"), float("inf"), 10**13, -(10**5000), [1]]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda value: str(type(value).__name__))
def test_nonsense_in_place_of_any_number_is_never_exact(nonsense: Any) -> None:
    assert len(NUMBERS) > 400
    believed = []
    for name, path in NUMBERS:
        case = CASES[name]
        key, said = said_by(case)
        before = read(case)
        after = read({**case, key: changed(said, path, nonsense)})
        if nonsense == Decimal("1.5") and str(path[-1]).endswith(("seconds", "duration")):
            continue
        if after.usage.is_exact and after.usage != before.usage:
            believed.append((name, path))
    assert believed == []


@pytest.mark.parametrize("nonsense", [None, 3, "x", [], [7], True], ids=str)
def test_nonsense_in_place_of_the_usage_is_never_exact(nonsense: Any) -> None:
    believed = []
    for name, case in PLAIN.items():
        for key in ("usage", "meta", "usageMetadata", "usage_info"):
            if key not in case["answer"] or "speech" in name:
                continue
            after = read({**case, "answer": {**case["answer"], key: nonsense}})
            silent = case["dialect"] == "xai_images" or "DALL-E" in name
            by_another = name.startswith(("bedrock_invoke", "openai_transcription", "openai_imag"))
            if after.usage.is_exact and not silent and not by_another:
                believed.append((name, key))
    assert believed == []


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**14), 10**14)
    | st.floats()
    | st.decimals()
    | st.text(max_size=4)
)
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
_FIELD_NAMES = st.sampled_from(
    sorted(
        {
            step
            for case in CASES.values()
            for path in leaves(case.get("answer", case.get("events")))
            for step in path
            if isinstance(step, str)
        }
    )
)
_TELLING = st.recursive(
    _LEAVES | st.integers(0, 50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_FIELD_NAMES, inner, max_size=5),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(DIALECTS)), _ANYTHING | _TELLING, st.none() | st.integers(0, 99))
def test_no_answer_makes_reading_fail(dialect: str, answer: Any, bound: int | None) -> None:
    metered = read_usage(dialect, answer, input_bound=bound, output_bound=bound)
    assert metered.usage.is_exact or metered.usage.estimate_reason
    assert usage_from_proto(usage_to_proto(metered.usage)) == metered.usage
    if DIALECTS[dialect].fold is not None:
        stream = read_stream(dialect, input_bound=bound, output_bound=bound)
        stream.feed(answer)
        assert stream.usage().is_exact or stream.usage().estimate_reason


@settings(deadline=None)
@given(st.data())
def test_no_change_to_an_answer_makes_reading_fail(data: st.DataObject) -> None:
    case = CASES[data.draw(st.sampled_from(sorted(CASES)))]
    key = "events" if "events" in case else "answer"
    content = case[key]
    for _ in range(data.draw(st.integers(1, 3))):
        paths = [path for path in leaves(content) if path]
        if not paths:
            break
        content = changed(
            content, data.draw(st.sampled_from(paths)), data.draw(_ANYTHING | _TELLING)
        )
    if key == "answer":
        answer = content if isinstance(content, dict) else {}
        usage = read({**case, "answer": answer}).usage
    else:
        stream = read_stream(case["dialect"], **known_of(case))
        for event in data.draw(st.permutations(content if isinstance(content, list) else [])):
            is_named = isinstance(event, list) and len(event) == 2 and isinstance(event[0], str)
            stream.feed(*(reversed(event) if is_named else [event]))
        usage = stream.usage()
    assert usage.is_exact or usage.estimate_reason
    assert usage.total_llm_tokens <= 5 * MAX_COUNT
    # Whatever a provider sent, the control plane takes what was read of it.
    assert usage_from_proto(usage_to_proto(usage)) == usage


@settings(deadline=None)
@given(st.sampled_from(sorted(DIALECTS)), st.binary(max_size=40) | st.text(max_size=40))
def test_no_bytes_make_reading_fail(dialect: str, body: bytes | str) -> None:
    usage = read_usage(dialect, body).usage
    assert usage.is_exact or usage.estimate_reason
