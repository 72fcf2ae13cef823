"""What is in deploy/envoy/kubernetes/ has the shape that Envoy Gateway, Gateway API and Istio take,
names only what exists, and says the same as the static configuration, which is run. None of it is
run on a cluster; the rules in CEL that a cluster checks besides are not checked here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from bursar_sidecar.settings import load_settings
from tests.fakes.envoy import before, clusters_of, filter_of, http_filters_of, shipped, validate
from tests.house import tree
from tests.house.test_house_deploy import DEPLOY, FIELDS, OLDEST_KUBERNETES, VARIABLES, readable

HERE = DEPLOY / "envoy" / "kubernetes"
ENVOY_GATEWAY = "envoy-gateway.yaml"
ISTIO = "istio.yaml"
MESH = "mesh-config.yaml"
SCHEMAS = tree.ROOT / "tests" / "data" / "custom_resources"
AUTHZ = "envoy.filters.http.ext_authz"
PROC = "envoy.filters.http.ext_proc"

Resource = dict[str, Any]


def resources(name: str) -> list[Resource]:
    return [each for each in yaml.safe_load_all((HERE / name).read_text()) if each]


def of_kind(name: str, kind: str, group: str = "") -> list[Resource]:
    return [r for r in resources(name) if r["kind"] == kind and group in r["apiVersion"]]


def closed(schema: Any) -> Any:
    """The schema with fields that it does not name refused, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if (
        isinstance(found.get("properties"), dict)
        and "additionalProperties" not in found
        and not found.get("x-kubernetes-preserve-unknown-fields")
        and found.get("type") == "object"
    ):
        found["additionalProperties"] = False
    return found


def check(resource: Resource) -> None:
    """Raises where the resource has not the shape of its kind."""
    group, _, version = resource["apiVersion"].rpartition("/")
    path = SCHEMAS / f"{group}_{version}_{resource['kind']}.json"
    if not path.exists():
        kubernetes_validate.validate(resource, OLDEST_KUBERNETES, strict=True)
        return
    schema = closed(json.loads(path.read_text()))
    # What every resource has, and the schema of a custom one need not name.
    schema["properties"] |= {"apiVersion": True, "kind": True, "metadata": {"type": "object"}}
    jsonschema.Draft202012Validator(schema).validate(resource)


@pytest.mark.parametrize("name", [ENVOY_GATEWAY, ISTIO])
def test_resources_are_of_the_shape_of_their_kinds(name: str) -> None:
    found = resources(name)
    assert len(found) > 10
    for resource in found:
        check(resource)
    ours = [
        r
        for r in found
        if (SCHEMAS / f"{r['apiVersion'].replace('/', '_')}_{r['kind']}.json").exists()
    ]
    assert len(ours) > 10


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        (ENVOY_GATEWAY, "SecurityPolicy", ("spec", "extAuth", "failOpn")),
        (ENVOY_GATEWAY, "SecurityPolicy", ("spec", "extAuth", "bodyToExtAuth", "maxRequestBytes")),
        (ENVOY_GATEWAY, "HTTPRoute", ("spec", "rules", 0, "timeouts", "requst")),
        (ISTIO, "VirtualService", ("spec", "http", 0, "retries", "attempt")),
        (ISTIO, "EnvoyFilter", ("spec", "configPatches", 0, "applyTo")),
    ],
)
def test_a_fault_is_noticed(name: str, kind: str, path: tuple[str | int, ...]) -> None:
    resource = of_kind(name, kind)[0]
    at: Any = resource
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = "wrong"
    with pytest.raises(jsonschema.ValidationError):
        check(resource)


# -- the sidecar beside Envoy --------------------------------------------------------------------


def containers() -> Iterator[tuple[str, Resource, set[str]]]:
    """(where, the sidecar's container, the pod's volumes)."""
    (proxy,) = of_kind(ENVOY_GATEWAY, "EnvoyProxy")
    deployment = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]
    volumes = {volume["name"] for volume in deployment["pod"]["volumes"]}
    yield ENVOY_GATEWAY, deployment["initContainers"][0], volumes
    (gateway,) = of_kind(ISTIO, "Deployment")
    pod = gateway["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    yield ISTIO, pod["initContainers"][0], volumes


def test_the_sidecars_are_native_ones_of_the_user_that_shares_their_socket() -> None:
    for where, container, volumes in containers():
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod"},
            "spec": {
                "initContainers": [container],
                "containers": [{"name": "envoy", "image": "e:1"}],
            },
        }
        kubernetes_validate.validate(pod, OLDEST_KUBERNETES, strict=True)
        assert container["restartPolicy"] == "Always", where
        context = container["securityContext"]
        assert context["runAsNonRoot"], where
        assert context["readOnlyRootFilesystem"], where
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, where
        names = {each["name"] for each in container["env"]}
        assert names <= VARIABLES["sidecar"], where


