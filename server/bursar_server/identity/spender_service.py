"""TeamService, ProjectService and UserService: one mechanism, three nouns.

Each servicer only takes its messages apart; what happens is `Spenders`, once.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic

from google.protobuf.field_mask_pb2 import FieldMask

from bursar.v1 import identity_pb2 as pb
from bursar.v1 import identity_pb2_grpc
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Connection, Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import already_exists, failed_precondition, not_found
from bursar_server.grpc_server.context import Context
from bursar_server.identity import store
from bursar_server.identity.messages import Spender, spender_to_proto
from bursar_server.identity.records import OrganizationRecord, SpenderRecord
from bursar_server.identity.rules import platform_refuses, validate_email, validate_metadata
from bursar_server.identity.store import SpenderKind
from bursar_server.names import (
    masked_fields,
    page_size,
    page_token_after,
    parse_name,
    parse_optional_name,
    place_of_page,
    validate_display_name,
)
from bursar_server.request_ids import content_hash, remember, remembered

CreateRequest = pb.CreateTeamRequest | pb.CreateProjectRequest | pb.CreateUserRequest
ListRequest = pb.ListTeamsRequest | pb.ListProjectsRequest | pb.ListUsersRequest


@dataclass(frozen=True, slots=True)
class Noun(Generic[Spender]):
    """What tells the three apart."""

    kind: SpenderKind
    change: ChangeKind
    message: type[Spender]
    updatable: tuple[str, ...]
    """The fields that Update takes, which are also those of Create besides the name."""


TEAM = Noun(SpenderKind.TEAM, ChangeKind.TEAM, pb.Team, ("display_name", "metadata", "disabled"))
PROJECT = Noun(
    SpenderKind.PROJECT,
    ChangeKind.PROJECT,
    pb.Project,
    ("display_name", "team", "metadata", "disabled"),
)
USER = Noun(
    SpenderKind.USER, ChangeKind.USER, pb.User, ("display_name", "email", "metadata", "disabled")
)


class Spenders(Generic[Spender]):
    """What can be done with the things of one noun."""

    def __init__(self, noun: Noun[Spender], pool: Pool, feed: ChangeFeed) -> None:
        self._noun: Noun[Spender] = noun
        self._kind = noun.kind
        self._pool = pool
        self._feed = feed

    async def get(self, organization: str, name: str) -> Spender:
        """One of them."""
        slug = parse_name(self._kind.table, name)
        async with transaction(self._pool, read_only=True) as connection:
            owner = await store.resolve_organization(connection, organization)
            return self._message(owner, await self._record(connection, owner, slug))

    async def page(self, request: ListRequest) -> tuple[list[Spender], str]:
        """A page of them, and the page token of the next."""
        size, after = page_size(request.page_size), place_of_page(request.page_token, request)
        async with transaction(self._pool, read_only=True) as connection:
            owner = await store.resolve_organization(connection, request.organization)
            records = await store.spenders_page(connection, self._kind, owner.id, after, size + 1)
        messages = [self._message(owner, record) for record in records[:size]]
        more = len(records) > size
        return messages, page_token_after(records[size - 1].slug, request) if more else ""

    async def create(self, request: CreateRequest, wanted: Spender) -> Spender:
        """Make one, or answer as the first time."""
        slug = parse_name(self._kind.table, wanted.name, f"{self._kind}.name")
        method, content = f"Create{self._kind.title()}", content_hash(request)
        async with transaction(self._pool) as connection:
            owner = await self._owner(connection, wanted)
            if owner.id == PLATFORM_ORGANIZATION_ID:
                raise platform_refuses(f"it has no {self._kind.table}")
            await store.hold_policy(connection, owner.id)
            memory = (owner.id, request.request_id, method, content)
            if await remembered(connection, *memory) is None:
                values = await self._values(connection, owner, wanted, self._noun.updatable)
                id = await store.insert_spender(
                    connection, self._kind.table, owner.id, slug, values
                )
                if id is None:
                    raise already_exists(self._kind, wanted.name)
                await remember(connection, *memory, wanted.name)
                await store.record_change(connection, self._change(owner, id))
            record = await self._record(connection, owner, slug)
        self._feed.publish(self._change(owner, record.id))
        return self._message(owner, record)

    async def update(self, wanted: Spender, mask: FieldMask) -> Spender:
        """Change the masked fields of one."""
        slug = parse_name(self._kind.table, wanted.name, f"{self._kind}.name")
        fields = masked_fields(mask, self._noun.updatable)
        async with transaction(self._pool) as connection:
            owner = await self._owner(connection, wanted)
            await store.hold_policy(connection, owner.id)
            id = (await self._record(connection, owner, slug)).id
            values = await self._values(connection, owner, wanted, fields)
            await store.update_spender(connection, self._kind.table, owner.id, id, values)
            await store.record_change(connection, self._change(owner, id))
            record = await self._record(connection, owner, slug)
        self._feed.publish(self._change(owner, id))
        return self._message(owner, record)

    async def delete(self, organization: str, name: str) -> None:
        """Remove one that nothing names."""
        slug = parse_name(self._kind.table, name)
        async with transaction(self._pool) as connection:
            owner = await store.resolve_organization(connection, organization)
            await store.hold_policy(connection, owner.id)
            record = await self._record(connection, owner, slug)
            by = await store.names_of_spender(connection, self._kind, owner.id, record.id)
            if by:
                raise failed_precondition(
                    f"{self._kind.upper()}_IN_USE",
                    f"{by} of {owner.name} name {name}: it can be disabled, not deleted",
                    {"name": name, "named_by": by},
                )
            await store.delete_spender(connection, self._kind.table, owner.id, record.id)
            await store.record_change(connection, self._change(owner, record.id))
        self._feed.publish(self._change(owner, record.id))

    async def _owner(self, connection: Connection, wanted: Spender) -> OrganizationRecord:
        field = f"{self._kind}.organization"
        return await store.resolve_organization(connection, wanted.organization, field)

    async def _record(
        self, connection: Connection, owner: OrganizationRecord, slug: str
    ) -> SpenderRecord:
        record = await store.spender_by_slug(connection, self._kind, owner.id, slug)
        if record is None:
            raise not_found(self._kind, f"{self._kind.table}/{slug}")
        return record

    async def _values(
        self,
        connection: Connection,
        owner: OrganizationRecord,
        wanted: Spender,
        fields: Collection[str],
    ) -> dict[str, object]:
        """The columns that `fields` of `wanted` become."""
        values: dict[str, object] = {}
        if "display_name" in fields:
            text = validate_display_name(wanted.display_name, f"{self._kind}.display_name")
            values["display_name"] = text or wanted.name.partition("/")[2]
        if "metadata" in fields:
            values["metadata"] = validate_metadata(wanted.metadata, f"{self._kind}.metadata")
        if "disabled" in fields:
            values["disabled"] = wanted.disabled
        if "email" in fields and isinstance(wanted, pb.User):
            values["email"] = validate_email(wanted.email, "user.email")
        if "team" in fields and isinstance(wanted, pb.Project):
            values["team_id"] = await held_id(
                connection, SpenderKind.TEAM, owner.id, wanted.team, "project.team"
            )
        return values

    def _message(self, owner: OrganizationRecord, record: SpenderRecord) -> Spender:
        return spender_to_proto(self._noun.message, self._kind, owner.name, record)

    def _change(self, owner: OrganizationRecord, id: int) -> Change:
        return Change(owner.id, self._noun.change, id)


async def held_id(
    connection: Connection, kind: SpenderKind, organization_id: int, name: str, field: str
) -> int | None:
    """The id of what a field names ("teams/search"), held against deletion; None for ""."""
    slug = parse_optional_name(kind.table, name, field)
    if not slug:
        return None
    id = await store.hold_spender(connection, kind, organization_id, slug)
    if id is None:
        raise not_found(kind, name)
    return id


class TeamService(identity_pb2_grpc.TeamServiceServicer):
    """Teams of an organization."""

    def __init__(self, pool: Pool, feed: ChangeFeed) -> None:
        self._teams = Spenders(TEAM, pool, feed)

    async def GetTeam(self, request: pb.GetTeamRequest, context: Context) -> pb.Team:
        return await self._teams.get(request.organization, request.name)

    async def ListTeams(
        self, request: pb.ListTeamsRequest, context: Context
    ) -> pb.ListTeamsResponse:
        teams, following = await self._teams.page(request)
        return pb.ListTeamsResponse(teams=teams, next_page_token=following)

    async def CreateTeam(self, request: pb.CreateTeamRequest, context: Context) -> pb.Team:
        return await self._teams.create(request, request.team)

    async def UpdateTeam(self, request: pb.UpdateTeamRequest, context: Context) -> pb.Team:
        return await self._teams.update(request.team, request.update_mask)

    async def DeleteTeam(
        self, request: pb.DeleteTeamRequest, context: Context
    ) -> pb.DeleteTeamResponse:
        await self._teams.delete(request.organization, request.name)
        return pb.DeleteTeamResponse()


class ProjectService(identity_pb2_grpc.ProjectServiceServicer):
    """Projects of an organization."""

    def __init__(self, pool: Pool, feed: ChangeFeed) -> None:
        self._projects = Spenders(PROJECT, pool, feed)

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> pb.Project:
        return await self._projects.get(request.organization, request.name)

    async def ListProjects(
        self, request: pb.ListProjectsRequest, context: Context
    ) -> pb.ListProjectsResponse:
        projects, following = await self._projects.page(request)
        return pb.ListProjectsResponse(projects=projects, next_page_token=following)

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.Project:
        return await self._projects.create(request, request.project)

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Context) -> pb.Project:
        return await self._projects.update(request.project, request.update_mask)

    async def DeleteProject(
        self, request: pb.DeleteProjectRequest, context: Context
    ) -> pb.DeleteProjectResponse:
        await self._projects.delete(request.organization, request.name)
        return pb.DeleteProjectResponse()


class UserService(identity_pb2_grpc.UserServiceServicer):
    """Users of an organization."""

    def __init__(self, pool: Pool, feed: ChangeFeed) -> None:
        self._users = Spenders(USER, pool, feed)

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.User:
        return await self._users.get(request.organization, request.name)

    async def ListUsers(
        self, request: pb.ListUsersRequest, context: Context
    ) -> pb.ListUsersResponse:
        users, following = await self._users.page(request)
        return pb.ListUsersResponse(users=users, next_page_token=following)

    async def CreateUser(self, request: pb.CreateUserRequest, context: Context) -> pb.User:
        return await self._users.create(request, request.user)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.User:
        return await self._users.update(request.user, request.update_mask)

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        await self._users.delete(request.organization, request.name)
        return pb.DeleteUserResponse()
