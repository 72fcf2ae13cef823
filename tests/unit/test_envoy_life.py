"""Envoy's services from their start to their end, and where they are not wanted or can't be."""

from types import ModuleType

import grpc
import grpc.aio
import pytest

from bursar_sidecar.envoy import services
from bursar_sidecar.envoy.services import MissingPackageError
from tests.fakes.checked import Answer, Checks, asked, checks
from tests.fakes.envoy_calls import CHAT


async def test_without_an_address_nobody_is_served() -> None:
    made = Checks(envoy_address="")
    await made.services.start()
    assert (made.services.address, made.services.served, made.services.described()) == ("", [], {})
    await made.services.drain(0)


async def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'envoy'", name="envoy.service")

    monkeypatch.setattr(services, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"xds-protos.*pip install 'bursar\[envoy\]'"):
        await Checks().services.start()


async def test_a_fault_of_ours_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'bursar_sidecar.x'", name="bursar_sidecar.x")

    monkeypatch.setattr(services, "import_module", missing)
    with pytest.raises(ModuleNotFoundError) as caught:
        await Checks().services.start()
    assert not isinstance(caught.value, OSError)


async def test_an_address_that_is_taken_is_told() -> None:
    async with checks() as first:
        with pytest.raises(OSError, match="in use"):
            await Checks(envoy_address=first.services.address).services.start()


async def test_at_the_end_what_is_held_is_charged_and_nobody_is_answered() -> None:
    async with checks() as envoy:
        assert (await envoy.check()).is_allowed
        await envoy.services.drain(0)
        assert envoy.desk.only_outcome.usage.estimate_reason == "sidecar_stopped"
        assert envoy.desk.only_outcome.kind == "unknown"
        with pytest.raises(grpc.aio.AioRpcError):
            await envoy.call(asked())
        await envoy.services.drain(0)


async def test_new_settings_hold_for_the_next_check() -> None:
    async with checks(envoy_tier="strict") as envoy:
        assert not (await envoy.check()).told
        light = Checks(envoy_tier="light", max_request_bytes=len(CHAT)).settings
        envoy.proxy.apply(light)
        envoy.services.apply(light)
        assert (await envoy.check()).told
        refused = Answer(await envoy.call(asked(body=CHAT + b" ")))
        assert refused.status == 413
