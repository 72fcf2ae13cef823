"""What is in deploy/ is of a shape that Docker, Compose and Kubernetes take, and names only what
exists here: variables, ports, files, settings. None of it is run.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import msgspec
import pytest
import yaml

from bursar_server.settings import Settings as ServerSettings
from bursar_sidecar.setting_checks import split_address
from bursar_sidecar.settings import CONFIG_VARIABLE, TABLES, Settings, load_settings, variable_of
from tests.house import tree
from tests.house.test_docs_commands import fault

DEPLOY = tree.ROOT / "deploy"
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
DOCKERFILES = sorted(DEPLOY.glob("docker/*.Dockerfile"))
COMPOSE = DEPLOY / "compose" / "compose.yaml"
OLDEST_KUBERNETES = "1.29"
"""The first with native sidecar containers switched on."""
INSTRUCTIONS = frozenset(
    [
        "FROM",
        "RUN",
        "COPY",
        "WORKDIR",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
    ]
)
FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def sidecar_variables() -> set[str]:
    scalar = FIELDS.keys() - TABLES
    spelled = {variable_of(name) for name in scalar} | {
        f"BURSAR_SIDECAR_{name.upper()}" for name in scalar if not name.startswith("sidecar")
    }
    return spelled | {CONFIG_VARIABLE}


def server_variables() -> set[str]:
    names = {field.name for field in msgspec.structs.fields(ServerSettings)}
    return {f"BURSAR_{name.upper()}" for name in names} | {CONFIG_VARIABLE}


VARIABLES = {"sidecar": sidecar_variables(), "server": server_variables()}


def program_of(image: str) -> str:
    """Which program of ours an image runs; "" for somebody else's."""
    found = re.fullmatch(r"bursar-(sidecar|server):\S+", image)
    return found.group(1) if found else ""


def default_port(program: str, name: str) -> int:
    if program == "sidecar":
        return split_address(FIELDS[name].default)[1]
    fields = {field.name: field for field in msgspec.structs.fields(ServerSettings)}
    return split_address(fields[name].default)[1]


def default_ports(program: str) -> set[int]:
    names = ["grpc_address", "http_address"]
    if program == "sidecar":
        names.append("admin_address")
    return {default_port(program, name) for name in names}


def resources() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for resource in yaml.safe_load_all(path.read_text()):
            yield path.name, resource


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(where, container, pod) of every container that the manifests run."""
    for name, resource in resources():
        pod = resource.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            yield f"{name}: {container['name']}", container, pod


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container.get("env", [])}


# -- Kubernetes --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_manifests_are_what_kubernetes_takes(path: Path, version: str) -> None:
    found = list(yaml.safe_load_all(path.read_text()))
    assert found
    for resource in found:
        kubernetes_validate.validate(resource, version, strict=True)


def test_a_manifest_with_a_fault_is_refused() -> None:
    (pod,) = [r for _, r in resources() if r["metadata"]["name"] == "shop" and "spec" in r]
    pod["spec"]["template"]["spec"]["initContainers"][0]["restartpolicy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, OLDEST_KUBERNETES, strict=True)


def test_containers_run_as_nobody_with_limits_and_probes() -> None:
    faults = []
    for where, container, pod in containers():
        if not pod["securityContext"]["runAsNonRoot"] or pod["automountServiceAccountToken"]:
            faults.append(f"{where}: runs as root, or holds a credential of the cluster")
        context = container["securityContext"]
        if context["allowPrivilegeEscalation"] or not context["readOnlyRootFilesystem"]:
            faults.append(f"{where}: may gain privileges, or write to its image")
        if "memory" not in container["resources"]["limits"]:
            faults.append(f"{where}: no limit of memory")
        if program_of(container["image"]) and not {
            "startupProbe", "livenessProbe", "readinessProbe",
        } <= container.keys():  # fmt: skip
            faults.append(f"{where}: a probe is missing")
        ports = {port["name"] for port in container.get("ports", [])}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind, {}).get("httpGet")
            if probe and (
                probe["port"] not in ports or probe["path"] not in ("/healthz", "/readyz")
            ):
                faults.append(f"{where}: {kind} asks for {probe}")
        volumes = {volume["name"] for volume in pod["volumes"]}
        faults += [
            f"{where}: mounts {mount['name']}, which is no volume"
            for mount in container["volumeMounts"]
            if mount["name"] not in volumes
        ]
    tree.expect_none(faults, "In deploy/kubernetes:")


def test_the_sidecar_is_a_native_one_and_has_time_to_drain() -> None:
    (found,) = [
        (container, pod)
        for _, container, pod in containers()
        if program_of(container["image"]) == "sidecar"
    ]
    container, pod = found
    assert container in pod["initContainers"]
    assert container["restartPolicy"] == "Always"
    assert pod["terminationGracePeriodSeconds"] > FIELDS["drain_s"].default + 20


def test_the_secrets_that_are_named_are_described() -> None:
    described = {
        (r["metadata"]["name"], key)
        for _, r in resources()
        if r["kind"] == "Secret"
        for key in r["stringData"]
    }
    faults = []
    for where, container, pod in containers():
        for each in container.get("env", []):
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            if reference and (reference["name"], reference["key"]) not in described:
                faults.append(f"{where}: {reference}")
        for volume in pod["volumes"]:
            name = volume.get("secret", {}).get("secretName")
            if name and name not in {secret for secret, _ in described}:
                faults.append(f"{where}: secret {name}")
    tree.expect_none(faults, "Not in deploy/kubernetes/secrets.yaml:")
    working = [
        f"{key} of {r['metadata']['name']}"
        for _, r in resources()
        if r["kind"] == "Secret"
        for key, value in r["stringData"].items()
        if "replace-me" not in value
    ]
    tree.expect_none(working, "A secret in the repository must be one that does not work:")


# -- what exists here --------------------------------------------------------------------------


def test_manifests_name_variables_and_ports_that_exist() -> None:
    faults = []
    for where, container, _pod in containers():
        program = program_of(container["image"])
        if not program:
            continue
        unknown = {name for name in environment_of(container) if name not in VARIABLES[program]}
        faults += [f"{where}: {name} is no setting of the {program}" for name in sorted(unknown)]
        faults += [
            f"{where}: port {port['containerPort']}"
            for port in container["ports"]
            if port["containerPort"] not in default_ports(program)
        ]
    tree.expect_none(faults, "In deploy/kubernetes:")


def readable(text: str, directory: Path) -> str:
    """A sidecar's file whose credentials are files of the test."""
    for number, path in enumerate(re.findall(r'api_key_file = "([^"]+)"', text)):
        (directory / str(number)).write_text("bk-test" if path.endswith("app-key") else "sk-test")
        text = text.replace(f'"{path}"', f'"{directory}/{number}"')
    return text


