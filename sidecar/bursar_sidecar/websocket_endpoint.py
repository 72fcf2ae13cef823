"""Websockets that an operator allows at a flat price: what a request for one asks for.

What flows in them is nobody's to read here. They go to one provider, on the path that the app used.
"""

from bursar.money import format_nanos
from bursar_sidecar.dialects.dialect import Asked, Dialect, Rule
from bursar_sidecar.dialects.facts import Facts
from bursar_sidecar.dialects.registry import DEFAULT_DIALECT, DIALECTS
from bursar_sidecar.dialects.unmetered import UnmeteredEndpoint
from bursar_sidecar.extra_call_settings import Websocket
from bursar_sidecar.provider_settings import Provider


class WebsocketEndpoint(UnmeteredEndpoint):
    """The paths of one line of the settings."""

    name = "websocket"
    rule: Rule = "tunnel"

    def __init__(self, line: Websocket, provider: Provider) -> None:
        # With a connection its first minute is reserved.
        first = format_nanos(line.flat_nanos + line.minute_nanos)
        super().__init__(_spoken_by(provider), "GET", first, provider.name)
        self.line = line

    def read(self, asked: Asked, named: str) -> Facts:
        model = named or self.line.model
        return Facts(
            model=model or self.name,
            names_model=bool(model),
            any_model=not model,
            generates=False,
            stream=True,
            provider=self._provider,
            flat_price=self._flat_price,
        )


def _spoken_by(provider: Provider) -> Dialect:
    spoken = [dialect for dialect in DIALECTS if dialect.name in provider.spoken.dialects]
    return spoken[0] if spoken else DEFAULT_DIALECT
