"""A real Envoy, with a configuration of `deploy/envoy/` or one of the test.

The binary is what `make` unpacked beside the virtual environment (requirements-envoy.lock); nothing
of its Python package is imported. Ports are the kernel's to choose: the configuration that runs has
0 where the shipped one has a number, and Envoy tells through its admin what it got.
"""

import copy
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.programs import Program
from tests.fakes.until import DEADLINE_S, until

BINARY = Path(sys.prefix) / "envoy" / "envoy" / "_bin" / "envoy"
DEPLOYED = Path(__file__).parents[2] / "deploy" / "envoy"
PASS_THROUGH = "pass_through"
"""The one cluster of `pass_through()`."""
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
OURS = "bursar_"
"""What the names of the clusters begin with where shipped configurations ask the sidecar."""
READY_S = 2.0
"""How long one question to the admin may take; it is asked again until `until`'s deadline."""

Config = dict[str, Any]
Endpoint = str | tuple[str, int]
"""A unix socket's path, or host and port."""


def shipped(name: str, replaced: Mapping[str, str] | None = None) -> Config:
    """A configuration of `deploy/envoy/`, e.g. "strict", as it ships but for texts `replaced` in it
    (paths of files, say), each of which has to be there."""
    text = (DEPLOYED / f"{name}.yaml").read_text()
    for old, new in (replaced or {}).items():
        assert old in text, f"{name}.yaml has no {old!r}"
        text = text.replace(old, new)
    found: Config = yaml.safe_load(text)
    return found


def before(config: Config, *, sidecar: Endpoint, provider: Endpoint) -> Config:
    """A shipped configuration that asks this sidecar's `envoy_address` and forwards every
    provider's calls to this one."""
    names = [cluster["name"] for cluster in clusters_of(config)]
    ours = {name: sidecar for name in names if name.startswith(OURS)}
    assert ours, names
    return with_endpoints(config, {**dict.fromkeys(names, provider), **ours})


def endpoint_of(address: str) -> Endpoint:
    """Of `host:port`, `http://host:port` or `unix:/path`."""
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    host, _, port = address.rpartition("//")[2].rpartition(":")
    return host, int(port)


