"""OrganizationService: translate, one transaction, answer."""

from collections.abc import Collection

from bursar.v1 import identity_pb2 as pb
from bursar.v1.identity_pb2_grpc import OrganizationServiceServicer
from bursar_server.changes import Change, ChangeFeed, ChangeKind
from bursar_server.database.pool import Pool, transaction
from bursar_server.database.schema import PLATFORM_ORGANIZATION_ID
from bursar_server.errors import already_exists, failed_precondition, invalid, not_found
from bursar_server.grpc_server.context import Context
from bursar_server.identity import store
from bursar_server.identity.messages import organization_to_proto
from bursar_server.identity.records import OrganizationRecord
from bursar_server.identity.rules import platform_refuses, validate_currency
from bursar_server.names import (
    masked_fields,
    page_size,
    page_token_after,
    parse_name,
    place_of_page,
    validate_display_name,
)
from bursar_server.request_ids import content_hash, remember, remembered

UPDATABLE = ("display_name", "disabled")


class OrganizationService(OrganizationServiceServicer):
    """Organizations."""

    def __init__(self, pool: Pool, feed: ChangeFeed) -> None:
        self._pool = pool
        self._feed = feed

    async def GetOrganization(
        self, request: pb.GetOrganizationRequest, context: Context
    ) -> pb.Organization:
        slug = parse_name("organizations", request.name)
        async with transaction(self._pool, read_only=True) as connection:
            record = await store.organization_by_slug(connection, slug)
        if record is None:
            raise not_found("organization", request.name)
        return organization_to_proto(record)

    async def ListOrganizations(
        self, request: pb.ListOrganizationsRequest, context: Context
    ) -> pb.ListOrganizationsResponse:
        size, after = page_size(request.page_size), place_of_page(request.page_token, request)
        async with transaction(self._pool, read_only=True) as connection:
            records = await store.organizations_page(connection, after, size + 1)
        more = len(records) > size
        return pb.ListOrganizationsResponse(
            organizations=[organization_to_proto(record) for record in records[:size]],
            next_page_token=page_token_after(records[size - 1].slug, request) if more else "",
        )

    async def CreateOrganization(
        self, request: pb.CreateOrganizationRequest, context: Context
    ) -> pb.Organization:
        wanted = request.organization
        slug = parse_name("organizations", wanted.name, "organization.name")
        currency = validate_currency(wanted.currency, "organization.currency")
        display_name = validate_display_name(wanted.display_name, "organization.display_name")
        # Its requests are remembered with the platform: it has no id yet.
        memory = (PLATFORM_ORGANIZATION_ID, request.request_id, "CreateOrganization")
        content = content_hash(request)
        async with transaction(self._pool) as connection:
            if await remembered(connection, *memory, content) is None:
                id = await store.insert_organization(
                    connection, slug, display_name or slug, currency
                )
                if id is None:
                    raise already_exists("organization", wanted.name)
                if wanted.disabled:
                    await store.update_organization(connection, id, {"disabled": True})
                await remember(connection, *memory, content, wanted.name)
            record = await store.organization_by_slug(connection, slug)
        if record is None:
            raise not_found("organization", wanted.name)
        self._feed.publish(_change(record))
        return organization_to_proto(record)

    async def UpdateOrganization(
        self, request: pb.UpdateOrganizationRequest, context: Context
    ) -> pb.Organization:
        wanted = request.organization
        slug = parse_name("organizations", wanted.name, "organization.name")
        values = _values(wanted, slug, masked_fields(request.update_mask, UPDATABLE))
        async with transaction(self._pool) as connection:
            found = await store.organization_by_slug(connection, slug)
            if found is None:
                raise not_found("organization", wanted.name)
            if found.id == PLATFORM_ORGANIZATION_ID and values.get("disabled"):
                raise platform_refuses("it can't be disabled")
            await store.hold_policy(connection, found.id)
            await store.update_organization(connection, found.id, values)
            await store.record_change(connection, _change(found))
            record = await store.organization_by_id(connection, found.id)
        if record is None:
            raise not_found("organization", wanted.name)
        self._feed.publish(_change(record))
        return organization_to_proto(record)

    async def DeleteOrganization(
        self, request: pb.DeleteOrganizationRequest, context: Context
    ) -> pb.DeleteOrganizationResponse:
        slug = parse_name("organizations", request.name)
        async with transaction(self._pool) as connection:
            record = await store.organization_by_slug(connection, slug)
            if record is None:
                raise not_found("organization", request.name)
            if record.id == PLATFORM_ORGANIZATION_ID:
                raise platform_refuses("it can't be deleted")
            await store.hold_policy(connection, record.id)
            if left := await store.left_in_organization(connection, record.id):
                raise failed_precondition(
                    "ORGANIZATION_IN_USE",
                    f"{request.name} still has {', '.join(left)}: delete them first, "
                    "or disable the organization",
                    {"name": request.name, "left": ",".join(left)},
                )
            await store.delete_organization(connection, record.id)
        self._feed.publish(_change(record))
        return pb.DeleteOrganizationResponse()


def _change(record: OrganizationRecord) -> Change:
    return Change(record.id, ChangeKind.ORGANIZATION, record.id)


def _values(wanted: pb.Organization, slug: str, fields: Collection[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for field in fields:
        if field == "display_name":
            text = validate_display_name(wanted.display_name, "organization.display_name")
            values[field] = text or slug
        elif field == "disabled":
            values[field] = wanted.disabled
        else:
            raise invalid("update_mask", field, f"one of {', '.join(UPDATABLE)}")
    return values
