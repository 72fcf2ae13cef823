"""A body that has to be edited keeps every byte but those of the fields that change."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar_sidecar.dialects.json_fields import changed, raw, top_level
from tests.fakes.sidecar_bench import Bench, chat_answer

SPACE = st.sampled_from([b"", b"", b" ", b"\n  ", b"\t", b"\r\n"])
NAMES = st.sampled_from(
    ["model", "stream", "tags", "a,b", 'q"', "back\\slash", "{", "}:", "ключ", "\n", ""]
)
VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1.5e300,
        "",
        "a,b",
        '}"',
        "\\",
        "ключ",
        [],
        {},
        [1, {"a": [2]}],
        {"model": "}"},
    ]
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[tuple[str, bytes, bytes, bytes]], bytes, bytes]:
    """Members (name, what stands before the value, the value, what stands behind it), and what is
    before and behind the object."""
    members = []
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        written = json.dumps(name, ensure_ascii=draw(st.booleans())).encode()
        before = draw(SPACE) + written + draw(SPACE) + b":" + draw(SPACE)
        spaced = {} if draw(st.booleans()) else {"indent": 1}
        value = json.dumps(draw(VALUES), **spaced).encode()  # type: ignore[arg-type]  # an int
        members.append((name, before, value, draw(SPACE)))
    return members, draw(SPACE), draw(SPACE)


def joined(members: list[tuple[str, bytes, bytes, bytes]], before: bytes, behind: bytes) -> bytes:
    inside = b",".join(b"".join(member[1:]) for member in members)
    return before + b"{" + (inside if members else b" ") + b"}" + behind


CHANGES = st.dictionaries(NAMES, st.none() | VALUES.map(lambda value: [value]), max_size=4)


@settings(deadline=None)
@given(bodies(), CHANGES)
def test_it_means_what_was_wanted(whole: Any, wanted: dict[str, list[Any] | None]) -> None:
    body = joined(*whole)
    fields = top_level(body)
    changes = {name: None if value is None else raw(value[0]) for name, value in wanted.items()}
    edited = changed(body, fields, changes)
    expected = {**json.loads(body), **{name: v[0] for name, v in wanted.items() if v is not None}}
    expected = {name: v for name, v in expected.items() if wanted.get(name, []) is not None}
    assert json.loads(edited) == expected
    assert list(json.loads(edited)) == list(expected)
    assert top_level(edited).keys() == expected.keys()


@settings(deadline=None)
@given(bodies(), st.data())
def test_a_field_that_is_set_changes_its_value_alone(whole: Any, data: st.DataObject) -> None:
    members, before, behind = whole
    body = joined(*whole)
    picked = data.draw(st.sets(st.sampled_from([m[0] for m in members]))) if members else set()
    edited = changed(body, top_level(body), {name: raw("new") for name in picked})
    replaced = [(n, b, b'"new"' if n in picked else v, e) for n, b, v, e in members]
    assert edited == joined(replaced, before, behind)


@settings(deadline=None)
@given(bodies())
def test_a_new_field_comes_behind_the_last(whole: Any) -> None:
    members, before, behind = whole
    members = [member for member in members if member[0] != "new"]
    body = joined(members, before, behind)
    edited = changed(body, top_level(body), {"new": raw(1)})
    if members:
        name, start, value, space = members[-1]
        expected = [*members[:-1], (name, start, value + b',"new":1', space)]
        assert edited == joined(expected, before, behind)
    else:
        assert edited == before + b'{"new":1 }' + behind


@settings(deadline=None)
@given(bodies(), st.data())
def test_what_stays_keeps_its_bytes_when_others_go(whole: Any, data: st.DataObject) -> None:
    members, _, _ = whole
    body = joined(*whole)
    gone = data.draw(st.sets(st.sampled_from([m[0] for m in members]))) if members else set()
    edited = changed(body, top_level(body), dict.fromkeys(gone))
    at = 0
    for name, before, value, _ in members:
        if name not in gone:
            text = before.lstrip() + value
            at = edited.index(text, at) + len(text)
    assert edited.count(b"\n") <= body.count(b"\n")


@pytest.mark.parametrize(
    ("body", "changes", "edited"),
    [
        (b'{"a": 1, "b": 2}', {"a": 3}, b'{"a": 3, "b": 2}'),
        (b'{"a": 1, "b": 2}', {"a": None}, b'{"b": 2}'),
        (b'{"a": 1, "b": 2}', {"b": None}, b'{"a": 1}'),
        (b'{"a": 1, "b": 2}', {"a": None, "b": None}, b"{}"),
        (b'{\n  "a": 1,\n  "b": 2\n}\n', {"a": None}, b'{\n  "b": 2\n}\n'),
        (b'{\n  "a": 1\n}\n', {"c": True}, b'{\n  "a": 1,"c":true\n}\n'),
        (b" { } ", {"c": True}, b' {"c":true } '),
        (b'{"a": {"x" : 1.0}, "b": 2}', {"a": None, "c": 1}, b'{"b": 2,"c":1}'),
        (b'{"a": 1}', {"a": None, "c": 1}, b'{"c":1}'),
        (b'{"a": 1}', {"z": None}, b'{"a": 1}'),
    ],
)
def test_examples(body: bytes, changes: dict[str, Any], edited: bytes) -> None:
    given = {name: None if value is None else raw(value) for name, value in changes.items()}
    assert changed(body, top_level(body), given) == edited


def test_fields_of_another_body_are_noticed() -> None:
    other = {"x": msgspec.Raw(b"1"), "y": msgspec.Raw(b"2")}
    with pytest.raises(ValueError, match="not the fields"):
        changed(b'{"x": 1}', other, {"y": raw(3)})


async def test_a_streamed_chat_keeps_its_white_space_on_the_wire() -> None:
    bench = Bench()
    body = (
        b'{\r\n  "model" : "gpt-4o-mini" ,\r\n\t"stream":true,"max_tokens":  10,\r\n'
        b'  "messages": [ {"role": "user", "content": "\\u0041"} ],\r\n  "tags" : ["a"]\r\n}\r\n'
    )
    bench.post(body)
    call = await bench.provider.request()
    assert call.requests[0] == body.replace(b',\r\n  "tags" : ["a"]', b"").replace(
        b'"} ]', b'"} ],"stream_options":{"include_usage":true}'
    )
    call.send_json(chat_answer())


INNER = b'{ "trace" : "t-1" ,\n "tags" : [ "a" ], "n":\t"1" }'
WITHOUT = b'{ "trace" : "t-1", "n":\t"1" }'


@pytest.mark.parametrize(
    ("path", "inner", "sent"),
    [
        ("/v1/chat/completions", INNER, WITHOUT),
        ("/v1/messages", b'{ "tags":["a"],  "user_id" : "u" }', b'{ "user_id" : "u" }'),
        # Which of two equal names counts differs between readers: what was read goes on.
        ("/v1/chat/completions", b'{"tags":["a"],"x":"1","tags":["b"]}', b'{"x":"1"}'),
        ("/v1/messages", b'{"user_id":"u","tags":["b"],"user_id":"w"}', b'{"user_id":"w"}'),
    ],
)
async def test_inside_a_field_all_stays_but_what_is_ours(
    path: str, inner: bytes, sent: bytes
) -> None:
    upstream = {"name": "anthropic", "kind": "anthropic"} if path == "/v1/messages" else {}
    bench = Bench(upstream=upstream)
    model = b"claude-haiku-4-5" if upstream else b"gpt-4o-mini"
    body = (
        b'{"metadata": %b, "max_tokens": 9, "model":"%b","messages":[]}' % (inner, model)
    ).replace(b'"messages":[]', b'"messages":[{"role":"user","content":"hi"}]')
    bench.post(body, path)
    assert (await bench.provider.request()).requests[0] == body.replace(inner, sent)


async def test_options_of_a_stream_are_added_to() -> None:
    bench = Bench()
    options = b'{ "include_obfuscation" : false }'
    body = (
        b'{"model":"gpt-4o-mini","stream":true,"max_tokens":9,"stream_options": %b,'
        b' "messages":[{"role":"user","content":"hi"}]}'
    ) % options
    bench.post(body)
    sent = b'{ "include_obfuscation" : false,"include_usage":true }'
    assert (await bench.provider.request()).requests[0] == body.replace(options, sent)


@pytest.mark.parametrize("path", ["/v1/chat/completions?", "/v1/chat/completions??", "/v1/files?"])
async def test_a_query_with_nothing_in_it_stays(path: str) -> None:
    bench = Bench()
    if "files" in path:
        bench.app.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bk-test\r\n\r\n"
                       .encode())  # fmt: skip
    else:
        bench.post({"model": "gpt-4o-mini", "messages": [], "max_tokens": 1}, path)
    assert (await bench.provider.request()).targets == [path]
