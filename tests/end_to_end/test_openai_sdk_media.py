"""Pictures, sound, files and batches, called by OpenAI's own library.

What the simulated provider billed is compared with what the sidecar charged, call by call.
"""

import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from bursar.pricing import charge, snapshot
from bursar.usage import Usage
from bursar_cli.simulated_provider.served_calls import ServedCall
from bursar_sidecar.extra_call_settings import CallBound, Unmetered
from tests.fakes.desk import KEY, FakeDesk, spender
from tests.fakes.live_sidecar import LiveSidecar, live_sidecar

CENT = 10_000_000


@pytest.fixture
def sidecar() -> Iterator[LiveSidecar]:
    with live_sidecar() as serving:
        yield serving


@pytest.fixture
def app(sidecar: LiveSidecar) -> Iterator[openai.OpenAI]:
    with library(sidecar) as client:
        yield client


def library(sidecar: LiveSidecar) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sidecar.address}/v1", api_key=KEY, max_retries=0)


def wav(seconds: int) -> bytes:
    """Sound of so many seconds less its header: 16 kHz, 16 bits, one channel."""
    data = bytes(32_000 * seconds - 44)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1,
                       16_000, 32_000, 2, 16, b"data", len(data))  # fmt: skip
    return head + data


def billed(call: ServedCall, model: str, provider: str = "openai") -> int:
    """What the provider's own count of a call comes to, nanos."""
    price = snapshot().lookup(model, provider)
    assert price is not None
    bill = call.billed
    extra = {"input_character": bill.characters, "input_second": bill.seconds}
    parts = {}
    if "image" in model:
        parts = {"image_output": bill.output}
    elif bill.input:
        parts = {"audio_input": bill.input}
    counted = {**{name: count for name, count in extra.items() if count}, **parts}
    charged = charge(price, Usage(input=bill.input, output=bill.output, extra=counted))
    assert not charged.unpriced
    return charged.cost_nanos


def test_pictures_of_a_model_that_bills_llm_tokens(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    made = app.images.generate(
        model="gpt-image-1", prompt="A budget", n=2, size="1024x1536", quality="medium"
    )
    assert made.data is not None
    assert len(made.data) == 2
    edited = app.images.with_raw_response.edit(
        model="gpt-image-1", image=[b"one", b"two"], prompt="Greener", quality="low", user="u-1"
    )
    assert Decimal(edited.headers["x-bursar-cost"]) > 0
    events = list(
        app.images.generate(
            model="gpt-image-1", prompt="A budget", size="1024x1024", quality="low", stream=True
        )
    )
    assert events[-1].type == "image_generation.completed"
    for (call, outcome), asked in zip(sidecar.settled(3), sidecar.desk.calls, strict=True):
        assert outcome.usage.is_exact
        assert outcome.cost_nanos == billed(call, "gpt-image-1")
        assert outcome.cost_nanos <= asked.ceiling_nanos
    assert sidecar.desk.calls[1].customer == "u-1"


def test_pictures_of_a_model_that_bills_the_piece() -> None:
    azure = {"name": "azure", "kind": "azure", "deployments": (("draw", "dall-e-3"),)}
    with live_sidecar(upstream=azure) as sidecar, library(sidecar) as app:
        app.images.generate(model="draw", prompt="A budget", size="1024x1024", quality="hd")
        app.images.generate(model="draw", prompt="A budget")
        (_, hd), (_, standard) = sidecar.settled(2)
        # The list has them in pixels: some 0.08 and 0.04 USD a picture.
        assert hd.cost_nanos // CENT == 8
        assert standard.cost_nanos // CENT == 4
        for asked, outcome in zip(sidecar.desk.calls, (hd, standard), strict=True):
            assert outcome.usage.is_exact
            assert 0 <= asked.ceiling_nanos - outcome.cost_nanos <= 1


def test_pictures_without_a_known_bound_are_refused(app: openai.OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        app.images.generate(model="gpt-image-2", prompt="A budget")
    assert caught.value.code == "unbounded_cost"
    with pytest.raises(openai.PermissionDeniedError) as caught:
        app.images.create_variation(model="openai/dall-e-2", image=b"picture")
    assert caught.value.code == "model_unpriced"


def test_speech_flows_and_costs_its_characters(app: openai.OpenAI, sidecar: LiveSidecar) -> None:
    said = "Hällo there"
    with app.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=said
    ) as answer:
        assert answer.headers["x-bursar-cost"] == "0.000165"
        assert answer.read().startswith(b"ID3")
    ((call, outcome),) = sidecar.settled()
    assert outcome.usage.is_exact
    assert outcome.cost_nanos == billed(call, "tts-1") == 15_000 * len(said)


def test_speech_that_nothing_bounds_needs_a_bound_of_the_operators() -> None:
    with live_sidecar() as sidecar, library(sidecar) as app:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            app.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="x")
        assert caught.value.code == "unbounded_cost"
    bound = CallBound(endpoint="audio/speech", most="0.03", models=("gpt-4o-*",))
    with live_sidecar(bounds=(bound,)) as sidecar, library(sidecar) as app:
        app.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="x")
        ((_, outcome),) = sidecar.settled()
        assert (outcome.cost_nanos, outcome.usage.is_exact) == (3 * CENT, False)
        assert sidecar.desk.calls[0].ceiling_nanos == 3 * CENT


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-mini-transcribe"])
def test_transcriptions_cost_what_was_heard(
    app: openai.OpenAI, sidecar: LiveSidecar, model: str
) -> None:
    answer = app.audio.transcriptions.create(model=model, file=("a.wav", wav(3)))
    assert answer.text
    ((call, outcome),) = sidecar.settled()
    assert outcome.usage.is_exact
    assert outcome.cost_nanos == billed(call, model) > 0
    assert outcome.cost_nanos <= sidecar.desk.calls[0].ceiling_nanos


