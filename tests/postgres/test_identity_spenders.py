"""Organizations, teams, projects and users over gRPC: every rpc, every refusal."""

import asyncio
import uuid
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from bursar.v1 import identity_pb2 as pb
from bursar.v1 import identity_pb2_grpc as rpc
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool
from bursar_server.identity.organization_service import OrganizationService
from bursar_server.identity.spender_service import ProjectService, TeamService, UserService
from tests.postgres.conftest import Serve
from tests.postgres.refusals import refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
EXISTS = grpc.StatusCode.ALREADY_EXISTS
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class Client(msgspec.Struct):
    """The stubs, and one call for any of the three nouns inside an organization."""

    organizations: Any
    stubs: dict[str, Any]

    async def organization(self, name: str, **fields: Any) -> pb.Organization:
        wanted = pb.Organization(name=f"organizations/{name}", **fields)
        made: pb.Organization = await self.organizations.CreateOrganization(
            pb.CreateOrganizationRequest(organization=wanted)
        )
        return made

    def call(self, verb: str, noun: str, **fields: Any) -> Any:
        request = getattr(pb, f"{verb}{noun}{'s' if verb == 'List' else ''}Request")
        rpc_name = f"{verb}{noun}{'s' if verb == 'List' else ''}"
        return getattr(self.stubs[noun], rpc_name)(request(**fields))

    def create(self, noun: str, slug: str, request_id: str = "", **fields: Any) -> Any:
        wanted = getattr(pb, noun)(name=f"{noun.lower()}s/{slug}", **fields)
        return self.call("Create", noun, request_id=request_id, **{noun.lower(): wanted})

    def update(self, noun: str, slug: str, paths: list[str], **fields: Any) -> Any:
        wanted = getattr(pb, noun)(name=f"{noun.lower()}s/{slug}", **fields)
        mask = FieldMask(paths=paths)
        return self.call("Update", noun, update_mask=mask, **{noun.lower(): wanted})


NOUNS = ("Team", "Project", "User")


@pytest.fixture
async def client(pool: Pool, feed: ChangeFeed, serve: Serve) -> Client:
    channel = await serve(
        (
            "bursar.v1.OrganizationService",
            lambda s: rpc.add_OrganizationServiceServicer_to_server(
                OrganizationService(pool, feed), s
            ),
        ),
        (
            "bursar.v1.TeamService",
            lambda s: rpc.add_TeamServiceServicer_to_server(TeamService(pool, feed), s),
        ),
        (
            "bursar.v1.ProjectService",
            lambda s: rpc.add_ProjectServiceServicer_to_server(ProjectService(pool, feed), s),
        ),
        (
            "bursar.v1.UserService",
            lambda s: rpc.add_UserServiceServicer_to_server(UserService(pool, feed), s),
        ),
    )
    return Client(
        rpc.OrganizationServiceStub(channel),
        {
            "Team": rpc.TeamServiceStub(channel),
            "Project": rpc.ProjectServiceStub(channel),
            "User": rpc.UserServiceStub(channel),
        },
    )


async def policy_version(pool: Pool, slug: str = "acme") -> int:
    value = await pool.fetchval("SELECT policy_version FROM organizations WHERE slug = $1", slug)
    return int(value)


