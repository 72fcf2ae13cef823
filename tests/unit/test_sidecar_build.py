"""The build that a sidecar tells the control plane is the one that is installed."""

from importlib.metadata import version

from bursar_sidecar.build import VERSION


def test_the_version_is_that_of_the_package() -> None:
    assert version("bursar") == VERSION
