"""The ways to run an Envoy that `benchmarks.envoy` compares, each an Envoy of its own.

All have a configuration that ships (`deploy/envoy/strict.yaml`, `light.yaml`), but for the filters
that a way leaves out or asks otherwise, and all forward to one simulated provider.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.running_stack import PLENTY
from tests.fakes.envoy import (
    Config,
    before,
    endpoint_of,
    envoy,
    filter_of,
    http_filters_of,
    shipped,
)
from tests.fakes.site import Site, site

NANOS = 1_000_000_000
ALONE = "Envoy alone"
PROXY = "the sidecar as the proxy, no Envoy"
CHECK = "ext_authz"
LIGHT = "light"
STRICT = "strict"
STRICT_TCP = "strict, over TCP"
BODY_TOO = "bare, request's body sent too"
BARE_CHECK = "bare ext_authz on grpc.aio"
BARE_AIO = "bare ext_authz + ext_proc on grpc.aio"
BARE_WIRE = "bare ext_authz + ext_proc"
TOGETHER = "bare, ten chunks answered together"
ANSWER_ONLY = "bare, answers' phases only"
OURS = ("envoy.filters.http.ext_authz", "envoy.filters.http.ext_proc", "envoy.filters.http.buffer")
AUTHZ, PROC, BUFFER = OURS


class Way(NamedTuple):
    """One way to be called."""

    address: str
    key: str
    envoy: int | None
    """The process; None where there is none."""
    service: int | None
    """The process that Envoy asks; None where it asks nobody."""


def _without(*names: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        filters = http_filters_of(config)
        filters[:] = [each for each in filters if each["name"] not in names]
        listener = config["static_resources"]["listeners"][0]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            for name in names:
                route.get("typed_per_filter_config", {}).pop(name, None)

    return change


def _body_too(config: Config) -> None:
    mode = filter_of(config, PROC)["processing_mode"]
    mode["request_body_mode"] = "FULL_DUPLEX_STREAMED"
    mode["request_trailer_mode"] = "SEND"


def _answer_only(config: Config) -> None:
    filter_of(config, PROC)["processing_mode"]["request_header_mode"] = "SKIP"


def _same(config: Config) -> None:
    """As it ships."""


SIDECARS = ("one", "two")
"""The first on a unix socket, the second on TCP."""
FRONTS: dict[str, tuple[str, str, Callable[[Config], None]]] = {
    ALONE: ("strict", "", _without(*OURS)),
    CHECK: ("strict", "one", _without(PROC, BUFFER)),
    LIGHT: ("light", "one", _same),
    STRICT: ("strict", "one", _same),
    STRICT_TCP: ("strict", "two", _same),
    BODY_TOO: ("strict", "wire", _body_too),
    BARE_CHECK: ("strict", "grpc.aio", _without(PROC, BUFFER)),
    BARE_AIO: ("strict", "grpc.aio", _same),
    BARE_WIRE: ("strict", "wire", _same),
    TOGETHER: ("strict", "together", _same),
    ANSWER_ONLY: ("strict", "wire", _answer_only),
}
"""By its name: what ships, who is asked, what is changed of it."""
MORE_CALLS = "10000"
"""Held for Envoy: with ext_authz alone nobody tells how calls ended, and all stay held."""


@contextmanager
def _bare(server: str, address: str) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.envoy_bare", server, address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == address
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _key(made: Site) -> str:
    """A secret under four hard budgets."""
    name, secret = made.make_key()
    for _ in range(4):
        made.make_budget(name, int(PLENTY) * NANOS)
    return secret


@contextmanager
def running_envoys(directory: Path) -> Iterator[dict[str, Way]]:
    """Every way, by its name."""
    with ExitStack() as within:
        made = within.enter_context(site(directory, sidecars=SIDECARS, lending={}))
        asked = {"one": f"unix:{directory}/one.sock", "two": "127.0.0.1:0"}
        for name, address in asked.items():
            made.sidecars[name].tell(
                BURSAR_SIDECAR_ENVOY_ADDRESS=address, BURSAR_SIDECAR_ENVOY_MAX_CALLS=MORE_CALLS
            )
        made.start_sidecars()
        services = {name: made.sidecars[name].pid for name in SIDECARS}
        asked["two"] = made.sidecars["two"].said["envoy"]
        for server in ("grpc.aio", "wire", "together"):
            asked[server] = f"unix:{directory}/{server}.sock"
            services[server] = within.enter_context(_bare(server, asked[server]))
        key = _key(made)
        through = f"http://{made.sidecars['one'].said['http']}"
        ways = {PROXY: Way(through, key, None, services["one"])}
        for number, (name, (tier, who, change)) in enumerate(FRONTS.items()):
            address = asked[who or "one"]
            config = before(
                shipped(tier),
                sidecar=endpoint_of(address),
                provider=endpoint_of(made.provider_url),
            )
            change(config)
            front = within.enter_context(envoy(directory, config, f"envoy-{number}"))
            ways[name] = Way(front.url, key, front.pid, services.get(who))
        yield ways
