"""Sidecars over gRPC: enrolment, credentials, and what they are seen to hold."""

import uuid
from typing import Any

import grpc
import msgspec
import pytest

from bursar.v1 import sidecars_pb2 as pb
from bursar.v1 import sidecars_pb2_grpc as rpc
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.credentials import secret_hash
from bursar_server.database.pool import Pool
from bursar_server.sidecars.service import SidecarService
from bursar_server.sidecars.store import SidecarRecord, sidecar_by_id, sidecar_by_secret_hash
from tests.postgres.conftest import Serve
from tests.postgres.refusals import refused


class Sidecars(msgspec.Struct):
    """The stub, the database behind it, and which sidecars seem to be connected."""

    stub: Any
    pool: Pool
    connected: set[int]

    async def create(self, slug: str = "eu", request_id: str = "") -> pb.CreateSidecarResponse:
        answer: pb.CreateSidecarResponse = await self.stub.CreateSidecar(
            pb.CreateSidecarRequest(
                sidecar=pb.Sidecar(name=f"sidecars/{slug}"), request_id=request_id
            )
        )
        return answer

    async def get(self, slug: str = "eu") -> pb.Sidecar:
        answer: pb.Sidecar = await self.stub.GetSidecar(
            pb.GetSidecarRequest(name=f"sidecars/{slug}")
        )
        return answer

    async def found(self, secret: str) -> SidecarRecord | None:
        async with self.pool.acquire() as connection:
            return await sidecar_by_secret_hash(connection, secret_hash(secret))


@pytest.fixture
async def sidecars(pool: Pool, feed: ChangeFeed, serve: Serve) -> Sidecars:
    connected: set[int] = set()
    channel = await serve(
        (
            "bursar.v1.SidecarService",
            lambda s: rpc.add_SidecarServiceServicer_to_server(
                SidecarService(pool, feed, lambda: connected), s
            ),
        )
    )
    await pool.execute(
        "INSERT INTO organizations (id, slug, display_name, currency)"
        " VALUES (10, 'acme', 'Acme', 'EUR')"
    )
    return Sidecars(rpc.SidecarServiceStub(channel), pool, connected)


async def test_a_credential_is_told_once_and_kept_as_a_hash(
    sidecars: Sidecars, changes: list[Change]
) -> None:
    answer = await sidecars.create()
    assert answer.secret.startswith("bs-")
    assert len(answer.secret) == 46
    assert answer.sidecar.secret_prefix == answer.secret[:7]
    assert answer.sidecar.organization == "organizations/acme"
    assert not answer.sidecar.HasField("last_seen_time")
    assert await sidecars.get() == answer.sidecar
    record = await sidecars.found(answer.secret)
    assert record is not None
    assert (record.slug, record.organization_id, record.disabled) == ("eu", 10, False)
    async with sidecars.pool.acquire() as connection:
        assert await sidecar_by_id(connection, 10, record.id) == record
        assert await sidecar_by_id(connection, 11, record.id) is None
    assert changes == [Change(10, ChangeKind.SIDECAR, record.id)]


async def test_a_repeated_enrolment_tells_no_second_credential(sidecars: Sidecars) -> None:
    request_id = str(uuid.uuid4())
    first = await sidecars.create(request_id=request_id)
    again = await sidecars.create(request_id=request_id)
    assert (again.sidecar, again.secret) == (first.sidecar, "")
    taken = await refused(sidecars.create())
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SIDECAR_EXISTS")


async def test_a_rotated_credential_replaces_the_old(
    sidecars: Sidecars, changes: list[Change]
) -> None:
    made = await sidecars.create()
    changes.clear()
    rotated = await sidecars.stub.RotateSidecar(pb.RotateSidecarRequest(name="sidecars/eu"))
    assert await sidecars.found(made.secret) is None
    assert await sidecars.found(rotated.secret) is not None
    assert len(changes) == 1


async def test_a_disabled_sidecar_can_be_accepted_again(
    sidecars: Sidecars, changes: list[Change]
) -> None:
    made = await sidecars.create()
    changes.clear()
    for disabled in (True, False):
        request = pb.SetSidecarDisabledRequest(name="sidecars/eu", disabled=disabled)
        assert (await sidecars.stub.SetSidecarDisabled(request)).disabled is disabled
        record = await sidecars.found(made.secret)
        assert record is not None
        assert record.disabled is disabled
    assert len(changes) == 2


