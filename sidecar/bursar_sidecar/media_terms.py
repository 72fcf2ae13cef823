"""The bounds of calls that are not text: by the piece, or in LLM tokens, as their price has it.

Pure. Refuses what neither bounds, under a hard money budget.
"""

from bursar.pricing import Meter, Price
from bursar.pricing.model import LLM_TOKEN_METERS
from bursar_sidecar.desk import Refusal
from bursar_sidecar.dialects.facts import Media


def media_bounds(
    media: Media, price: Price, model: str, *, strict: bool
) -> tuple[int, int, dict[str, int]]:
    """(LLM tokens of input, of output, units beside them) that a call costs at most. Raises Refusal
    where there is no bound and `strict` asks for one; else what is known of it."""
    if not _is_paid_by_llm_token(price):
        if media.unbounded_units and strict:
            raise _unbounded(model, media.unbounded_units)
        return 0, 0, dict(media.units)
    given, made = media.input_llm_tokens, media.output_llm_tokens
    if given is None:
        given = price.max_input_llm_tokens
    if made is None and not media.unbounded_output:
        made = price.max_output_llm_tokens
    if strict and (given is None or made is None):
        raise _unbounded(
            model, media.unbounded_output or "how much the model takes and makes is not known"
        )
    return given or 0, made or 0, {}


def _is_paid_by_llm_token(price: Price) -> bool:
    return any(
        component.rate
        and component.meter in LLM_TOKEN_METERS
        and component.meter is not Meter.CITATION
        for component in price.components
    )


def _unbounded(model: str, reason: str) -> Refusal:
    return Refusal(
        "unbounded_cost",
        f"Nothing bounds what this call of {model!r} can cost ({reason}), and it falls under a "
        "hard budget. An operator can set a bound with [[bounds]] in the sidecar's settings.",
    )
