"""The facts of a request: what its cost and routing depend on, whatever dialect it came in."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bursar_sidecar.dialects.images import ImagePart

MAX_OUTPUT_LIMIT: Final = 100_000_000
"""LLM tokens; no model produces a thousandth of it. Above it the number is a mistake, and would
only ever be refused for its price."""
MAX_MODEL_LENGTH: Final = 256
MAX_TAGS: Final = 64
"""Tags of one call: every one becomes a row in reports."""
MAX_LABEL_LENGTH: Final = 256
"""Characters of a tag or a customer; they are names, not documents."""


class DialectError(Exception):
    """A request that can't be read; `param` names the field in the wire's own words."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """What a call makes or hears that is not text: bounded by pieces, or in LLM tokens, as its
    model is billed."""

    units: Mapping[str, int] = {}
    """The most it may be billed by the piece, by meter: pictures, characters, seconds."""
    unbounded_units: str = ""
    """Why there is no such bound; "" when there is."""
    input_llm_tokens: int | None = None
    """The most its input can be; None: as much as the model takes."""
    output_llm_tokens: int | None = None
    """The most its output can be; None: as much as the model makes."""
    unbounded_output: str = ""
    """Why a model without a limit of its own has none here; "" when `output_llm_tokens` has it."""
    variants: tuple[str, ...] = ()
    """What comes before a model's name where a price list keeps each size by itself, dearest
    first: "hd/1024-x-1024"."""
    told: Mapping[str, object] = {}
    """What of the request the reader of the answer has to know."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's cost and routing depend on."""

    model: str
    stream: bool = False
    generates: bool = True
    """The model produces LLM tokens, as many as an output limit lets it; False for embeddings and
    the like, which answer without."""
    output_limit: int | None = None
    """LLM tokens per choice; None when the request sets none."""
    choices: int = 1
    messages: int = 0
    """Pieces of the input that are framed by LLM tokens of their own."""
    body_bytes: int = 0
    predicted_bytes: int = 0
    """Predicted output that the provider may bill beside the produced one."""
    service_tier: str = ""
    dearer_tier: bool = False
    """That tier is dearer than the standard one: a price without rates for it is no price."""
    text_only: bool = True
    unbounded_input: str = ""
    """Why the input is not bounded by the body's bytes; "" when it is."""
    images: tuple[ImagePart, ...] = ()
    """Images, in the request or by their address; what they cost depends on the model."""
    image_bytes: int = 0
    """Bytes of the body that are images."""
    tools: bool = False
    """The request declares tools; what frames them counts as input."""
    unbounded_tools: str = ""
    """Which tool the provider itself runs and bills without a bound; "" when none."""
    rounds: int = 1
    """How often the provider may run the model within the call, each time over all its input: more
    than once only with tools that it runs itself."""
    provider_units: Mapping[str, int] = {}
    """What the provider's tools may be billed beside LLM tokens, at most, by meter: searches."""
    injected: int = 0
    """LLM tokens that the provider may add for what the request names without holding it."""
    untold_cost: str = ""
    """Why the answer does not tell what the call will have cost; "" when it does."""
    free: bool = False
    """The provider bills nothing for such a request."""
    media: Media | None = None
    """What it makes or hears; None where all is text."""
    names_model: bool = True
    """Whether `model` is one; False where it stands for a path that runs none, or any."""
    any_model: bool = False
    """What is asked for may run any model, so that nothing tells which budgets it falls under."""
    provider: str = ""
    """The name of the provider, where the path decides it; "" where the model does."""
    flat_price: str = ""
    """What such a call costs whatever it is, by a setting of the operator: an amount of the
    organization's currency; "" where it is metered."""
    reasoning: bool = False
    """The request asks for reasoning, which is billed but may not be shown."""
    usage_asked: bool = False
    """The app itself asked for what a stream tells of its usage, where the dialect leaves that to
    it."""
    tags: tuple[str, ...] = ()
    customer: str = ""
    prompt: msgspec.Raw | None = None
    """The part of the body whose strings are all the text that the model is given, so that counting
    them bounds the input; None where counting bounds nothing."""
    fields: Mapping[str, msgspec.Raw] = {}
    """The body's top level."""


def checked_model(model: str) -> str:
    """A model's name as it was given. Raises DialectError."""
    if not model or len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise DialectError(
            f"model {model[:40]!r} must have 1 to {MAX_MODEL_LENGTH} printable characters.", "model"
        )
    return model


def check_tags(tags: Iterable[str], param: str) -> tuple[str, ...]:
    """Tags without repetitions, in order. Raises DialectError naming the one that is wrong."""
    unique = tuple(dict.fromkeys(tag for tag in tags if tag))
    if len(unique) > MAX_TAGS:
        raise DialectError(f"{param} has {len(unique)} tags; at most {MAX_TAGS}.", param)
    for tag in unique:
        check_label(tag, param)
    return unique


def check_label(label: str, param: str) -> None:
    """A name that goes into reports. Raises DialectError."""
    if len(label) > MAX_LABEL_LENGTH or not label.isprintable():
        raise DialectError(
            f"{param} {label[:40]!r} must have at most {MAX_LABEL_LENGTH} printable characters.",
            param,
        )
