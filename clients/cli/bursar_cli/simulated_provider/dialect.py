"""What a call has to know of a dialect: how an answer is written, what it bills, how errors look.

A dialect's endpoint reads a request into an `Answer`; the call serves any of them alike.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.requests import ProviderError
from bursar_cli.simulated_provider.served_calls import BilledUsage


class StreamPart(Enum):
    """Where in a stream an event stands."""

    OPENING = "opening"
    OUTPUT = "output"
    CLOSING = "closing"


class StreamEvent(NamedTuple):
    """One event of a stream and the LLM tokens, of all choices, produced when it is sent."""

    data: bytes
    output_llm_tokens: int
    part: StreamPart


class Named(NamedTuple):
    """What an answer is called, and since when it exists (seconds since 1970)."""

    response_id: str
    created_s: int


class Asked(NamedTuple):
    """A request, as an endpoint reads it."""

    body: bytes
    behaviour: Behaviour
    path_model: str = ""
    """The model named in the path, where the dialect names it there."""
    query: Mapping[str, str] = {}


class Answer(Protocol):
    """What will be answered to one request."""

    @property
    def model(self) -> str:
        """The model asked for."""

    @property
    def stream(self) -> bool:
        """Whether it is sent as a stream of events."""

    @property
    def content_type(self) -> bytes:
        """Of the body, or of the stream."""

    @property
    def tells_usage(self) -> bool:
        """Whether its usage is told to the app, if it is sent to its end."""

    def body(self, named: Named) -> bytes:
        """The whole answer, of one that is not streamed."""

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """The events of one that is."""

    def error_event(self, error: ProviderError) -> bytes:
        """The event that ends a stream which fails."""

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill for `output` LLM tokens (None: all), and some more made after a cancel."""


class Dialect(msgspec.Struct, frozen=True):
    """What is the same for all endpoints of a dialect."""

    error_body: Callable[[ProviderError, str], bytes]
    """An error, and the id of the answer, as JSON."""
    check_key: Callable[[Mapping[bytes, bytes], Mapping[str, str]], None]
    """Raises ProviderError where headers and query hold no API key."""
    check_headers: Callable[[Mapping[bytes, bytes]], None] = lambda headers: None
    """Raises ProviderError where a header that the provider demands is missing."""
    request_id_header: bytes = b"x-request-id"


class Endpoint(msgspec.Struct, frozen=True):
    """One path that serves calls, all by POST."""

    dialect: Dialect
    name: str
    """In the record."""
    id_prefix: str
    """Of the answer's id."""
    read: Callable[[Asked], Answer]
    """Raises ProviderError."""
