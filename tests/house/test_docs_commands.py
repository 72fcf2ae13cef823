"""What the documents tell people to type is understood by the programs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from bursar_cli.__main__ import build_app
from tests.house import tree

# Written in a document, meant to be replaced by the reader: `bursar <noun> <verb>`, `make ...`.
PLACEHOLDER = re.compile(r"[<>\u2026]|\.\.\.")
FENCE = re.compile(r"(?ms)^(```|~~~)(sh|bash|shell|console)?\n(.*?)^\1")
INDENTED = re.compile(r"(?m)^ {4,}(.+)$")
SPAN = re.compile(r"`(bursar [^`]+)`")
# What ends a command in a shell line.
SHELL_ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "#"}
# What parsing a command line fails with: BadParameter is one kind of it.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def shell_lines(text: str) -> Iterator[str]:
    """Lines of code blocks, continued ones joined, prompts taken off."""
    blocks = [match[3] for match in FENCE.finditer(text.replace("\n   ", "\n"))]
    blocks += ["\n".join(INDENTED.findall(FENCE.sub("", text)))]
    for block in blocks:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield re.sub(r"^[$%] ", "", line.strip())


def words(line: str) -> list[str]:
    """The words of the first command of a shell line; empty for what is no shell."""
    try:
        found = shlex.split(line, comments=True)
    except ValueError:
        return []
    end = next((place for place, word in enumerate(found) if word in SHELL_ENDS), len(found))
    found = found[:end]
    while found and re.fullmatch(r"[A-Z_]+=.*|exec|env|time|sudo", found[0]):
        found = found[1:]
    return found


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Every call of a program in a code block, with the document it stands in."""
    found = []
    for name in tree.ours(".md"):
        for line in shell_lines(tree.text(name)):
            call = words(line)
            if call and call[0].removeprefix(".venv/bin/") == program:
                found.append((name, call[1:]))
    return found


def end_of_parsing(context: Any, parameter: Any, value: Any) -> Any:
    """What such an option does instead of its work: it ends the program, if it was given."""
    if value and not context.resilient_parsing:
        raise typer.Exit
    return value


def disarm(command: Any) -> None:
    """Let a command and those below it parse their arguments and do nothing."""
    command.callback = lambda *_, **__: None
    for parameter in getattr(command, "params", []):
        # Options whose value no command gets act while they are parsed: --install-completion edits
        # the shell's files.
        acts = parameter.is_eager or not parameter.expose_value
        if acts and parameter.name != "help":
            parameter.callback = end_of_parsing
    for below in getattr(command, "commands", {}).values():
        disarm(below)


def fault(arguments: list[str]) -> str:
    """Why `bursar` does not understand the arguments; empty if it does. Nothing is executed."""
    program = get_command(build_app())
    disarm(program)
    try:
        program.main(arguments, prog_name="bursar", standalone_mode=False)
    except USAGE_ERROR as error:
        return str(error) or "incomplete"
    return ""


def test_commands_in_the_documents_are_understood() -> None:
    faults = [
        f"{name}: bursar {shlex.join(arguments)}: {said}"
        for name, arguments in commands("bursar")
        if not PLACEHOLDER.search(" ".join(arguments)) and (said := fault(arguments))
    ]
    tree.expect_none(faults, "A document shows a command that `bursar` does not understand:")


def test_commands_named_in_sentences_exist() -> None:
    faults = []
    for name in tree.ours(".md"):
        for span in SPAN.findall(re.sub(r"(?ms)^```.*?^```", "", tree.text(name))):
            path: list[str] = []
            for word in span.split()[1:]:
                if not re.fullmatch(r"[a-z][a-z-]*", word) or len(path) == 2:
                    break
                path.append(word)
            said = fault(path) if path and not PLACEHOLDER.search(span) else ""
            if "no such command" in said.lower():
                faults.append(f"{name}: `{span}`: {said}")
    tree.expect_none(faults, "A document names a command that `bursar` does not have:")


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", tree.text("Makefile")))
    faults = []
    for name in tree.ours(".md"):
        named = re.findall(r"`make ([a-z-]+)[^`]*`", tree.text(name))
        named += [line.split()[1] for line in shell_lines(tree.text(name)) if line[:5] == "make "]
        faults += [f"{name}: make {target}" for target in named if target not in targets]
    tree.expect_none(faults, "A document names a target that the Makefile does not have:")


def test_reading_a_document_installs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert fault(["--install-completion", "bash"]) == ""
    assert fault(["--version"]) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "understood"),
    [
        ("simulate-provider --port 0", True),
        ("simulate-provider --help", True),
        ("simulate-provider --prot 0", False),
        ("simulate-provider --port zero", False),
        ("no-such-noun list", False),
    ],
)
def test_the_check_tells_good_from_bad(line: str, understood: bool) -> None:
    assert (fault(line.split()) == "") is understood
