"""Moderations: `POST /v1/moderations`; free at OpenAI, priced elsewhere."""

from typing import Final

from bursar_sidecar.dialects.dialect import Asked
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.json_fields import changed, missing
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.dialect import OpenAIEndpoint
from bursar_sidecar.dialects.openai.embeddings import EmbeddingsReading
from bursar_sidecar.dialects.openai.request import common_changes, read_common
from bursar_sidecar.dialects.reading import MeteredReading, Reading

DEFAULT_MODEL: Final = "omni-moderation-latest"
"""What OpenAI takes where a request names none (`types/moderation_create_params.py`)."""


class Moderations(OpenAIEndpoint):
    """`POST /v1/moderations`."""

    name = "moderations"
    path = b"/moderations"
    deployed = False

    def read(self, asked: Asked, named: str) -> Facts:
        common = read_common(asked.body, named, default_model=DEFAULT_MODEL)
        if "input" not in common.fields:
            raise missing("input", "a string or a list")
        return Facts(
            generates=False,
            model=common.model,
            body_bytes=len(asked.body),
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
        changes = common_changes(facts, model)
        if model == DEFAULT_MODEL:
            changes.pop("model", None)
        return changed(body, facts.fields, changes)

    def reading(self, facts: Facts, server: Server) -> Reading:
        if self.name in server.kind.free:
            return MeteredReading("openai_moderation", stream=False)
        return EmbeddingsReading()  # who bills it counts its input


MODERATIONS: Final = Moderations()