async def test_an_organization_is_made_read_changed_and_removed(
    client: Client, changes: list[Change], pool: Pool
) -> None:
    made = await client.organization("acme", currency="EUR")
    assert (made.display_name, made.currency, made.disabled) == ("acme", "EUR", False)
    assert made.create_time == made.update_time
    assert made.create_time.seconds > 0
    stub = client.organizations
    assert await stub.GetOrganization(pb.GetOrganizationRequest(name=made.name)) == made
    before = await policy_version(pool)
    made.disabled, made.display_name, made.currency = True, "Acme & Søns", "USD"
    changed = await stub.UpdateOrganization(
        pb.UpdateOrganizationRequest(
            organization=made, update_mask=FieldMask(paths=["disabled", "display_name"])
        )
    )
    assert (changed.disabled, changed.display_name, changed.currency) == (
        True,
        "Acme & Søns",
        "EUR",
    )
    assert await policy_version(pool) == before + 1
    await stub.DeleteOrganization(pb.DeleteOrganizationRequest(name=made.name))
    assert [change.kind for change in changes] == [ChangeKind.ORGANIZATION] * 3
    gone = await refused(stub.GetOrganization(pb.GetOrganizationRequest(name=made.name)))
    assert (gone.code, gone.reason) == (NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    assert gone.metadata == {"name": "organizations/acme"}


async def test_money_of_an_organization_defaults_to_dollars(client: Client) -> None:
    assert (await client.organization("acme")).currency == "USD"


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("", {}, "organization.name"),
        ("Acme", {}, "organization.name"),
        ("a" * 64, {}, "organization.name"),
        ("a/b", {}, "organization.name"),
        ("acme", {"currency": "usd"}, "organization.currency"),
        ("acme", {"currency": "XYZ"}, "organization.currency"),
        ("acme", {"display_name": "a\x07b"}, "organization.display_name"),
        ("acme", {"display_name": "a" * 201}, "organization.display_name"),
        ("acme", {"display_name": "\u202eemca"}, "organization.display_name"),
    ],
)
async def test_a_bad_organization_is_refused_by_field(
    client: Client, name: str, fields: dict[str, str], field: str
) -> None:
    refusal = await refused(client.organization(name, **fields))
    assert (refusal.code, refusal.reason, refusal.fields) == (INVALID, "FIELD_INVALID", [field])
    assert refusal.message.startswith(f"{field}: ")


