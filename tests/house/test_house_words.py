"""What no committed file says: where it was made, with what, or where packages come from."""

import ast
import re
import tokenize
from pathlib import PurePosixPath

from tests.house import tree

# Written so that this file does not find itself.
FOREIGN = {
    "a path of one machine": re.compile(
        r"(?<![\w.:/-])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+|opt/whee[l]s|nix/stor[e])(?:/|\b)"
    ),
    "a path outside the repository": re.compile(r"\.\./shar[e]d\b|(?<!\w)shar[e]d/data\b"),
    "a document that is not here": re.compile(r"\b(?:DESIG[N]|PROTOCO[L]|ANCHOR[S])\.md\b"),
    "an address of a package index": re.compile(
        r"\b(?:pypi\.or[g]|pythonhosted\.or[g]|registry\.npmj[s]\.org|registry\.yarnpk[g]\.com"
        r"|proxy\.golan[g]\.org|repo\d?\.mave[n]\.(?:org|apache\.org))|--find-link[s][ =]\S"
    ),
    "who wrote it": re.compile(
        r"(?i)co-authored-b[y]|\b(?:generated|written|made) (?:by|with) "
        r"(?:an? )?(?:ai|llm|claude|chatgpt|gpt|copilot|assistant)\b"
    ),
}
# What is read; a file without a suffix (Makefile, LICENSE) is read too.
TEXT = {".py", ".pyi", ".proto", ".sql", ".md", ".toml", ".yaml", ".yml", ".cfg", ".ini", ".lock"}
TEXT |= {".txt", ".sh", ".json", ".jsonl", ".csv", ".html", ".css", ".js", ".ts", ".go", ".java"}
# Path -> why it may say it.
EXCEPTIONS: dict[str, str] = {}
SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore|pragma|fmt:|mypy:)(?P<codes>[:\[][^\s#]*)?")


def test_the_patterns_find_what_they_should() -> None:
    path = FOREIGN["a path of one machine"]
    assert path.search("/" + "work/main/x")
    assert path.search('open("/' + 'root/.cache")')
    assert not path.search("the frame/work of it, https://host/work/x and a/root/b")
    assert FOREIGN["an address of a package index"].search("https://py" + "pi.org/simple")


def test_committed_files_speak_of_the_project_alone() -> None:
    faults = []
    excused = []
    for name in tree.files():
        suffix = PurePosixPath(name).suffix
        if suffix not in TEXT and suffix:
            continue
        for number, line in enumerate(tree.text(name).splitlines(), start=1):
            said = [what for what, pattern in FOREIGN.items() if pattern.search(line)]
            if said and name in EXCEPTIONS:
                excused.append(name)
            elif said:
                faults.append(f"{name}:{number}: {', '.join(said)}: {line.strip()[:80]}")
    tree.expect_none(faults, "A committed file names no machine, no index and no author.")
    tree.expect_exceptions_used(EXCEPTIONS, excused)


def test_every_suppressed_warning_explains_itself() -> None:
    faults = []
    for name in tree.ours(".py"):
        lines = tree.text(name).splitlines()
        with (tree.ROOT / name).open("rb") as source:
            comments = [t for t in tokenize.tokenize(source.readline) if t.type == tokenize.COMMENT]
        for comment in comments:
            match = SUPPRESSION.search(comment.string)
            if not match or match[1].startswith("fmt"):
                continue
            number = comment.start[0]
            before = lines[number - 2].strip() if number > 1 else ""
            reason = re.sub(r"[\W_]+", "", comment.string[match.end() :])
            if not match["codes"]:
                faults.append(f"{name}:{number}: {comment.string} (name the rule)")
            elif not reason and not before.startswith("#") and not name.startswith("tests/"):
                faults.append(f"{name}:{number}: {comment.string} (say why, here or above)")
    tree.expect_none(
        faults, "A suppressed warning names its rule, and outside of tests its reason."
    )


def test_modules_say_what_they_are() -> None:
    faults = [name for name in tree.ours(".py") if ast.get_docstring(tree.syntax(name)) is None]
    tree.expect_none(faults, "Every module starts with a docstring that says what it is:")


def test_packages_of_the_server_say_what_they_own_and_refuse() -> None:
    faults = []
    for name in tree.ours("/__init__.py", under="server/bursar_server/"):
        if len(PurePosixPath(name).parts) != 4 or "/database/" in name:
            continue
        said = ast.get_docstring(tree.syntax(name)) or ""
        lacking = [word for word in ("owns", "refuses") if not re.search(rf"\b{word}\b", said)]
        if lacking:
            faults.append(f"{name}: the docstring does not say what it {' or '.join(lacking)}")
    tree.expect_none(faults, "A domain's __init__.py says what the domain owns and refuses.")