@pytest.mark.parametrize("name", [ENVOY_GATEWAY, ISTIO])
def test_the_sidecars_files_are_good_settings(name: str, tmp_path: Path) -> None:
    (config,) = of_kind(name, "ConfigMap")
    (tmp_path / "sidecar.toml").write_text(readable(config["data"]["sidecar.toml"], tmp_path))
    settings = load_settings({}, tmp_path / "sidecar.toml")
    assert [provider.name for provider in settings.providers] == ["openai", "anthropic", "gemini"]
    socket = settings.envoy_address.removeprefix("unix:")
    text = (HERE / name).read_text()
    assert f"path: {socket}}}" in text or f"address: unix://{socket}" in text
    (mount,) = {
        each["mountPath"]
        for where, container, _ in containers()
        if where == name
        for each in container["volumeMounts"]
        if each["name"] == "bursar-run"
    }
    assert str(Path(socket).parent) == mount


# -- the same as what is run ---------------------------------------------------------------------


def envoy_filters() -> dict[str, Resource]:
    """What Istio's EnvoyFilter inserts, by the filters' names."""
    (found,) = of_kind(ISTIO, "EnvoyFilter")
    values = [
        each["patch"]["value"]
        for each in found["spec"]["configPatches"]
        if each["applyTo"] == "HTTP_FILTER"
    ]
    return {value["name"]: value["typed_config"] for value in values}


def test_istio_inserts_the_filters_that_are_run() -> None:
    strict = shipped("strict")
    run = [each["name"] for each in http_filters_of(strict)]
    assert [AUTHZ, *envoy_filters(), "envoy.filters.http.router"] == run, "the same, in their order"
    for name, inserted in envoy_filters().items():
        service = inserted.get("grpc_service", {}).get("envoy_grpc", {})
        if service:
            service["cluster_name"] = "bursar_proc"
        assert inserted == filter_of(strict, name)


def test_envoy_takes_what_istio_patches_into_it(tmp_path: Path) -> None:
    (found,) = of_kind(ISTIO, "EnvoyFilter")
    config = shipped("strict")
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    routes = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    patched = set()
    for each in found["spec"]["configPatches"]:
        if each["applyTo"] == "NETWORK_FILTER":
            manager["typed_config"] |= each["patch"]["value"]["typed_config"]
        if each["applyTo"] == "HTTP_ROUTE":
            name = each["match"]["routeConfiguration"]["vhost"]["route"]["name"]
            for route in routes:
                if route.get("route", {}).get("cluster") == name:
                    route |= each["patch"]["value"]
            patched.add(name)
    (service,) = of_kind(ISTIO, "VirtualService")
    assert patched == {each["name"] for each in service["spec"]["http"]}
    # The file of root certificates is not where it is shipped on every machine.
    config = before(config, sidecar=("127.0.0.1", 9), provider=("127.0.0.1", 9))
    path = tmp_path / "patched.yaml"
    path.write_text(yaml.safe_dump(config))
    checked = validate(path)
    assert checked.returncode == 0, checked.stderr


def test_istio_asks_the_way_that_is_run_and_names_its_own_clusters() -> None:
    (mesh,) = resources(MESH)
    (provider,) = mesh["meshConfig"]["extensionProviders"]
    asked = provider["envoyExtAuthzGrpc"]
    run = filter_of(shipped("strict"), AUTHZ)
    assert asked["includeRequestBodyInCheck"] == {
        "maxRequestBytes": run["with_request_body"]["max_request_bytes"],
        "allowPartialMessage": run["with_request_body"]["allow_partial_message"],
        "packAsBytes": run["with_request_body"]["pack_as_bytes"],
    }
    assert asked["timeout"] == run["grpc_service"]["timeout"]
    assert (asked["failOpen"], asked["statusOnError"]) == (False, "503")
    (policy,) = of_kind(ISTIO, "AuthorizationPolicy")
    assert policy["spec"]["provider"]["name"] == provider["name"]
    hosts = {
        host: port["number"]
        for entry in of_kind(ISTIO, "ServiceEntry")
        for host in entry["spec"]["hosts"]
        for port in entry["spec"]["ports"]
    }
    assert hosts[asked["service"].partition("/")[2]] == asked["port"]
    cluster = envoy_filters()[PROC]["grpc_service"]["envoy_grpc"]["cluster_name"]
    found = re.fullmatch(r"outbound\|(\d+)\|\|(\S+)", cluster)
    assert found is not None
    assert hosts[found[2]] == int(found[1])
    assert {rule["spec"]["host"] for rule in of_kind(ISTIO, "DestinationRule")} == set(hosts)


