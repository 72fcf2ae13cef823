"""The documents: each can be found, each link leads somewhere, each change is told."""

import re
import tomllib
from collections import deque
from pathlib import PurePosixPath

from tests.house import tree

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
KINDS_OF_CHANGE = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def prose(name: str) -> str:
    """A document without its fenced code."""
    return re.sub(r"(?ms)^(```|~~~).*?^\1[^\n]*$", "", tree.text(name))


def targets(name: str) -> list[tuple[str, str]]:
    """The files that a document links to, relative to the root, each with its anchor."""
    found = []
    for address in LINK.findall(prose(name)) + IMAGE.findall(prose(name)):
        if re.match(r"[a-z]+:", address):
            continue
        path, _, anchor = address.partition("#")
        target = (tree.ROOT / name).parent.joinpath(path) if path else tree.ROOT / name
        try:
            relative = target.resolve().relative_to(tree.ROOT).as_posix()
        except ValueError:
            relative = address
        found.append((relative, anchor))
    return found


def anchors(name: str) -> set[str]:
    """The anchors that headings of a document get on the usual code hosts."""
    headings = re.findall(r"(?m)^#+\s+(.*?)\s*$", prose(name))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def test_links_lead_somewhere() -> None:
    faults = []
    for name in tree.ours(".md"):
        for target, anchor in targets(name):
            if not (tree.ROOT / target).exists():
                faults.append(f"{name}: {target} does not exist")
            elif anchor and target.endswith(".md") and anchor not in anchors(target):
                faults.append(f"{name}: {target} has no heading #{anchor}")
    tree.expect_none(faults, "A link in a document leads nowhere:")


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached = {"README.md"}
    queue = deque(reached)
    while queue:
        for target, _ in targets(queue.popleft()):
            if target.endswith(".md") and target not in reached and (tree.ROOT / target).exists():
                reached.add(target)
                queue.append(target)
    known = {name for name in tree.ours(".md") if "/" not in name or name.startswith("docs/")}
    tree.expect_none(sorted(known - reached), "No link leads here from README.md:")


def test_the_changelog_tells_the_version_and_what_comes() -> None:
    changelog = tree.text("CHANGELOG.md")
    version = tomllib.loads(tree.text("pyproject.toml"))["project"]["version"]
    titles = re.findall(r"(?m)^## \[([^\]]+)\]", changelog)
    assert titles, "CHANGELOG.md has no section like `## [Unreleased]`"
    assert titles[0] == "Unreleased", "the first section of CHANGELOG.md is [Unreleased]"
    assert version in titles or len(titles) == 1, (
        f"CHANGELOG.md tells of {', '.join(titles)}, but pyproject.toml says {version}"
    )
    unknown = set(re.findall(r"(?m)^### (.*)$", changelog)) - KINDS_OF_CHANGE
    tree.expect_none(sorted(unknown), f"CHANGELOG.md groups changes by {sorted(KINDS_OF_CHANGE)}:")


def test_only_known_directories_stand_at_the_top() -> None:
    known = {"proto", "server", "sidecar", "clients", "tests", "deploy", "docs", "benchmarks"}
    known |= {".ci", ".github"}
    tops = {PurePosixPath(name).parts[0] for name in tree.files() if "/" in name}
    tree.expect_none(sorted(tops - known), "A new directory at the top needs a reason:")
