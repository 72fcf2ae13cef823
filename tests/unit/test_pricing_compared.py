"""Prices against genai-prices: the document lists every difference, and nothing else."""

import re
from pathlib import Path

from benchmarks.compared_prices import differences, kept
from bursar.pricing import llm_token_price, snapshot

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "prices-compared.md"
ROW = re.compile(r"\| (?P<provider>[a-z_]+) \| (?P<model>\S+) \| (?P<text>[^|]*\d / \d[^|]*) \|")


def documented() -> list[tuple[str, str, str]]:
    lines = (ROW.match(line) for line in DOCUMENT.read_text().splitlines())
    return sorted((row["provider"], row["model"], row["text"]) for row in lines if row is not None)


def test_the_document_lists_every_difference_from_genai_prices() -> None:
    found = differences(kept(), snapshot())
    assert documented() == sorted((one.provider, one.model, one.text) for one in found)


def test_the_document_says_how_many_were_compared() -> None:
    rows, differing = list(kept()), len(documented())
    said = DOCUMENT.read_text()
    assert f"{len(rows)} names of {len({row['provider'] for row in rows})} providers" in said
    assert f"{len(rows) - differing} agree in everything; {differing} differ" in said


def test_a_difference_is_told_once_and_not_again_for_what_follows_from_it() -> None:
    dearer = llm_token_price("openai", "gpt-4o", rates={"input": 3, "output": 10})
    book = snapshot().with_overlay([dearer], "test")
    row = next(row for row in kept() if (row["provider"], row["model"]) == ("openai", "gpt-4o"))
    (found,) = differences([row], book)
    told = {name: (ours, theirs) for name, ours, theirs in found.probes}
    assert told["input"] == ("3", "2.5")
    assert told["cached input"] == ("3", "1.25")
    # Audio and writes have no rate on either side: they cost what input costs.
    assert not told.keys() & {"audio input", "cache write", "output"}
