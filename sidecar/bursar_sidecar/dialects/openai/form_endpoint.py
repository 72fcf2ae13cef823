"""What the endpoints that take forms, or JSON, have in common."""

from collections.abc import Mapping
from typing import Any

import msgspec

from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import (
    DialectError,
    Facts,
    Media,
    check_label,
    checked_model,
)
from bursar_sidecar.dialects.forms import Form, read_form
from bursar_sidecar.dialects.json_fields import changed, missing, shown, top_level
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.dialect import OpenAIEndpoint
from bursar_sidecar.dialects.openai.request import Common, common_changes, common_of
from bursar_sidecar.dialects.reading import LAST, MeteredReading, Reading


class MediaReading(MeteredReading):
    """An answer of pictures or sound; of a stream, `ends` is how its last event is called."""

    __slots__ = ("_ends",)

    def __init__(
        self, usage_name: str, *, stream: bool, request: Mapping[str, Any], ends: str = ""
    ) -> None:
        super().__init__(usage_name, stream=stream, request=request)
        self._ends = ends.encode()

    def note(self, payload: bytes) -> int:
        if payload == b"[DONE]":
            return LAST
        verdict = super().note(payload)
        is_last = self._ends and self.usage_is_final and self._ends in payload[:200]
        return LAST if is_last else verdict


class MediaEndpoint(OpenAIEndpoint):
    """An endpoint of pictures or sound."""

    reader: str
    """The reader of `bursar.usage` for its answers."""
    ends = ""
    """What the last event of a stream is called, where it has one."""

    def read(self, asked: Asked, named: str) -> Facts:
        content_type = asked.header(b"content-type")
        if content_type.lower().startswith(b"multipart/"):
            form = read_form(content_type, asked.body)
            common = _form_common(form, named)
            given: Mapping[str, Any] = _Texts(form)
        else:
            form = None
            common = common_of(top_level(asked.body), named)
            given = _Json(common.fields)
        return Facts(
            model=common.model,
            stream=given["stream"] in (True, "true", "True", "1"),
            generates=False,
            body_bytes=len(asked.body),
            service_tier=common.service_tier,
            text_only=False,
            usage_asked=True,
            tags=common.tags,
            customer=common.customer,
            media=self.media(common.model, given, form),
            fields=common.fields,
        )

    def media(self, model: str, given: Mapping[str, Any], form: Form | None) -> Media:
        """What is made or heard; `given` are the request's fields, None where one is not there."""
        raise NotImplementedError

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        if facts.fields:
            return changed(body, facts.fields, common_changes(facts, model))
        if model == facts.model:
            return body
        # Only the value of the field changes; what is around it is read again to find it.
        mark = body[2 : body.index(b"\r\n")]
        form = read_form(b'multipart/form-data; boundary="%b"' % mark, body)
        return form.changed({"model": model})

    def reading(self, facts: Facts, server: Server) -> Reading:
        told = facts.media.told if facts.media is not None else {}
        reader = server.kind.readers.get(self.name, self.reader)
        return MediaReading(reader, stream=False, request=told)

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        told = facts.media.told if facts.media is not None else {}
        return MediaReading(self.reader, stream=True, request=told, ends=self.ends)


class _Texts(dict[str, Any]):
    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def __missing__(self, name: str) -> Any:
        return self._form.text(name) or None


class _Json(dict[str, Any]):
    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        super().__init__()
        self._fields = fields

    def __missing__(self, name: str) -> Any:
        value = self._fields.get(name)
        return None if value is None else msgspec.json.decode(value)


def whole(given: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """A whole number among a request's fields. Raises DialectError."""
    value = given[name]
    if isinstance(value, str) and value.isdigit() and len(value) < 10:
        value = int(value)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise DialectError(f"{name} is {shown(value)}; expected {low} to {high}.", name)
    return value


def text(given: Mapping[str, Any], name: str) -> str:
    """A text among a request's fields, "" where it is not there. Raises DialectError."""
    value = given[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DialectError(f"{name} is {shown(value)}; expected a string.", name)
    return value


def _form_common(form: Form, named: str) -> Common:
    model = named or form.text("model")
    if not model:
        raise missing("model", "a string")
    customer = form.text("user")
    check_label(customer, "user")
    return Common(
        fields={}, model=checked_model(model), service_tier="", tags=(), customer=customer
    )
