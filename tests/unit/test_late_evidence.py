"""Evidence about a call that was settled provisionally: posted as an adjustment, never lost."""

from pathlib import Path

import pytest
from msgspec import structs

from bursar.usage import estimated
from bursar.v1 import charges_pb2
from bursar_sidecar.amendments import EVIDENCE_WITHIN_S, Amendments, Late
from bursar_sidecar.desk import Call, Outcome, Refusal
from bursar_sidecar.holds import Hold
from bursar_sidecar.journal import machine_boot_id
from bursar_sidecar.journal_reading import Reading
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.counter import Counter, serving

FINAL = charges_pb2.SETTLEMENT_KIND_FINAL
PROVISIONAL = charges_pb2.SETTLEMENT_KIND_PROVISIONAL


async def handed_out(counter: Counter, ceiling_nanos: int = 100) -> Hold:
    call: Call = structs.replace(await counter.call(ceiling_nanos), request_id="attempt-1")
    reservation = await counter.cashier.reserve(call)
    assert isinstance(reservation, Hold)
    return reservation


def expired(counter: Counter, hold: Hold) -> Outcome:
    return Outcome(
        "unknown", estimated("reservation_expired"), hold.ceiling_nanos,
        finished_at=counter.clock.wall_ns(),
    )  # fmt: skip


async def expire(counter: Counter) -> tuple[Amendments, Late]:
    hold = await handed_out(counter)
    counter.cashier.settle(hold, expired(counter, hold))
    amendments = Amendments(counter.session, counter.clock)
    return amendments, amendments.late(hold)


async def test_evidence_adjusts_what_was_posted_provisionally(
    plane: FakeControlPlane, counter: Counter
) -> None:
    amendments, late = await expire(counter)
    await plane.until(lambda: plane.ledger, "it is posted provisionally")
    (posted,) = plane.ledger.values()
    assert (posted.kind, posted.cost_nanos) == (PROVISIONAL, 100)
    assert posted.usage.estimate_reason == "reservation_expired"
    receipt = amendments.amend(late, counter.outcome(30), "USD")
    assert (receipt.charge_id, receipt.cost_nanos) == (late.charge_id, 30)
    await plane.until(lambda: "adjustment" in plane.judgements, "it is adjusted")
    (final,) = plane.ledger.values()
    assert (final.kind, final.cost_nanos, final.reserved_nanos) == (FINAL, 30, 100)
    assert list(final.budget_window_ids) == [10]


async def test_evidence_before_the_acknowledgement_is_not_lost_with_it(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    """The acknowledgement of the provisional says nothing of the final behind it."""
    async with serving(Counter(plane.dial, tmp_path)) as first:
        hold = await handed_out(first)
        await plane.until(lambda: plane.live().granted, "it is lent for")
        first.cashier.settle(hold, expired(first, hold))
        amendments = Amendments(first.session, first.clock)
        amendments.amend(amendments.late(hold), first.outcome(30), "USD")
        # Only the first of the two is acknowledged before the process dies.
        roster = first.session._roster
        outbox = roster.outboxes()[0]
        only = next(iter(outbox.charges))
        outbox.charges.clear()
        outbox.charges.append(only)
        await plane.until(lambda: plane.ledger, "the provisional is posted")
        epoch = plane.live().epoch
        await plane.until(lambda: not roster._amended, "and acknowledged")
        assert first.journal.is_owed(epoch, 1)
    async with serving(Counter(plane.dial, tmp_path)) as second:
        await second.identify()
        await plane.until(
            lambda: "adjustment" in plane.judgements, "the final is sent by the next life"
        )
        assert plane.ledger[epoch, 1].cost_nanos == 30
        await plane.until(lambda: not second.journal.is_owed(epoch, 1), "and acknowledged")


async def test_an_amendment_after_the_acknowledgement_survives_a_crash(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path)) as first:
        amendments, late = await expire(first)
        epoch = plane.live().epoch
        await plane.until(lambda: not first.journal.is_owed(epoch, 1), "it is acknowledged")
        plane.applying = False
        amendments.amend(late, first.outcome(30), "USD")
        assert first.journal.is_owed(epoch, 1)
    reading = Reading(tmp_path, boot_id=machine_boot_id())
    rows = [row for row in reading.rows() if row.kind == "settled"]
    assert [(row.outcome, row.cost_nanos) for row in rows] == [("provisional", 100), ("final", 30)]
    assert [session.owed for session in reading.sessions() if session.opened] == [1]
    plane.applying = True
    async with serving(Counter(plane.dial, tmp_path)) as second:
        await second.identify()
        await plane.until(lambda: "adjustment" in plane.judgements, "the next life sends it")
        assert plane.ledger[epoch, 1].cost_nanos == 30


