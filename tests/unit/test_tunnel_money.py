"""What an open websocket costs: its flat price, and the minutes begun, each reserved ahead."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar_sidecar.desk import Refusal, Reservation
from bursar_sidecar.tunnel import CLOSE_GRACE_S
from bursar_sidecar.tunnel_minutes import ASK_AGAIN_S, ASK_AHEAD_S, LAST_S, MINUTE_S, Minutes
from bursar_sidecar.tunnel_purse import KEY_CHECK_S
from tests.fakes.desk import KEY, FakeDesk, FakeReservation
from tests.fakes.websockets_raw import (
    BY_MINUTE,
    DOLLAR,
    LINE,
    SWITCHED,
    TunnelBench,
    code_in,
    offer,
)
from tests.fakes.wire import delivered

CENT = DOLLAR // 100


async def ended(bench: TunnelBench) -> int:
    """Both sides hang up; what was charged."""
    for end in (bench.app, bench.provider.ends[-1]):
        assert end.transport is not None
        end.transport.close()
    await delivered()
    return bench.desk.only_outcome.cost_nanos


@pytest.mark.parametrize(
    ("seconds", "cents"), [(0, 40), (1, 40), (60, 40), (61, 70), (120, 70), (600, 310), (601, 340)]
)
async def test_every_minute_begun_is_charged(seconds: int, cents: int) -> None:
    bench = TunnelBench(BY_MINUTE, stall_timeout_s=3_600)
    await bench.opened()
    await bench.pass_s(seconds)
    assert await ended(bench) == cents * CENT
    minutes = bench.desk.only_outcome.usage.extra["minute"]
    assert minutes == max(1, -(-seconds // 60))


async def test_without_a_price_per_minute_it_is_flat_however_long() -> None:
    bench = TunnelBench(LINE, stall_timeout_s=3_600)
    await bench.opened()
    await bench.pass_s(1_000)
    assert not bench.desk.growths
    assert await ended(bench) == 10 * CENT


async def test_the_next_minute_is_reserved_before_it_begins() -> None:
    bench = TunnelBench(BY_MINUTE)
    await bench.opened()
    await bench.pass_s(MINUTE_S - ASK_AHEAD_S - 1)
    assert bench.desk.growths == []
    await bench.pass_s(1)
    assert bench.desk.growths == [70 * CENT]
    await bench.pass_s(ASK_AHEAD_S + MINUTE_S - ASK_AHEAD_S)
    assert bench.desk.growths == [70 * CENT, 100 * CENT]


async def test_when_no_more_can_be_had_it_is_closed_within_what_is_paid() -> None:
    bench = TunnelBench(BY_MINUTE, FakeDesk(99 * CENT))
    provider = await bench.opened()
    await bench.pass_s(2 * MINUTE_S - LAST_S - 1)
    assert await bench.at_app() == b""
    await bench.pass_s(1)
    got = await bench.at_app()
    assert code_in(got) == 1008, "no more of it helps: apps should not come again"
    assert b"Budget 'budgets/b-1'" in got
    await bench.pass_s(CLOSE_GRACE_S)
    await provider.until(lambda: provider.ended)
    await delivered()
    outcome = bench.desk.only_outcome
    assert (outcome.kind, outcome.cost_nanos) == ("aborted", 70 * CENT)
    assert bench.desk.settled_nanos <= 99 * CENT


async def test_what_others_hold_may_come_home_until_then() -> None:
    desk = FakeDesk(2 * DOLLAR)
    bench = TunnelBench(BY_MINUTE, desk)
    await bench.opened()
    other = FakeReservation("other", 0)
    desk.open["other"] = next(iter(desk.open.values()))
    desk._grow(other, 140 * CENT)
    await bench.pass_s(MINUTE_S - LAST_S - ASK_AGAIN_S - 1)
    del desk.open["other"]
    desk.growths.clear()
    await bench.pass_s(10)
    assert desk.growths == [70 * CENT]
    desk.open["other"] = next(iter(desk.open.values()))
    desk._grow(other, 130 * CENT)
    await bench.pass_s(MINUTE_S)
    got = await bench.at_app()
    assert code_in(got) == 1013, "apps may come again, later"
    assert b"budget_reserved" in got


class SilentDesk(FakeDesk):
    """Does not answer who wants more; a key may go bad."""

    def __init__(self) -> None:
        super().__init__(10 * DOLLAR)
        self.is_revoked = False
        self.fails = False

    async def extend(self, reservation: Reservation, ceiling_nanos: int) -> None:
        if self.fails:
            raise RuntimeError("a fault of ours")
        await asyncio.get_running_loop().create_future()

    async def identify(self, api_key: str):  # type: ignore[no-untyped-def]  # as its base has it
        if self.is_revoked:
            raise Refusal("key_revoked")
        return await super().identify(api_key)


async def test_silence_is_money_that_is_not_there() -> None:
    bench = TunnelBench(BY_MINUTE, SilentDesk())
    await bench.opened()
    await bench.pass_s(MINUTE_S)
    got = await bench.at_app()
    assert code_in(got) == 1013
    assert b"no_allowance" in got
    await bench.pass_s(CLOSE_GRACE_S)
    assert bench.desk.only_outcome.cost_nanos == 40 * CENT


async def test_a_fault_of_ours_closes_what_nobody_pays_for() -> None:
    desk = SilentDesk()
    desk.fails = True
    bench = TunnelBench(BY_MINUTE, desk)
    await bench.opened()
    await bench.pass_s(MINUTE_S)
    assert code_in(await bench.at_app()) == 1011


async def test_a_key_that_is_revoked_ends_what_it_opened() -> None:
    desk = SilentDesk()
    bench = TunnelBench(LINE, desk)
    await bench.opened()
    await bench.pass_s(2 * KEY_CHECK_S)
    assert await bench.at_app() == b""
    desk.is_revoked = True
    await bench.pass_s(KEY_CHECK_S + 1)
    got = await bench.at_app()
    assert code_in(got) == 1008
    assert b"key_revoked" in got


async def test_the_last_minute_that_it_may_have_is_the_last_that_is_reserved() -> None:
    bench = TunnelBench(BY_MINUTE, longest_call_s=150)
    await bench.opened()
    await bench.pass_s(149)
    assert bench.desk.growths == [70 * CENT, 100 * CENT]
    assert await bench.at_app() == b""
    await bench.pass_s(1)
    assert b"longest_s" in await bench.at_app()
    assert await ended(bench) == 100 * CENT


async def test_two_hundred_sessions_never_spend_more_than_there_is() -> None:
    desk = FakeDesk(20 * DOLLAR)
    bench = TunnelBench(BY_MINUTE, desk)
    apps = [bench.connect() for _ in range(200)]
    for app in apps:
        app.send(offer())
    await delivered()
    for end in bench.provider.ends:
        end.send(SWITCHED)
    await delivered()
    assert len(bench.provider.ends) == 50, "as many as their first minute is there for"
    await bench.pass_s(300)
    await delivered()
    assert not desk.open
    assert desk.settled_nanos == 20 * DOLLAR
    assert len(desk.outcomes) == 50


# --- the sum itself --------------------------------------------------------------------------

AMOUNTS = st.integers(0, 10**12)


@given(
    flat=AMOUNTS,
    minute=AMOUNTS,
    longest_s=st.integers(1, 86_400),
    grants=st.integers(0, 50),
    lasted_s=st.floats(0, 90_000),
)
def test_what_is_charged_was_reserved(
    flat: int, minute: int, longest_s: int, grants: int, lasted_s: float
) -> None:
    minutes = Minutes(flat, minute, longest_s)
    for _ in range(grants):
        if minutes.ask_at == float("inf"):
            break
        assert minutes.next_nanos == minutes.reserved_nanos + minute
        assert minutes.ask_at < minutes.close_at
        minutes.granted()
    assert flat + minute <= minutes.cost_nanos(lasted_s) <= minutes.reserved_nanos
    assert minutes.paid <= max(1, -(-longest_s // 60))
    if minute and lasted_s <= minutes.paid * MINUTE_S:
        assert minutes.begun(lasted_s) * MINUTE_S >= lasted_s


def test_after_a_refusal_it_is_asked_again_and_closed_in_time() -> None:
    minutes = Minutes(1, 1, 3_600)
    assert (minutes.ask_at, minutes.close_at) == (45.0, 55.0)
    minutes.refused(45.0)
    assert minutes.ask_at == 48.0
    minutes.granted()
    assert (minutes.ask_at, minutes.close_at) == (105.0, 115.0)


def test_keys_are_those_of_the_desk() -> None:
    assert KEY in FakeDesk().spenders
