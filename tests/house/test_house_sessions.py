"""Connections go back to the pool as they are: nothing of ours outlives its transaction."""

import re

from tests.house import tree

LASTING = re.compile(
    r"\bSET\s+SESSION\b|\bLISTEN\s+[\"\w]|\bWITH\s+HOLD\b"
    r"|\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\("
    r"|\bset_config\s*\([^()]*,\s*(?:false|FALSE)\s*\)|\.add_(?:log_)?listener\("
)
"""What stays on a connection after a commit."""


def test_the_pattern_finds_what_it_should() -> None:
    for text in (
        "SET SESSION x = 1",
        "LISTEN changes",
        "SELECT pg_advisory_lock(7)",
        "SELECT set_config('a', $1, false)",
        "DECLARE c CURSOR WITH HOLD FOR",
    ):
        assert LASTING.search(text), text
    for text in ("SET LOCAL x = 1", "pg_advisory_xact_lock(1)", "set_config('a', $2::text, true)"):
        assert not LASTING.search(text), text


def test_the_server_leaves_nothing_on_a_connection() -> None:
    faults = [
        f"{name}:{text.count(chr(10), 0, found.start()) + 1}: {found.group()}"
        for name in tree.files()
        if name.startswith("server/bursar_server/") and name.endswith((".py", ".sql"))
        for text in [(tree.ROOT / name).read_text()]
        for found in LASTING.finditer(text)
    ]
    tree.expect_none(faults, "The pool resets nothing: end it with its transaction.")
