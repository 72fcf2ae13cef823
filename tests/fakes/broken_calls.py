"""Calls in every dialect that end as they should not, made by apps that speak plain HTTP, so that
they can leave when they like."""

import http.client
import json
import re
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from bursar.v1 import ledger_pb2
from tests.fakes.dialect_apps import bill_nanos
from tests.fakes.provider_bill import entries_of
from tests.fakes.site import Sidecar, Site
from tests.fakes.stack import ServedCall
from tests.fakes.until import DEADLINE_S, until

PROMPT = "Tell me all of it. " * 20
LIMIT = 400
"""LLM tokens of output that each call allows."""
PRODUCED = 300
"""LLM tokens of output that the provider makes of each, where a test says nothing else."""
MILLI_USD = 1_000_000


class Form(NamedTuple):
    """How a dialect's endpoint is called."""

    provider: str
    paths: tuple[str, str]
    """Plain, and as a stream."""
    body: Mapping[str, Any]
    tools: Mapping[str, Any]
    """Fields that force the call of a tool."""
    counts: tuple[str, str, str]
    """What its usage calls input, output and their sum; "" for what it does not tell."""
    streams_by: Mapping[str, Any] = {}
    """Fields that make it a stream."""
    shows: bytes = b""
    """In each event of output."""
    shows_tool: bytes = b""

    def usage(self, given: object, produced: object, total: object = None) -> dict[str, Any]:
        """Counts as the dialect tells them; the sum is theirs where none is given."""
        if total is None and isinstance(given, int) and isinstance(produced, int):
            total = given + produced
        told = dict(zip(self.counts, (given, produced, total), strict=True))
        return {name: count for name, count in told.items() if name and count is not None}


