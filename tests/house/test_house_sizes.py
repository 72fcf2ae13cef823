"""How long a file and a function may be."""

import ast

from tests.house import tree

# A file that is read in one sitting, a function that is seen on one screen.
MOST_LINES_OF_A_FILE = 500
MOST_LINES_OF_A_FUNCTION = 70

# Path -> why it may be longer.
LONG_FILES: dict[str, str] = {}
# "path:function" -> why it may be longer.
LONG_FUNCTIONS: dict[str, str] = {}


def test_files_are_short() -> None:
    long = {
        name: len(tree.text(name).splitlines())
        for name in [*tree.ours(".py", ".proto", ".sql", ".sh"), "Makefile"]
    }
    long = {name: lines for name, lines in long.items() if lines > MOST_LINES_OF_A_FILE}
    tree.expect_none(
        (f"{name}: {lines} lines" for name, lines in long.items() if name not in LONG_FILES),
        f"A file has at most {MOST_LINES_OF_A_FILE} lines.",
    )
    tree.expect_exceptions_used(LONG_FILES, long)


def length(function: tree.Function) -> int:
    """Lines of the body. The signature (a command's options) and the docstring are not counted."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short() -> None:
    long = {
        f"{name}:{node.name}": (node.lineno, length(node))
        for name in tree.ours(".py")
        for node in tree.functions(name)
        if length(node) > MOST_LINES_OF_A_FUNCTION
    }
    tree.expect_none(
        (
            f"{where} (line {line}): {lines} lines"
            for where, (line, lines) in long.items()
            if where not in LONG_FUNCTIONS
        ),
        f"A function has at most {MOST_LINES_OF_A_FUNCTION} lines.",
    )
    tree.expect_exceptions_used(LONG_FUNCTIONS, long)