async def test_what_an_app_held_when_the_process_died_can_be_settled_late(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path)) as first:
        await handed_out(first)
        await first.cashier.reserve(await first.call(100))  # a call of the proxy's
        epoch = plane.live().epoch
    async with serving(Counter(plane.dial, tmp_path)) as second:
        amendments = Amendments(second.session, second.clock)
        found = amendments.recovered(second.journal.recovered)
        assert set(found) == {f"{epoch}-1"}
        late = found[f"{epoch}-1"]
        assert (late.opened.request_id, late.opened.key_id) == ("attempt-1", 7)
        await second.identify()
        await plane.until(lambda: plane.sessions[epoch].closed_at, "the old session is closed")
        assert plane.ledger[epoch, 1].usage.estimate_reason == "sidecar_crashed"
        # A stream later it is named still: what is said of it then is taken.
        plane.cut()
        await plane.until(lambda: len(plane.hellos) == 3, "a new stream")
        assert [p.session_epoch for p in plane.hellos[-1].prior_sessions] == [epoch]
        await second.spend(10, 5)
        amendments.amend(late, second.outcome(30), "USD")
        await plane.until(lambda: "adjustment" in plane.judgements, "it is adjusted")
        assert plane.ledger[epoch, 1].cost_nanos == 30
        await plane.until(lambda: not second.journal.is_owed(epoch, 1), "and acknowledged")


async def test_what_an_orderly_end_charged_can_be_settled_late(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    plane.extra_nanos = 300
    first = Counter(plane.dial, tmp_path)
    await expire(first)
    epoch = plane.live().epoch
    assert await first.stop(), "all is acknowledged"
    assert plane.ledger[epoch, 1].kind == PROVISIONAL
    assert plane.sessions[epoch].closed_at is None
    assert plane.outstanding(1) == 0, "its money is home all the same"
    async with serving(Counter(plane.dial, tmp_path)) as second:
        amendments = Amendments(second.session, second.clock)
        (late,) = amendments.recovered(second.journal.recovered).values()
        await second.identify()
        await plane.until(lambda: plane.sessions[epoch].closed_at, "the old session is closed")
        amendments.amend(late, second.outcome(30), "USD")
        await plane.until(lambda: "adjustment" in plane.judgements, "it is adjusted")
        assert plane.ledger[epoch, 1].cost_nanos == 30


async def test_who_is_emptied_for_good_closes_all(
    plane: FakeControlPlane, counter: Counter
) -> None:
    await expire(counter)
    epoch = plane.live().epoch
    assert await counter.cashier.drain(1, 5)
    assert plane.sessions[epoch].closed_at == 1


async def test_an_orderly_end_closes_a_session_that_nothing_is_to_come_about(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    first = Counter(plane.dial, tmp_path)
    await first.spend(100, 30)
    epoch = plane.live().epoch
    assert await first.stop()
    assert plane.sessions[epoch].closed_at == 1


async def test_a_session_is_let_go_once_evidence_would_be_too_late(
    plane: FakeControlPlane, tmp_path: Path
) -> None:
    async with serving(Counter(plane.dial, tmp_path)) as first:
        await handed_out(first)
        epoch = plane.live().epoch
    async with serving(Counter(plane.dial, tmp_path)) as second:
        amendments = Amendments(second.session, second.clock)
        (late,) = amendments.recovered(second.journal.recovered).values()
        await second.identify()
        await plane.until(lambda: plane.sessions[epoch].closed_at, "the old session is closed")
        assert second.journal.is_live(epoch)
        second.clock.skip(EVIDENCE_WITHIN_S + 1)
        plane.cut()
        await plane.until(lambda: not second.journal.is_live(epoch), "it is let go")
        with pytest.raises(Refusal) as caught:
            amendments.amend(late, second.outcome(30), "USD")
        assert caught.value.reason == "evidence_too_late"


async def test_a_fenced_session_takes_evidence_in_its_successor(
    plane: FakeControlPlane, counter: Counter
) -> None:
    amendments, late = await expire(counter)
    epoch = plane.live().epoch
    plane.fence()
    await plane.until(lambda: plane.sessions[epoch].closed_at, "the old session is closed")
    await counter.spend(10, 5)
    amendments.amend(late, counter.outcome(40), "USD")
    await plane.until(lambda: "adjustment" in plane.judgements, "it is adjusted")
    assert plane.ledger[epoch, 1].cost_nanos == 40
