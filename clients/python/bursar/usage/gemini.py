"""Gemini: generateContent, its stream, embedContent and countTokens, here and on Vertex AI.

Google's Python library google-genai 3.4, `types.py`: class GenerateContentResponseUsageMetadata
(`prompt_token_count` "also includes the number of tokens in the cached content";
`total_token_count` "is the sum of `prompt_token_count`, `candidates_token_count`,
`tool_use_prompt_token_count`, and `thoughts_token_count`", so thoughts are beside candidates and
tools' results beside the prompt), ModalityTokenCount, TrafficType, GroundingMetadata,
EmbedContentResponse, EmbedContentMetadata, ContentEmbeddingStatistics.

Documentation on ai.google.dev: "Grounding with Google Search", Pricing (Gemini 3 is billed by
unique search query, empty ones ignored, older models by prompt); "Grounding with Google Maps",
Pricing (older models by prompt with a result of Maps, Gemini 3 by query); "Pricing" (context that
Google Search retrieved is not charged as input).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from .counts import Usage
from .metered import Call, Dialect, Gathered, Metered, counting, error_of, missing, tier_of
from .reader import MAX_ITEMS, Reader, fit_parts, inner, listed, text_of

_TIERS: Final = {
    "ON_DEMAND": "",
    "TRAFFIC_TYPE_UNSPECIFIED": "",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_OFFPEAK": "offpeak",
    "PROVISIONED_THROUGHPUT": "provisioned",
}
_GENERATION: Final = re.compile(r"gemini-(\d{1,3})")
FIRST_BILLED_BY_QUERY: Final = 3
"""The generation of Gemini since which each search query is billed, not each prompt."""


def _read(answer: Mapping[str, Any], call: Call) -> Metered:
    counted = answer.get("usageMetadata")
    error = error_of(answer)
    model = text_of(answer, "modelVersion")
    if not isinstance(counted, Mapping):
        reason = "usageMetadata is missing"
        if counted is not None:
            reason = f"usageMetadata is a {type(counted).__name__}"
        usage = missing(f"{reason} from an error ({error})" if error else reason, call)
        return Metered(usage=usage, model=model, request_id=text_of(answer, "responseId"))
    read = Reader()
    billed, ran = _grounding(read, answer, model)
    searched = "search" in billed and _searched_alone(answer)
    usage = _usage(read, counted, call, billed, searched_alone=searched)
    tier = tier_of(counted, "serviceTier")
    traffic = text_of(counted, "trafficType").upper()
    return Metered(
        usage=usage,
        model=model,
        request_id=text_of(answer, "responseId"),
        service_tier=tier or _TIERS.get(traffic, traffic.lower()),
        tool_calls=ran,
    )


def _usage(
    read: Reader,
    counted: Mapping[str, Any],
    call: Call,
    billed: Mapping[str, int],
    *,
    searched_alone: bool,
) -> Usage:
    prompt = read.count(counted, "promptTokenCount")
    if prompt is None:
        if counted.get("promptTokenCount") is None:
            read.fault("promptTokenCount is missing")
        prompt = call.input_bound or 0
    cached = read.part(counted, "cachedContentTokenCount")
    tools = read.part(counted, "toolUsePromptTokenCount")
    thoughts = read.part(counted, "thoughtsTokenCount")
    # An answer that was blocked has no candidates, and none counted.
    candidates = read.part(counted, "candidatesTokenCount", "responseTokenCount")
    total = read.count(counted, "totalTokenCount")
    known = prompt + tools + thoughts + candidates
    if total is not None and total != known and not read.faults:
        read.fault(f"totalTokenCount is {total}, but its parts are {known}")
        candidates += max(0, total - known)
    if cached > prompt:
        read.fault(f"cachedContentTokenCount ({cached}) exceeds promptTokenCount ({prompt})")
    fresh = max(0, prompt - cached)
    parts = _kinds(read, counted, fresh, min(cached, prompt), tools, candidates)
    if searched_alone:
        tools = 0
    return read.usage(
        {
            "input": fresh + tools,
            "cached_input": cached,
            "output": candidates + thoughts,
            "reasoning": thoughts,
        },
        {**parts, **billed},
    )


def _kinds(
    read: Reader, counted: Mapping[str, Any], fresh: int, cached: int, tools: int, candidates: int
) -> dict[str, int]:
    """LLM tokens by modality. Documents are read as text: they cost the same."""
    given = _modalities(read, counted, "promptTokensDetails")
    from_cache = _modalities(read, counted, "cacheTokensDetails")
    by_tools = _modalities(read, counted, "toolUsePromptTokensDetails")
    produced = _modalities(read, counted, "candidatesTokensDetails", "responseTokensDetails")
    found: dict[str, int] = {}
    if from_cache:
        for kind, meter in _CACHED_KINDS.items():
            found[meter] = from_cache.get(kind, 0)
        fit_parts(read, found, cached, "cachedContentTokenCount", overlap=0)
    if given or by_tools:
        # The prompt's details hold what came from the cache too.
        inputs = {
            meter: max(0, given.get(kind, 0) - from_cache.get(kind, 0)) + by_tools.get(kind, 0)
            for kind, meter in _INPUT_KINDS.items()
        }
        fit_parts(read, inputs, fresh + tools, "promptTokenCount", overlap=cached)
        found.update(inputs)
    if produced:
        outputs = {meter: produced.get(kind, 0) for kind, meter in _OUTPUT_KINDS.items()}
        fit_parts(read, outputs, candidates, "candidatesTokenCount", overlap=0)
        found.update(outputs)
    return found


_CACHED_KINDS: Final = {"AUDIO": "cached_audio_input", "IMAGE": "cached_image_input"}
_INPUT_KINDS: Final = {"AUDIO": "audio_input", "IMAGE": "image_input", "VIDEO": "video_input"}
_OUTPUT_KINDS: Final = {"AUDIO": "audio_output", "IMAGE": "image_output", "VIDEO": "video_output"}


def _modalities(read: Reader, counted: Mapping[str, Any], *names: str) -> dict[str, int]:
    """LLM tokens that are no text, by modality."""
    found: dict[str, int] = {}
    for name in names:
        if counted.get(name) is None:
            continue
        for item in read.items(counted, name):
            count = read.part(item, "tokenCount")
            kind = text_of(item, "modality").upper()
            if kind not in _AS_TEXT:
                found[kind] = found.get(kind, 0) + count
    return found


_AS_TEXT: Final = frozenset({"", "TEXT", "DOCUMENT", "MODALITY_UNSPECIFIED"})


def _grounding(
    read: Reader, answer: Mapping[str, Any], model: str
) -> tuple[dict[str, int], dict[str, int]]:
    """Searches as they are billed, by the rule of the model's generation (by query where it is not
    known), and as they were made."""
    queries: set[str] = set()
    mapped = False
    for candidate in listed(answer, "candidates"):
        metadata = inner(candidate, "groundingMetadata")
        for name in ("webSearchQueries", "imageSearchQueries"):
            asked = metadata.get(name)
            if isinstance(asked, list | tuple):
                queries |= {
                    query for query in asked[:MAX_ITEMS] if isinstance(query, str) and query.strip()
                }
        mapped = mapped or any("maps" in chunk for chunk in listed(metadata, "groundingChunks"))
    generation = _GENERATION.search(model)
    by_query = generation is None or int(generation[1]) >= FIRST_BILLED_BY_QUERY
    billed: dict[str, int] = {}
    ran: dict[str, int] = {}
    if queries:
        ran["google_search"] = len(queries)
        billed["search"] = len(queries) if by_query else 1
    if mapped:
        ran["google_maps"] = billed["maps_query"] = 1
        if by_query:
            read.fault("queries to Google Maps are billed one by one, and not told")
    return billed, ran


def _searched_alone(answer: Mapping[str, Any]) -> bool:
    """Whether Google Search, which ran, is the only tool whose results the model was given.

    Results of others (pages by address, code) are charged as input, and the counts don't tell one
    from the other.
    """
    for candidate in listed(answer, "candidates"):
        metadata = inner(candidate, "groundingMetadata")
        if candidate.get("urlContextMetadata") or any(
            chunk.keys() & {"maps", "retrievedContext"}
            for chunk in listed(metadata, "groundingChunks")
        ):
            return False
        for part in listed(inner(candidate, "content"), "parts"):
            if any(name in part for name in _TELLING_PARTS):
                return False
    return True


def _fold(gathered: Gathered, event: Mapping[str, Any], name: str) -> None:
    """A chunk: its counts are of all that was produced so far; final with the last candidate."""
    gathered.error = gathered.error or error_of(event)
    gathered.first(event, "responseId")
    gathered.note(event, "modelVersion")
    finished = gathered.choices(event, "candidates", "finishReason")
    blocked = bool(text_of(inner(event, "promptFeedback"), "blockReason"))
    # What tells which tools ran is spread over the chunks.
    told = gathered.answer.setdefault("candidates", [])
    told += [slim for candidate in listed(event, "candidates") if (slim := _slim(candidate))]
    del told[:-MAX_ITEMS]
    counted = event.get("usageMetadata")
    if counted is not None:
        gathered.count("usageMetadata", counted)
        gathered.final = (finished and bool(gathered.open_choices)) or blocked


_TELLING_PARTS: Final = ("executableCode", "codeExecutionResult", "functionResponse")


def _slim(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """What a candidate tells of the tools that ran; {} for one that is text alone."""
    slim = {
        name: candidate[name]
        for name in ("groundingMetadata", "urlContextMetadata")
        if candidate.get(name)
    }
    parts = listed(inner(candidate, "content"), "parts")
    tools = [{name: True} for part in parts for name in _TELLING_PARTS if name in part]
    if tools:
        slim["content"] = {"parts": tools}
    return slim


def _read_embedding(answer: Mapping[str, Any], call: Call) -> Metered:
    """Embeddings: LLM tokens of the whole request, or of each text; characters where Vertex bills
    by them."""
    read = Reader()
    model = text_of(answer, "modelVersion")
    counted = read.section(answer, "usageMetadata")
    characters = read.part(inner(answer, "metadata"), "billableCharacterCount")
    if counted:
        usage = _usage(read, counted, call, {}, searched_alone=False)
        return Metered(usage=usage, model=model)
    texts = [inner(one, "statistics") for one in listed(answer, "embeddings")]
    for one in listed(answer, "predictions"):
        texts.append(inner(one, "embeddings", "statistics"))
    counts = [read.count(one, "token_count", "tokenCount") for one in texts]
    given = sum(count for count in counts if count is not None)
    if (not counts or None in counts) and not characters:
        read.fault("token_count is missing")
        given = max(given, call.input_bound or 0)
    extra = {"input_character": characters}
    return Metered(usage=read.usage({"input": given}, extra), model=model)


_FIELDS: Final = (
    *("usageMetadata", "modelVersion", "responseId", "candidates", "promptFeedback", "error"),
)
_EMBEDDING_FIELDS: Final = (
    *("usageMetadata", "modelVersion", "metadata", "embeddings", "predictions", "error"),
)


class _Vector(TypedDict, total=False):
    statistics: Any


class _Prediction(TypedDict, total=False):
    embeddings: _Vector


_WITHOUT_VECTORS: Final = (("embeddings", list[_Vector]), ("predictions", list[_Prediction]))

DIALECTS: Final = (
    Dialect("gemini_generate", _read, _FIELDS, _fold),
    Dialect("gemini_embed", _read_embedding, _EMBEDDING_FIELDS, types=_WITHOUT_VECTORS),
    Dialect("gemini_count", counting("totalTokens"), ("totalTokens", "error")),
)