def validate(path: Path) -> "subprocess.CompletedProcess[str]":
    """What Envoy itself says of a file of configuration; opens no port."""
    return subprocess.run(
        [_binary(), "--mode", "validate", "--disable-hot-restart", "-l", "warning", "-c", path],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip


def with_endpoints(config: Config, endpoints: Mapping[str, Endpoint]) -> Config:
    """The configuration with these clusters (by name) at other addresses.

    A cluster that is moved so is resolved no more and spoken to without TLS: what stands there is
    a process of the test. All else of it stays. A name that the configuration lacks is a fault.
    """
    changed = copy.deepcopy(config)
    clusters = {cluster["name"]: cluster for cluster in clusters_of(changed)}
    for name, endpoint in endpoints.items():
        cluster = clusters[name]
        cluster["type"] = "STATIC"
        if cluster.pop("transport_socket", None):
            # What TLS would have agreed upon.
            http = cluster["typed_extension_protocol_options"][HTTP_OPTIONS]
            http.pop("auto_config", None)
            http["explicit_http_config"] = {"http_protocol_options": {}}
        cluster["load_assignment"] = _assignment(name, endpoint)
    return changed


def clusters_of(config: Config) -> list[Config]:
    """The clusters of a static configuration, to read or to change."""
    found: list[Config] = config["static_resources"]["clusters"]
    return found


def http_filters_of(config: Config) -> list[Config]:
    """The HTTP filters of a configuration's first listener, to read or to change."""
    listener = config["static_resources"]["listeners"][0]
    (connections,) = listener["filter_chains"][0]["filters"]
    found: list[Config] = connections["typed_config"]["http_filters"]
    return found


def file_logs_of(config: Config) -> list[Config]:
    """The settings of a configuration's access logs that are files, to read or to change."""
    listener = config["static_resources"]["listeners"][0]
    (connections,) = listener["filter_chains"][0]["filters"]
    logs = connections["typed_config"].get("access_log", [])
    return [log["typed_config"] for log in logs if "path" in log["typed_config"]]


def filter_of(config: Config, name: str) -> Config:
    """The settings of one HTTP filter, e.g. "envoy.filters.http.ext_authz", to read or change."""
    (found,) = [each["typed_config"] for each in http_filters_of(config) if each["name"] == name]
    settings: Config = found
    return settings


def pass_through(provider: Endpoint) -> Config:
    """An Envoy that does nothing but forward: what a test or a benchmark compares with."""
    extensions = "type.googleapis.com/envoy.extensions.filters"
    cluster = {"name": PASS_THROUGH, "type": "STATIC", "load_assignment": {}}
    cluster["load_assignment"] = _assignment(PASS_THROUGH, provider)
    connections = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "apps",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": PASS_THROUGH, "timeout": "0s"},
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extensions}.http.router.v3.Router"},
            }
        ],
    }
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": connections,
    }
    listener = {
        "name": "apps",
        "address": _address(("127.0.0.1", 0)),
        "filter_chains": [{"filters": [manager]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


class Envoy(Program):
    """One Envoy: at most one process at a time. It keeps its port when it is started again."""

    def __init__(self, directory: Path, config: Config, name: str = "envoy") -> None:
        """`config` is read at each start, with the ports of its listeners and its admin changed;
        its log files are in the directory."""
        self.config = config
        self._directory = directory
        self._file = directory / f"{name}.json"
        self._admin_file = directory / f"{name}.admin"
        self._ports: dict[str, int] = {}
        super().__init__(
            name,
            directory,
            [
                str(_binary()), "-c", str(self._file), "--concurrency", "1",
                "--disable-hot-restart", "-l", "warning",
                # Its default of ten seconds is for disks.
                "--file-flush-interval-msec", "50",
                "--admin-address-path", str(self._admin_file),
            ],
            {},
        )  # fmt: skip

    @property
    def address(self) -> str:
        """Where apps call: `host:port`, of the first listener."""
        first = self.config["static_resources"]["listeners"][0]
        return f"127.0.0.1:{self._ports[first['name']]}"

    @property
    def url(self) -> str:
        """The same with its scheme."""
        return f"http://{self.address}"

    def launch(self) -> None:
        """Start the process; from the main thread."""
        self._admin_file.unlink(missing_ok=True)
        config = copy.deepcopy(self.config)
        config["admin"] = {"address": _address(("127.0.0.1", 0))}
        for listener in config["static_resources"]["listeners"]:
            port = self._ports.get(listener["name"], 0)
            listener["address"] = _address(("127.0.0.1", port))
        for log in file_logs_of(config):
            log["path"] = str(self._directory / Path(log["path"]).name)
        self._file.write_text(json.dumps(config))
        super().launch()

    def wait_until_serving(self) -> None:
        """Wait until its admin says that it takes connections."""

        def look() -> bool:
            assert self.is_running, f"{self.name} ended:\n{self.log()}"
            try:
                return bool(self.told("/ready").strip() == "LIVE")
            except (OSError, urllib.error.URLError):
                return False  # its admin is not there yet

        try:
            until(look, "Envoy serves")
        except AssertionError:
            print(self.log())
            raise
        listening = json.loads(self.told("/listeners?format=json"))["listener_statuses"]
        self._ports = {
            each["name"]: each["local_address"]["socket_address"]["port_value"]
            for each in listening
        }

    def told(self, path: str) -> str:
        """What its admin answers at a path."""
        address = self._admin_file.read_text()
        with urllib.request.urlopen(f"http://{address}{path}", timeout=READY_S) as answer:
            content: bytes = answer.read()
        return content.decode()

    def order(self, path: str) -> None:
        """Tell its admin to do something."""
        address = self._admin_file.read_text()
        order = urllib.request.Request(f"http://{address}{path}", method="POST")
        with urllib.request.urlopen(order, timeout=READY_S) as answer:
            answer.read()

    def counted(self, statistic: str) -> int:
        """A counter or gauge by its whole name; 0 where it has none so far."""
        found = json.loads(self.told(f"/stats?format=json&filter=^{statistic}$"))["stats"]
        return next((int(each["value"]) for each in found if "value" in each), 0)


@contextmanager
def envoy(directory: Path, config: Config, name: str = "envoy") -> Iterator[Envoy]:
    """An Envoy for the length of a test; its log is in the failure."""
    made = Envoy(directory, config, name)
    try:
        made.start()
        yield made
    except BaseException:
        print(made.log())
        raise
    finally:
        if made.is_running:
            code = made.stop()
            assert code == 0, f"Envoy ended with {code}:\n{made.log()}"


def _binary() -> Path:
    assert BINARY.exists(), f"Envoy is missing at {BINARY}; `make venv` installs it"
    return BINARY


def _assignment(cluster: str, endpoint: Endpoint) -> Config:
    found = {"endpoint": {"address": _address(endpoint)}}
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [found]}]}


def _address(endpoint: Endpoint) -> Config:
    if isinstance(endpoint, str):
        return {"pipe": {"path": endpoint}}
    host, port = endpoint
    return {"socket_address": {"address": host, "port_value": port}}
