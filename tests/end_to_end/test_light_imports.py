"""The sidecar's program leaves out what it does not need, and still has every name it asks for."""

import subprocess
import sys

LOADED = """
from bursar_sidecar.light_imports import lighten
lighten()
import bursar_sidecar.program, sys
unused = ("rich", "greenlet", "envoy", "http.server", "email", "wsgiref", "urllib.request", "html")
print([n for n in unused if sys.modules.get(n)])
print(type(sys.modules["typing_extensions"]).__name__)
"""
ASKED = """
from bursar_sidecar.light_imports import lighten
lighten()
import typing
from typing_extensions import Self, override
assert Self is typing.Self and override(len) is len
from typing_extensions import deprecated
import typing_extensions
print(typing_extensions.deprecated is deprecated, typing_extensions.__file__ is not None)
"""


SERVED = """
from bursar_sidecar.light_imports import lighten
lighten()
import prometheus_client, http.server, urllib.request, urllib.error, wsgiref.simple_server
print(http.server.BaseHTTPRequestHandler.__mro__[1].__name__, urllib.request.urlopen.__module__)
from bursar_sidecar.metrics import Metrics
print(b"bursar_sidecar_calls" in Metrics().text())
"""


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return done.stdout.split("\n")[:-1]


def test_the_program_loads_without_them() -> None:
    assert printed(LOADED) == ["[]", "LightTyping"]


def test_names_that_only_the_real_one_has_come_from_it() -> None:
    assert printed(ASKED) == ["True True"]


def test_metrics_come_without_servers_that_others_find_whole() -> None:
    assert printed(SERVED) == ["StreamRequestHandler urllib.request", "True"]
