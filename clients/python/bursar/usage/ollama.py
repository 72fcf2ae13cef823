"""Ollama's own API: chat, generate and embed. (Its OpenAI-compatible one is read as OpenAI's.)

github.com/ollama/ollama, `docs/api/usage.mdx` (counts are in the final chunk, where `done` is true)
and `api/types.go` (type Metrics: counts of 0 are left out). `prompt_eval_count` includes what came
from the cache (`llm/llama_server.go`, promptEvalCount: CacheN + PromptN); older servers left
it out when the prompt was cached (issue 2068, pull request 5371), so that a missing count is no
zero. `prompt_eval_cached_count`, which newer servers tell, is a part of it (Metrics as described in
stdapi-ai/stdapi.ai, issue 252).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .metered import Call, Dialect, Gathered, Metered, error_of
from .reader import Reader, text_of

_COUNTS: Final = ("prompt_eval_count", "prompt_eval_cached_count", "eval_count")
# A request without a prompt loads or unloads the model and answers that it did.
_NOTHING_RUN: Final = frozenset({"load", "unload"})


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    return _counted(answer, call, produces=True)


def _read_embeddings(answer: Mapping[str, Any], call: Call) -> Metered:
    return _counted(answer, call, produces=False)


def _counted(answer: Mapping[str, Any], call: Call, *, produces: bool) -> Metered:
    read = Reader()
    prompt = read.count(answer, "prompt_eval_count")
    output = read.count(answer, "eval_count")
    nothing_run = text_of(answer, "done_reason") in _NOTHING_RUN
    error = error_of(answer)
    if error:
        read.fault(f"an error ({error})")
    if prompt is None and not nothing_run:
        if answer.get("prompt_eval_count") is None:
            read.fault("prompt_eval_count is missing")
        prompt = call.input_bound or 0
    if output is None and produces and not nothing_run:
        if answer.get("eval_count") is None:
            read.fault("eval_count is missing")
        output = call.output_bound or 0
    prompt = prompt or 0
    cached = read.part(answer, "prompt_eval_cached_count")
    if cached > prompt:
        read.fault(f"prompt_eval_cached_count ({cached}) exceeds prompt_eval_count ({prompt})")
    usage = read.usage(
        {"input": max(0, prompt - cached), "cached_input": cached, "output": output or 0}, {}
    )
    return Metered(usage=usage, model=text_of(answer, "model"))


def _fold(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """A line of the stream: the last one, `done`, holds the counts."""
    if error_of(event):
        gathered.error = error_of(event)
        return
    gathered.note(event, "model", "done_reason", *_COUNTS)
    gathered.final = event.get("done") is True


_FIELDS: Final = ("model", "done", "done_reason", "error", *_COUNTS)

DIALECTS: Final = (
    Dialect("ollama_chat", _read, _FIELDS, _fold),
    Dialect("ollama_generate", _read, _FIELDS, _fold),
    Dialect("ollama_embed", _read_embeddings, _FIELDS),
)
