"""Calls that nobody meters, and that an operator allows at a flat price.

They pass as they are. What they cost is what the operator says, whatever they do.
"""

from bursar.usage import Usage
from bursar_sidecar.dialects.dialect import Asked, Dialect, Endpoint, with_query
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.reading import PASS, Reading


class PassedReading(Reading):
    """An answer that is not read."""

    __slots__ = ()

    def note(self, payload: bytes) -> int:
        return PASS

    def whole(self, body: bytes) -> None:
        self.usage, self.usage_is_final = Usage(), True

    def counted(self, input_bound: int, output_bound: int | None) -> Usage:
        return Usage()


class UnmeteredEndpoint(Endpoint):
    """The paths of one line of the settings."""

    name = "unmetered"
    known_before = True

    def __init__(self, dialect: Dialect, method: str, flat_price: str, provider: str) -> None:
        self.dialect = dialect
        self.methods = frozenset({method.encode()})
        self._flat_price = flat_price
        self._provider = provider

    def read(self, asked: Asked, named: str) -> Facts:
        return Facts(
            model=self.name,
            names_model=False,
            generates=False,
            body_bytes=len(asked.body),
            provider=self._provider,
            flat_price=self._flat_price,
        )

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        versioned = "openai" in server.kind.dialects and not server.kind.deployments
        path = asked.path.removeprefix(b"/v1") if versioned else asked.path
        return with_query(path, asked.query)

    def reading(self, facts: Facts, server: Server) -> Reading:
        return PassedReading()

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        return PassedReading()
