"""Builds the package's price list from LiteLLM's map: python -m bursar.pricing.build_snapshot.

Reads data/litellm_prices.json.xz, writes data/prices.json.zlib. A test proves that the two agree.
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Final

from .book import SNAPSHOT_FILE, pack_snapshot
from .compile_litellm import compile_map, grouped, read_map

DATA: Final = Path(__file__).resolve().parent.parent / "data"
MAP_FILE: Final = "litellm_prices.json.xz"


def built() -> bytes:
    """The bytes that the snapshot's file must have."""
    entries = read_map(lzma.decompress((DATA / MAP_FILE).read_bytes()))
    return pack_snapshot(grouped(compile_map(entries).items()))


def main() -> None:
    """Write the snapshot's file anew."""
    packed = built()
    (DATA / SNAPSHOT_FILE).write_bytes(packed)
    print(f"{DATA / SNAPSHOT_FILE}: {len(packed)} bytes")


if __name__ == "__main__":
    main()
