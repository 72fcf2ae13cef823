"""The vocabulary: what files, variables, columns and fields may not be called."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.house import tree

BANNED_FILE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "shared"}

# What makes the word clear: an LLM's, or where a list goes on.
QUALIFIERS = {"llm", "page"}
# Names on the wires of providers and of the price maps that are imported, quoted as they are.
WIRE_NAMES = {
    "accepted_prediction_tokens",
    "audio_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_write_tokens",
    "cached_tokens",
    "completion_tokens",
    "completion_tokens_details",
    "input_tokens",
    "input_tokens_details",
    "max_completion_tokens",
    "max_input_tokens",
    "max_output_tokens",
    "max_tokens",
    "output_tokens",
    "output_tokens_details",
    "prompt_tokens",
    "prompt_tokens_details",
    "reasoning_tokens",
    "rejected_prediction_tokens",
    "text_tokens",
    "image_tokens",
    "total_tokens",
}
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
AMBIGUOUS = (
    "The bare word is ambiguous: say llm_token, page_token, key or bucket "
    "(fields of a provider's wire are listed in WIRE_NAMES)."
)


def is_ambiguous(identifier: str) -> bool:
    """Whether an identifier says "token" without saying which."""
    if identifier.lower() in WIRE_NAMES:
        return False
    words = [word.lower() for word in WORD.findall(identifier)]
    return any(
        word in {"token", "tokens"} and (place == 0 or words[place - 1] not in QUALIFIERS)
        for place, word in enumerate(words)
    )


def bound_names(name: str) -> Iterator[tuple[str, int]]:
    """Every name that a Python file gives to something of its own, with the line."""
    for node in ast.walk(tree.syntax(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, node.lineno


def without_comments(source: str, comment: str) -> Iterator[tuple[int, str]]:
    """The lines of a proto or SQL file without comments and quoted text."""
    for number, line in enumerate(source.splitlines(), start=1):
        yield number, re.sub(r"'[^']*'|\"[^\"]*\"", "", line.partition(comment)[0])


def test_the_rule_on_names_knows_good_from_bad() -> None:
    bad = ["token", "tokens", "access_token", "token_count", "TokenBucket", "num_tokens", "TOKEN"]
    good = ["llm_tokens", "page_token", "next_page_token", "LlmTokenCount", "max_tokens"]
    good += ["cost_per_llm_token", "tokenizer", "tokenize", "input_llm_tokens", "MAX_LLM_TOKENS"]
    assert [name for name in bad if not is_ambiguous(name)] == []
    assert [name for name in good if is_ambiguous(name)] == []


def test_python_names_are_clear() -> None:
    faults = [
        f"{name}:{line}: {identifier}"
        for name in tree.ours(".py")
        for identifier, line in bound_names(name)
        if is_ambiguous(identifier)
    ]
    tree.expect_none(faults, AMBIGUOUS)


def test_proto_and_sql_names_are_clear() -> None:
    faults = [
        f"{name}:{number}: {identifier}"
        for name in tree.ours(".proto", ".sql")
        for number, line in without_comments(
            tree.text(name), "//" if name.endswith(".proto") else "--"
        )
        for identifier in re.findall(r"[A-Za-z_][A-Za-z0-9_]*", line)
        if is_ambiguous(identifier)
    ]
    tree.expect_none(faults, AMBIGUOUS)


def test_prose_is_clear() -> None:
    bare = re.compile(r"(?<!LLM )(?<!page )(?<![\w-])tokens?\b(?!-)", re.IGNORECASE)
    faults = [
        f"{name}:{number}: {line.strip()[:90]}"
        for name in tree.ours(".md", ".proto")
        for number, line in enumerate(tree.text(name).splitlines(), start=1)
        if bare.search(re.sub(r"`[^`]*`|\w+_token\w*", "", line))
    ]
    tree.expect_none(faults, 'Write "LLM token", "page token", key or bucket.')


def test_files_are_named_for_what_they_hold() -> None:
    faults = [
        name
        for name in tree.files()
        if not name.startswith(".")
        and any(part.partition(".")[0] in BANNED_FILE_NAMES for part in PurePosixPath(name).parts)
    ]
    tree.expect_none(faults, f"These names say nothing: {', '.join(sorted(BANNED_FILE_NAMES))}.")


def test_test_files_have_names_of_their_own() -> None:
    count = Counter(PurePosixPath(name).name for name in tree.ours(".py", under="tests/"))
    faults = [f"{name}: {number} files" for name, number in count.items() if number > 1]
    tree.expect_none(
        (fault for fault in faults if not fault.startswith(("conftest.py", "__init__.py"))),
        "Two test files of one name are hard to tell apart in a report.",
    )
