"""Embeddings: an input of text or LLM tokens, and no output that is billed."""

from typing import Any, Final

import msgspec

from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.json_fields import LIST, STRING, Fields, changed, field, missing
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.dialect import OpenAIEndpoint
from bursar_sidecar.dialects.openai.request import common_changes, read_common
from bursar_sidecar.dialects.reading import MeteredReading, Reading


class _Answer(msgspec.Struct):
    model: Any = None
    usage: Any = None


_answer = msgspec.json.Decoder(_Answer)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


class EmbeddingsReading(Reading):
    """An answer whose usage is of its input alone."""

    __slots__ = ()

    def whole(self, body: bytes) -> None:
        # Vectors are skipped, not decoded: they can be a hundred megabytes.
        try:
            answer = _answer.decode(body)
        except _UNREADABLE:
            self.unreadable = "an answer that is not valid JSON"
            return
        self.model = answer.model if isinstance(answer.model, str) else ""
        self.usage = answer.usage
        self.usage_is_final = self.usage is not None


class Embeddings(OpenAIEndpoint):
    """`POST /v1/embeddings`."""

    name = "embeddings"
    path = b"/embeddings"

    def read(self, asked: Asked, named: str) -> Facts:
        common = read_common(asked.body, named)
        return Facts(
            generates=False,
            model=common.model,
            messages=_inputs(common.fields),
            body_bytes=len(asked.body),
            service_tier=common.service_tier,
            tags=common.tags,
            customer=common.customer,
            fields=common.fields,
        )

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        return changed(body, facts.fields, common_changes(facts, model))

    def reading(self, facts: Facts, server: Server) -> Reading:
        reader = server.kind.readers.get(self.name)
        return EmbeddingsReading() if reader is None else MeteredReading(reader, stream=False)


EMBEDDINGS: Final = Embeddings()


def _inputs(fields: Fields) -> int:
    value = fields.get("input")
    if value is None:
        raise missing("input", "a string or a list")
    if bytes(memoryview(value)[:1]) != b"[":
        field(fields, "input", STRING, "a string or a list")
        return 1
    items = field(fields, "input", LIST, "a string or a list")
    return len(items or [])
