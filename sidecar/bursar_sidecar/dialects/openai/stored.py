"""What a provider keeps: files, batches, and responses asked for again.

All of it is free but one thing: a batch runs calls of any model later, and its answer does not tell
what it will have cost.
"""

from collections.abc import Mapping
from typing import Final

from bursar.usage import Usage
from bursar_sidecar.dialects.dialect import POST, READS, Asked, with_query
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.openai.dialect import AZURE, AZURE_V1, OpenAIEndpoint
from bursar_sidecar.dialects.reading import PASS, Reading

_DELETE: Final = frozenset({b"DELETE"})


class StoredReading(Reading):
    """An answer that is not read: it costs nothing."""

    __slots__ = ()

    def note(self, payload: bytes) -> int:
        return PASS

    def whole(self, body: bytes) -> None:
        self.usage, self.usage_is_final = Usage(), True

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        return Usage()


class Stored(OpenAIEndpoint):
    """Paths that cost nothing."""

    deployed = False
    keeps = True

    def __init__(self, name: str, methods: frozenset[bytes]) -> None:
        self.name = name
        self.methods = methods

    def read(self, asked: Asked, named: str) -> Facts:
        return Facts(
            model=self.name,
            names_model=False,
            generates=False,
            body_bytes=len(asked.body),
            free=True,
        )

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        if server.kind.deployments and asked.path.startswith(AZURE):
            return with_query(asked.path, asked.query)
        under = asked.path.removeprefix(AZURE[:-1]).removeprefix(b"/v1")
        version = AZURE_V1[:-1] if server.kind.deployments else b""
        return with_query(version + under, asked.query)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return StoredReading()

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        return StoredReading()


class Batches(Stored):
    """`/v1/batches`: listing is free, creating one is not."""

    def read(self, asked: Asked, named: str) -> Facts:
        if asked.method != b"POST":
            return super().read(asked, named)
        return Facts(
            model=self.name,
            names_model=False,
            any_model=True,
            generates=False,
            body_bytes=len(asked.body),
            untold_cost="what a batch costs is known when it has been processed",
        )


STORED: Final[Mapping[bytes, Stored]] = {
    b"/files": Stored("files", READS | POST),
    b"/files/*": Stored("files", READS | _DELETE),
    b"/files/*/content": Stored("files", READS),
    b"/uploads": Stored("uploads", POST),
    b"/uploads/*/parts": Stored("uploads", POST),
    b"/uploads/*/complete": Stored("uploads", POST),
    b"/uploads/*/cancel": Stored("uploads", POST),
    b"/batches": Batches("batches", READS | POST),
    b"/batches/*": Stored("batches", READS),
    b"/batches/*/cancel": Stored("batches", POST),
    b"/responses/*": Stored("stored responses", READS | _DELETE),
    b"/responses/*/cancel": Stored("stored responses", POST),
    b"/responses/*/input_items": Stored("stored responses", READS),
    b"/responses/input_tokens": Stored("counts of input", POST),
}
"""By path after the version, `*` for an id."""
