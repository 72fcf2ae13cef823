"""The wire to the control plane: a real gRPC stream on the loopback."""

from pathlib import Path

import pytest

from bursar_sidecar.channel import dialer
from bursar_sidecar.desk import Refusal
from bursar_sidecar.setting_checks import is_local
from bursar_sidecar.settings import Settings
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import KEY, Counter, serving


@pytest.fixture
def plane() -> FakeControlPlane:
    plane = FakeControlPlane()
    plane.add_key(KEY, 7)
    plane.add_budget(1, 1_000)
    return plane


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:7443", True),
        ("127.8.0.1:7443", True),
        ("[::1]:7443", True),
        ("localhost:7443", True),
        ("unix:/run/bursar.sock", True),
        ("10.0.0.1:7443", False),
        ("0.0.0.0:7443", False),
        ("[2001:db8::1]:7443", False),
        ("control.example:7443", False),
        ("localhost.example:7443", False),
    ],
)
def test_plaintext_goes_to_this_machine_alone(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_an_unreadable_authority_is_a_fault_at_the_start(tmp_path: Path) -> None:
    settings = Settings(address="control.example:7443", tls_ca=str(tmp_path / "missing.pem"))
    with pytest.raises(FileNotFoundError):
        dialer(settings)


async def test_calls_go_through_and_the_stream_comes_back(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with plane.serving() as address:
        dial = dialer(Settings(address=address, sidecar_key="bs-one"))
        async with serving(Counter(dial, tmp_path)) as counter:
            await counter.spend(100, 10)
            await plane.until(lambda: len(plane.ledger) == 1, "it is posted")
            plane.cut()
            await plane.until(lambda: len(plane.streams) == 2, "a new stream")
            await counter.spend(100, 10)
            await plane.until(lambda: len(plane.ledger) == 2, "the next is posted")
            assert await counter.cashier.drain(1, 5)


async def test_a_wrong_credential_is_named_in_the_refusal(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with plane.serving() as address:
        dial = dialer(Settings(address=address, sidecar_key="nonsense"))
        async with serving(Counter(dial, tmp_path, reserve_wait_ms=500)) as counter:
            with pytest.raises(Refusal, match="UNAUTHENTICATED: no credential") as caught:
                await counter.identify()
            assert caught.value.reason == "no_allowance"


async def test_earlier_sessions_that_are_refused_do_not_stop_this_one(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with plane.serving() as address:
        dial = dialer(Settings(address=address, sidecar_key="bs-one"))
        first = Counter(dial, tmp_path)
        await first.spend(100, 10)
        held = await first.cashier.reserve(await first.call(50))
        await plane.until(lambda: plane.ledger, "it is posted")
        await first.crash()
        plane.refused_priors = set(plane.sessions)

        async with serving(Counter(dial, tmp_path)) as second:
            await second.spend(100, 10)
            await plane.until(lambda: len(plane.ledger) == 2, "the new call is posted")
            assert list(plane.hellos[-1].prior_sessions) == []
        # What nobody took stays in the journal: it is tried again by the next life.
        plane.refused_priors.clear()
        async with serving(Counter(dial, tmp_path)):
            await plane.until(lambda: len(plane.ledger) == 3, "the provisional is posted")
        epoch, _, n = held.charge_id.partition("-")
        assert plane.ledger[int(epoch), int(n)].cost_nanos == 50


async def test_a_key_from_a_file_is_read_again_for_each_stream(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("bs-one\n")
    async with plane.serving() as address:
        settings = Settings(address=address, sidecar_key="bs-one", sidecar_key_file=str(key))
        async with serving(Counter(dialer(settings), tmp_path)):
            await plane.until(lambda: len(plane.streams) == 1, "a stream")
            for number, content in enumerate(("bs-two\n", "", "bs-three"), start=2):
                key.write_text(content)
                plane.cut()
                await plane.until(lambda n=number: len(plane.streams) == n, "a new stream")  # type: ignore[misc]  # a default binds the loop's value
    assert plane.credentials == [
        f"Bearer {name}" for name in ("bs-one", "bs-two", "bs-two", "bs-three")
    ]