def test_a_transcription_as_text_costs_what_was_reserved(
    app: openai.OpenAI, sidecar: LiveSidecar
) -> None:
    app.audio.translations.create(model="whisper-1", file=("a.wav", wav(4)), response_format="text")
    ((call, outcome),) = sidecar.settled()
    assert not outcome.usage.is_exact
    assert outcome.cost_nanos == sidecar.desk.calls[0].ceiling_nanos == billed(call, "whisper-1")


def test_sound_of_unknown_length_is_refused(app: openai.OpenAI, sidecar: LiveSidecar) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        app.audio.transcriptions.create(model="whisper-1", file=("a.webm", b"\x1aE\xdf\xa3" * 99))
    assert caught.value.code == "unbounded_cost"
    assert not sidecar.desk.calls


def test_files_cost_nothing_and_batches_need_a_bound() -> None:
    with live_sidecar() as sidecar, library(sidecar) as app:
        kept = app.files.create(file=("calls.jsonl", b"{}"), purpose="batch")
        assert app.files.retrieve(kept.id).id == kept.id
        assert app.files.content(kept.id).read() == b"{}"
        assert [file.id for file in app.files.list()] == [kept.id]
        wanted: Any = {
            "input_file_id": kept.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        with pytest.raises(openai.PermissionDeniedError) as caught:
            app.batches.create(**wanted)
        assert caught.value.code == "untold_cost"
        assert app.files.delete(kept.id).deleted
        assert {call.model for call in sidecar.desk.calls} == {"files"}
        assert all(outcome.usage.is_exact for outcome in sidecar.desk.outcomes)
        assert sidecar.desk.settled_nanos == 0
    bounds = (CallBound(endpoint="batches", most="1.50"),)
    with live_sidecar(bounds=bounds) as sidecar, library(sidecar) as app:
        batch = app.batches.create(**wanted)
        assert app.batches.retrieve(batch.id).id == batch.id
        assert app.batches.cancel(batch.id).id == batch.id
        created, *free = sidecar.desk.outcomes
        # What it costs is known later: until then, all that was reserved.
        assert (created.kind, created.cost_nanos) == ("unknown", 150 * CENT)
        assert [one.cost_nanos for one in free] == [0, 0]


def test_a_batch_is_refused_where_no_budget_is_seen_too() -> None:
    with live_sidecar(FakeDesk(None)) as sidecar, library(sidecar) as app:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            app.batches.create(
                input_file_id="f", endpoint="/v1/embeddings", completion_window="24h"
            )
        assert caught.value.code == "untold_cost"


def test_a_key_of_some_models_may_run_no_batch() -> None:
    desk = FakeDesk(None, spenders={KEY: spender(allowed_models=("gpt-4o*",))})
    bounds = (CallBound(endpoint="batches", most="1.50"),)
    with live_sidecar(desk, bounds=bounds) as sidecar, library(sidecar) as app:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            app.batches.create(
                input_file_id="f", endpoint="/v1/embeddings", completion_window="24h"
            )
        assert caught.value.code == "model_not_allowed"


def test_what_nobody_meters_is_refused_or_costs_its_flat_price() -> None:
    with live_sidecar() as sidecar, library(sidecar) as app:
        with pytest.raises(openai.NotFoundError) as caught:
            app.fine_tuning.jobs.list()
        assert caught.value.code == "unknown_path"
    allowed = Unmetered(
        path="/v1/fine_tuning/*", method="GET", flat_price="0.05", provider="openai"
    )
    with live_sidecar(unmetered=(allowed,)) as sidecar, library(sidecar) as app:
        with pytest.raises(openai.NotFoundError):
            app.fine_tuning.jobs.retrieve("job-1")  # the provider's own 404: nothing is charged
        app.get("/fine_tuning/jobs", cast_to=object)
        with pytest.raises(openai.NotFoundError) as caught:
            app.fine_tuning.jobs.cancel("job-1")
        assert caught.value.code == "unknown_path"
        failed, passed = sidecar.desk.outcomes
        assert (failed.kind, failed.cost_nanos) == ("provider_error", 0)
        assert (passed.kind, passed.cost_nanos, passed.usage.is_exact) == ("final", 5 * CENT, True)