def test_the_sidecars_files_are_good_settings(tmp_path: Path) -> None:
    texts = {"compose/sidecar.toml": (DEPLOY / "compose" / "sidecar.toml").read_text()}
    for name, resource in resources():
        if resource["kind"] == "ConfigMap":
            texts |= {f"{name}: {key}": text for key, text in resource["data"].items()}
    assert len(texts) == 2
    for number, text in enumerate(texts.values()):
        home = tmp_path / str(number)
        home.mkdir()
        (home / "sidecar.toml").write_text(readable(text, home))
        settings = load_settings({}, home / "sidecar.toml")
        assert [provider.name for provider in settings.providers] == ["openai"]


def test_the_environments_are_good_settings(tmp_path: Path) -> None:
    for _where, container, _pod in containers():
        if program_of(container["image"]) == "sidecar":
            environ = environment_of(container)
            key = tmp_path / "key"
            key.write_text("bs-1")
            environ |= {"BURSAR_SIDECAR_KEY_FILE": str(key), CONFIG_VARIABLE: ""}
            settings = load_settings(environ)
            assert settings.http_address.startswith("127.0.0.1:")
            assert settings.sidecar_key == "bs-1"


# -- Compose -----------------------------------------------------------------------------------


def composed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def test_the_compose_file_is_what_compose_takes() -> None:
    schema = json.loads(tree.text("tests/data/compose/compose-spec.json"))
    checker = jsonschema.Draft7Validator(schema)
    checker.check_schema(schema)
    checker.validate(composed())
    broken = composed()
    broken["services"]["sidecar"]["restarts"] = "always"
    with pytest.raises(jsonschema.ValidationError):
        checker.validate(broken)