async def test_a_drained_sidecar_is_let_in_again(sidecars: Sidecars, changes: list[Change]) -> None:
    made = await sidecars.create()
    changes.clear()
    for draining in (True, False):
        request = pb.SetSidecarDrainingRequest(name="sidecars/eu", draining=draining)
        assert (await sidecars.stub.SetSidecarDraining(request)).draining is draining
        record = await sidecars.found(made.secret)
        assert record is not None
        assert record.draining is draining
    assert len(changes) == 2


async def test_sidecars_come_in_pages(sidecars: Sidecars) -> None:
    for slug in ("c", "a", "b"):
        await sidecars.create(slug)
    first = await sidecars.stub.ListSidecars(pb.ListSidecarsRequest(page_size=2))
    rest = await sidecars.stub.ListSidecars(
        pb.ListSidecarsRequest(page_size=2, page_token=first.next_page_token)
    )
    names = [[sidecar.name for sidecar in page.sidecars] for page in (first, rest)]
    assert names == [["sidecars/a", "sidecars/b"], ["sidecars/c"]]
    assert rest.next_page_token == ""


async def test_what_a_sidecar_holds_is_shown(sidecars: Sidecars, pool: Pool) -> None:
    secret = (await sidecars.create()).secret
    await sidecars.create("us")
    record = await sidecars.found(secret)
    assert record is not None
    await pool.execute(
        "INSERT INTO budgets (organization_id, id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES (10, 5, 'b-1', '', 'organization', 10, 1000, 'lifetime', 'hard')"
    )
    await pool.execute(
        "INSERT INTO budget_windows (organization_id, id, budget_id, start_at, limit_nanos,"
        " budget_version, ceiling_nanos, outstanding_nanos, settled_nanos, hard)"
        " VALUES (10, 6, 5, '2027-01-01Z', 1000, 1, 1000, 50, 30, true)"
    )
    for epoch, state in ((1, "closed"), (2, "fenced"), (3, "open")):
        await pool.execute(
            "INSERT INTO sessions (organization_id, session_epoch, sidecar_organization_id,"
            " sidecar_id, boot_id, state, settled_count)"
            " VALUES (10, $1::bigint, 10, $2, $1::bigint::text, $3, 7)",
            epoch,
            record.id,
            state,
        )
        await pool.execute(
            "INSERT INTO allowances (organization_id, session_epoch, budget_window_id,"
            " granted_nanos, returned_nanos, settled_nanos, in_doubt_nanos)"
            " VALUES (10, $1, 6, 100, 20, 30, 10)",
            epoch,
        )
    sidecars.connected.add(record.id)
    page = await sidecars.stub.ListSidecars(pb.ListSidecarsRequest())
    eu, us = page.sidecars
    assert (eu.connected, us.connected, list(us.sessions)) == (True, False, [])
    assert eu == await sidecars.get()
    assert [(session.session_epoch, session.state) for session in eu.sessions] == [
        (2, pb.SESSION_STATE_FENCED),
        (3, pb.SESSION_STATE_OPEN),
    ]
    (held,) = eu.sessions[0].allowances
    assert held.budget == "budgets/b-1"
    assert held.granted.currency == "EUR"
    amounts = (held.granted, held.returned, held.settled, held.outstanding, held.in_doubt)
    assert [amount.nanos for amount in amounts] == [100, 20, 30, 50, 10]
    assert eu.sessions[0].settled_count == 7
    assert eu.sessions[0].organization == "organizations/acme"


@pytest.mark.parametrize("slug", ["", "EU", "a b"])
async def test_a_bad_name_is_refused(sidecars: Sidecars, slug: str) -> None:
    refusal = await refused(sidecars.create(slug))
    assert refusal.fields == ["sidecar.name"]


async def test_an_unknown_sidecar_is_not_found(sidecars: Sidecars) -> None:
    for call in (
        sidecars.get("none"),
        sidecars.stub.RotateSidecar(pb.RotateSidecarRequest(name="sidecars/none")),
        sidecars.stub.SetSidecarDisabled(pb.SetSidecarDisabledRequest(name="sidecars/none")),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "SIDECAR_NOT_FOUND")