async def test_the_platform_stays_as_it_is(client: Client) -> None:
    stub, name = client.organizations, "organizations/platform"
    update = pb.UpdateOrganizationRequest(
        organization=pb.Organization(name=name, disabled=True),
        update_mask=FieldMask(paths=["disabled"]),
    )
    taken = await refused(client.organization("platform"))
    assert (taken.code, taken.reason) == (EXISTS, "ORGANIZATION_EXISTS")
    for call in (
        stub.UpdateOrganization(update),
        stub.DeleteOrganization(pb.DeleteOrganizationRequest(name=name)),
        *(client.create(noun, "x", organization=name) for noun in NOUNS),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (PRECONDITION, "PLATFORM_RESERVED")


async def test_organizations_come_in_pages(client: Client) -> None:
    for name in ("delta", "alpha", "charlie", "bravo"):
        await client.organization(name)
    names, page_token = [], ""
    while True:
        page = await client.organizations.ListOrganizations(
            pb.ListOrganizationsRequest(page_size=2, page_token=page_token)
        )
        names.append([organization.name.rpartition("/")[2] for organization in page.organizations])
        page_token = page.next_page_token
        if not page_token:
            break
    assert names == [["alpha", "bravo"], ["charlie", "delta"], ["platform"]]


async def test_an_organization_with_something_in_it_is_kept(client: Client) -> None:
    await client.organization("acme")
    await client.create("Team", "search")
    request = pb.DeleteOrganizationRequest(name="organizations/acme")
    refusal = await refused(client.organizations.DeleteOrganization(request))
    assert (refusal.code, refusal.reason) == (PRECONDITION, "ORGANIZATION_IN_USE")
    assert refusal.metadata["left"] == "teams"
    await client.call("Delete", "Team", name="teams/search")
    await client.organizations.DeleteOrganization(request)


@pytest.mark.parametrize("noun", NOUNS)
async def test_a_noun_is_made_read_changed_and_removed(
    client: Client, changes: list[Change], pool: Pool, noun: str
) -> None:
    await client.organization("acme")
    changes.clear()
    before = await policy_version(pool)
    name = f"{noun.lower()}s/search"
    made = await client.create(noun, "search", metadata={"cost centre": "42", "lead": ""})
    assert (made.name, made.organization) == (name, "organizations/acme")
    assert (made.display_name, dict(made.metadata)) == ("search", {"cost centre": "42", "lead": ""})
    assert await client.call("Get", noun, name=name, organization="organizations/acme") == made
    changed = await client.update(
        noun, "search", ["metadata", "disabled"], disabled=True, display_name="not masked"
    )
    assert (changed.display_name, changed.disabled, dict(changed.metadata)) == ("search", True, {})
    assert changed.create_time == made.create_time
    assert (changed.update_time.ToNanoseconds()) > made.update_time.ToNanoseconds()
    await client.call("Delete", noun, name=name)
    assert await policy_version(pool) == before + 3
    assert [change.kind for change in changes] == [ChangeKind(noun.lower())] * 3
    assert len({change.id for change in changes}) == 1
    for call in (
        client.call("Get", noun, name=name),
        client.call("Delete", noun, name=name),
        client.update(noun, "search", ["disabled"]),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (NOT_FOUND, f"{noun.upper()}_NOT_FOUND")


@pytest.mark.parametrize("noun", NOUNS)
async def test_a_noun_is_found_in_its_own_organization_only(client: Client, noun: str) -> None:
    await client.organization("acme")
    await client.create(noun, "search")
    await client.organization("globex")
    name = f"{noun.lower()}s/search"
    elsewhere = await refused(
        client.call("Get", noun, name=name, organization="organizations/globex")
    )
    assert elsewhere.code is NOT_FOUND
    unsaid = await refused(client.call("Get", noun, name=name))
    assert (unsaid.code, unsaid.fields) == (INVALID, ["organization"])
    assert "several" in unsaid.message
    unknown = await refused(client.call("Get", noun, name=name, organization="organizations/x"))
    assert (unknown.code, unknown.reason) == (NOT_FOUND, "ORGANIZATION_NOT_FOUND")
    await client.create(noun, "search", organization="organizations/globex")


@pytest.mark.parametrize("noun", NOUNS)
async def test_a_noun_comes_in_pages_of_one_list(client: Client, noun: str) -> None:
    await client.organization("acme")
    for slug in ("c", "a", "b"):
        await client.create(noun, slug)
    field = f"{noun.lower()}s"
    first = await client.call("List", noun, page_size=2)
    assert [one.name for one in getattr(first, field)] == [f"{field}/a", f"{field}/b"]
    rest = await client.call("List", noun, page_size=2, page_token=first.next_page_token)
    assert [one.name for one in getattr(rest, field)] == [f"{field}/c"]
    assert rest.next_page_token == ""
    for fields in (
        {"page_token": first.next_page_token, "organization": "organizations/acme"},
        {"page_token": "nonsense"},
        {"page_token": first.next_page_token[:-4]},
        {"page_token": "é"},
        {"page_size": -1},
        {"page_size": 1001},
    ):
        refusal = await refused(client.call("List", noun, **fields))
        assert (refusal.code, refusal.fields) == (INVALID, [next(iter(fields))])


@pytest.mark.parametrize("noun", NOUNS)
async def test_a_repeated_create_gets_the_same_answer(client: Client, noun: str) -> None:
    await client.organization("acme")
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(
        *(client.create(noun, "search", request_id, disabled=True) for _ in range(5))
    )
    assert all(answer == answers[0] for answer in answers)
    other = await refused(client.create(noun, "search", request_id))
    assert (other.code, other.reason) == (EXISTS, "REQUEST_ID_REUSED")
    taken = await refused(client.create(noun, "search", str(uuid.uuid4()), disabled=True))
    assert (taken.code, taken.reason) == (EXISTS, f"{noun.upper()}_EXISTS")
    bad = await refused(client.create(noun, "other", "again"))
    assert (bad.code, bad.fields) == (INVALID, ["request_id"])


async def test_a_repeated_organization_gets_the_same_answer(client: Client) -> None:
    request = pb.CreateOrganizationRequest(
        organization=pb.Organization(name="organizations/acme"), request_id=str(uuid.uuid4())
    )
    create = client.organizations.CreateOrganization
    answers = await asyncio.gather(*(create(request) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"metadata": {f"k{n}": "" for n in range(65)}}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata (a key)"),
        ({"metadata": {"k" * 64: "x"}}, "metadata (a key)"),
        ({"metadata": {"k": "x" * 1025}}, "metadata[k]"),
        ({"metadata": {"k": "\n"}}, "metadata[k]"),
        ({"display_name": "\x1b[31mred"}, "display_name"),
        ({"organization": "acme"}, "organization"),
    ],
)
async def test_a_bad_noun_is_refused_by_field(
    client: Client, noun: str, fields: dict[str, Any], field: str
) -> None:
    await client.organization("acme")
    refusal = await refused(client.create(noun, "search", **fields))
    assert (refusal.code, refusal.fields) == (INVALID, [f"{noun.lower()}.{field}"])


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("paths", [[], ["name"], ["organization"], ["*"], ["disabled", "nonsense"]])
async def test_a_mask_names_what_can_change(client: Client, noun: str, paths: list[str]) -> None:
    await client.organization("acme")
    await client.create(noun, "search")
    refusal = await refused(client.update(noun, "search", paths))
    assert (refusal.code, refusal.fields) == (INVALID, ["update_mask"])
    assert "display_name" in refusal.message


async def test_an_email_has_the_shape_of_one(client: Client) -> None:
    await client.organization("acme")
    made = await client.create("User", "ada", email="ada@example.com")
    assert made.email == "ada@example.com"
    assert (await client.update("User", "ada", ["email"])).email == ""
    for email in ("ada", "@example.com", "a b@example.com", "a@b@c", f"{'a' * 250}@b.com"):
        refusal = await refused(client.update("User", "ada", ["email"], email=email))
        assert (refusal.code, refusal.fields) == (INVALID, ["user.email"])


async def test_a_project_may_belong_to_a_team(client: Client) -> None:
    await client.organization("acme")
    await client.create("Team", "search")
    made = await client.create("Project", "answers", team="teams/search")
    assert made.team == "teams/search"
    refusal = await refused(client.call("Delete", "Team", name="teams/search"))
    assert (refusal.code, refusal.reason) == (PRECONDITION, "TEAM_IN_USE")
    assert refusal.metadata["named_by"] == "projects"
    missing = await refused(client.update("Project", "answers", ["team"], team="teams/none"))
    assert (missing.code, missing.reason) == (NOT_FOUND, "TEAM_NOT_FOUND")
    malformed = await refused(client.update("Project", "answers", ["team"], team="search"))
    assert (malformed.code, malformed.fields) == (INVALID, ["project.team"])
    assert (await client.update("Project", "answers", ["team"])).team == ""
    await client.call("Delete", "Team", name="teams/search")


@pytest.mark.parametrize("noun", NOUNS)
async def test_what_a_budget_or_an_entry_names_is_kept(
    client: Client, pool: Pool, noun: str
) -> None:
    await client.organization("acme")
    await client.create(noun, "search")
    kind = noun.lower()
    id = await pool.fetchval(f"SELECT id FROM {kind}s")
    organization_id = await pool.fetchval(f"SELECT organization_id FROM {kind}s")
    await pool.execute(
        "INSERT INTO budgets (organization_id, slug, display_name, scope_kind, scope_id,"
        " limit_nanos, window_kind, enforcement)"
        " VALUES ($1, 'b', '', $2, $3, 1, 'lifetime', 'hard')",
        organization_id,
        kind,
        id,
    )
    refusal = await refused(client.call("Delete", noun, name=f"{kind}s/search"))
    assert (refusal.reason, refusal.metadata["named_by"]) == (f"{noun.upper()}_IN_USE", "budgets")
    await pool.execute("DELETE FROM budgets")
    await pool.execute(ENTRY.format(column=f"{kind}_id"), organization_id, id)
    refusal = await refused(client.call("Delete", noun, name=f"{kind}s/search"))
    assert (refusal.reason, refusal.metadata["named_by"]) == (f"{noun.upper()}_IN_USE", "entries")


ENTRY = """
INSERT INTO entries (organization_id, session_epoch, n, k, kind, debit_account, credit_account,
    amount_nanos, currency, reserved_nanos, draw_set_id, {column}, customer, app, run, tags,
    provider, model, requested_model, price_version, input_llm_tokens, cached_input_llm_tokens,
    cache_write_5m_llm_tokens, cache_write_1h_llm_tokens, output_llm_tokens,
    reasoning_llm_tokens, estimate_reason, provider_request_id, http_status, stream, admitted_at,
    finished_at, posted_at)
VALUES ($1, 1, 1, 0, 'final', 'a', 'b', 1, 'USD', 1, 1, $2, '', '', '', '{{}}', '', '', '', '',
    0, 0, 0, 0, 0, 0, '', '', 200, false, now(), now(), now())
"""
