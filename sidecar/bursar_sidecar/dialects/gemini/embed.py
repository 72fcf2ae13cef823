"""`:embedContent` and `:batchEmbedContents`: an input, and no output that is billed."""

from typing import Final

import msgspec

from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import Facts, checked_model
from bursar_sidecar.dialects.gemini.content import Content
from bursar_sidecar.dialects.gemini.dialect import GeminiEndpoint
from bursar_sidecar.dialects.gemini.fields import COMMON_MODEL, PREFIX, section
from bursar_sidecar.dialects.gemini.generate import check_model, model_changes
from bursar_sidecar.dialects.json_fields import (
    LIST,
    changed,
    field,
    given,
    missing,
    raw,
    top_level,
)
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.reading import MeteredReading, Reading


class Embed(GeminiEndpoint):
    """`:embedContent`: one text."""

    name = "embedContent"
    method = b"embedContent"

    def read(self, asked: Asked, named: str) -> Facts:
        fields = top_level(asked.body)
        model = checked_model(named)
        check_model(fields, model)
        if not given(fields, "content"):
            raise missing("content", "an object")
        content = Content()
        content.add_content(section(fields, "content"))
        return _facts(model, content, asked, fields)

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        return changed(body, facts.fields, model_changes(facts, model))

    def reading(self, facts: Facts, server: Server) -> Reading:
        return MeteredReading("gemini_embed", stream=False)


class BatchEmbed(GeminiEndpoint):
    """`:batchEmbedContents`: many texts, each a request of its own."""

    name = "batchEmbedContents"
    method = b"batchEmbedContents"

    def read(self, asked: Asked, named: str) -> Facts:
        fields = top_level(asked.body)
        model = checked_model(named)
        if not given(fields, "requests"):
            raise missing("requests", "a list of requests")
        content = Content()
        requests = field(fields, "requests", LIST, "a list of requests") or ()
        for index, one in enumerate(requests):
            request = top_level(bytes(one))
            check_model(request, model, f"requests[{index}].")
            content.add_content(section(request, "content", f"requests[{index}]."))
        return _facts(model, content, asked, fields)

    def edited(
        self,
        facts: Facts,
        body: bytes,
        *,
        model: str,
        server: Server,
        output_limit: int | None = None,
    ) -> bytes:
        if model == facts.model:
            return body
        renamed = []
        for one in LIST.decode(facts.fields["requests"]):
            request = top_level(bytes(one))
            request[COMMON_MODEL] = raw(PREFIX + model)
            renamed.append(request)
        return changed(body, facts.fields, {"requests": raw(renamed)})

    def reading(self, facts: Facts, server: Server) -> Reading:
        return MeteredReading("gemini_embed", stream=False)


EMBED: Final = Embed()
BATCH_EMBED: Final = BatchEmbed()


def _facts(model: str, content: Content, asked: Asked, fields: dict[str, msgspec.Raw]) -> Facts:
    return Facts(
        model=model,
        generates=False,
        messages=content.pieces,
        body_bytes=len(asked.body),
        text_only=content.text_only and not content.images,
        unbounded_input=content.unbounded,
        images=tuple(content.images),
        image_bytes=content.image_bytes,
        fields=fields,
    )