_SCHEMA: Any = {"type": "object", "properties": {"text": {"type": "string"}}}
FORMS: dict[str, Form] = {
    "chat": Form(
        "openai",
        ("/v1/chat/completions", "/v1/chat/completions"),
        {
            "model": "gpt-4o-mini",
            "max_tokens": LIMIT,
            "messages": [{"role": "user", "content": PROMPT}],
        },
        {
            "tools": [{"type": "function", "function": {"name": "look", "parameters": _SCHEMA}}],
            "tool_choice": "required",
        },
        ("prompt_tokens", "completion_tokens", "total_tokens"),
        {"stream": True},
        b'"content":" ',
        b'"arguments":" ',
    ),
    "responses": Form(
        "openai",
        ("/v1/responses", "/v1/responses"),
        {"model": "gpt-4o-mini", "max_output_tokens": LIMIT, "input": PROMPT},
        {},
        ("input_tokens", "output_tokens", "total_tokens"),
        {"stream": True},
        b"output_text.delta",
    ),
    "anthropic": Form(
        "anthropic",
        ("/v1/messages", "/v1/messages"),
        {
            "model": "claude-haiku-4-5",
            "max_tokens": LIMIT,
            "messages": [{"role": "user", "content": PROMPT}],
        },
        {"tools": [{"name": "look", "input_schema": _SCHEMA}], "tool_choice": {"type": "any"}},
        ("input_tokens", "output_tokens", ""),
        {"stream": True},
        b"text_delta",
        b"input_json_delta",
    ),
    "gemini": Form(
        "gemini",
        (
            "/v1beta/models/gemini-2.5-flash:generateContent",
            "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        ),
        {
            "contents": [{"parts": [{"text": PROMPT}]}],
            "generationConfig": {
                "maxOutputTokens": LIMIT,
                "thinkingConfig": {"thinkingBudget": 0},
            },
        },
        {
            "tools": [{"functionDeclarations": [{"name": "look"}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        },
        ("promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
        {},
        b'"text":" ',
        b"functionCall",
    ),
}
STAYS = ""
BEFORE_THE_FIRST_BYTE = "before the first byte"
IN_THE_STREAM = "in the stream"
SHOWN_BEFORE_IT_LEAVES = 3
"""Events of output; where a tool is called, one may be all there is."""


class Caller:
    """An app with a key of its own, whose hard budget pays for what its calls can cost."""

    def __init__(self, site: Site, sidecar: Sidecar, *, budget: int = 1_000 * MILLI_USD) -> None:
        self.site = site
        self.sidecar = sidecar
        self.key, self._secret = site.make_key()
        self.budget = site.make_budget(self.key, budget)
        self.calls: list[str] = []
        self.status = 0
        """Of the last call's answer; 0 where none came."""
        self.answer = b""
        """What came of it."""

    def call(
        self,
        form: Form,
        behaviour: Mapping[str, Any],
        *,
        stream: bool,
        leaves: str = STAYS,
        tools: bool = False,
    ) -> str:
        """One call, to its end or until the app leaves; its id on both sides."""
        connection = self.open(form, behaviour, stream=stream, tools=tools)
        self.status, self.answer = 0, b""
        try:
            if leaves == BEFORE_THE_FIRST_BYTE:
                until(self.is_in_flight, "the provider has the call")
                return self.calls[-1]
            answer = connection.getresponse()
            self.status = answer.status
            shown = form.shows_tool if tools else form.shows
            while piece := answer.read1(65_536):
                self.answer += piece
                enough = 1 if tools else SHOWN_BEFORE_IT_LEAVES
                if leaves and self.answer.count(shown) >= enough:
                    return self.calls[-1]
        except (OSError, http.client.HTTPException):
            pass  # it broke off: what became of it the ledger says
        finally:
            connection.close()
        assert not leaves, self.answer
        return self.calls[-1]

    def open(
        self, form: Form, behaviour: Mapping[str, Any], *, stream: bool, tools: bool = False
    ) -> http.client.HTTPConnection:
        """A call whose answer nobody has read yet."""
        call_id = str(uuid.uuid4())
        self.calls.append(call_id)
        connection = http.client.HTTPConnection(self.sidecar.address, timeout=DEADLINE_S)
        fields = {**form.body, **(form.streams_by if stream else {})}
        connection.request(
            "POST",
            form.paths[stream],
            json.dumps({**fields, **(form.tools if tools else {})}),
            {
                "authorization": f"Bearer {self._secret}",
                "content-type": "application/json",
                "anthropic-version": "2023-06-01",
                "x-simulate": json.dumps({"output_llm_tokens": PRODUCED, **behaviour}),
                "x-simulate-call-id": call_id,
                "x-bursar-tags": f"call:{call_id}",
            },
        )
        return connection

    def is_in_flight(self) -> bool:
        """Whether the provider has a call."""
        with urllib.request.urlopen(f"{self.site.provider_url}/simulated/totals") as told:
            return bool(json.loads(told.read())["in_flight"])

    def settled(self) -> dict[str, tuple[ServedCall, ledger_pb2.Entry]]:
        """What the provider counted of each call, and its one entry; the budget is whole, and holds
        nothing for them any more."""
        until(lambda: set(self.calls) <= self._entries().keys(), "every call is posted")
        served, entries = self.site.served(), self._entries()
        assert entries.keys() == set(self.calls)
        for found in entries.values():
            assert len(found) == 1, found
        self._is_freed()
        spent = sum(found[0].amount.nanos for found in entries.values())
        standing = self.site.standing(self.budget)
        assert standing.settled.nanos == spent
        assert standing.overrun.nanos == 0
        held = standing.settled.nanos + standing.outstanding.nanos + standing.in_doubt.nanos
        assert held <= standing.limit.nanos
        return {call: (served[call], entries[call][0]) for call in self.calls}

    def bill_of(self, form: Form, call: ServedCall) -> int:
        """What the provider counted comes to, in nanos."""
        return bill_nanos(call, form.provider)

    def _entries(self) -> dict[str, list[ledger_pb2.Entry]]:
        return entries_of(self.site.admin, self.key)

    def _is_freed(self) -> None:
        """The sidecar holds nothing for calls in flight."""
        gauges = re.compile(
            r"^bursar_sidecar_(?:reserved_nanos|journal_open_records)\b[^ ]* (\S+)$", re.MULTILINE
        )

        def look() -> bool:
            with urllib.request.urlopen(f"http://{self.sidecar.said['admin']}/metrics") as told:
                values = gauges.findall(told.read().decode())
            # One that has just started has no pools before its session begins.
            return len(values) >= 2 and all(float(value) == 0 for value in values)

        until(look, "what was reserved is free again")
