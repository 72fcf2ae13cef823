"""OpenAI's endpoints: what is read, what is answered, how its errors look."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from bursar_cli.simulated_provider import answers
from bursar_cli.simulated_provider.behaviour import Behaviour
from bursar_cli.simulated_provider.dialect import (
    Answer,
    Asked,
    Dialect,
    Endpoint,
    Named,
    StreamEvent,
)
from bursar_cli.simulated_provider.openai_media import (
    ImagesAnswer,
    SpeechAnswer,
    TranscriptionAnswer,
)
from bursar_cli.simulated_provider.openai_texts import (
    EVENTS,
    JSON,
    CompletionsAnswer,
    ModerationsAnswer,
    ResponsesAnswer,
)
from bursar_cli.simulated_provider.plans import AnswerPlan
from bursar_cli.simulated_provider.requests import (
    ChatRequest,
    EmbeddingsRequest,
    ProviderError,
    chat_request,
    embeddings_request,
)
from bursar_cli.simulated_provider.served_calls import BilledUsage


class ChatAnswer(msgspec.Struct, frozen=True):
    """A chat completion."""

    request: ChatRequest
    plan: AnswerPlan
    behaviour: Behaviour

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.request.model

    @property
    def stream(self) -> bool:
        """Whether it is sent as a stream of events."""
        return self.request.stream

    @property
    def content_type(self) -> bytes:
        """Of the body, or of the stream."""
        return EVENTS if self.request.stream else JSON

    @property
    def tells_usage(self) -> bool:
        """A stream tells it only where the app asked for it."""
        asked = self.request.include_usage or not self.request.stream
        return asked and not self.behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        return answers.chat_body(
            self.plan,
            answers.usage_json(self.plan.billed(), self.behaviour),
            response_id=named.response_id,
            model=self.behaviour.answered_model or self.request.model,
            tier=self.request.service_tier,
            created_s=named.created_s,
            forced_tool=self.request.forced_tool,
        )

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """The chunks."""
        return answers.chat_events(
            self.plan,
            answers.usage_json(self.plan.billed(), self.behaviour),
            include_usage=self.request.include_usage,
            chunk_llm_tokens=self.behaviour.chunk_llm_tokens,
            response_id=named.response_id,
            model=self.behaviour.answered_model or self.request.model,
            tier=self.request.service_tier,
            created_s=named.created_s,
            forced_tool=self.request.forced_tool,
            usage_on_the_way=self.behaviour.usage_on_the_way,
        )

    def error_event(self, error: ProviderError) -> bytes:
        """A chunk that is an error; `[DONE]` does not follow."""
        return b"data: %s\n\n" % error.body()

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill."""
        return self.plan.billed(output, after_cancel)


class EmbeddingsAnswer(msgspec.Struct, frozen=True):
    """Embeddings; never streamed."""

    request: EmbeddingsRequest
    behaviour: Behaviour
    stream: bool = False
    content_type: bytes = JSON

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.request.model

    @property
    def tells_usage(self) -> bool:
        """Whether the usage is in the answer."""
        return not self.behaviour.missing_usage

    def body(self, named: Named) -> bytes:
        """The whole answer."""
        return answers.embeddings_body(self.request, self.behaviour, self.billed(None).input)

    def events(self, named: Named) -> Iterator[StreamEvent]:
        """None."""
        return iter(())

    def error_event(self, error: ProviderError) -> bytes:
        """None."""
        return b""

    def billed(self, output: int | None, after_cancel: int = 0) -> BilledUsage:
        """The bill: input alone."""
        given = self.behaviour.input_llm_tokens
        return BilledUsage(input=self.request.input_llm_tokens if given is None else given)


def _chat(asked: Asked) -> ChatAnswer:
    request = chat_request(asked.body)
    return ChatAnswer(request, answers.plan_chat(request, asked.behaviour), asked.behaviour)


def _embeddings(asked: Asked) -> EmbeddingsAnswer:
    return EmbeddingsAnswer(embeddings_request(asked.body), asked.behaviour)


def bearer(headers: Mapping[bytes, bytes]) -> bytes:
    """What `Authorization: Bearer ...` carries; b"" where there is none."""
    scheme, _, credential = headers.get(b"authorization", b"").partition(b" ")
    return credential.strip() if scheme.lower() == b"bearer" else b""


def _check_key(headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> None:
    if not bearer(headers):
        raise ProviderError(
            401,
            "No API key was provided; expected the header 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
        )


def _check_azure_key(headers: Mapping[bytes, bytes], query: Mapping[str, str]) -> None:
    if not headers.get(b"api-key") and not bearer(headers):
        raise ProviderError(401, "No API key was provided; expected the header 'api-key'.")


def _error_body(error: ProviderError, response_id: str) -> bytes:
    return error.body()


OPENAI: Final = Dialect(error_body=_error_body, check_key=_check_key)
AZURE: Final = Dialect(error_body=_error_body, check_key=_check_azure_key)


class _Form(NamedTuple):
    name: str
    id_prefix: str
    read: Callable[[Asked], Answer]


_FORMS: Final[Mapping[bytes, _Form]] = {
    b"/chat/completions": _Form("chat.completions", "chatcmpl", _chat),
    b"/completions": _Form("completions", "cmpl", CompletionsAnswer),
    b"/responses": _Form("responses", "resp", ResponsesAnswer),
    b"/embeddings": _Form("embeddings", "embd", _embeddings),
    b"/moderations": _Form("moderations", "modr", ModerationsAnswer),
    b"/images/generations": _Form("images.generations", "img", ImagesAnswer),
    b"/images/edits": _Form("images.edits", "img", ImagesAnswer),
    b"/images/variations": _Form("images.variations", "img", ImagesAnswer),
    b"/audio/speech": _Form("audio.speech", "speech", SpeechAnswer),
    b"/audio/transcriptions": _Form("audio.transcriptions", "trsc", TranscriptionAnswer),
    b"/audio/translations": _Form("audio.translations", "trsl", TranscriptionAnswer),
}


def _endpoints(dialect: Dialect, version: bytes) -> dict[bytes, Endpoint]:
    return {
        version + path: Endpoint(dialect, form.name, form.id_prefix, form.read)
        for path, form in _FORMS.items()
    }


ENDPOINTS: Final = {
    **_endpoints(OPENAI, b"/v1"),
    **_endpoints(AZURE, b"/openai/v1"),
    **_endpoints(AZURE, b"/openai"),
}
_DEPLOYMENTS: Final = b"/openai/deployments/"


def deployed(path: bytes) -> tuple[Endpoint, str] | None:
    """The endpoint of a deployment's own path, and its name."""
    if not path.startswith(_DEPLOYMENTS):
        return None
    name, slash, rest = path[len(_DEPLOYMENTS) :].partition(b"/")
    endpoint = ENDPOINTS.get(b"/openai" + slash + rest)
    return None if endpoint is None else (endpoint, name.decode("latin-1"))