def test_the_compose_file_names_what_exists() -> None:
    document = composed()
    faults = []
    for name, service in document["services"].items():
        program = program_of(service["image"])
        if program:
            dockerfile = tree.ROOT / service["build"]["dockerfile"]
            if not dockerfile.exists():
                faults.append(f"{name}: {dockerfile}")
            unknown = service["environment"].keys() - VARIABLES[program]
            faults += [f"{name}: {variable} is no setting" for variable in sorted(unknown)]
            for published in service["ports"]:
                if int(published.rpartition(":")[2]) not in default_ports(program):
                    faults.append(f"{name}: port {published}")
        for kind in ("networks", "configs", "secrets"):
            used = {e if isinstance(e, str) else e["source"] for e in service.get(kind, [])}
            faults += [f"{name}: {kind} {each}" for each in used - document[kind].keys()]
    for config in document["configs"].values():
        if not (COMPOSE.parent / config["file"]).exists():
            faults.append(f"configs: {config['file']}")
    tree.expect_none(faults, "deploy/compose/compose.yaml names what is not there:")
    asked = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))
    told = set(re.findall(r"(?m)^([A-Z_]+)=", (COMPOSE.parent / ".env.example").read_text()))
    assert asked == told
    filled = re.findall(r"(?m)^[A-Z_]+=.+", (COMPOSE.parent / ".env.example").read_text())
    tree.expect_none(filled, "A secret in the repository:")


# -- Dockerfiles -------------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments left out."""
    text = "\n".join(
        line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    joined = re.sub(r"\\\n\s*", " ", text)
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_sound(path: Path) -> None:
    program = path.name.partition(".")[0]
    found = instructions(path)
    assert {word for word, _ in found} <= INSTRUCTIONS
    stages = [n for n, (word, _) in enumerate(found) if word == "FROM"]
    assert len(stages) == 2, "what builds does not ship"
    for word, rest in found:
        if word == "FROM":
            assert re.match(r"\S+:\S*\d", rest), f"{rest}: a version, not the latest"
        if word == "RUN" and "pip install" in rest:
            for command in rest.split("&&"):
                if "pip install" in command:
                    assert "--require-hashes" in command or "--no-index" in command, command
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (tree.ROOT / source).exists(), f"COPY {source}"
    last = dict(found[stages[-1] :])
    assert re.fullmatch(r"\d+:\d+", last["USER"]), "a number, so that runAsNonRoot can tell"
    assert not last["USER"].startswith("0:")
    assert "/healthz" in last["HEALTHCHECK"]
    assert set(map(int, last["EXPOSE"].split())) <= default_ports(program)
    command = json.loads(last["ENTRYPOINT"])
    assert command[1:] == ["-m", f"bursar_{program}"]
    assert (tree.PACKAGE_ROOTS[f"bursar_{program}"] / "__main__.py").exists()
    named = set(re.findall(r"\b(BURSAR_[A-Z_]+)=", last["ENV"]))
    assert named <= VARIABLES[program]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_builder_is_sent_what_the_image_is_made_of(path: Path) -> None:
    ignored = (path.parent / f"{path.name}.dockerignore").read_text()
    sent = [line[1:] for line in ignored.splitlines() if line.startswith("!")]
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert any(
                    source == each or source.startswith(f"{each}/") or Path(source).match(each)
                    for each in sent
                ), f"{source} is not sent"


def test_images_install_what_is_locked() -> None:
    def pinned(name: str) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s;\\]+)", tree.text(name)))

    everything = pinned("requirements.lock")
    for name in ("server", "sidecar", "build"):
        lock = pinned(f"deploy/docker/{name}.lock")
        assert lock
        differing = sorted(lock.items() - everything.items())
        tree.expect_none(map(str, differing), f"deploy/docker/{name}.lock; run `make lock`:")
        text = tree.text(f"deploy/docker/{name}.lock")
        assert "://" not in text
        blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
        assert all("--hash=sha256:" in block for block in blocks)


def test_images_have_what_their_program_imports() -> None:
    project = tree.text("pyproject.toml")
    for name in ("server", "sidecar"):
        lock = tree.text(f"deploy/docker/{name}.lock")
        extra = re.search(rf"(?m)^{name} = \[\n(.*?)^\]", project, re.DOTALL)
        assert extra is not None
        for wanted in re.findall(r'"([a-zA-Z0-9_-]+)', extra.group(1)):
            assert re.search(rf"(?mi)^{wanted.replace('_', '[-_]')}==", lock), f"{name}: {wanted}"


def test_commands_that_the_files_show_are_understood() -> None:
    shown = re.findall(r"exec server bursar (.*?)(?:  +#|$)", COMPOSE.read_text(), re.MULTILINE)
    shown += re.findall(
        r"exec server bursar ([^`.]*?) ?(?:\.\.\.)?`", tree.text("deploy/compose/.env.example")
    )
    assert len(shown) >= 4
    faults = [f"bursar {line}: {said}" for line in shown if (said := fault(shlex.split(line)))]
    tree.expect_none(faults, "deploy/compose shows a command that `bursar` does not understand:")