def test_istio_makes_no_call_twice() -> None:
    (service,) = of_kind(ISTIO, "VirtualService")
    for route in service["spec"]["http"]:
        assert route["retries"] == {"attempts": 0}
        assert route["timeout"] == "0s"


def test_envoy_gateway_asks_the_way_that_is_run() -> None:
    strict = shipped("strict")
    run = filter_of(strict, AUTHZ)
    routes = {route["metadata"]["name"] for route in of_kind(ENVOY_GATEWAY, "HTTPRoute")}
    asked = {}
    for policy in of_kind(ENVOY_GATEWAY, "SecurityPolicy"):
        (target,) = policy["spec"]["targetRefs"]
        found = policy["spec"]["extAuth"]
        asked[target["name"]] = found
        assert found["failOpen"] is False
        assert found["statusOnError"] == 503
        assert found["timeout"] == run["grpc_service"]["timeout"]
        body = found["bodyToExtAuth"]["maxRequestBytes"]
        assert body == run["with_request_body"]["max_request_bytes"]
        told = {each["name"]: each["value"] for each in found["contextExtensions"]}
        assert told == {"bursar.provider": target["name"], "bursar.tier": "strict"}
    assert asked.keys() == routes, "a route that nobody is asked about"
    (extension,) = of_kind(ENVOY_GATEWAY, "EnvoyExtensionPolicy")
    (processing,) = extension["spec"]["extProc"]
    proc = filter_of(strict, PROC)
    assert processing["failOpen"] is False
    assert processing["messageTimeout"] == proc["message_timeout"]
    assert proc["processing_mode"] == {
        "request_header_mode": "SEND",
        "request_body_mode": "NONE",
        "request_trailer_mode": "SKIP",
        "response_header_mode": "SEND",
        "response_body_mode": "FULL_DUPLEX_STREAMED",
        "response_trailer_mode": "SEND",
    }
    # What Envoy Gateway makes of this is the mode above.
    assert processing["processingMode"] == {
        "request": {},
        "response": {"body": "FullDuplexStreamed", "attributes": proc["response_attributes"]},
    }
    (traffic,) = of_kind(ENVOY_GATEWAY, "BackendTrafficPolicy")
    buffer = filter_of(strict, "envoy.filters.http.buffer")
    assert int(traffic["spec"]["requestBuffer"]["limit"]) == buffer["max_request_bytes"]
    namespaces = proc["metadata_options"]["forwarding_namespaces"]["untyped"]
    assert processing["metadata"] == {"accessibleNamespaces": namespaces}


def test_no_circuit_breaker_is_left_at_its_default() -> None:
    raised = clusters_of(shipped("strict"))[0]["circuit_breakers"]["thresholds"][0]
    wanted = {
        "maxConnections": raised["max_connections"],
        "maxPendingRequests": raised["max_pending_requests"],
        "maxParallelRequests": raised["max_requests"],
    }
    found = [p["spec"]["extAuth"]["grpc"] for p in of_kind(ENVOY_GATEWAY, "SecurityPolicy")]
    found += [p["spec"]["extProc"][0] for p in of_kind(ENVOY_GATEWAY, "EnvoyExtensionPolicy")]
    for each in found:
        assert each["backendSettings"]["circuitBreaker"] == wanted
    (traffic,) = of_kind(ENVOY_GATEWAY, "BackendTrafficPolicy")
    assert traffic["spec"]["circuitBreaker"] == wanted
    for rule in of_kind(ISTIO, "DestinationRule"):
        pool = rule["spec"]["trafficPolicy"]["connectionPool"]
        assert pool["tcp"]["maxConnections"] == raised["max_connections"]
        assert pool["http"]["http2MaxRequests"] == raised["max_requests"]


def test_calls_last_no_longer_than_the_sidecar_lets_them() -> None:
    longest = f"{FIELDS['longest_call_s'].default}s"
    (traffic,) = of_kind(ENVOY_GATEWAY, "BackendTrafficPolicy")
    assert traffic["spec"]["timeout"]["http"]["maxStreamDuration"] == longest
    text = (DEPLOY / "envoy" / "strict.yaml").read_text() + (HERE / ISTIO).read_text()
    assert re.findall(r"max_stream_duration: (\S+)", text) == [longest, longest]
    assert http_filters_of(shipped("light"))
