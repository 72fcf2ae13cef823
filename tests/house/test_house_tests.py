"""What a test may not do: sleep, be left out, or share a port or a path with another."""

import ast
import re

from tests.house import tree

SLEEPS = {"asyncio.sleep", "time.sleep", "anyio.sleep", "sleep"}
LEFT_OUT = re.compile(r"\b(skip|skipif|xfail|importorskip|skipUnless|skipIf|SkipTest)$")
# Path -> why it may wait by the clock.
SLEEP_EXCEPTIONS: dict[str, str] = {}


def test_no_test_sleeps() -> None:
    faults = []
    excused = []
    for name in tree.ours(".py", under="tests/"):
        for call in tree.nodes(name, ast.Call):
            if tree.dotted(call.func) not in SLEEPS:
                continue
            yields_only = (
                tree.dotted(call.func) != "time.sleep"
                and len(call.args) == 1
                and isinstance(call.args[0], ast.Constant)
                and call.args[0].value == 0
            )
            if yields_only:
                continue
            excused.append(name)
            if name not in SLEEP_EXCEPTIONS:
                faults.append(f"{name}:{call.lineno}: {ast.unparse(call)}")
    tree.expect_none(faults, "Wait for the event itself (with a deadline), never for the clock.")
    tree.expect_exceptions_used(SLEEP_EXCEPTIONS, excused)


def test_no_test_is_left_out() -> None:
    faults = [
        f"{name}:{node.lineno}: {tree.dotted(node)}"
        for name in tree.ours(".py", under="tests/")
        for node in tree.nodes(name, ast.Attribute)
        if LEFT_OUT.search(tree.dotted(node)) and tree.dotted(node).startswith(("pytest", "unitt"))
    ]
    tree.expect_none(faults, "A test passes or fails; none is skipped or expected to fail.")


def test_tests_share_no_port() -> None:
    fixed = re.compile(r"(?:127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1?\]):(?!0\b)\d+")
    faults = [
        f"{name}:{node.lineno}: {node.value[:60]!r}"
        for name in tree.ours(".py", under=("tests/end_to_end/", "tests/postgres/"))
        for node in tree.nodes(name, ast.Constant)
        if isinstance(node.value, str) and fixed.search(node.value)
    ]
    tree.expect_none(faults, "Tests that run side by side listen on port 0.")
