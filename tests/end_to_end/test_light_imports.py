"""The sidecar's program leaves out what it does not need, and still has every name it asks for."""

import subprocess
import sys

LOADED = """
from bursar_sidecar.light_imports import lighten
lighten()
import bursar_sidecar.program, sys
print([n for n in ("rich", "greenlet", "envoy") if sys.modules.get(n)])
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


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return done.stdout.split("\n")[:-1]


def test_the_program_loads_without_them() -> None:
    assert printed(LOADED) == ["[]", "LightTyping"]


def test_names_that_only_the_real_one_has_come_from_it() -> None:
    assert printed(ASKED) == ["True True"]
