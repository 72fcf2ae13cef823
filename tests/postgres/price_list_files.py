"""Price lists for tests, in LiteLLM's form, and how they are sent."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from bursar.v1 import price_imports_pb2
from bursar.v1.price_imports_pb2 import ImportPricesRequest, PriceImport


def a_list(rates: Mapping[str, float], provider: str = "acme", **more: Any) -> bytes:
    """A list of chat models: name -> dollars for a million LLM tokens of input; output is twice."""
    entries = {
        name: {
            "litellm_provider": provider,
            "mode": "chat",
            "input_cost_per_token": float(f"{rate}e-6"),
            "output_cost_per_token": float(f"{2 * rate:f}e-6"),
            **more,
        }
        for name, rate in rates.items()
    }
    return json.dumps(entries).encode()


async def parts(data: bytes, *, chunk: int = 1000, **asked: Any) -> AsyncIterator[Any]:
    """An import of `data` as it is sent."""
    asked.setdefault("content_sha256", hashlib.sha256(data).digest())
    yield ImportPricesRequest(wanted=PriceImport(**asked))
    for start in range(0, len(data), chunk):
        yield ImportPricesRequest(chunk=data[start : start + chunk])


def changes(answer: price_imports_pb2.ImportPricesResponse) -> list[tuple[str, str, str, str]]:
    """(model, rate, old, new) of an answer."""
    return [
        (change.model, rate.rate, rate.old, rate.new)
        for change in answer.changes
        for rate in change.rates
    ]
