"""The seam: what the data path asks of a dialect, and nothing else.

A `Dialect` is a way to speak: how an app shows its key, in what shape it is told of an error. Each
of its `Endpoint`s reads requests into facts, makes the few edits that a request may get, says where
it goes, and reads what the answer says of itself. The data path knows neither by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal, NamedTuple, Protocol

from bursar.usage import Usage
from bursar_sidecar.dialects.facts import DialectError, Facts
from bursar_sidecar.dialects.kinds import Server
from bursar_sidecar.dialects.reading import Reading

Rule = Literal["metered", "models", "tunnel"]
"""How an endpoint is served: "metered" is the life of a call; "models" is answered by us, with what
the key may call; "tunnel" is a websocket."""

POST: Final = frozenset({b"POST"})
READS: Final = frozenset({b"GET", b"HEAD"})


class Asked(Protocol):
    """A request as a dialect sees it; header names are in lower case."""

    method: bytes
    path: bytes
    query: bytes
    body: bytes
    headers: list[tuple[bytes, bytes]]

    def header(self, name: bytes) -> bytes:
        """The first value of a header, b"" when absent."""
        ...


class Refused(NamedTuple):
    """An error of ours, to be told in a dialect's own shape."""

    status: int
    code: str
    """The stable reason."""
    kind: str
    """The type of error in OpenAI's words: invalid_request_error, rate_limit_error, ..."""
    message: str
    param: str | None = None
    """The field to blame, in the wire's own words."""
    details: Mapping[str, object] = {}
    """What else is told: budgets, retry_after_s, call_ceiling."""


class Listed(NamedTuple):
    """A model that a key may call."""

    model: str
    provider: str


class Dialect(ABC):
    """A way to speak, of apps and of servers alike."""

    name: str
    key_headers: tuple[bytes, ...] = (b"x-api-key",)
    """Where an app may show its key when not as `authorization: Bearer`."""
    request_id_headers: frozenset[bytes] = frozenset({b"x-request-id"})
    """Where an answer names the provider's own id of it."""

    comments_in_streams: bool = True
    """Apps' libraries pass over comments in streams, so that the cost can be told in one."""

    def claims(self, asked: Asked) -> bool:
        """Whether a request to a path that several dialects share says that it is of this one."""
        return False

    def key_in_query(self, query: bytes) -> bytes:
        """The key that the query holds, b"" where none; such a dialect takes it off in `target`."""
        return b""

    def without_key(self, query: bytes) -> bytes:
        """The query without that key."""
        return query

    @abstractmethod
    def error(self, refused: Refused) -> bytes:
        """The body that tells of an error."""

    # Asked only of dialects that have an endpoint of the rule "models".

    def models(self, listed: Sequence[Listed]) -> bytes:
        """The answer to who asks for all models."""
        raise NotImplementedError

    def model(self, listed: Listed) -> bytes:
        """The answer to who asks for one."""
        raise NotImplementedError


class Endpoint:
    """What one kind of path of a dialect takes and answers."""

    dialect: Dialect
    name: str
    """For people: "chat"."""
    rule: Rule = "metered"
    progressive: bool = False
    """A stream of it shows all that is billed, as far as the model does, and can be cut: its
    `cut_events` are there."""
    assembles: bool = False
    """And a plain answer can be made of one: its `assembler` is there."""
    methods: frozenset[bytes] = POST
    keeps = False
    """Of what a provider keeps for an account. Dialects have such paths in common, and what is
    meant for one provider must not go to another."""
    known_before = False
    """What an answer costs follows from its request: one that is no stream flows through as it
    comes, and is settled at its head."""
    streams: ClassVar[bool] = False
    """It has a `stream_reading`. Where not, what comes as a stream all the same is read whole."""

    def __init_subclass__(cls) -> None:
        cls.streams = cls.stream_reading is not Endpoint.stream_reading

    def read(self, asked: Asked, named: str) -> Facts:
        """The facts of a request; `named` is what its path names, "" where it names nothing.

        Raises DialectError naming the field that is wrong.
        """
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
        """The body to send: `model` as the provider knows it, our own fields off, usage asked for.

        `output_limit` sets a limit where the request has none, and lowers a higher one. Returns
        `body` itself when nothing has to change.
        """
        return body

    def target(self, asked: Asked, model: str, server: Server) -> bytes:
        """Path and query at a server, after its base URL."""
        raise NotImplementedError

    def reading(self, facts: Facts, server: Server) -> Reading:
        """Reads a whole answer."""
        raise NotImplementedError

    def stream_reading(self, facts: Facts, server: Server) -> Reading:
        """Reads a stream of server-sent events."""
        raise NotImplementedError

    def cut_events(self, reading: Reading, usage: Usage) -> tuple[bytes, bytes]:
        """What ends a stream cleanly that was cut because money ended, in the dialect's own events:
        those that say the answer is as long as it could be, and the last one by itself, because the
        cost is told before it. `reading` is of the stream so far, `usage` what is charged for
        it."""
        raise NotImplementedError

    def assembler(self) -> "Assembler":
        """Makes a plain answer of a stream."""
        raise NotImplementedError


class Assembler(Protocol):
    """Makes the plain answer of a call that was run as a stream."""

    error: bytes
    """The data of the event by which the provider told of an error; b"" where none came."""

    def feed(self, payload: bytes) -> None:
        """The data of one event, in order."""
        ...

    def body(self, cut: Usage | None = None) -> bytes:
        """The answer. `cut`: the stream was cut, and so much is charged for it."""
        ...


class Found(NamedTuple):
    """Whose a path is."""

    endpoint: Endpoint
    named: str
    """What the path names: a model, a deployment, an id; "" where nothing."""


def with_query(path: bytes, query: bytes) -> bytes:
    """A target: the path, and the query where there is one."""
    return path + b"?" + query if query else path


def refused_field(error: DialectError) -> Refused:
    """A request that can't be read, as it is told."""
    return Refused(400, error.code, "invalid_request_error", error.message, error.param)
